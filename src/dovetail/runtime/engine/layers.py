"""What a native program consists of, before it is built: each layer reads values by name and writes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.runtime.engine.node import Grid

Array = NDArray[Any]


class Activation(IntEnum):
    """As in csrc/engine/primitives.hpp."""

    NONE, RELU, HARD_SWISH, SIGMOID, SILU, TANH, GELU, ERF, EXPONENTIAL, SQUARE_ROOT, ABSOLUTE, ELU = range(12)
    LEAKY_RELU, STEP = 12, 13


class Arithmetic(IntEnum):
    """As in csrc/engine/elementwise.hpp."""

    NONE, ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, RECIPROCAL = range(8)


class Layout(IntEnum):
    """Which axis of an image's value is its channels, which lie next to each other in memory."""

    FIRST = 0
    LAST = -1


Place = tuple[int, int, int]
"""A row, a column and a channel; or how many of each a step goes."""


def natural(shape: Sequence[int]) -> Layout:
    """How values lie that nothing is known of: pictures (C, H, W), sequences (L, C)."""
    return Layout.FIRST if len(shape) == 3 else Layout.LAST


def axis_steps(shape: Sequence[int], layout: Layout) -> list[Place]:
    """The way in rows, columns and channels along each axis; axes before the last three are not stored."""
    others: list[Place] = [(1, 0, 0), (0, 1, 0)][3 - len(shape) :] if len(shape) > 1 else []
    return [(0, 0, 1), *others] if layout is Layout.FIRST else [*others, (0, 0, 1)]


def sides(shape: Sequence[int], layout: Layout) -> Place:
    """Rows, columns and channels."""
    result = [1, 1, 1]
    for side, step in zip(shape, axis_steps(shape, layout), strict=True):
        result[step.index(1)] = side
    return result[0], result[1], result[2]


@dataclass
class Epilogue:
    """What happens to what a layer computes, in this order: see csrc/engine/operation.hpp. Empty: ones or zeros."""

    scale: Array = field(default_factory=lambda: np.zeros(0))
    bias: Array = field(default_factory=lambda: np.zeros(0))
    rounding: Grid | None = None
    residual: str | None = None
    residual_factors: Array = field(default_factory=lambda: np.zeros(0))
    activation: Activation = Activation.NONE
    slopes: Array = field(default_factory=lambda: np.zeros(0))
    low: float = -math.inf
    high: float = math.inf
    grid: Grid | None = None

    @property
    def linear(self) -> bool:
        """Whether a factor and a shift can still be added: to what is rounded they cannot."""
        return self.open and self.rounding is None

    @property
    def open(self) -> bool:
        """Whether nothing was cut off yet."""
        return self.activation is Activation.NONE and self.unlimited

    @property
    def adds_on(self) -> bool:
        """Whether a value can still be added, to the sum as it is or rounded to its grid."""
        return self.residual is None and replace(self, grid=None).open

    @property
    def unlimited(self) -> bool:
        return self.low == -math.inf and self.high == math.inf and self.grid is None

    def limits(self) -> tuple[float, float]:
        """Below and above which nothing is written."""
        if self.grid is None:
            return self.low, self.high
        lowest, highest = ((code - self.grid.zero) * self.grid.scale for code in (self.grid.lowest, self.grid.highest))
        return max(self.low, lowest), min(self.high, highest)

    def native(self, factor: Array | None = None) -> _native.Epilogue:
        """`factor`: of each output, before all else."""
        scale = self.scale if factor is None else self.scale * factor
        residual = np.zeros(0) if self.residual is None else self.residual_factors
        scale, bias, residual, slopes = (
            np.ascontiguousarray(numbers, np.float32) for numbers in (scale, self.bias, residual, self.slopes)
        )
        grid = self.rounding
        rounding = (0.0, 0.0, 0.0) if grid is None else (grid.scale, grid.lowest - grid.zero, grid.highest - grid.zero)
        return _native.Epilogue(scale, bias, rounding, residual, self.activation, slopes, *self.limits())


@dataclass
class Layer:
    """One operation. `shape` is its output's, of one image, which lies as `layout` says."""

    name: str
    operator: str
    inputs: list[str]
    output: str
    shape: tuple[int, ...]
    layout: Layout
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def reads(self) -> list[str]:
        return self.inputs if self.epilogue.residual is None else [*self.inputs, self.epilogue.residual]

    @property
    def reading_layout(self) -> Layout:
        """How its inputs should lie."""
        return self.layout

    @property
    def linear(self) -> bool:
        """Whether its output can still get a factor and a shift."""
        return self.epilogue.linear

    @property
    def border(self) -> int:
        """How much border its first input needs."""
        return 0

    def takes_codes(self, grids: Sequence[Grid | None]) -> bool:
        """Whether it computes with its inputs as they are quantised; else it gets them as float32."""
        return True

    def output_grid(self, grids: Sequence[Grid | None]) -> Grid | None:
        """What its output is on, given its inputs' grids."""
        return self.epilogue.grid


Shapes = Callable[[str], tuple[int, ...]]
Window = tuple[int, int, int, int, int, int, int, int]
"""Rows and columns of size, stride, dilation; padding above and on the left."""


@dataclass
class Convolution(Layer):
    """Weights (outputs, inputs / groups, rows, columns): float32, or signed bytes for an input of codes.

    weight: the name under which they are stored.
    flattened: the shape of a picture that is read whole, as a vector.
    middle: if only the signs count, of the weights and of what is read; see signs.py.
    """

    weight: str = ""
    weights: Array = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float32))
    window: Window = (1, 1, 1, 1, 1, 1, 0, 0)
    padding: int = 0
    groups: int = 1
    flattened: bool = False
    middle: float | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of its output."""
        return sides(self.shape, self.layout)[:2]

    @property
    def reading_layout(self) -> Layout:
        return Layout.FIRST if self.flattened else self.layout

    @property
    def border(self) -> int:
        return self.padding if self.middle is None else 0

    def takes_codes(self, grids: Sequence[Grid | None]) -> bool:
        return self.weights.dtype == np.int8 or self.middle is not None


@dataclass
class Elementwise(Layer):
    arithmetic: Arithmetic = Arithmetic.NONE

    @property
    def linear(self) -> bool:
        """A second summand comes after the factor, as a residual does."""
        return self.epilogue.linear and self.arithmetic not in (Arithmetic.ADD, Arithmetic.SUBTRACT)


@dataclass
class Pool(Layer):
    """kind: 0 maximum, 1 mean of what is inside, 2 mean of all."""

    window: Window = (1, 1, 1, 1, 1, 1, 0, 0)
    padding_after: tuple[int, int] = (0, 0)
    kind: int = 0

    def output_grid(self, grids: Sequence[Grid | None]) -> Grid | None:
        return grids[0] if self.kind == 0 else self.epilogue.grid


@dataclass
class Product(Layer):
    """Of two values: matrices, or a matrix for each of as many rows."""

    def takes_codes(self, grids: Sequence[Grid | None]) -> bool:
        return False


@dataclass(frozen=True)
class Direction:
    """Recurrent weights (gates * padded, padded), and of `padded` numbers: h and c at first, the last gate's bias."""

    weights: Array
    h: Array
    c: Array
    bias: Array
    backward: bool


@dataclass
class Recurrent(Layer):
    """kind: 0 LSTM, 1 GRU, 2 GRU that resets after its product. Reads gates, as csrc/engine/recurrent.hpp has them."""

    kind: int = 0
    directions: list[Direction] = field(default_factory=list)

    def takes_codes(self, grids: Sequence[Grid | None]) -> bool:
        return False


@dataclass
class Normalise(Layer):
    """kind: 0 layer normalisation, 1 softmax, 2 local response normalisation.

    The last divides a channel by (offset + factor * the sum of the squares of it and those `beside`, so many before and
    after it) ** power; `response` is factor, offset, power.
    """

    kind: int = 0
    epsilon: float = 0.0
    beside: tuple[int, int] = (0, 0)
    response: tuple[float, float, float] = (0.0, 1.0, 1.0)


@dataclass
class Resize(Layer):
    """For each row and column of the output the two of the input between which it lies, and the second's share."""

    rows: list[tuple[int, int, float]] = field(default_factory=list)
    columns: list[tuple[int, int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """`count` steps, each as far along the axes of input and output as said."""

    count: int
    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Values of one input: where the first lies along the axes of the input and of the output, and the loops."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    loops: tuple[Loop, ...]


@dataclass
class Copy(Layer):
    """Moves boxes of values; what none covers is zero. `boxes`: of each input, along the axes of the shapes."""

    boxes: list[list[Box]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def chooses(self) -> bool:
        """Whether every value of the output is one of the only input, in an order that loops along its axes give."""
        if self.epilogue.grid is not None or len(self.boxes) != 1 or len(self.boxes[0]) != 1:
            return False
        ((box,),) = self.boxes
        rank = len(self.shape)
        counts = {loop.target: loop.count for loop in box.loops if loop.count > 1}
        return not any(box.target) and counts == {unit(i, rank): n for i, n in enumerate(self.shape) if n > 1}

    def output_grid(self, grids: Sequence[Grid | None]) -> Grid | None:
        """Its own, else the one that its inputs share."""
        if self.epilogue.grid is not None:
            return self.epilogue.grid
        first = grids[0]
        if first is None or not all(first.same_codes(grid) for grid in grids):
            return None
        known = [grid for grid in grids if grid is not None]
        lowest, highest = min(g.lowest for g in known), max(g.highest for g in known)
        return Grid(first.scale, first.zero, min(lowest, first.zero), max(highest, first.zero))


def whole(shape: tuple[int, ...], source_axes: Sequence[int] | None = None, target: tuple[int, ...] = ()) -> Box:
    """All of a value of `shape`; its axis i goes along axis source_axes[i] of the output, beginning at `target`."""
    rank = len(shape)
    axes = range(rank) if source_axes is None else source_axes
    loops = [Loop(shape[i], unit(i, rank), unit(axis, rank)) for i, axis in enumerate(axes)]
    return Box((0,) * rank, target or (0,) * rank, tuple(loops))


def after(first: Box, second: Box) -> Box:
    """What `second` takes from what `first` made, a copy that `chooses`: straight from where that had it."""
    sources = {loop.target.index(1): loop.source for loop in first.loops if loop.count > 1}

    def back(way: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sum(way[axis] * step[k] for axis, step in sources.items()) for k in range(len(first.source)))

    begin = tuple(a + b for a, b in zip(first.source, back(second.source), strict=True))
    loops = (Loop(loop.count, back(loop.source), loop.target) for loop in second.loops)
    return Box(begin, second.target, tuple(loops))


def unit(axis: int, rank: int, step: int = 1) -> tuple[int, ...]:
    return tuple(step if i == axis else 0 for i in range(rank))
