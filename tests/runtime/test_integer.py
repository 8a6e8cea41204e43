"""The integer-only execution: what it computes, that it is of integers, and what it counts."""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.runtime.quantised_networks import X, chain, frozen, quantise, residual
from torch import nn
from torch.nn import functional as F

from dovetail.errors import ModelError
from dovetail.formats import FixedPoint, Layout
from dovetail.methods.quantize.quantizer import input_quantizers, quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import freeze, to_qdq
from dovetail.runtime.integer import IntegerNetwork, integer_network
from dovetail.runtime.steps import Convolution, Operations, Pool, Product, Rescale, Slope, Step

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "8 bits": lambda: quantise(chain()),
    "8 bits, signed": lambda: quantise(chain(), symmetric=True),
    "weights of 3, activations of 5": lambda: quantise(chain(), 3, 5),
    "weights of 4": lambda: quantise(chain(), 4),
    "sums too": lambda: quantise(residual(), outputs=("0", "1.bn2", "1")),
    "inputs of layers only": lambda: quantise(residual()),
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, IntegerNetwork]:
    model = NETWORKS[request.param]()
    return model, integer_network(to_qdq(frozen(model))[0])


class TestTheWholeNetwork:
    def test_every_code_is_within_one_of_the_torch_networks(self, pair: tuple[nn.Module, IntegerNetwork]) -> None:
        """At the layers' inputs and at the output, in steps of the last activation; few codes differ at all."""
        model, network = pair
        codes: list[NDArray[np.float32]] = []
        for quantizer in input_quantizers(model).values():
            quantizer.register_forward_hook(lambda q, x, y: codes.append((q.codes(x[0]) - q.zero_point).numpy()))
        with torch.no_grad():
            expected = model(X).numpy()
        found = network.run(X.numpy())
        for code in codes[1:]:
            alike = [f for f in found.values() if f.shape == code.shape]
            differences = [np.abs(f - code) for f in alike]
            assert any(d.max() <= 1 and d.mean() < 0.03 for d in differences)
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        step = float(last.input_quantizer.scale) * float(last.weight.detach().abs().max())
        assert np.abs(network(X.numpy()) - expected).max() < 3 * step

    def test_holds_and_computes_nothing_but_integers(self, pair: tuple[nn.Module, IntegerNetwork]) -> None:
        _, network = pair
        for step, _, _ in network.steps:
            for field in dataclasses.fields(step):
                held = np.asarray([] if field.name == "ranges" else getattr(step, field.name))
                assert held.dtype.kind in "iub" or not held.size
        assert {codes.dtype for codes in network.run(X.numpy()).values()} == {np.dtype(np.int32)}

    def test_stays_in_the_ranges_known_before(self, pair: tuple[nn.Module, IntegerNetwork]) -> None:
        _, network = pair
        output = network.run(1e3 * X.numpy())[network.output.name]
        assert np.all((output >= network.output.lowest) & (output <= network.output.highest))


def test_fixed_point_is_bit_for_bit_the_same_and_rescales_by_shifts() -> None:
    """Scales that are powers of two, and few enough bits that the float sums are exact too."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 5)).eval()
    layouts = {}
    for path in ("0", "4"):
        layer = model.get_submodule(path)
        layer.weight.data = torch.round(layer.weight.data * 64).clamp(-128, 127) / 64
        layer.bias.data = torch.round(layer.bias.data * 2**10) / 2**10
        quantize_input(model, path, Uniform(8, torch.tensor(2.0**-4)))
        layouts[f"{path}.weight"] = Layout(values=lambda x: FixedPoint.encode(x, bits=8, fraction=6))
    network = integer_network(to_qdq(freeze(model, X, layouts=layouts))[0])
    with torch.no_grad():
        assert np.array_equal(network(X.numpy()), model(X).numpy())
    for step, _, _ in network.steps:
        if isinstance(step, Rescale):
            assert np.all(step.multiplier == 1)


def test_ternary_weights_take_no_multiplications() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(288, 5)).eval()
    signs = torch.sign(model[1].weight.data) * (torch.rand(5, 288) < 0.5)
    model[1].weight.data = 0.3 * signs
    quantize_input(model, "1", Uniform(8, torch.tensor(0.02)))
    network = integer_network(to_qdq(freeze(model, X, layouts={"1.weight": Layout(values=_ternary)}))[0])
    count = network.operations(X.numpy())
    assert (count.multiplications, count.additions) == (0, 4 * (int(signs.abs().sum()) + 5))
    with torch.no_grad():
        np.testing.assert_allclose(network(X.numpy()), model(X).numpy(), atol=1e-4)


def _ternary(values: NDArray[np.float32]) -> FixedPoint:
    return Uniform(2, torch.tensor(0.3)).encoder()(values)


class TestSteps:
    @settings(deadline=None)
    @given(st.floats(1e-7, 8), st.lists(st.integers(-(2**27), 2**27), min_size=1), st.booleans())
    def test_rescaling_rounds_the_exact_product(self, ratio: float, codes: list[int], negative: bool) -> None:
        ratio = -ratio if negative else ratio
        x = np.array([codes], np.int32)
        expected = np.rint(x.astype(np.longdouble) * np.longdouble(ratio))
        found = Rescale.by(np.array([ratio])).run(x)
        assert np.abs(found - expected).max() <= 1 + 2.0**-31 * np.abs(expected).max()

    def test_rescaling_by_powers_of_two_goes_to_even_at_halfway(self) -> None:
        halves = np.array([[-5, -3, -1, 1, 2, 3, 5]], np.int32)
        step = Rescale.by(np.array([0.5]), -2, 9)
        assert step.run(halves).tolist() == [[-2, -2, 0, 0, 1, 2, 2]]
        assert step.operations(halves) == Operations(0, 7, 7)

    def test_a_slope_is_of_what_is_below_zero(self) -> None:
        codes = np.array([[-8, -8, 8], [-4, 4, -1000]], np.int32)
        step = Slope.by(np.array([0.25, -0.5, 0.0]))
        assert step.run(codes).tolist() == [[-2, 4, 8], [-1, 4, 0]]

    @pytest.mark.parametrize("groups", [1, 2])
    def test_convolution(self, groups: int) -> None:
        rng = np.random.default_rng(0)
        x = rng.integers(-9, 9, (3, 4, 9, 8), np.int32)
        w = rng.integers(-9, 9, (6, 4 // groups, 3, 2), np.int32)
        b = rng.integers(-9, 9, 6, np.int32)
        step = Convolution(w, b, 1, (2, 1), (1, 2), ((1, 1), (2, 2)), groups)
        sums = F.conv2d(_tensor(x), _tensor(2 * w), _tensor(b), (2, 1), (1, 2), (1, 2), groups)
        assert np.array_equal(step.run(x), sums.numpy())

    def test_pools(self) -> None:
        x = np.random.default_rng(0).integers(-9, 9, (3, 4, 9, 8), np.int32)
        largest = Pool((3, 2), (2, 2), (1, 1), ((1, 1), (0, 0)))
        assert np.array_equal(largest.run(x), F.max_pool2d(_tensor(x), (3, 2), 2, (1, 0)).numpy())
        total = Pool((3, 2), (3, 2), (1, 1), ((0, 0), (0, 0)), total=True)
        assert np.array_equal(total.run(x), (6 * F.avg_pool2d(_tensor(x), (3, 2))).round().numpy())
        assert total.operations(total.run(x)).additions == 5 * 3 * 4 * 3 * 4

    def test_what_a_product_counts(self) -> None:
        step: Step = Product(np.array([[0, 1, -1, 4, 3, -5]], np.int32), np.array([7], np.int32), 0)
        assert step.operations(np.zeros((10, 1), np.int32)) == Operations(20, 60, 10)


def _tensor(x: NDArray[np.int32]) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64))


@pytest.mark.parametrize("node", ["LeakyRelu<alpha = 0.3>(b)", "PRelu(b, t)", "PRelu(b, u)"])
def test_a_relu_with_a_slope(node: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> main (float[N, 2] input) => (float[N, 2] output) '
        "<float s = {0.1}, uint8 z = {128}, float f = {0.001}, int16 y = {0}, float[1] t = {-0.7}, "
        f"float[2] u = {{0.01, 1.3}}> {{ a = QuantizeLinear(input, s, z) b = DequantizeLinear(a, s, z) c = {node} "
        "d = QuantizeLinear(c, f, y) output = DequantizeLinear(d, f, y) }"
    )
    inputs = np.random.default_rng(0).uniform(-12, 12, (99, 2)).astype(np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"input": inputs})
    np.testing.assert_allclose(integer_network(model)(inputs), expected, atol=1.01e-3)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("output = Sigmoid(input)", "Sigmoid has no integer arithmetic here"),
        ("output = Relu(input)", "value 'input' of the network is not quantised"),
        (
            "a = QuantizeLinear(input, s, z) b = DequantizeLinear(a, s, z) output = Gemm<transB = 1>(b, w)",
            "not quantised",
        ),
        ("a = QuantizeLinear(input, s, z) b = DequantizeLinear(a, s, z) output = Mul(b, b)", "product of two values"),
    ],
)
def test_says_what_it_does_not_know(nodes: str, message: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> main (float[N, 2] input) => (float[N, 2] output) '
        f"<float s = {{0.1}}, uint8 z = {{3}}, float[2, 2] w = {{1, 2, 3, 4}}> {{ {nodes} }}"
    )
    with pytest.raises(ModelError, match=message):
        integer_network(model)
