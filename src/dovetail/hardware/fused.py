"""Fused layers: blocks of the feature maps pass through several convolutions before the next block is fetched.

Li, Li, Zhao, Cheng. Block Convolution. DATE 2018 (the network is changed by methods/factorize/block_convolution.py).
Nothing of a fused group but its input and its output goes off the chip; in between it needs, with blocks of b_h b_w
pixels,

    buffer  = max over its layers of   b_h b_w C_in bits_in + b_h' b_w' C_out bits_out
    traffic = its input once + its output once + its weights once

instead of a map written and read between any two layers. Its weights have to stay on the chip while the blocks pass,
unless there is one block only: then each layer's are used once, one layer after the other. Pooling between two layers
is seen by their sizes. Which layers form a group is a partition of the chain of least traffic, found by dynamic
programming, so that none is better within the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.errors import TargetError
from dovetail.hardware.layer import Layer
from dovetail.methods.factorize.block_convolution import BlockConv2d, fused

Grid = tuple[int, int]


@dataclass(frozen=True)
class Group:
    """Consecutive layers that are run together in `grid` = (rows, columns) of blocks, and what that takes in bits.

    `buffer_bits` is what the blocks of maps need on the chip (0 for a layer alone, which is run as the chip runs any
    layer), `weight_bits` what the weights are, `map_bits` what the input and the output move to and from the chip.
    """

    layers: tuple[Layer, ...]
    grid: Grid
    buffer_bits: int
    weight_bits: int
    map_bits: int

    @property
    def traffic_bits(self) -> int:
        """Off-chip, for one input."""
        return self.map_bits + self.weight_bits


@dataclass(frozen=True)
class Plan:
    """Which layers are fused; `unfused_bits` is the traffic of the same chain layer by layer."""

    groups: tuple[Group, ...]
    unfused_bits: int

    @cached_property
    def traffic_bits(self) -> int:
        return sum(group.traffic_bits for group in self.groups)

    @cached_property
    def buffer_bits(self) -> int:
        """The most that any group needs."""
        return max(group.buffer_bits for group in self.groups)

    @property
    def saved(self) -> float:
        """The part of the off-chip traffic that fusion does without."""
        return 1 - self.traffic_bits / self.unfused_bits


def fuse(
    chain: Sequence[Layer],
    *,
    blocks: int | None = None,
    size: int | None = None,
    buffer_bytes: float,
    weight_bytes: float,
) -> Plan:
    """The partition of a chain of layers into groups that moves least off the chip.

    Args:
        chain: layers each of which reads what the one before it wrote (pooled or not), for one input. Only their sizes
            are looked at: leave out branches. A map before a fully connected layer counts as it is before pooling.
        blocks: blocks along each side of every map, or
        size: pixels along each side of a block; maps no larger than that stay whole.
        buffer_bytes: room for blocks of maps.
        weight_bytes: room for the weights of a group of more than one block.

    Raises:
        TargetError: both or none of `blocks` and `size` are given, or the chain is empty.
    """
    given = [number for number in (blocks, size) if number is not None]
    if len(given) != 1 or given[0] < 1 or not chain:
        raise TargetError("Fusing takes at least one layer, and either blocks or size, 1 or more")
    grids = [_grid(layer, blocks, size) for layer in chain]
    best: list[tuple[int, tuple[Group, ...]]] = [(0, ())]  # the least traffic of the first so many layers
    for end in range(1, len(chain) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            if end - start > 1 and _pooling(chain[start], chain[start + 1]) is None:
                break
            group = _group(chain, start, end, grids[start])
            weights = group.weight_bits if group.grid != (1, 1) else 0
            fits = group.buffer_bits <= 8 * buffer_bytes and weights <= 8 * weight_bytes
            if end - start == 1 or (fits and len(set(grids[start:end])) == 1):
                traffic, before = best[start]
                options.append((traffic + group.traffic_bits, (*before, group)))
        best.append(min(options, key=lambda option: option[0]))
    unfused = sum(_group(chain, i, i + 1, (1, 1)).traffic_bits for i in range(len(chain)))
    return Plan(best[-1][1], unfused)


def changed_pixels(group: Group) -> float:
    """The part of a group's outputs that may differ from the network without blocks: those that a border reaches."""
    return 1 - math.prod(1 - float(_touched(group, axis).mean()) for axis in (0, 1))


@dataclass(frozen=True)
class Pace:
    """Cycles of a plan on a machine that computes and moves at once.

    `latency`: of one input, a group taking as long as the slower of the two. `interval`: from one input to the next,
    where the groups of one run beside those of the next until the array or the memory is busy all the time.
    """

    computing: float
    moving: float
    latency: float

    @property
    def interval(self) -> float:
        return max(self.computing, self.moving)


def pace(plan: Plan, computing: Callable[[Layer, Grid], float], bits_per_cycle: float) -> Pace:
    """How quickly a plan is run, with `computing` cycles for a layer in a grid of blocks and an off-chip bandwidth."""
    cycles = [sum(computing(layer, group.grid) for layer in group.layers) for group in plan.groups]
    moves = [group.traffic_bits / bits_per_cycle for group in plan.groups]
    return Pace(sum(cycles), sum(moves), sum(map(max, cycles, moves)))


@dataclass(frozen=True)
class Execution:
    """What a run found: the output, the most numbers of input and output held at once, and those moved off the chip."""

    output: Tensor
    peak_buffer: int
    read: int
    written: int


def execute(stack: Sequence[nn.Module], x: Tensor, convolutions: Sequence[int]) -> Execution:
    """Run a stack of BlockConv2d (and what looks at single pixels or pools) in groups, each block by block.

    Args:
        stack: the layers, in eval mode.
        x: one input (1, C, H, W).
        convolutions: how many each group has, in order, as in the groups of a plan.

    Raises:
        TargetError: the groups have more or fewer convolutions than the stack.
        ModelError: the blocks of a group do not line up.
    """
    starts = [index for index, layer in enumerate(stack) if isinstance(layer, BlockConv2d)]
    if sum(convolutions) != len(starts) or min(convolutions, default=0) < 1:
        raise TargetError(
            f"The groups are to have the {len(starts)} blocked convolutions of the stack, one or more each, got "
            f"{', '.join(map(str, convolutions))}"
        )
    firsts = np.cumsum([0, *convolutions[:-1]])
    edges = [0, *(starts[first] for first in firsts[1:]), len(stack)]
    peak = read = written = 0
    for first, last in itertools.pairwise(edges):
        run = fused(stack[first:last], x)
        read, written, peak = read + run.read, written + run.written, max(peak, run.peak_buffer)
        x = run.output
    return Execution(x, peak, read, written)


def _grid(layer: Layer, blocks: int | None, size: int | None) -> Grid:
    """Blocks of a layer's input; one where its window is a pixel of a map of one (a fully connected layer)."""
    sides = _input(layer)
    if size is not None:
        return math.ceil(sides[0] / size), math.ceil(sides[1] / size)
    count = blocks or 1
    return (count, count) if min(sides) >= 2 * count * max(layer.stride) else (1, 1)


def _input(layer: Layer) -> tuple[int, int]:
    """Rows and columns of a layer's input without its padding, which leaves as many outputs as the stride permits."""
    return layer.extents["P"] * layer.stride[0], layer.extents["Q"] * layer.stride[1]


def _pooling(layer: Layer, after: Layer) -> tuple[int, int] | None:
    """How many rows and columns become one between two layers; None if the one does not read what the other wrote."""
    e, f = layer.extents, after.extents
    if e["N"] != f["N"] or e["G"] * e["K"] != f["G"] * f["C"]:
        return None
    (above, rest_h), (across, rest_w) = (divmod(e[loop], side) for loop, side in zip("PQ", _input(after), strict=True))  # type: ignore[index]
    return None if rest_h or rest_w else (above, across)


def _group(chain: Sequence[Layer], start: int, end: int, grid: Grid) -> Group:
    layers = tuple(chain[start:end])
    buffers = []
    for layer in layers:
        e = layer.extents
        rows, columns = (math.ceil(extent / n) for extent, n in zip((e["P"], e["Q"]), grid, strict=True))
        around = e["N"] * e["G"] * rows * columns
        stride = math.prod(layer.stride)
        buffers.append(around * (stride * e["C"] * layer.bits["I"] + e["K"] * layer.bits["O"]))
    weights = sum(layer.elements("W") * layer.bits["W"] for layer in layers)
    first, last = layers[0], layers[-1]
    read = first.extents["N"] * first.extents["G"] * first.extents["C"] * math.prod(_input(first)) * first.bits["I"]
    pooling = _pooling(last, chain[end]) if end < len(chain) else None
    written = last.elements("O") // math.prod(pooling or (1, 1)) * last.bits["O"]
    return Group(layers, grid, max(buffers) if len(layers) > 1 else 0, weights, read + written)


def _touched(group: Group, axis: int) -> NDArray[np.bool_]:
    """Along one axis, which outputs of a group see beyond the border of a block, directly or through others."""
    loops = (("P", "R"), ("Q", "S"))[axis]
    touched = np.zeros(_input(group.layers[0])[axis], bool)
    for index, layer in enumerate(group.layers):
        outputs, taps = (layer.extents[loop] for loop in loops)  # type: ignore[index]
        stride, dilation, extent = layer.stride[axis], layer.dilation[axis], len(touched)
        block = math.ceil(extent / (group.grid[axis] * stride)) * stride
        middle = np.arange(outputs)[:, None] * stride
        seen = middle + (np.arange(taps) - taps // 2) * dilation
        inside = (seen >= 0) & (seen < extent)  # padding is as it was
        beyond = inside & (seen // block != middle // block)
        touched = (beyond | (inside & touched[np.where(inside, seen, 0)])).any(1)
        if index + 1 < len(group.layers):
            pooling = _pooling(layer, group.layers[index + 1])
            assert pooling is not None
            touched = touched.reshape(-1, pooling[axis]).any(1)
    return touched
