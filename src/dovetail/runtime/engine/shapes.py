"""The shape of every value of a network, as a function of its batch: found by trying two batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from dovetail.errors import ArtefactError
from dovetail.runtime.constants import Constants, evaluate, outlined
from dovetail.runtime.sizes import check_sizes

Array = NDArray[Any]

ON_SHAPES = {
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity", "Max", "Min", "Mul",
    "Range", "ReduceProd", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""What exporters compute shapes with, and states that are zero for each image."""

MOST = 2**16
"""Numbers that are computed so."""


@dataclass
class Shapes:
    """`whole`: of numbers that grow with the batch along one axis, where None stands; `types` of all values.

    same: values that depend on nothing but how large the batch is, and are alike for each image: those of one image.
    fixed: what was computed from shapes, and does not depend on the batch either.
    """

    whole: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    same: dict[str, Array] = field(default_factory=dict)
    fixed: dict[str, Array] = field(default_factory=dict)


def shapes_of(model: ModelProto, constants: Constants, inputs: list[ValueInfoProto]) -> Shapes:
    """Raises ArtefactError on a model whose values do not fit together."""
    axes = batch_axes(inputs)
    try:
        (two, known_two), (three, known_three) = (_inferred(model, constants, inputs, axes, n) for n in (2, 3))
    except ArtefactError:
        if len(inputs) == 1:
            raise
        values, _ = _inferred(model, constants, inputs, {}, 1)  # what they have in common may be no batch
        return Shapes(types={name: kind for name, (kind, _) in values.items()})
    found = Shapes(types={name: kind for name, (kind, _) in two.items()})
    found.types |= {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in known_two.items()}
    for name, (kind, shape) in two.items():
        axis = _batch_axis(shape, three.get(name, (0, ()))[1])
        if kind == TensorProto.FLOAT and axis is not None and min(shape) > 0:
            found.whole[name] = (*shape[:axis], None, *shape[axis + 1 :])
    for name, array in known_two.items():
        if (other := known_three.get(name)) is None:
            continue
        axis = _batch_axis(array.shape, other.shape)
        if axis is None and np.array_equal(array, other):
            found.fixed[name] = array
        elif axis is not None:
            one = array.take([0], axis)
            if all(np.array_equal(np.broadcast_to(one, full.shape), full) for full in (array, other)):
                found.same[name] = one
    return found


def batch_axes(inputs: list[ValueInfoProto]) -> dict[str, int]:
    """The axis along which each input grows with the batch, of those that do: the first input's first axis.

    So does another input's first axis if it is as open, or as large; or else the first one of the same name.
    """
    sides = {value.name: list(value.type.tensor_type.shape.dim) for value in inputs}
    batch = next((of_input[0] for of_input in sides.values() if of_input), None)
    axes = {}
    for name, of_input in sides.items():
        alike = [axis for axis, side in enumerate(of_input) if side == batch and (axis == 0 or side.dim_param)]
        if alike:
            axes[name] = alike[0]
    return axes


def _batch_axis(two: tuple[int, ...], three: tuple[int, ...]) -> int | None:
    """The one axis along which two images and three differ, as they should."""
    differing = [axis for axis, sides in enumerate(zip(two, three, strict=False)) if sides[0] != sides[1]]
    fits = len(two) == len(three) and len(differing) == 1 and (two[differing[0]], three[differing[0]]) == (2, 3)
    return differing[0] if fits else None


Inferred = dict[str, tuple[int, tuple[int, ...]]]
"""Type and shape; 0 where a side is open."""


def _inferred(
    model: ModelProto, constants: Constants, inputs: list[ValueInfoProto], axes: Mapping[str, int], batch: int
) -> tuple[Inferred, dict[str, Array]]:
    """Of every value for a batch; and the values that follow from shapes alone, by which more shapes may be known."""
    known: dict[str, Array] = {}
    while True:
        values = _infer(model, constants.joined(known), inputs, axes, batch)
        before = len(known)
        for node in model.graph.node:
            if not known.keys() >= {*node.output}:
                known.update(_computed(node, constants, known, values, model))
        if len(known) == before:
            return values, known


def _computed(
    node: NodeProto, constants: Mapping[str, Array], known: Mapping[str, Array], values: Inferred, model: ModelProto
) -> dict[str, Array]:
    """What a node makes of shapes, or of what was made of them."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ON_SHAPES:
        return {}
    names = [name for name in node.input if name]
    if node.op_type == "Shape" and names[0] in values and min(values[names[0]][1], default=1) > 0:
        given = {names[0]: np.broadcast_to(np.zeros((), np.float32), values[names[0]][1])}
    elif any(name in known for name in names) and all(name in known or name in constants for name in names):
        given = {name: known[name] if name in known else constants[name] for name in names}
        sizes = [array.size for array in given.values()]
        if node.op_type in ("ConstantOfShape", "Expand"):
            sizes.append(math.prod(int(side) for side in given[names[-1]].reshape(-1)))
        elif node.op_type == "Range":
            start, end, step = (float(given[name].reshape(-1)[0]) for name in names)
            sizes.append(int((end - start) / step) if step else MOST + 1)
        if max(sizes) > MOST:
            return {}
    else:
        return {}
    try:
        return evaluate(node, given, model)
    except Exception:  # noqa: BLE001 - what it cannot compute is not known
        return {}


def _infer(
    model: ModelProto, constants: Constants, inputs: list[ValueInfoProto], axes: Mapping[str, int], batch: int
) -> Inferred:
    light = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(node for node in model.graph.node if not constants.keys() >= {*node.output} - {""})
    for value in inputs:
        entry = light.graph.input.add()
        entry.CopyFrom(value)
        if value.name in axes:
            entry.type.tensor_type.shape.dim[axes[value.name]].dim_value = batch
    given = {value.name for value in inputs}
    for value in (output for output in model.graph.output if output.name not in given):
        light.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    light = outlined(light, constants)
    check_sizes(light)
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ArtefactError(f"The network's values do not fit together: {str(error).splitlines()[0]}.") from None
    return {
        value.name: (value.type.tensor_type.elem_type, _sides(value))
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _sides(value: ValueInfoProto) -> tuple[int, ...]:
    if not value.type.tensor_type.HasField("shape"):
        return (0,)
    return tuple(max(side.dim_value, 0) for side in value.type.tensor_type.shape.dim)
