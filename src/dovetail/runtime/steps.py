"""What an integer-only machine does to the values of a network: the steps of runtime/integer.py.

Every step takes and gives int32 arrays, and holds nothing but integers. Codes of batches are (N, C, ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Integers = NDArray[np.int64]

WORD = 31
"""Bits of a multiplier, as of a value, without the sign."""


@dataclass(frozen=True)
class Operations:
    """How many were done. Comparisons (maxima, clamping) and moving are not counted."""

    multiplications: int = 0
    additions: int = 0
    shifts: int = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.multiplications + other.multiplications, self.additions + other.additions, self.shifts + other.shifts
        )


class Step(ABC):
    @abstractmethod
    def run(self, *inputs: Codes) -> Codes: ...

    def operations(self, output: Codes) -> Operations:
        """Those that it took to make `output`."""
        return Operations()


@dataclass(frozen=True, eq=False)
class Product(Step):
    """sum of weight * input, shifted left by `shift`, plus bias: a linear layer's.

    Counted are weights that are not 0: as an addition each, with a shift if it is a power of two, or else with a
    multiplication if it is not 1 or -1. At the borders the padding counts too.
    """

    weight: Codes
    """(outputs, inputs, ...)."""
    bias: Codes
    shift: int

    def run(self, *inputs: Codes) -> Codes:
        return self.finish(inputs[0] @ self.weight.T)

    def finish(self, sums: Codes) -> Codes:
        """Shift and bias; outputs are along the last axis."""
        return (sums << self.shift) + self.bias

    def operations(self, output: Codes) -> Operations:
        places = output.size // len(self.weight)
        size = np.abs(self.weight[self.weight != 0].astype(np.int64))
        powers = np.count_nonzero((size & (size - 1)) == 0)
        ones = np.count_nonzero(size == 1)
        return Operations(
            places * int(size.size - powers),
            places * int(size.size + np.count_nonzero(self.bias)),
            places * int(powers - ones + (len(self.weight) if self.shift else 0)),
        )


@dataclass(frozen=True, eq=False)
class Convolution(Product):
    """Padded with zeros; any number of spatial axes."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    def run(self, *inputs: Codes) -> Codes:
        kernel = self.weight.shape[2:]
        windows = windows_of(inputs[0], kernel, self.strides, self.dilations, self.pads, 0)
        parts = np.split(windows, self.groups, 1)
        axes = (1, *range(2 + len(kernel), 2 + 2 * len(kernel)))
        kept = tuple(axis for axis in range(windows.ndim) if axis not in axes)
        sums = [
            part.transpose(*kept, *axes).reshape(*(part.shape[axis] for axis in kept), -1)
            @ weight.reshape(len(weight), -1).T
            for part, weight in zip(parts, np.split(self.weight, self.groups), strict=True)
        ]
        return np.ascontiguousarray(np.moveaxis(self.finish(np.concatenate(sums, -1)), -1, 1))


@dataclass(frozen=True, eq=False)
class Rescale(Step):
    """input * multiplier / 2^shift, to the nearest integer, ties to even, within bounds.

    One multiplier and shift for all, or one for each channel: int64 of shape (1,) or (C,).
    """

    multiplier: Integers
    shift: Integers
    lowest: int = -(2**WORD)
    highest: int = 2**WORD - 1

    @classmethod
    def by(cls, ratio: NDArray[np.float64], lowest: int = -(2**WORD), highest: int = 2**WORD - 1) -> Rescale:
        """The nearest to multiplying by `ratio`; a power of two needs no multiplication."""
        _, exponent = np.frexp(ratio)
        shift = np.minimum(WORD - exponent.astype(np.int64), 2 * WORD)
        multiplier = np.rint(np.ldexp(ratio, shift)).astype(np.int64)
        even = np.maximum(multiplier & -multiplier, 1)
        return cls(multiplier // even, shift - np.log2(even).astype(np.int64), lowest, highest)

    def run(self, *inputs: Codes) -> Codes:
        shape = (-1, *[1] * (inputs[0].ndim - 2)) if len(self.multiplier) > 1 else (1,)
        product = inputs[0].astype(np.int64) * self.multiplier.reshape(shape)
        return np.clip(_shifted(product, self.shift.reshape(shape)), self.lowest, self.highest).astype(np.int32)

    def operations(self, output: Codes) -> Operations:
        places = output.size // len(self.multiplier)
        shifts = places * int(np.count_nonzero(self.shift))
        return Operations(places * int(np.count_nonzero(np.abs(self.multiplier) > 1)), shifts, shifts)


@dataclass(frozen=True, eq=False)
class Slope(Rescale):
    """Codes below zero are rescaled, the others stay as they are."""

    def run(self, *inputs: Codes) -> Codes:
        return np.where(inputs[0] < 0, super().run(*inputs), inputs[0])


def _shifted(values: Integers, shift: Integers) -> Integers:
    """values / 2^shift, to the nearest, ties to even; a negative shift is to the left."""
    right = np.maximum(shift, 0)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    floor = values >> right
    rest = values - (floor << right)
    up = (right > 0) & ((rest > half) | ((rest == half) & (floor & 1 == 1)))
    rounded: Integers = (floor + up) << np.maximum(-shift, 0)
    return rounded


@dataclass(frozen=True, eq=False)
class Clamp(Step):
    """Within bounds: int32 of shape (1,), or (C,) with one for each channel."""

    lowest: Codes
    highest: Codes

    def run(self, *inputs: Codes) -> Codes:
        shape = (-1, *[1] * (inputs[0].ndim - 2)) if len(self.lowest) > 1 else (1,)
        return np.clip(inputs[0], self.lowest.reshape(shape), self.highest.reshape(shape))


@dataclass(frozen=True, eq=False)
class AtLeast(Step):
    """1 where the input is at least the bound, else 0: int32 of shape (1,), or (C,) with one for each channel."""

    bound: Codes

    def run(self, *inputs: Codes) -> Codes:
        shape = (-1, *[1] * (inputs[0].ndim - 2)) if len(self.bound) > 1 else (1,)
        return (inputs[0] >= self.bound.reshape(shape)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Choose(Step):
    """One of two codes, by whether the input is 0."""

    yes: int
    no: int

    def run(self, *inputs: Codes) -> Codes:
        return np.where(inputs[0] != 0, np.int32(self.yes), np.int32(self.no))


@dataclass(frozen=True, eq=False)
class Shift(Step):
    """Plus a number for each channel."""

    bias: Codes

    def run(self, *inputs: Codes) -> Codes:
        return inputs[0] + self.bias.reshape(-1, *[1] * (inputs[0].ndim - 2))

    def operations(self, output: Codes) -> Operations:
        return Operations(additions=output.size)


@dataclass(frozen=True, eq=False)
class Sum(Step):
    """Of two values with the same step."""

    def run(self, *inputs: Codes) -> Codes:
        return inputs[0] + inputs[1]

    def operations(self, output: Codes) -> Operations:
        return Operations(additions=output.size)


@dataclass(frozen=True, eq=False)
class Pool(Step):
    """The largest of each window, or (`total`) the sum of it."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    total: bool = False

    def run(self, *inputs: Codes) -> Codes:
        filling = 0 if self.total else np.iinfo(np.int32).min
        windows = windows_of(inputs[0], self.kernel, self.strides, self.dilations, self.pads, filling)
        axes = tuple(range(-len(self.kernel), 0))
        pooled: Codes = windows.sum(axes, dtype=np.int32) if self.total else windows.max(axes)
        return pooled

    def operations(self, output: Codes) -> Operations:
        return Operations(additions=output.size * (int(np.prod(self.kernel)) - 1) if self.total else 0)


@dataclass(frozen=True, eq=False)
class Concatenate(Step):
    """Values of the same scale, one after the other along an axis."""

    axis: int

    def run(self, *inputs: Codes) -> Codes:
        return np.concatenate(inputs, self.axis)


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """To a shape in which -1 stands for what is left, and 0 for the side as it is."""

    shape: tuple[int, ...]

    def run(self, *inputs: Codes) -> Codes:
        return inputs[0].reshape([side or inputs[0].shape[axis] for axis, side in enumerate(self.shape)])


@dataclass(frozen=True, eq=False)
class Transpose(Step):
    order: tuple[int, ...]

    def run(self, *inputs: Codes) -> Codes:
        return inputs[0].transpose(self.order)


@dataclass(frozen=True, eq=False)
class Slice(Step):
    """The range (start, end, step) of each axis named."""

    ranges: dict[int, tuple[int, int, int]]

    def run(self, *inputs: Codes) -> Codes:
        return inputs[0][tuple(slice(*self.ranges.get(axis, (None, None))) for axis in range(inputs[0].ndim))]


@dataclass(frozen=True, eq=False)
class Pad(Step):
    """Zeros before and after each axis."""

    pads: tuple[tuple[int, int], ...]

    def run(self, *inputs: Codes) -> Codes:
        return np.pad(inputs[0], self.pads)


def windows_of(
    x: Codes,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    filling: int,
) -> NDArray[Any]:
    """Every window of the spatial axes, the last ones: (N, C, *places, *kernel)."""
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=filling)
    reach = tuple((side - 1) * step + 1 for side, step in zip(kernel, dilations, strict=True))
    windows = sliding_window_view(padded, reach, tuple(range(2, x.ndim)))
    places = tuple(slice(None, None, stride) for stride in strides)
    inside = tuple(slice(None, None, dilation) for dilation in dilations)
    return windows[(slice(None), slice(None), *places, *inside)]
