"""Quantised networks as standard ONNX files that runtimes execute in integers."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from tests.runtime.quantised_networks import Attention, X, chain, frozen, quantise, residual
from torch import nn

from dovetail.errors import ArtefactError
from dovetail.formats import Affine, Codebook, Dense, FixedPoint, Float, Format
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Artefact, Session, assemble, export_onnx, to_qdq
from dovetail.runtime.constants import OpenModel
from dovetail.runtime.editing import Editor
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.grids import find_roundings, weight_codes
from dovetail.runtime.qdq import INT4

SUMS = ("0", "1.bn2", "1")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "8 bits": lambda: quantise(chain()),
    "8 bits, signed": lambda: quantise(chain(), symmetric=True),
    "weights of 3, activations of 5": lambda: quantise(chain(), 3, 5),
    "weights of 4": lambda: quantise(chain(), 4),
    "sums too": lambda: quantise(residual(), outputs=SUMS),
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Artefact]:
    model = NETWORKS[request.param]()
    return model, frozen(model)


def run(model: ModelProto, x: NDArray[np.float32], optimised: Path | None = None) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": x})
    return np.asarray(output)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


class TestTheWholeNetwork:
    def test_computes_what_the_torch_network_does(self, pair: tuple[nn.Module, Artefact]) -> None:
        """All but codes at halfway are the same: the outputs move by a few steps of the last activation at most."""
        model, artefact = pair
        exported, _ = to_qdq(artefact)
        with torch.no_grad():
            expected = model(X).numpy()
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        step = float(last.input_quantizer.scale) * float(last.weight.detach().abs().max())
        assert np.abs(run(exported, X.numpy()) - expected).max() < 3 * step

    def test_is_sound_and_holds_every_layer_as_bytes(self, pair: tuple[nn.Module, Artefact]) -> None:
        model, artefact = pair
        exported, names = to_qdq(artefact)
        onnx.checker.check_model(exported, full_check=True)
        layers = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert sorted(names) == sorted(f"{path}.weight" for path in layers)
        stored = {t.name: numpy_helper.to_array(t) for t in exported.graph.initializer}
        for name in names:
            assert stored[f"{name}_code"].dtype in (np.int8, INT4) and name not in stored

    def test_onnx_runtime_fuses_every_layer(self, pair: tuple[nn.Module, Artefact], tmp_path: Path) -> None:
        exported, names = to_qdq(pair[1])
        run(exported, X.numpy(), tmp_path / "optimised.onnx")
        found = operators(tmp_path / "optimised.onnx")
        assert found["QLinearConv"] + found["QGemm"] == len(names)
        assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "Add", "Mul"} & set(found)


@pytest.mark.parametrize("bits", [8, 4])
def test_linear_layers_on_sequences_are_integers_too(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    artefact = frozen(quantise(Attention().eval(), bits))
    exported, names = to_qdq(artefact)
    assert names == ["first.weight", "both.weight", "last.weight"]
    onnx.checker.check_model(exported, full_check=True)
    found = run(exported, X.numpy(), tmp_path / "optimised.onnx")
    np.testing.assert_allclose(found, Session(artefact)(X.numpy()), atol=0.01)
    assert operators(tmp_path / "optimised.onnx")["MatMulIntegerToFloat"] == len(names)
    session = EngineSession(artefact, 1)
    assert sum("int8" in operation.kernel for operation in session.describe()) == len(names)
    np.testing.assert_allclose(session(X.numpy()), found, atol=0.01)


def test_sums_are_fused_where_all_is_quantised(tmp_path: Path) -> None:
    exported, _ = to_qdq(frozen(quantise(residual(), outputs=SUMS)))
    run(exported, X.numpy(), tmp_path / "optimised.onnx")
    assert operators(tmp_path / "optimised.onnx")["QLinearAdd"] == 1


def test_weights_of_four_bits_take_four_in_the_file_and_fuse_all_the_same() -> None:
    """What runtimes make of them when they load them is the bytes of the same network."""
    artefact = frozen(quantise(chain(), 4))
    exported, names = to_qdq(artefact)
    assert next(entry.version for entry in exported.opset_import if not entry.domain) >= 21
    stored = {tensor.name: tensor for tensor in exported.graph.initializer}
    for name in names:
        code, numbers = stored[f"{name}_code"], int(np.prod(artefact.tensors[name].shape))
        assert code.data_type == onnx.TensorProto.INT4 and len(code.raw_data) == (numbers + 1) // 2
    step = 4e-3  # far less than a code of the last activation makes of the outputs
    np.testing.assert_allclose(run(exported, X.numpy()), Session(artefact)(X.numpy()), atol=step)


class TestExport:
    def test_integers_where_there_are_any(self, tmp_path: Path) -> None:
        artefact = frozen(quantise(chain()))
        for choice, name in ((None, "default"), (True, "integers"), (False, "floats")):
            export_onnx(artefact, tmp_path / name, integers=choice)
        assert (tmp_path / "default").read_bytes() == (tmp_path / "integers").read_bytes()
        assert (
            operators(tmp_path / "integers")["QuantizeLinear"] and not operators(tmp_path / "floats")["QuantizeLinear"]
        )
        assert (tmp_path / "integers").stat().st_size < 0.6 * (tmp_path / "floats").stat().st_size

    def test_a_network_in_floats_stays_as_it_is(self, artefact: Artefact, tmp_path: Path) -> None:
        model, names = to_qdq(artefact)
        assert names == [] and model == assemble(artefact)
        with pytest.raises(ArtefactError, match="No layer of the artefact can be exported in integers"):
            export_onnx(artefact, tmp_path / "a.onnx", integers=True)
        assert not list(tmp_path.iterdir())

    def test_what_cannot_be_integers_stays_in_floats(self) -> None:
        """One layer has weights in floats, another reads codes of 12 bits."""
        model = quantise(chain())
        quantize_input(model, "7", Uniform(12, torch.tensor(0.001)))
        artefact = frozen(model)
        tensors = dict(artefact.tensors)
        tensors["4.weight"] = Dense.encode(torch.randn(6, 4, 3, 3).numpy(), Float.encode)
        artefact = Artefact(artefact.graph, tensors)
        exported, names = to_qdq(artefact)
        assert sorted(names) == ["0.weight", "9.weight"]
        np.testing.assert_allclose(run(exported, X.numpy()), Session(artefact)(X.numpy()), atol=0.02)


ROUNDING = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[N, 4] input) => (float[N, 4] output)
<float s = {%s}, float t = {%s}, float z = {%s}, float lo = {%s}, float hi = {%s}>
{ %s }
"""
UNIFORM = "a = Div(input, s) b = Round(a) c = Add(b, z) d = Clip(c, lo, hi) e = Sub(d, z) output = Mul(e, t)"
COMPUTED = "s1 = Abs(s) a = Div(input, s1) b = Round(a) c = Clip(b, lo, hi) output = Mul(c, s1)"
CLIPPED_FIRST = "a = Mul(input, s) b = Clip(a, lo, hi) c = Round(b) output = Div(c, t)"


class TestGrids:
    @pytest.mark.parametrize(
        ("numbers", "nodes", "expected"),
        [
            ((0.5, 0.5, 3, 0, 15), UNIFORM, (0.5, -3, 12)),
            ((0.5, 0.5, 0, -128, 127), UNIFORM, (0.5, -128, 127)),
            ((8, 8, 0, -8, 7), CLIPPED_FIRST, (0.125, -8, 7)),
            ((-0.5, 0, 0, 0, 15), COMPUTED, (0.5, 0, 15)),
            ((0.5, 0.25, 3, 0, 15), UNIFORM, None),
            ((0.5, 0.5, 3, 0, 256), UNIFORM, None),
            ((0.5, 0.5, 0.5, 0, 15), UNIFORM, None),
            ((0.5, 0.5, -1, 0, 15), UNIFORM, None),
            ((8, 8, 0, -8.5, 7), CLIPPED_FIRST, None),
        ],
    )
    def test_are_found_in_the_graph(self, numbers: Any, nodes: str, expected: Any) -> None:
        model = OpenModel.of(onnx.parser.parse_model(ROUNDING % (*numbers, nodes)))
        editor = Editor(model)
        editor.fold_numbers()
        found = [(r.grid.scale, r.grid.lowest, r.grid.highest) for r in find_roundings(editor)]
        assert found == ([] if expected is None else [expected])

    def test_are_computed_as_the_operators_were_defined_then(self) -> None:
        """The axes of an Unsqueeze were an attribute before opset 13."""
        model = OpenModel.of(
            onnx.parser.parse_model(
                """<ir_version: 7, opset_import: ["" : 12]>
                main (float[N, 4, 2] input) => (float[N, 4, 2] output) <float[4] s = {1, 2, 3, 4}>
                { s1 = Unsqueeze<axes = [1]>(s) output = Mul(input, s1) }"""
            )
        )
        Editor(model).fold_numbers()
        assert model.constants["s1"].shape == (4, 1)

    @pytest.mark.parametrize(
        "encode",
        [
            partial(Affine.encode, bits=8, axis=0),
            partial(Affine.encode, bits=3),
            partial(FixedPoint.encode, bits=8, fraction=6),
            partial(Codebook.encode, table=np.array([-0.3, 0, 0.3], np.float32)),
        ],
    )
    def test_of_weights_are_found_in_their_formats(self, encode: Callable[..., Format]) -> None:
        weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
        weight[1] = 0
        stored = Dense.encode(weight, encode)
        found = weight_codes(stored)
        assert found is not None
        codes, scale = found
        np.testing.assert_allclose(codes * scale.reshape(-1, 1, 1, 1), stored.decode(), rtol=1e-6)

    def test_weights_in_floats_have_none(self) -> None:
        weight = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
        assert weight_codes(Dense.encode(weight, Float.encode)) is None
