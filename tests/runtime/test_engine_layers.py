"""A network in integers a value at a time: each code is within one of ONNX's own, given the same codes before it.

So wherever the engine and ONNX Runtime differ in the end, it is by what follows from few such codes.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from tests.runtime.quantised_networks import chain, frozen, quantise, residual
from tests.runtime.test_engine_operators import run_plainly
from torch import nn

from dovetail.runtime import to_qdq
from dovetail.runtime.engine import EngineSession

SHARE = 1e-4
"""Of a value's codes that may be the next one."""

Floats = NDArray[np.float32]


def cut(model: ModelProto, output: str, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """What computes one value from those of which the shapes, without the batch, are given."""
    makers = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += [] if name in shapes or name not in makers else makers[name].input
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "part"
    part.graph.node.extend(n for n in model.graph.node if n.output[0] in needed and n.output[0] not in shapes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    for name in needed & shapes.keys():
        part.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shapes[name]]))
    part.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return part


def roundings(model: ModelProto) -> list[tuple[NodeProto, float]]:
    """Those of activations, in order, and their scales."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {name for node in model.graph.node if node.op_type in ("QuantizeLinear", "Clip") for name in node.output}
    return [
        (node, float(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in made
    ]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("build", [chain, residual])
def test_each_code_is_within_one(build: Callable[[], nn.Sequential], bits: int) -> None:
    model = to_qdq(frozen(quantise(build(), bits, outputs=("0",) if build is residual else ())))[0]
    x = np.random.default_rng(0).standard_normal((32, 2, 12, 12)).astype(np.float32)
    entry, end = model.graph.input[0].name, model.graph.output[0].name
    values = {entry: x}
    whole = {entry: x.shape[1:]}
    for node, scale in roundings(model):
        name = node.output[0]
        found = EngineSession.from_onnx(cut(model, name, whole), 1)(x)
        off = np.rint((found - expected(model, name, values)) / scale)
        assert np.abs(off).max() <= 1
        assert np.count_nonzero(off) <= max(1, SHARE * off.size)
        values[name] = found
    last = expected(model, end, values)
    np.testing.assert_allclose(EngineSession.from_onnx(model, 1)(x), last, rtol=0, atol=1e-5 * np.abs(last).max())


def expected(model: ModelProto, name: str, values: Mapping[str, Floats]) -> Floats:
    part = cut(model, name, {known: value.shape[1:] for known, value in values.items()})
    return run_plainly(part, {value.name: values[value.name] for value in part.graph.input})
