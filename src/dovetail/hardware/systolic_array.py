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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import Cycles
from dovetail.hardware.layer import Layer, Operand

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
            TargetError: it has other dimensions than rows and columns, or settings that mean nothing here.
        """
        sizes = {dimension.name: dimension.size for dimension in chip.dimension}
        if set(sizes) != {"rows", "columns"}:
            names = ", ".join(sizes) or "none"
            raise TargetError(
                f"Chip {chip.name!r}: the dimensions of a systolic array are rows and columns, got {names}"
            )
        for name in set(chip.settings) - {"dataflow", "overlap"}:
            raise TargetError(f"Chip {chip.name!r}: settings of a systolic array are dataflow and overlap, got {name}")
        dataflow, overlap = chip.settings.get("dataflow"), chip.settings.get("overlap")
        if dataflow not in SPREAD:
            raise TargetError(f"Chip {chip.name!r}: settings.dataflow is one of {', '.join(SPREAD)}, got {dataflow!r}")
        if not isinstance(overlap, bool):
            raise TargetError(f"Chip {chip.name!r}: settings.overlap is true or false, got {overlap!r}")
        if chip.arithmetic.skips:
            raise TargetError(f"Chip {chip.name!r}: a systolic array moves in step and cannot skip zeros, only gate")
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
