"""A node of a network as the planner reads it, and the grid that it may put values on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto


@dataclass(frozen=True)
class Grid:
    """The values scale * (q - zero) for the codes q from `lowest` to `highest`, within 0 .. 255."""

    scale: float
    zero: int
    lowest: int = 0
    highest: int = 255

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
