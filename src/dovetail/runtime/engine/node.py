"""A node of a network as the planner reads it, and the grid that it may put values on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto


@dataclass(frozen=True)
class Grid:
    """The values scale * (q - zero) for the codes q from `lowest` to `highest`, within 0 .. 255."""

    scale: float
    zero: int
    lowest: int = 0
    highest: int = 255

    @property
    def bits(self) -> int:
        """How wide a code is, counted from the lowest one."""
        return (self.highest - self.lowest).bit_length()

    def same_codes(self, other: Grid | None) -> bool:
        return other is not None and (self.scale, self.zero) == (other.scale, other.zero)

    def holds(self, other: Grid) -> bool:
        """Whether rounding to this grid leaves the other's values alone."""
        return self.same_codes(other) and self.lowest <= other.lowest and other.highest <= self.highest


@dataclass(frozen=True, eq=False)
class Node:
    """An operator of the model, or several that are one here."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    protos: tuple[NodeProto, ...]
    grid: Grid | None = None

    @property
    def captured(self) -> set[str]:
        """What the graphs inside it (the branches of an If, the body of a Loop) read from around them."""
        return {name for proto in self.protos for graph in _graphs(proto) for name in _captured(graph)}


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)


def _captured(graph: GraphProto) -> set[str]:
    read = {value.name for value in graph.output}
    made = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        read.update(node.input, *map(_captured, _graphs(node)))
        made.update(node.output)
    return read - made - {""}
