"""What methods make of a network, in integers only: signs, ternary factors with scales between, concatenated maps."""

from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from tests.runtime.quantised_networks import _used, frozen, quantise
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.formats import Binary, Dense, Format, Ternary
from dovetail.methods import METHODS
from dovetail.methods.method import Context
from dovetail.runtime import Artefact, EngineSession, Session, freeze, to_qdq
from dovetail.runtime.integer import IntegerNetwork, integer_network
from dovetail.runtime.steps import Concatenate, Convolution, Operations, Product, Rescale

IMAGES = torch.randn(40, 2, 12, 12, generator=torch.Generator().manual_seed(3))
SIGNS: dict[str, dict[str, Any]] = {"bnn": {}, "xnor": {"input_scale": False}, "binary_maps": {}}


def network(*, normalised: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8) if normalised else nn.Identity() for _ in range(2)]
    return _used(
        nn.Sequential(
            nn.Conv2d(2, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norms[1], nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 5),
        )
    )  # fmt: skip


def applied(model: nn.Module, name: str, **options: Any) -> nn.Module:
    method = METHODS[name](**options)
    context = Context(loss=lambda _: 0.0, example=IMAGES[:1], inputs=IMAGES, original=model)
    plan = method.plan(model, context)
    for stage in range(method.stages):
        model = method.apply(model, plan, stage, context)
    return model.eval()


def in_integers(model: nn.Module) -> tuple[Artefact, IntegerNetwork]:
    artefact = freeze(model, IMAGES)
    return artefact, integer_network(to_qdq(artefact)[0])


@pytest.mark.parametrize("method", SIGNS)
class TestSigns:
    def test_are_chosen_and_multiplied_in_integers(self, method: str) -> None:
        model = applied(applied(network(), method, **SIGNS[method]), "ptq", layers=("0", "7"))
        artefact, integers = in_integers(model)
        expected, found = Session(artefact)(IMAGES.numpy()), integers(IMAGES.numpy())
        assert np.linalg.norm(found - expected) < 0.005 * np.linalg.norm(expected)
        first, second = (step for step, _, _ in integers.steps if isinstance(step, Convolution))
        counts = [step.operations(np.zeros((1, 8, 10, 10), np.int32)).multiplications for step in (first, second)]
        assert [count > 0 for count in counts] == [method != "bnn", False]  # whose first layer is of signs too

    def test_the_exported_file_answers_as_the_session(self, method: str) -> None:
        artefact = freeze(applied(applied(network(), method, **SIGNS[method]), "ptq", layers=("0", "7")), IMAGES)
        exported, names = to_qdq(artefact)
        assert names == ["0.weight", "3.weight", "7.weight"]
        session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": IMAGES.numpy()})
        expected = Session(artefact)(IMAGES.numpy())
        assert np.linalg.norm(found - expected) < 0.005 * np.linalg.norm(expected)

    @pytest.mark.parametrize("ends", [("0", "7"), ()])
    def test_the_engine_chooses_and_multiplies_them_natively(self, method: str, ends: tuple[str, ...]) -> None:
        model = applied(network(), method, **SIGNS[method])
        artefact = freeze(applied(model, "ptq", layers=ends) if ends else model, IMAGES)
        engine = EngineSession(artefact, 1)
        rows = engine.describe()
        assert {row.runner for row in rows} == {"native"}
        assert "convolution of signs" in [row.kernel for row in rows]
        expected = Session(artefact)(IMAGES.numpy())
        assert np.linalg.norm(engine(IMAGES.numpy()) - expected) < 0.005 * np.linalg.norm(expected)


@pytest.mark.parametrize("wider", ["dynamic_fixed_point", "ptq"])
@pytest.mark.parametrize(("method", "stored"), [("twn", Ternary), ("bwn", Binary)])
def test_a_wider_grid_on_top_leaves_few_values_in_few_bits(method: str, stored: type[Format], wider: str) -> None:
    """Both have what layers read in 8 bits, and the weights between as they were."""
    model = applied(applied(network(), method), wider)
    artefact, integers = in_integers(model)
    held = artefact.tensors["3.weight"]
    assert isinstance(held, Dense) and isinstance(held.values, stored)
    np.testing.assert_array_equal(held.decode(), model[3].weight.detach())
    expected = Session(artefact)(IMAGES.numpy())
    assert np.linalg.norm(integers(IMAGES.numpy()) - expected) < 0.01 * np.linalg.norm(expected)


def test_the_scale_of_patches_is_native_too() -> None:
    artefact = freeze(applied(network(), "xnor"), IMAGES)
    engine, expected = EngineSession(artefact, 1), Session(artefact)(IMAGES.numpy())
    assert {row.runner for row in engine.describe()} == {"native"}
    np.testing.assert_allclose(engine(IMAGES.numpy()), expected, atol=1e-3 * np.abs(expected).max())


def test_a_factorised_layer_multiplies_by_its_scales_only() -> None:
    """Of a picture: one multiplication for each of the maps between, additions for the factors, and shifts."""
    model = applied(applied(network(normalised=False), "ffn"), "dynamic_fixed_point", bias_bits=16)
    artefact, integers = in_integers(model)
    expected, found = Session(artefact)(IMAGES.numpy()), integers(IMAGES.numpy())
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    reduce, expand = (artefact.tensors[f"3.{part}.weight"].decode() for part in ("reduce", "expand"))
    values = integers.run(IMAGES[:1].numpy())
    counts = {output: step.operations(values[output]) for step, _, output in integers.steps}
    kinds = [step for step, _, _ in integers.steps]
    places = 10 * 10
    layers = [index for index, step in enumerate(kinds) if isinstance(step, Product)]
    inside = list(counts.values())[layers[1] : layers[3]]  # from the first factor to what the last layer reads
    total = sum(inside, Operations())
    assert total.multiplications == places * len(reduce)
    factors = [list(counts.values())[layers[number]] for number in (1, 2)]
    nonzero = [np.count_nonzero(reduce), np.count_nonzero(expand) + len(expand)]  # the latter with its bias
    assert [count.multiplications for count in factors] == [0, 0]
    assert [count.additions for count in factors] == [places * number for number in nonzero]
    scaling = [
        kind for kind in kinds[layers[1] : layers[3]] if isinstance(kind, Rescale) and np.any(kind.multiplier != 1)
    ]
    assert len(scaling) == 1


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.join = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        both: Tensor = self.join(torch.cat([F.relu(self.left(x)), F.max_pool2d(self.right(x), 3, 1, 1)], 1))
        return both


class TestConcatenation:
    def test_is_of_codes_with_one_scale(self) -> None:
        torch.manual_seed(0)
        artefact = frozen(quantise(Branches().eval()))
        exported, names = to_qdq(artefact)
        assert len(names) == 4
        integers = integer_network(exported)
        (place,) = (index for index, (step, _, _) in enumerate(integers.steps) if isinstance(step, Concatenate))
        assert place and not any(isinstance(step, Rescale) for step, _, _ in integers.steps[place : place + 2])
        expected = Session(artefact)(IMAGES.numpy())
        assert np.linalg.norm(integers(IMAGES.numpy()) - expected) < 0.005 * np.linalg.norm(expected)

    def test_is_fused_by_onnx_runtime(self, tmp_path: Any) -> None:
        torch.manual_seed(0)
        exported, _ = to_qdq(frozen(quantise(Branches().eval())))
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
        operators = {node.op_type for node in _nodes(tmp_path / "optimised.onnx")}
        assert "QLinearConcat" in operators and "Concat" not in operators

    def test_of_values_that_are_not_quantised_is_finer(self) -> None:
        torch.manual_seed(0)
        model = Branches()
        model.join = nn.Identity()
        artefact, integers = in_integers(quantise(model.eval()))
        expected, found = Session(artefact)(IMAGES.numpy()), integers(IMAGES.numpy())
        assert np.linalg.norm(found - expected) < 0.005 * np.linalg.norm(expected)
        assert integers.output.scale.shape == (1,)


def _nodes(path: Any) -> Any:
    return onnx.load(path).graph.node
