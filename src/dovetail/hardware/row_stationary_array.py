"""An array of elements that convolves as Eyeriss does, built from the one-dimensional primitive: slow, and plain.

It judges `row_stationary_pass`: its outputs equal the convolution, and what it moves equals the closed forms.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.hardware.layer import OPERANDS, Layer
from dovetail.hardware.row_stationary_pass import Hardware, Pass, Place, input_columns

Tensor = NDArray[np.int64]


def primitive(filter_row: Tensor, input_row: Tensor, outputs: int, stride: int, dilation: int) -> Tensor:
    """What one element computes: a row of each of its filters and channels against a row of each of its images.

    `filter_row` is p x q x S, `input_row` n x q x columns; the sums are n x p x `outputs`.
    """
    taps = np.arange(outputs)[:, None] * stride + np.arange(filter_row.shape[2]) * dilation
    sums: Tensor = np.einsum("pqs,nqos->npo", filter_row, input_row[:, :, taps])
    return sums


@dataclass
class Array:
    """Runs a layer, and counts elements moved in `moved` as it goes.

    `inputs` are G x N x C x rows x columns with their padding, `weights` G x K x C x R x S.
    """

    hardware: Hardware
    layer: Layer
    passes: Pass
    inputs: Tensor
    weights: Tensor
    moved: Counter[Place] = field(default_factory=Counter)
    held: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Tensor:
        """The outputs, G x N x K x P x Q."""
        loops, passes = self.layer.extents, self.passes
        outputs = np.zeros([loops[loop] for loop in ("G", "N", "K", "P", "Q")], np.int64)
        around = (range(loops["G"]), _tiles(loops["K"], passes.m), _tiles(loops["N"], passes.n))
        for group, filters, images, strip in itertools.product(*around, _tiles(loops["P"], passes.e)):
            outputs[group, images, filters, strip] = self._sums(group, filters, images, strip)
        self._count(self.hardware.dram.name, "O", "write", outputs.size)
        return outputs

    def _sums(self, group: int, filters: slice, images: slice, strip: slice) -> Tensor:
        """Outputs of the filters, images and rows whose sums lie in the buffer together: n x m x e x Q."""
        loops, passes, buffer = self.layer.extents, self.passes, self.hardware.buffer.name
        sums = np.zeros((_length(images), _length(filters), _length(strip), loops["Q"]), np.int64)
        channel_tiles = list(_tiles(loops["C"], passes.q * passes.r))
        heights = list(_tiles(loops["R"], self.hardware.folds(self.layer)[0]))
        for first, (channels, taps) in enumerate(itertools.product(channel_tiles, heights)):
            rows = self._fetch(group, images, channels, strip, taps)
            for tile in _tiles(_length(filters), passes.p * passes.t):
                chosen = slice(filters.start + tile.start, filters.start + tile.stop)
                loaded = self._load(group, chosen, channels, taps)
                self._count(buffer, "I", "read", rows * _length(images) * _length(channels) * input_columns(self.layer))
                self._count(buffer, "O", "write", sums[:, tile].size)
                if first:
                    self._count(buffer, "O", "read", sums[:, tile].size)
                    self._count(self.hardware.vertical, "O", "hop", sums[:, tile].size)
                sums[:, tile] = self._pass(group, images, strip, chosen, channels, taps, sums[:, tile], loaded)
        self._count(buffer, "O", "read", sums.size)
        return sums

    def _pass(
        self,
        group: int,
        images: slice,
        strip: slice,
        filters: slice,
        channels: slice,
        taps: slice,
        sums: Tensor,
        loaded: bool,
    ) -> Tensor:
        """Every column of every set adds up its sums on their way up, beginning with those from the buffer."""
        loops, passes, layer, name = self.layer.extents, self.passes, self.layer, self.hardware.spads
        sums, used = sums.copy(), set[tuple[int, int]]()
        filter_sets = enumerate(_tiles(_length(filters), passes.p))
        for (b, some), column in itertools.product(filter_sets, range(_length(strip))):
            way = []
            for a, channel in enumerate(_tiles(_length(channels), passes.q)):
                for i in range(_length(taps)):
                    way.append(self._place(a, b, i, column, _length(taps)))
                    weights = self.weights[group, filters, channels, taps.start + i][some, channel]
                    row = (strip.start + column) * layer.stride[0] + (taps.start + i) * layer.dilation[0]
                    inputs = self.inputs[group, images, channels, row][:, channel]
                    found = primitive(weights, inputs, loops["Q"], layer.stride[1], layer.dilation[1])
                    sums[:, some, column] += found
                    if loaded:
                        self._deliver("W", weights.size)
                    self._deliver("I", inputs.shape[0] * inputs.shape[1] * input_columns(layer))
                    self._count(self.hardware.vertical, "O", "hop", found.size)
                    macs = found.size * weights[0].size
                    for operand in OPERANDS:
                        self._count(name[operand].name, operand, "read", macs)
                    self._count(name["O"].name, "O", "write", macs)
            assert all(up == (down[0] + 1, down[1]) for down, up in itertools.pairwise(way)), "sums go to a neighbour"
            assert not used & set(way), "an element has one row at a time"
            used |= set(way)
        return sums

    def _place(self, a: int, b: int, i: int, column: int, height: int) -> tuple[int, int]:
        """The element of tap i and output row `column` of the set with the a-th channels and b-th filters."""
        hardware, e = self.hardware, self.passes.e
        segments, beside = -(-e // hardware.columns), max(1, hardware.columns // e)
        above, left = divmod(b, beside)
        segment, position = divmod(column, hardware.columns)
        full = self.hardware.folds(self.layer)[0]
        band = (above * segments + segment) * self.passes.r * full
        place = band + a * height + i, left * e + position
        assert place[0] < hardware.rows and place[1] < hardware.columns, f"{place} is not on the array"
        return place

    def _fetch(self, group: int, images: slice, channels: slice, strip: slice, taps: slice) -> int:
        """Bring the input rows of a pass into the buffer, unless they are there; how many rows these are."""
        (stride, _), (dilation, _) = self.layer.stride, self.layer.dilation
        rows = {
            output * stride + tap * dilation
            for output, tap in itertools.product(range(strip.start, strip.stop), range(taps.start, taps.stop))
        }
        wanted = (group, images.start, channels.start, strip.start, taps.start)
        if self.held.get("I") != wanted:
            elements = len(rows) * _length(images) * _length(channels) * input_columns(self.layer)
            self._count(self.hardware.dram.name, "I", "read", elements)
            self._count(self.hardware.buffer.name, "I", "write", elements)
        self.held["I"] = wanted
        return len(rows)

    def _load(self, group: int, filters: slice, channels: slice, taps: slice) -> bool:
        """Bring the filters of a pass towards the elements, unless they are there; whether that was needed."""
        loops, passes = self.layer.extents, self.passes
        one = loops["C"] <= passes.q * passes.r and loops["R"] <= self.hardware.rows
        stay = one and (passes.m == passes.p * passes.t or loops["K"] <= passes.p * passes.t)
        wanted = (group, filters.start, channels.start, taps.start)
        needed = not stay or self.held.get("W") != wanted
        if needed:
            elements = self.weights[group, filters, channels, taps].size
            self._count(self.hardware.dram.name, "W", "read", elements)
            self._count(self.hardware.prefetch.name, "W", "write", elements)
            self._count(self.hardware.prefetch.name, "W", "read", elements)
        self.held["W"] = wanted
        return needed

    def _deliver(self, operand: Any, elements: int) -> None:
        self._count(self.hardware.vertical, operand, "hop", elements)
        self._count(self.hardware.spads[operand].name, operand, "write", elements)

    def _count(self, place: str, operand: Any, action: Any, elements: int) -> None:
        self.moved[place, operand, action] += elements


def _tiles(extent: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, extent)) for first in range(0, extent, size))


def _length(tile: slice) -> int:
    return int(tile.stop - tile.start)
