"""A mapping: in which order a layer's loops run on a chip, what is unrolled over the array, and what is kept where.

Every loop is cut into factors. Some are unrolled over a dimension of the array, the others run in time, in one order
for the whole chip:

    for k in 4:                  # temporal[3]   outside: the tile held in the buffer changes here
      for c in 16:               # temporal[2] - - - - held["W"] = (1, 3): the buffer's tile of W holds temporal[:3]
        for p in 13:             # temporal[1]
          for s in 3:            # temporal[0] - - - - and the register's tile of W holds temporal[:1]
            on rows: r in 3; on columns: q in 13

The product of a loop's factors is at least its extent; where it is more, the layer is padded to it, and counted so.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass
from typing import NamedTuple

from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.layer import LOOPS, OPERANDS, REDUCTION, RELEVANT, Layer, Loop, Operand
from dovetail.hardware.tiles import Steps, spread, volume

Factor = tuple[Loop, int]

INPUT_AXES: dict[Loop, str] = {"P": "row", "R": "row", "Q": "column", "S": "column"}
"""Two loops move along each of these axes of the input; every other loop has an axis of its own."""


@dataclass(frozen=True)
class Mapping:
    """One way to run a layer on a chip.

    `spatial`: by the name of an array dimension, the factors unrolled over it, the innermost (next neighbours) first.
    `temporal`: the factors that run in time, the innermost first. The first `inside` of them run within a processing
    element: an index of a loop is made up of those (least significant), then the spatial, then the other factors.
    `held`: for each operand, for each of its memories but the outermost, from the inside out, how many of the innermost
    temporal factors the tile covers that it holds: it does not decrease outwards. A tile also covers the spatial
    factors of the dimensions that share the memory (those not in its `per`).
    """

    spatial: Table[str, tuple[Factor, ...]]
    temporal: tuple[Factor, ...]
    inside: int
    held: Table[Operand, tuple[int, ...]]

    def factors(self) -> Counter[Loop]:
        """The product of each loop's factors: what the layer's extents are padded to."""
        products: Counter[Loop] = Counter(dict.fromkeys(LOOPS, 1))
        for loop, factor in (*self.temporal, *(pair for pairs in self.spatial.values() for pair in pairs)):
            products[loop] *= factor
        return products

    @property
    def steps(self) -> int:
        """Rounds of the array: the product of all temporal factors."""
        return math.prod(factor for _, factor in self.temporal)

    @property
    def elements_used(self) -> int:
        """Processing elements at work."""
        return math.prod(factor for pairs in self.spatial.values() for _, factor in pairs)

    def utilisation(self, layer: Layer, elements: int) -> float:
        """Useful multiply-accumulates by those that `elements` could do in the same steps."""
        return layer.macs / (elements * self.steps)


class View(NamedTuple):
    """A mapping as one operand sees it: every factor as steps along one of its `axes`, or along none."""

    axes: frozenset[str]
    temporal: tuple[Steps, ...]
    spatial: dict[str, tuple[Steps, ...]]

    def tile(self, per: Iterable[str], held: int) -> dict[str, int]:
        """What a memory, one for each element along the dimensions in `per`, holds of the operand at a time."""
        alone = (factor for name, factors in self.spatial.items() if name not in per for factor in factors)
        return spread(dict.fromkeys(self.axes, 1), (*self.temporal[:held], *alone))


def view(chip: Chip, layer: Layer, mapping: Mapping, operand: Operand) -> View:
    """The factors of a mapping as steps along the axes of an operand."""
    distance = dict.fromkeys(LOOPS, 1)
    axes: dict[Loop, str] = {loop: loop for loop in RELEVANT[operand]}
    if operand == "I":
        axes |= INPUT_AXES
        distance |= {"P": layer.stride[0], "Q": layer.stride[1], "R": layer.dilation[0], "S": layer.dilation[1]}

    def steps(factors: Iterable[Factor]) -> tuple[Steps, ...]:
        found = []
        for loop, number in factors:
            found.append(Steps(axes.get(loop), distance[loop], number))
            distance[loop] *= number
        return tuple(found)

    inside = steps(mapping.temporal[: mapping.inside])
    spatial = {dimension.name: steps(mapping.spatial.get(dimension.name, ())) for dimension in chip.dimension}
    return View(frozenset(axes.values()), inside + steps(mapping.temporal[mapping.inside :]), spatial)


def bits_in(memory: Memory, layer: Layer, operand: Operand) -> float:
    """What one element takes in a memory (of outputs: a finished one; partial sums are not compressed)."""
    if operand not in memory.compressed:
        return layer.bits[operand]
    coded = layer.coded_bits(operand)
    return layer.bits[operand] * layer.density[operand] if coded is None else coded


def held_bits(chip: Chip, layer: Layer, memory: Memory, operand: Operand, *, unfinished: bool) -> float:
    """What one element takes in a tile; of outputs a partial sum, if they come `unfinished`."""
    return chip.arithmetic.sum_bits if operand == "O" and unfinished else bits_in(memory, layer, operand)


def sums_unfinished(chip: Chip, mapping: Mapping, seen: View, level: int) -> bool:
    """Whether outputs, as `seen`, come to a memory of their chain (0: the innermost) before their sums are finished.

    They come finished if the memory further in keeps its tile until they are, and the parts that several of its
    instances have of a sum are added on the way.
    """
    if all(factor == 1 for loop, factor in mapping.factors().items() if loop in REDUCTION):
        return False
    if level == 0:
        return True
    inner, outer = chip.chain("O")[level - 1 : level + 1]
    outside = [factor for factor in seen.temporal[mapping.held["O"][level - 1] :] if factor.number > 1]
    while outside and outside[0].axis is None:  # the tile stays the same
        outside = outside[1:]
    apart = {*outer.per} | {d.name for d in chip.dimension if d.name in inner.per and d.links["O"] == "none"}
    spread_apart = itertools.chain.from_iterable(seen.spatial[name] for name in apart)
    return any(factor.axis is None and factor.number > 1 for factor in (*outside, *spread_apart))


def room(memory: Memory) -> float:
    """Bytes that the tiles in one instance may take."""
    return math.inf if memory.bytes is None else memory.bytes / (2 if memory.double_buffered else 1)


def occupied(chip: Chip, layer: Layer, mapping: Mapping) -> dict[str, dict[Operand, float]]:
    """Bytes that the tiles of each operand take in one instance of each memory but the outermost."""
    found: dict[str, dict[Operand, float]] = {memory.name: {} for memory in chip.memory}
    for operand in OPERANDS:
        seen = view(chip, layer, mapping, operand)
        for level, (memory, held) in enumerate(zip(chip.chain(operand), mapping.held[operand], strict=False)):
            unfinished = operand == "O" and sums_unfinished(chip, mapping, seen, level)
            bits = held_bits(chip, layer, memory, operand, unfinished=unfinished)
            found[memory.name][operand] = volume(seen.tile(memory.per, held)) * bits / 8
    return found


def problems(chip: Chip, layer: Layer, mapping: Mapping) -> list[str]:
    """Why the mapping cannot run the layer on the chip, a sentence each; none if it can."""
    found = [*_malformed(chip, mapping), *_not_unrolled(chip, mapping)]
    for loop, product in mapping.factors().items():
        if product < layer.extents[loop]:
            found.append(f"the factors of loop {loop} make {product}, its extent is {layer.extents[loop]}")
    if not found:
        found += _overflows(chip, layer, mapping)
    return [f"Layer {layer.name!r} on chip {chip.name!r}: {problem}" for problem in found]


def _malformed(chip: Chip, mapping: Mapping) -> Iterator[str]:
    everything = (*mapping.temporal, *itertools.chain.from_iterable(mapping.spatial.values()))
    yield from (f"factor {number} of loop {loop} is less than 1" for loop, number in everything if number < 1)
    last = len(mapping.temporal)
    if not 0 <= mapping.inside <= last:
        yield f"{mapping.inside} factors run within a processing element, but there are {last} temporal factors"
    for operand in OPERANDS:
        memories, held = chip.chain(operand)[:-1], mapping.held.get(operand, ())
        if len(held) != len(memories):
            names = ", ".join(memory.name for memory in memories) or "none"
            yield f"held[{operand!r}] has a number for each memory but the outermost ({names}), got {list(held)}"
        elif list(held) != sorted(held) or not all(0 <= number <= last for number in held):
            yield f"held[{operand!r}] grows outwards from 0 to the {last} temporal factors at most, got {list(held)}"


def _not_unrolled(chip: Chip, mapping: Mapping) -> Iterator[str]:
    dimensions = {dimension.name: dimension for dimension in chip.dimension}
    for name, factors in mapping.spatial.items():
        if name not in dimensions:
            yield f"the array has no dimension {name!r}, only {', '.join(dimensions) or 'one processing element'}"
            continue
        used, dimension = math.prod(number for _, number in factors), dimensions[name]
        if used > dimension.size:
            yield f"dimension {name!r} has {dimension.size} processing elements, the mapping uses {used}"
        for loop in dict.fromkeys(loop for loop, number in factors if number > 1 and loop not in dimension.unroll):
            yield f"dimension {name!r} unrolls {', '.join(dimension.unroll)}, but not {loop}"


def _overflows(chip: Chip, layer: Layer, mapping: Mapping) -> Iterator[str]:
    taken = occupied(chip, layer, mapping)
    for memory in chip.memory:
        needed = sum(taken[memory.name].values())
        if needed > room(memory):
            parts = ", ".join(f"{operand} {size:.0f}" for operand, size in taken[memory.name].items())
            half = " (half of it, for it is double-buffered)" if memory.double_buffered else ""
            there = f"room for {room(memory):.0f} bytes{half}"
            yield f"memory {memory.name!r} has {there}, its tiles take {needed:.0f} ({parts})"


def draw(chip: Chip, layer: Layer, mapping: Mapping) -> str:
    """The loops as text, the outermost first, with what the memories hold marked where it changes."""
    lines, depth = [f"{layer.name} on {chip.name}"], 0

    def write(line: str, deeper: int = 0) -> None:
        nonlocal depth
        lines.append("  " * depth + line)
        depth += deeper

    for position in range(len(mapping.temporal), -1, -1):
        held = _held_at(chip, layer, mapping, position)
        for memory, tiles in held.items():
            if not memory.per or position > mapping.inside:
                write(f"-- {'each ' if memory.per else ''}{memory.name} holds {', '.join(tiles)}")
        if position == mapping.inside:
            for name, factors in mapping.spatial.items():
                if loops := [f"{loop.lower()} in {number}" for loop, number in reversed(factors) if number > 1]:
                    write(f"along {name}: {', '.join(loops)}", deeper=1)
        for memory, tiles in held.items():
            if memory.per and position <= mapping.inside:
                write(f"-- each {memory.name} holds {', '.join(tiles)}")
        if position and mapping.temporal[position - 1][1] > 1:
            loop, number = mapping.temporal[position - 1]
            write(f"for {loop.lower()} in {number}", deeper=1)
    write("O[g, n, k, p, q] += W[g, k, c, r, s] * I[g, n, c, p, q, r, s]")
    return "\n".join(lines)


def _held_at(chip: Chip, layer: Layer, mapping: Mapping, position: int) -> dict[Memory, list[str]]:
    """The memories, the outermost first, whose tiles cover just so many temporal factors: ["I 1920", "W 256"]."""
    found: dict[Memory, list[str]] = {}
    for memory in reversed(chip.memory):
        for operand in memory.operands:
            chain = chip.chain(operand)
            if memory is not chain[-1] and mapping.held[operand][chain.index(memory)] == position:
                size = volume(view(chip, layer, mapping, operand).tile(memory.per, position))
                found.setdefault(memory, []).append(f"{operand} {size}")
    return found
