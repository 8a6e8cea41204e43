"""Quantised ONNX files count as the integers in which runtimes compute them."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.runtime.test_integer_methods import IMAGES, applied, in_integers, network
from torch import nn

from dovetail.runtime import freeze, to_qdq
from dovetail.workload import read_onnx, trace

PRODUCTS = """
<ir_version: 10, opset_import: ["" : 21]> main (float[N, 4] input) => (float[N, 3] output)
<float s = {0.1}, uint8 z = {3}, int8 y = {0}, int8[3, 4] w = {1, -2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4}, float[3, 3] f =
 {1, 2, 3, 4, 5, 6, 7, 8, 9}, int8[3, 3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
    a = QuantizeLinear(input, s, z) b = DequantizeLinear(a, s, z)
    c = DequantizeLinear(w, s, y) d = Transpose(c) e = MatMul(b, d)
    g = MatMul(e, f)
    h = DequantizeLinear(v, s, y) output = MatMul(g, h)
}
"""


def widths(module: nn.Module, inputs: torch.Tensor) -> list[tuple[int, int, int]]:
    """Bits of input, weight and output of each product and convolution."""
    found = [op for op in trace(module, inputs).operations if op.kind in ("conv", "matmul")]
    return [
        (op.with_role("input")[0].bits, op.with_role("weight")[0].bits, op.with_role("output")[0].bits) for op in found
    ]


def test_of_each_product_what_is_dequantised_counts_as_integers() -> None:
    module = read_onnx(onnx.parser.parse_model(PRODUCTS))
    assert widths(module, torch.ones(2, 4)) == [(8, 8, 8), (32, 32, 32), (32, 8, 32)]


def test_four_bits_are_four() -> None:
    model = onnx.parser.parse_model(PRODUCTS)
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "y", "v"):
            packed = helper.make_tensor(tensor.name, TensorProto.INT4, tensor.dims, numpy_helper.to_array(tensor) % 7)
            tensor.CopyFrom(packed)
    assert widths(read_onnx(model), torch.ones(2, 4)) == [(8, 4, 8), (32, 32, 32), (32, 4, 32)]


@pytest.mark.parametrize("method", ["ptq", "dynamic_fixed_point"])
def test_an_exported_network_counts_as_its_artefact(method: str) -> None:
    artefact, _ = in_integers(applied(network(), method))
    module = read_onnx(to_qdq(artefact)[0])
    assert widths(module, IMAGES[:1]) == [(8, 8, 8)] * 3


def test_a_network_in_floats_is_one_in_floats() -> None:
    module = read_onnx(to_qdq(freeze(network(), IMAGES))[0])
    assert widths(module, IMAGES[:1]) == [(32, 32, 32)] * 3
