"""An ONNX model as the planner reads it: constants computed, roundings recognised, the shape of one image's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from dovetail.errors import ArtefactError
from dovetail.runtime.constants import Constants, OpenModel, evaluate
from dovetail.runtime.engine.node import Grid, Node
from dovetail.runtime.engine.patterns import put_together
from dovetail.runtime.engine.shapes import Shapes, shapes_of

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
    constants: Constants
    coded: dict[str, Coded]
    known: Shapes
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    opset: int
    proto: ModelProto
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    """How many times each value is read, the network's outputs included."""

    def __post_init__(self) -> None:
        for name, (first, *sides) in self.known.whole.items():
            if first is None and sides:
                self.shapes[name] = tuple(side for side in sides if side is not None)
        for name in (*(name for node in self.nodes for name in node.inputs), *(o.name for o in self.outputs)):
            self.readers[name] = self.readers.get(name, 0) + 1


def read(model: OpenModel) -> Network:
    """Raises ArtefactError on a model whose values do not fit together. What of it is constant is noted in it."""
    proto, constants = model.proto, model.constants
    graph = proto.graph
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    coded: dict[str, Coded] = {}
    nodes = [read for node in graph.node if (read := _fold(node, constants, coded, proto)) is not None]
    inputs = [value for value in graph.input if value.name not in constants]
    shapes = shapes_of(proto, constants, inputs)
    constants.update(shapes.fixed)
    nodes = [node for node in nodes if not constants.keys() >= {*node.outputs}]
    ends = {value.name for value in graph.output}
    nodes = _round(_without_identities(nodes, ends), constants, ends)
    nodes = _live(put_together(nodes, constants), ends)
    return Network(nodes, constants, coded, shapes, inputs, list(graph.output), opset, proto)


def _fold(proto: NodeProto, constants: Constants, coded: dict[str, Coded], model: ModelProto) -> Node | None:
    """The node, unless it only computes constants, which are noted."""
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    names = [name for name in proto.input if name]
    fixed = all(name in constants for name in names) and (names or proto.op_type == "Constant")
    if not fixed or proto.domain not in ("", "ai.onnx") or "Random" in proto.op_type or "body" in attributes:
        return Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, (proto,))
    if proto.op_type == "DequantizeLinear" and _put_off(proto.output[0], names, attributes, constants, coded):
        return None
    try:
        constants.update(evaluate(proto, {name: constants[name] for name in names}, model))
    except Exception as error:  # noqa: BLE001 - whatever it finds wrong is the model's
        raise ArtefactError(f"A constant of the network cannot be computed: {proto.op_type}: {error}.") from None
    return None


def _put_off(
    output: str, names: list[str], attributes: Mapping[str, Any], constants: Constants, coded: dict[str, Coded]
) -> bool:
    """Note signed integers times a scale for each index of an axis, or for all, and compute them only if they are read.

    Whether they are so.
    """
    codes, scales = constants[names[0]], constants[names[1]]
    axis = attributes.get("axis", 1) % max(codes.ndim, 1)
    fitting = scales.size == 1 or scales.shape == codes.shape[axis : axis + 1]
    zero = len(names) < 3 or (constants.dtype(names[2]) == codes.dtype and not constants[names[2]].any())
    plain = attributes.keys() <= {"axis"} and scales.dtype == np.float32 and codes.dtype in (np.int8, np.int32)
    if not (plain and fitting and zero):
        return False
    sides = [-1 if i == axis and scales.size > 1 else 1 for i in range(codes.ndim)]
    constants.put_off(output, codes.shape, lambda: codes.astype(np.float32) * scales.reshape(sides))
    if codes.dtype == np.int8:
        coded[output] = Coded(codes, scales.reshape(-1), axis)
    return True


def _without_identities(nodes: list[Node], ends: set[str]) -> list[Node]:
    """Without what gives back its input; names of the network's outputs stay, and those that inner graphs know."""
    ends = ends | {name for node in nodes for name in node.captured}
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        if not names.keys().isdisjoint(node.inputs):
            inputs = tuple(names.get(name, name) for name in node.inputs)
            node = replace(node, inputs=inputs, protos=(_reading(node.protos[0], inputs),))
        idle = node.operator == "Identity" or (node.operator == "Dropout" and len(node.outputs) == 1)
        if idle and node.outputs[0] not in ends and len(node.inputs) == 1:
            names[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    return kept


def _reading(proto: NodeProto, inputs: tuple[str, ...]) -> NodeProto:
    renamed = NodeProto()
    renamed.CopyFrom(proto)
    renamed.input[:] = inputs
    return renamed


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
            needed.update(node.captured)
    return kept[::-1]
