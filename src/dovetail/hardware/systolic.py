"""Layers on systolic arrays (chips of kind "systolic"): what moves between their memories, and how to run them best.

The three loops over tiles (systolic_array.py) run in one order, and the stream may be cut into pieces. A memory holds,
of each operand, what the innermost loops touch that it has room for; an operand is fetched again whenever a loop
advances that it does not depend on, unless all it depends on lies within the tile. Every order and every number of
pieces that is a power of two is tried; in each, every memory holds that of its operands which lets the fewest bits come
to it.

The memories hold inputs as pictures; windows are made of them on the way into the array. A tile of pixels takes the
whole rows of the picture that its windows touch, of the channels in the window; where the loop over pixels is the
innermost one that moves it, the rows that it shares with the tile before are not fetched again. Where the lowered
matrix is smaller than those rows (one tap, large strides), the windows themselves are kept and moved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import Counts, Cycles, Hops, LayerCost, Objective, operation_for, price
from dovetail.hardware.layer import OPERANDS, Layer, Operand
from dovetail.hardware.mapping import bits_in
from dovetail.hardware.moves import Move, Port, accesses, waiting
from dovetail.hardware.systolic_array import ABSENT, AXES, SPREAD, Array, Axis, lowered

Action = Literal["read", "write"]
Phase = Literal["filling", "running", "draining"]


@dataclass(frozen=True)
class Tiling:
    """A layer's product in tiles, and the order of the loops over them, the innermost first."""

    layer: Layer
    extents: Mapping[Axis, int]
    tile: Mapping[Axis, int]
    order: tuple[Axis, ...]

    def trips(self, axis: Axis) -> int:
        return math.ceil(self.extents[axis] / self.tile[axis])

    def reach(self, axis: Axis, held: int) -> int:
        """How far a tile goes along an axis that holds the `held` innermost loops."""
        return self.extents[axis] if axis in self.order[:held] else self.tile[axis]

    def moving(self, operand: Operand, held: int) -> tuple[Axis, ...]:
        """The loops outside that advance the tile, the innermost first, with those between them."""
        outside = [axis for axis in self.order[held:] if self.trips(axis) > 1]
        first = next((i for i, axis in enumerate(outside) if axis != ABSENT[operand]), len(outside))
        return tuple(outside[first:])

    def visits(self, operand: Operand, held: int) -> int:
        """How often every part of the operand comes to the memory."""
        absent = ABSENT[operand]
        return self.trips(absent) if absent in self.moving(operand, held) else 1

    def held_elements(self, operand: Operand, held: int) -> int:
        """Elements of the largest tile."""
        one, other = (self.reach(axis, held) for axis in AXES if axis != ABSENT[operand])
        if operand != "I":
            return one * other
        return min(one * other, max(self._channels(other)) * self._positions(one))

    def fetched(self, operand: Operand, held: int) -> int:
        """Elements that come to the memory (of outputs: leave it) in one of the layer's products."""
        visits = self.visits(operand, held)
        matrix = math.prod(self.extents[axis] for axis in AXES if axis != ABSENT[operand]) * visits
        if operand != "I":
            return matrix
        moving, pixels = self.moving(operand, held), self.reach("pixels", held)
        swept = not moving or moving[0] == "pixels"
        tiles = math.ceil(self.extents["pixels"] / pixels)
        positions = self._positions(self.extents["pixels"]) if swept else tiles * self._positions(pixels)
        return min(matrix, sum(self._channels(self.reach("window", held))) * positions * visits)

    def _channels(self, window: int) -> list[int]:
        """Channels touched by each piece of so many elements of the window (channel by channel)."""
        taps, whole = self.layer.extents["R"] * self.layer.extents["S"], self.extents["window"]
        pieces = ((start, min(start + window, whole)) for start in range(0, whole, window))
        return [math.ceil(end / taps) - start // taps for start, end in pieces]

    def _positions(self, pixels: int) -> int:
        """Pixels of the input in the rows that so many successive output pixels touch, wherever they begin."""
        loops, (height, width) = self.layer.extents, self.layer.input_size
        if pixels == self.extents["pixels"]:
            return loops["N"] * height * width
        rows = pixels // loops["Q"] if pixels % loops["Q"] == 0 else math.ceil((pixels - 1) / loops["Q"]) + 1
        aligned = pixels % loops["Q"] == 0 and (loops["P"] % rows == 0 or rows % loops["P"] == 0)
        images = math.ceil(rows / loops["P"]) if aligned else math.ceil((rows - 1) / loops["P"]) + 1
        images = min(images, loops["N"])
        stride, beyond = self.layer.stride[0], (self.layer.extents["R"] - 1) * self.layer.dilation[0] + 1
        touched = rows * stride + images * (beyond - stride)
        return min(touched, images * height) * width


@dataclass(frozen=True)
class Plan:
    """A tiling, its stream in `pieces`, and what each memory between array and outermost holds of each operand."""

    tiling: Tiling
    pieces: int
    held: Mapping[str, Mapping[Operand, int]]


def layer_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    """What each layer costs on a chip of kind "systolic", run in the way of `plans` that has least of the objective.

    Raises:
        TargetError: the chip is no systolic array, or a memory cannot hold one tile of a layer; it names both.
    """
    array = Array.of(chip)
    return tuple(_layer_cost(chip, array, layer, objective) for layer in layers)


def _layer_cost(chip: Chip, array: Array, layer: Layer, objective: Objective) -> LayerCost:
    best: tuple[float, LayerCost] | None = None
    for plan in plans(chip, array, layer):
        counts = count(chip, array, plan)
        energy = price(chip, layer, counts)
        cycles, picojoules = counts.cycles.total, math.fsum(entry.picojoules for entry in energy)
        value = {"energy": picojoules, "latency": cycles, "edp": picojoules * cycles}[objective]
        if best is None or value < best[0]:
            possible = chip.elements * counts.cycles.computing / operation_for(chip, layer).cycles
            utilisation = layer.macs / possible
            best = value, LayerCost(layer, counts, energy, utilisation, None, _told(plan), objective, value)
    assert best is not None  # plans() raises where there is none
    return best[1]


def _told(plan: Plan) -> str:
    tiling = plan.tiling
    sizes = " x ".join(f"{tiling.tile[axis]} {axis}" for axis in AXES)
    loops = ", ".join(f"{axis} ({tiling.trips(axis)})" for axis in reversed(tiling.order))
    return f"tiles of {sizes}" + (f"; loops over tiles, the outermost first: {loops}" if loops else "")


def plans(chip: Chip, array: Array, layer: Layer) -> Iterator[Plan]:
    """Every order of the loops over tiles, the stream cut into 1, 2, 4 ... pieces, that the memories have room for.

    What each memory holds is chosen for itself: what lets the fewest bits come to it.

    Raises:
        TargetError: there is none.
    """
    extents = lowered(layer).extents
    stream = extents[SPREAD[array.dataflow][2]]
    lengths = sorted({math.ceil(stream / 2**halvings) for halvings in range(stream.bit_length() + 1)}, reverse=True)
    found = False
    for length in lengths:
        tile = array.tile(extents, length)
        orders = itertools.permutations(axis for axis in AXES if tile[axis] < extents[axis])
        for tiling in (Tiling(layer, extents, tile, order) for order in orders):
            held = {memory.name: _most(chip, tiling, memory) for memory in _buffers(chip)}
            if all(held.values()):
                found = True
                yield Plan(tiling, math.ceil(stream / length), {name: level or {} for name, level in held.items()})
    if not found:
        smallest = Tiling(layer, extents, array.tile(extents, 1), ())
        memory = next(memory for memory in _buffers(chip) if not _most(chip, smallest, memory))
        needed = math.ceil(_bits(chip, smallest, memory, dict.fromkeys(memory.operands, 0)) / 8)
        raise TargetError(
            f"Layer {layer.name!r} on chip {chip.name!r}: memory {memory.name!r} has {_room(memory) / 8:.0f} bytes for "
            f"{', '.join(memory.operands)}, and the smallest tile takes {needed}"
        )


def _buffers(chip: Chip) -> Iterator[Memory]:
    """The memories between the array's registers and the outermost."""
    return (memory for memory in chip.memory if memory.bytes is not None and not memory.per)


def _most(chip: Chip, tiling: Tiling, memory: Memory) -> dict[Operand, int] | None:
    """Over how many of the innermost loops the tiles reach that a memory holds, so that least comes to it."""
    levels = itertools.product(range(len(tiling.order) + 1), repeat=len(memory.operands))
    choices = (dict(zip(memory.operands, level, strict=True)) for level in levels)
    fitting = [choice for choice in choices if _bits(chip, tiling, memory, choice) <= _room(memory)]
    layer = tiling.layer
    return min(
        fitting,
        key=lambda choice: sum(tiling.fetched(o, held) * bits_in(memory, layer, o) for o, held in choice.items()),
        default=None,
    )


def _room(memory: Memory) -> float:
    assert memory.bytes is not None
    return 8 * memory.bytes / (2 if memory.double_buffered else 1)


def _bits(chip: Chip, tiling: Tiling, memory: Memory, held: Mapping[Operand, int]) -> float:
    """What the tiles take: outputs as wide as sums, if they leave the array before they are finished."""
    wide = tiling.trips("window") > 1
    width = {operand: bits_in(memory, tiling.layer, operand) for operand in held}
    width |= {"O": float(chip.arithmetic.sum_bits)} if wide and "O" in held else {}
    return sum(tiling.held_elements(operand, level) * width[operand] for operand, level in held.items())


def count(chip: Chip, array: Array, plan: Plan) -> Counts:
    """What a layer does under a plan."""
    tiling, layer = plan.tiling, plan.tiling.layer
    products = lowered(layer).count
    moves = [*_edge_moves(chip, tiling, products), *_memory_moves(chip, plan, products)]
    rows, columns, stream = SPREAD[array.dataflow]
    tiles = products * tiling.trips(rows) * tiling.trips(columns)
    own = array.cycles(tiles, tiling.extents[stream], plan.pieces, operation_for(chip, layer).cycles)
    waits = waiting(chip, own.total, moves)
    return Counts(
        macs=layer.macs * math.prod(layer.density[operand] for operand in set(chip.arithmetic.gates)),
        accesses=tuple(accesses(moves)),
        cycles=Cycles(own.computing, waits.filling + own.filling, waits.draining + own.draining, waits.stalled),
        hops=tuple(_hops(array, tiling, products, chip.arithmetic.sum_bits)),
    )


def _edge_moves(chip: Chip, tiling: Tiling, products: int) -> Iterator[Move]:
    """Between the array and the memories next to it, and within the registers of what stays."""
    layer = tiling.layer
    for operand in OPERANDS:
        chain = chip.chain(operand)
        edge, visits = next(memory for memory in chain if not memory.per), tiling.trips(ABSENT[operand])
        matrix = products * _matrix(tiling, operand)
        if operand == "O":
            yield from _leaving(chip, layer, None, edge, matrix, visits, 0)
        else:
            yield _coming(layer, operand, None, edge, matrix * visits)
        if chain[0].per:
            written = layer.macs if operand == "O" else matrix * visits
            yield Move(operand, None, _ports(chip, layer, operand, chain[0], layer.macs, written))


def _ports(chip: Chip, layer: Layer, operand: Operand, registers: Memory, read: int, written: int) -> tuple[Port, ...]:
    bits = chip.arithmetic.sum_bits if operand == "O" else bits_in(registers, layer, operand)
    instances = chip.instances(registers)
    read_port = Port(registers, "read", read, read * bits, instances)
    return read_port, Port(registers, "write", written, written * bits, instances)


def _memory_moves(chip: Chip, plan: Plan, products: int) -> Iterator[Move]:
    """Between the memories; the first tiles fill them, the last outputs drain them."""
    tiling, layer = plan.tiling, plan.tiling.layer
    for operand in OPERANDS:
        chain = [memory for memory in chip.chain(operand) if not memory.per]
        for inner, outer in itertools.pairwise(chain):
            held = plan.held[inner.name][operand]
            tile, moved = tiling.held_elements(operand, held), products * tiling.fetched(operand, held)
            if operand == "O":
                matrix = products * _matrix(tiling, operand)
                yield from _leaving(chip, layer, inner, outer, matrix, moved // matrix, tile)
            else:
                yield _coming(layer, operand, inner, outer, min(tile, moved), "filling")
                yield _coming(layer, operand, inner, outer, moved - min(tile, moved))


def _matrix(tiling: Tiling, operand: Operand) -> int:
    return math.prod(tiling.extents[axis] for axis in AXES if axis != ABSENT[operand])


def _coming(
    layer: Layer, operand: Operand, inner: Memory | None, outer: Memory, elements: int, phase: Phase = "running"
) -> Move:
    ports = [Port(outer, "read", elements, elements * bits_in(outer, layer, operand), 1)]
    if inner is not None:
        ports.append(Port(inner, "write", elements, elements * bits_in(inner, layer, operand), 1))
    return Move(operand, inner, tuple(ports), phase)


def _leaving(
    chip: Chip, layer: Layer, inner: Memory | None, outer: Memory, matrix: int, visits: int, last: int
) -> Iterator[Move]:
    """Every output leaves `visits` times, comes back in between, and is finished the last time."""

    def move(elements: int, bits: float, there: Action, here: Action, phase: Phase = "running") -> Move:
        ports = [Port(outer, there, elements, elements * bits, 1)]
        if inner is not None:
            ports.append(Port(inner, here, elements, elements * bits, 1))
        return Move("O", inner, tuple(ports), phase)

    partial = (visits - 1) * matrix
    yield move(partial, chip.arithmetic.sum_bits, "write", "read")
    yield move(partial, chip.arithmetic.sum_bits, "read", "write")
    yield move(matrix - last, bits_in(outer, layer, "O"), "write", "read")
    yield move(last, bits_in(outer, layer, "O"), "write", "read", "draining")


def _hops(array: Array, tiling: Tiling, products: int, sum_bits: int) -> Iterator[Hops]:
    """What is handed from register to register: useful operands, and sums on their whole way out of the array."""
    layer, rows = tiling.layer, array.rows
    spread, across, _ = SPREAD[array.dataflow]
    (staying,) = {operand for operand in OPERANDS if ABSENT[operand] not in (spread, across)}  # both its loops stay
    whole, rest = divmod(tiling.extents[spread], rows)
    if array.dataflow == "os":  # down: the weights, and each sum from its row out of the array
        yield Hops("columns", "I", layer.macs * layer.bits["I"])
        yield Hops("rows", "W", layer.macs * layer.bits["W"])
        down = whole * _triangle(rows) + rest * rows - _triangle(rest - 1)
        yield Hops("rows", "O", products * tiling.trips("window") * tiling.extents[across] * down * sum_bits)
        return
    moving: Operand = "I" if staying == "W" else "W"
    yield Hops("columns", moving, layer.macs * layer.bits[moving])
    down = whole * _triangle(rows) + _triangle(rest)  # each row's weight from above to its place
    loads = products * tiling.trips(ABSENT[staying]) * tiling.extents[across]
    yield Hops("rows", staying, loads * down * layer.bits[staying])
    yield Hops("rows", "O", products * tiling.trips("window") * _matrix(tiling, "O") * rows * sum_bits)


def _triangle(number: int) -> int:
    return number * (number + 1) // 2
