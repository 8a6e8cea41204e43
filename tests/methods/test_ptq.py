"""Post-training quantisation: accuracy without labels, with and without data; odd data and odd layers."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dovetail
from dovetail.data import Dataset
from dovetail.errors import DataError, RecipeError
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.ptq import Ptq
from dovetail.methods.quantize.quantizer import input_quantizers
from dovetail.recipe import Recipe
from dovetail.runtime import Session, freeze

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    nn.init.normal_(model[1].bias)
    model.train()(X)
    return model.eval()


def context(inputs: Tensor | None = X) -> Context:
    def unused(model: nn.Module) -> float:
        raise AssertionError("a loss was asked for, which needs labels")

    return Context(loss=unused, probe=unused, example=torch.zeros(1, 3, 8, 8), inputs=inputs)


def quantized(model: nn.Module, given: Context | None = None, **settings: object) -> nn.Module:
    method, given = Ptq(**settings), given or context()
    return method.apply(model, method.plan(model, given), 0, given).eval()


def lost(model: nn.Module, x: Tensor = X) -> float:
    """The outputs' relative squared error."""
    with torch.no_grad():
        wanted = network()(x)
        return float((model(x) - wanted).square().sum() / wanted.square().sum())


@cache
def trained() -> tuple[nn.Module, Dataset]:
    loaded = dovetail.load_model("resnet8_fashion")
    return loaded.module, dovetail.load_dataset("fashion_mnist_sample", loaded.input_shape)


def accuracy(model: nn.Module, count: int = 1000) -> float:
    """In per cent, on the first test images."""
    _, dataset = trained()
    hits = [(model(x).argmax(1) == y).sum().item() for x, y in dataset.batches("test", 250, limit=count)]
    return 100 * sum(hits) / count


def shipped(inputs: bool, **settings: object) -> float:
    """The accuracy that the network in the package loses."""
    network, dataset = trained()
    images = next(iter(dataset.batches("train", 128, limit=128)))[0]
    with torch.no_grad():
        model = quantized(
            dovetail.load_model("resnet8_fashion").module,
            replace(context(images if inputs else None), example=dataset.example()),
            **settings,
        )
        return accuracy(network.eval()) - accuracy(model)


class TestAccuracy:
    def test_int8(self) -> None:
        assert shipped(inputs=True) <= 0.3

    def test_four_bit_weights(self) -> None:
        assert shipped(inputs=True, weight_bits=4) <= 2

    def test_int8_without_data(self) -> None:
        assert shipped(inputs=False) <= 1

    def test_more_bits_lose_less(self) -> None:
        losses = [lost(quantized(network(), weight_bits=b, activation_bits=b, calibration="mse")) for b in (2, 4, 8)]
        assert losses == sorted(losses, reverse=True) and losses[2] < 1e-3


class TestWhatIsQuantized:
    def test_weights_by_output_and_what_layers_read(self) -> None:
        model = quantized(network(), weight_bits=4, activation_bits=6)
        readers = input_quantizers(model)
        assert list(readers) == ["0", "3", "6"] and all(quantizer.bits == 6 for quantizer in readers.values())
        assert readers["3"].zero_point == 0 and readers["0"].zero_point > 0
        weight = bake(model).state_dict()["3.weight"]
        assert all(len(row.unique()) <= 15 for row in weight)
        assert isinstance(model[1], nn.Identity)

    def test_the_plan_says_what_each_layer_costs(self) -> None:
        for given in (context(), context(None)):
            few, many = (Ptq(weight_bits=bits, activation_bits=None).plan(network(), given) for bits in (2, 8))
            assert all(few[name]["output_error"] > 4 * row["output_error"] > 0 for name, row in many.items())

    def test_weights_only(self) -> None:
        assert not input_quantizers(quantized(network(), activation_bits=None))

    def test_one_scale_a_layer(self) -> None:
        model = quantized(network(), per_channel=False)
        assert model[3].parametrizations.weight[0].scale.shape == (1,) and lost(model) < 1e-3

    def test_the_file_computes_the_same(self) -> None:
        model = quantized(network())
        artefact = freeze(model, X[:1], layouts=layouts(model))
        assert artefact.tensors["3.weight"].describe() == "dense > affine(8, axis 0)"
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(Session(artefact)(X.numpy())), model(X), atol=1e-3)

    @pytest.mark.parametrize("rule", ["min_max", "percentile", "mse", "kl"])
    def test_each_rule(self, rule: str) -> None:
        method = Ptq(calibration=rule)
        plan = method.plan(network(), context())
        assert {row["rule"] for row in plan.values()} == {rule}
        assert lost(method.apply(network(), plan, 0, context())) < 0.05


class TestRestoring:
    def test_outputs_have_their_means_and_deviations_again(self) -> None:
        method, model = Ptq(weight_bits=3, activation_bits=None), network()
        plan = {name: row | {"restored": "deviations"} for name, row in method.plan(model, context()).items()}
        with torch.no_grad():
            wanted = model(X)
            found = method.apply(model, plan, 0, context())(X)
        assert torch.allclose(found.mean(0), wanted.mean(0), atol=1e-4)
        assert torch.allclose(found.std(0), wanted.std(0), rtol=1e-3)

    def test_is_left_out_if_not_asked_for(self) -> None:
        method = Ptq(weight_bits=3, bias_correction=False)
        assert not any("restored" in row for row in method.plan(network(), context()).values())

    def test_what_was_chosen_loses_no_more_than_without(self) -> None:
        plain = lost(quantized(network(), weight_bits=3, bias_correction=False, equalize=False))
        assert lost(quantized(network(), weight_bits=3)) <= plain


class TestOddData:
    def test_none(self) -> None:
        assert lost(quantized(network(), context(None))) < 0.01

    def test_one_image(self) -> None:
        assert lost(quantized(network(), context(X[:1]), bias_correction=False), X[:1]) < 0.01

    def test_constant_images(self) -> None:
        model = quantized(network(), context(torch.zeros(4, 3, 8, 8)))
        assert torch.isfinite(model(X)).all()

    def test_nan(self) -> None:
        spoiled = X.clone()
        spoiled[3, 0, 0, 0] = torch.nan
        with pytest.raises(DataError, match="1 of 64 inputs hold NaN or infinity"):
            Ptq().plan(network(), context(spoiled))

    def test_dead_channels(self) -> None:
        model = network()
        model[3].weight.data[:3] = 0
        model[1].weight.data[0] = 0
        model = quantized(model, weight_bits=4)
        assert torch.isfinite(model(X)).all() and not bake(model).state_dict()["3.weight"][:3].any()


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"weight_bits": 1}, "ptq.weight_bits must be from 2 to 8, got 1"),
            ({"activation_bits": 9}, "ptq.activation_bits must be from 2 to 8, or left out, got 9"),
            ({"calibration": "best"}, "ptq.calibration must be measured, min_max, percentile, mse, kl, got 'best'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            Ptq(**settings)

    @pytest.mark.parametrize(("name", "bits"), [("int8", (8, 8)), ("w4a8", (4, 8)), ("w4a4", (4, 4))])
    def test_recipes_train_nothing(self, name: str, bits: tuple[int, int]) -> None:
        (step,) = Recipe.load(name).steps
        assert isinstance(step.method, Ptq) and step.training is None
        assert (step.method.weight_bits, step.method.activation_bits) == bits


def test_a_run_by_recipe_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    network, dataset = trained()
    states = [
        dovetail.compress(network, dataset, Recipe.load("int8"), folder=tmp_path / "run").model.state_dict()
        for _ in range(2)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
