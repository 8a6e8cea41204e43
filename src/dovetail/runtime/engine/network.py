"""An ONNX model as the planner reads it: constants computed, roundings recognised, the shape of one image's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dovetail.errors import ArtefactError
from dovetail.runtime.engine.node import Grid, Node
from dovetail.runtime.engine.patterns import put_together
from dovetail.runtime.sizes import SMALL, check_sizes

Array = NDArray[Any]

CODES = (np.dtype(np.int8), np.dtype(np.uint8))
"""What activations may be rounded to."""


@dataclass(frozen=True)
class Coded:
    """A constant that is stored as signed bytes: codes times a scale for each index of the axis, or one for all."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int


@dataclass(eq=False)
class Network:
    """Nodes in order; constants; `shapes`: of one image, of every value of numbers that has one row for each image."""

    nodes: list[Node]
    constants: dict[str, Array]
    coded: dict[str, Coded]
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    opset: int
    proto: ModelProto
    readers: dict[str, int] = field(default_factory=dict)
    """How many times each value is read, the network's outputs included."""

    def __post_init__(self) -> None:
        for name in (*(name for node in self.nodes for name in node.inputs), *(o.name for o in self.outputs)):
            self.readers[name] = self.readers.get(name, 0) + 1


def read(model: ModelProto) -> Network:
    """Raises ArtefactError on a model whose values do not fit together."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    coded: dict[str, Coded] = {}
    nodes = [node for proto in graph.node if (node := _fold(proto, constants, coded, model)) is not None]
    inputs = [value for value in graph.input if value.name not in constants]
    shapes, types = _shapes(model, constants, inputs)
    ends = {value.name for value in graph.output}
    nodes = _round(_without_identities(nodes, ends), constants, ends)
    nodes = _live(put_together(nodes, constants), ends)
    return Network(nodes, constants, coded, shapes, types, inputs, list(graph.output), opset, model)


def _fold(proto: NodeProto, constants: dict[str, Array], coded: dict[str, Coded], model: ModelProto) -> Node | None:
    """The node, unless it only computes constants, which are noted."""
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    names = [name for name in proto.input if name]
    fixed = all(name in constants for name in names) and (names or proto.op_type == "Constant")
    if not fixed or proto.domain not in ("", "ai.onnx") or "Random" in proto.op_type or "body" in attributes:
        return Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, (proto,))
    if proto.op_type == "DequantizeLinear" and constants[names[0]].dtype == np.int8:
        codes, scales = constants[names[0]], constants[names[1]].reshape(-1)
        if len(names) < 3 or not constants[names[2]].any():
            coded[proto.output[0]] = Coded(codes, scales, attributes.get("axis", 1) % max(codes.ndim, 1))
    try:
        results = ReferenceEvaluator(proto, opsets=_opsets(model)).run(None, {n: constants[n] for n in names})
    except Exception as error:  # noqa: BLE001 - an evaluator of 200 operators; whatever it finds wrong is the model's
        raise ArtefactError(f"A constant of the network cannot be computed: {proto.op_type}: {error}.") from None
    constants.update(zip(proto.output, map(np.asarray, results), strict=False))
    return None


def _opsets(model: ModelProto) -> dict[str, int]:
    return {entry.domain: entry.version for entry in model.opset_import}


def _without_identities(nodes: list[Node], ends: set[str]) -> list[Node]:
    """Without what gives back its input; names of the network's outputs stay."""
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        node = Node(node.operator, tuple(names.get(n, n) for n in node.inputs), node.outputs, node.attributes,
                    node.protos)  # fmt: skip
        idle = node.operator == "Identity" or (node.operator == "Dropout" and len(node.outputs) == 1)
        if idle and node.outputs[0] not in ends and len(node.inputs) == 1:
            names[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    return kept


def _round(nodes: list[Node], constants: Mapping[str, Array], ends: set[str]) -> list[Node]:
    """QuantizeLinear, Clip of codes and DequantizeLinear, where these are all, become one node: Round."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    replaced: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.operator != "QuantizeLinear" or (scale := _number(constants, node, 1)) is None:
            continue
        chain, code = [node], node.outputs[0]
        zero = constants.get(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
        if zero is None or zero.size != 1 or zero.dtype not in CODES or not scale > 0:
            continue
        bounds = [np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max]
        if len(found := readers.get(code, [])) == 1 and found[0].operator == "Clip" and code not in ends:
            chain.append(found[0])
            for place in (0, 1):
                if (bound := _number(constants, found[0], place + 1)) is not None:
                    bounds[place] = int(bound)
            code = found[0].outputs[0]
        last = readers.get(code, [])
        same = all(
            reader.operator == "DequantizeLinear"
            and _number(constants, reader, 1) == scale
            and (_number(constants, reader, 2) or 0) == int(zero.reshape(-1)[0])
            for reader in last
        )
        if not last or not same or code in ends or bounds[0] > bounds[1]:
            continue
        up = 128 if zero.dtype == np.int8 else 0  # a signed code and half the range more is an unsigned one
        grid = Grid(scale, int(zero.reshape(-1)[0]) + up, bounds[0] + up, bounds[1] + up)
        for reader in last:
            protos = tuple(proto for part in (*chain, reader) for proto in part.protos)
            replaced[reader] = [Node("Round", node.inputs[:1], reader.outputs, {}, protos, grid)]
        replaced |= {part: [] for part in chain}
    return [new for node in nodes for new in replaced.get(node, [node])]


def _number(constants: Mapping[str, Array], node: Node, place: int) -> float | None:
    constant = constants.get(node.inputs[place]) if len(node.inputs) > place else None
    return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def _live(nodes: list[Node], ends: set[str]) -> list[Node]:
    """What the outputs depend on."""
    needed = set(ends)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
            for proto in node.protos:
                needed.update(name for a in proto.attribute for inner in a.g.node for name in inner.input)
    return kept[::-1]


def _shapes(
    model: ModelProto, constants: Mapping[str, Array], inputs: list[ValueInfoProto]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shapes of numbers that grow with the batch in the first place and nowhere else; and all values' types."""
    two, three = (_inferred(model, constants, inputs, batch) for batch in (2, 3))
    shapes = {
        name: shape[1:]
        for name, (kind, shape) in two.items()
        if kind == TensorProto.FLOAT and len(shape) > 1 and shape[0] == 2 and math.prod(shape) > 0
    }
    alike = {name: shape for name, shape in shapes.items() if three.get(name) == (TensorProto.FLOAT, (3, *shape))}
    return alike, {name: kind for name, (kind, _) in two.items()}


def _inferred(
    model: ModelProto, constants: Mapping[str, Array], inputs: list[ValueInfoProto], batch: int
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Type and shape of every value for a batch; weights are there by their shape alone, which costs nothing."""
    light = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(node for node in model.graph.node if not constants.keys() >= {*node.output} - {""})
    for value in inputs:
        entry = light.graph.input.add()
        entry.CopyFrom(value)
        if entry.type.tensor_type.shape.dim:
            entry.type.tensor_type.shape.dim[0].dim_value = batch
    for name, array in constants.items():
        if array.size <= SMALL:
            light.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            light.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    for value in model.graph.output:
        light.graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
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
    """0 where a side is open."""
    return tuple(max(side.dim_value, 0) for side in value.type.tensor_type.shape.dim)
