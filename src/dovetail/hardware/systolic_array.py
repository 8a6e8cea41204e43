"""A systolic array: a layer as a matrix product, cut into tiles that fill the array, and its cycles in closed form.

A convolution is lowered to O[pixels, filters] = I[pixels, window] W[window, filters] (im2col: a pixel's window is its
row; groups are products of their own, so a depthwise convolution has one filter each). Two of the three are spread
over the R rows and C columns of the array, the third streams through in T cycles:

    dataflow    rows     columns   stream
    "ws"        window   filters   pixels
    "is"        window   pixels    filters
    "os"        pixels   filters   window

A tile takes T + 2 R + C - 2 cycles in each of them: R to shift in what stays ("os": to shift out the sums), T for the
stream, R - 1 and C - 1 for the delay of the last row and column. One after the other n tiles take n times that; with
`overlap` (a second set of registers for what stays) they start max(T, R) apart, and only the last takes all of it.
Tiles that do not fill the array take as long as those that do. `systolic_steps` runs the array and agrees exactly.

SCALE-Sim 3 reports n (T + 2 R + C - 2) - 1 for "ws" and "is", and n (T + R + C - 2) - 1 for "os". The 1 is the number
of the last cycle, taken for their count. In "os" the sums do not leave through the array in that time: its trace
writes the lowest row of sums before they are finished. (Both were asked about: its issues 125 and 60, v3's issue 4.)
`Cycles.computing + Cycles.filling - 1` is its figure, for every dataflow; `draining` is what it leaves out.

At the edge of the array each of the three is read or written once for every trip of the one loop that it does not
depend on: I for each tile of filters, W of pixels, O of the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import Cycles
from dovetail.hardware.layer import Layer, Loop, Operand
from dovetail.hardware.parts import Parts, Setting, require

Axis = Literal["pixels", "window", "filters"]
Dataflow = Literal["ws", "os", "is"]

AXES: tuple[Axis, ...] = get_args(Axis)

ABSENT: dict[Operand, Axis] = {"I": "filters", "W": "pixels", "O": "window"}
"""The loop that an operand does not depend on."""

SPREAD: dict[str, tuple[Axis, Axis, Axis]] = {
    "ws": ("window", "filters", "pixels"),
    "is": ("window", "pixels", "filters"),
    "os": ("pixels", "filters", "window"),
}
"""What is spread over the rows, what over the columns, and what streams through, by dataflow."""

SPREADING: dict[Axis, tuple[Loop, ...]] = {"pixels": ("N", "P", "Q"), "window": ("C", "R", "S"), "filters": ("K",)}
"""The loops that are an axis."""

FORWARDED: dict[str, dict[str, tuple[Operand, ...]]] = {
    "ws": {"rows": ("W", "O"), "columns": ("I",)},
    "is": {"rows": ("I", "O"), "columns": ("W",)},
    "os": {"rows": ("W", "O"), "columns": ("I",)},
}
"""What elements hand on to their neighbours, by dataflow: down (also what stays, on its way in) and across."""

PARTS = Parts(
    dimensions=("rows", "columns"),
    settings={
        "dataflow": Setting(f"one of {', '.join(SPREAD)}", lambda value: value in list(SPREAD)),
        "overlap": Setting("true or false", lambda value: isinstance(value, bool)),
    },
    zeros=True,
)


@dataclass(frozen=True)
class Array:
    """A systolic array: its rows and columns, its dataflow, and whether tiles overlap."""

    rows: int
    columns: int
    dataflow: Dataflow
    overlap: bool

    @classmethod
    def of(cls, chip: Chip) -> Array:
        """The array of a chip of kind "systolic".

        Raises:
            TargetError: it has other parts or settings than such an array, or spreads and hands on other things than
                its dataflow does.
        """
        require(chip, PARTS)
        dataflow: Dataflow = chip.settings["dataflow"]
        for problem in _misplaced(chip, dataflow):
            raise TargetError(f"Chip {chip.name!r} with the dataflow {dataflow!r}: {problem}")
        sizes = {dimension.name: dimension.size for dimension in chip.dimension}
        if chip.arithmetic.skips:
            raise TargetError(f"Chip {chip.name!r}: a systolic array moves in step and cannot skip zeros, only gate")
        overlap: bool = chip.settings["overlap"]
        return cls(sizes["rows"], sizes["columns"], dataflow, overlap)

    def tile(self, extents: Mapping[Axis, int], stream: int) -> dict[Axis, int]:
        """Extents of one tile of a product whose stream is cut into pieces of `stream`."""
        sizes = zip(SPREAD[self.dataflow], (self.rows, self.columns, stream), strict=True)
        return {axis: min(extents[axis], size) for axis, size in sizes}

    def cycles(self, tiles: int, stream: int, pieces: int = 1, each: float = 1.0) -> Cycles:
        """Cycles of `tiles` tiles for each of the `pieces` of a stream, whose elements take `each` cycles."""
        length = math.ceil(stream / pieces)
        last = (stream - (pieces - 1) * length) * each
        delay, through, number = self.rows + self.columns - 2, self.rows, tiles * pieces
        if self.overlap:
            full, short = max(length * each, self.rows), max(last, self.rows)
            starts = tiles * ((pieces - 1) * full + short) - short
            computing, edge = starts + last + delay, through
        else:
            computing, edge = tiles * stream * each + number * delay, number * through
        return Cycles(computing, draining=edge) if self.dataflow == "os" else Cycles(computing, filling=edge)


def _misplaced(chip: Chip, dataflow: Dataflow) -> Iterator[str]:
    """What the chip spreads over its array, or hands on there, that its dataflow does not."""
    spread = dict(zip(("rows", "columns"), SPREAD[dataflow], strict=False))
    for dimension in chip.dimension:
        forwarded = {operand for operand, link in dimension.links.items() if link == "forward"}
        for what, found, expected in (
            ("unroll", set(dimension.unroll), SPREADING[spread[dimension.name]]),
            ("links that forward", forwarded, FORWARDED[dataflow][dimension.name]),
        ):
            if found != set(expected):
                got = ", ".join(sorted(found)) or "none"
                yield f"{what} of dimension {dimension.name!r} are {', '.join(expected)}, got {got}"


@dataclass(frozen=True)
class Product:
    """A layer as `count` matrix products of the same extents."""

    extents: Mapping[Axis, int]
    count: int


def lowered(layer: Layer) -> Product:
    """The matrix products that a layer is."""
    loops = layer.extents
    extents: dict[Axis, int] = {
        "pixels": loops["N"] * loops["P"] * loops["Q"],
        "window": loops["C"] * loops["R"] * loops["S"],
        "filters": loops["K"],
    }
    return Product(extents, loops["G"])
