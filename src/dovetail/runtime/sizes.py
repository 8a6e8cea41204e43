"""Sizes that a graph must not have: ONNX's shape inference, which ONNX Runtime uses too, ends the process at them.

It divides by strides, and cuts a Slice's places off at the size that it finds for the value, which may be below zero
behind a window that is larger than what it goes over. So windows are looked at first, and then the sizes of values, a
part of the graph at a time: each up to the next Slice.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from dovetail.errors import ArtefactError
from dovetail.runtime.constants import SMALL

WINDOWED = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool", "MaxUnpool")
WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}
"""The least of each number that says where windows lie."""

WIDEST = 2**20
"""More than any of them, so that their products are no more than 64 bits hold."""


def check_sizes(model: ModelProto) -> None:
    """Raises ArtefactError, naming it, at a window that cannot be and a value of a size below zero."""
    for node in model.graph.node:
        _check_window(node)
    known = {value.name: value for value in model.graph.input}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for nodes in _parts(model):
        part = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
        part.graph.name = "part"
        part.graph.node.extend(nodes)
        for name in {name for node in nodes for name in node.input}:
            if name in constants:
                _add_constant(part, constants[name])
            elif name in known:
                part.graph.input.append(known[name])
        known.update((value.name, value) for value in _sound(part))


def _check_window(node: NodeProto) -> None:
    if node.op_type not in WINDOWED:
        return
    for attribute in node.attribute:
        least, numbers = WINDOWS.get(attribute.name), list(attribute.ints)
        if least is not None and any(not least <= number < WIDEST for number in numbers):
            raise ArtefactError(
                f"{attribute.name} of a {node.op_type} should be {least} to {WIDEST - 1}, found {numbers}."
            )


def _parts(model: ModelProto) -> Iterator[list[NodeProto]]:
    """The nodes in order, up to each Slice that follows something else; what comes after the last is nobody's harm."""
    part: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Slice" and part and part[-1].op_type != "Slice":
            yield part
            part = []
        part.append(node)


def _add_constant(part: ModelProto, tensor: TensorProto) -> None:
    """A large one by its shape alone, which costs nothing."""
    if len(tensor.raw_data) <= 8 * SMALL:
        part.graph.initializer.append(tensor)
    else:
        part.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _sound(part: ModelProto) -> Iterator[ValueInfoProto]:
    """What is inferred of the values of a part."""
    try:
        inferred = onnx.shape_inference.infer_shapes(part, data_prop=True).graph.value_info
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ArtefactError(f"The network's values do not fit together: {str(error).splitlines()[0]}.") from None
    for value in inferred:
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
        if any(side < 0 for side in sides):
            raise ArtefactError(f"A value of the network would be of shape {sides}, after a window larger than itself.")
        yield value
