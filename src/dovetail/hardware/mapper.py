"""The best mapping of a layer on an array, and the proof that none is much better.

The space. Every loop l is cut into spatial factors, any whole numbers that fit the dimensions which may unroll it, and
temporal factors, whose product is T_l = ceil(extent / spatial factors). The temporal factors stand in any order, and
each operand's tiles end anywhere in it: different operands at different places. The factors that run `inside` a
processing element are none, or those in the input's innermost tile.

What collapses it. Weights and outputs move by whole tiles: a tile that covers the extents E moves

    |operand| x product over the loops l that the operand does not depend on of T_l / E_l

elements in all, whatever the order inside and outside of it; a factor next to it that does not change it may as well be
counted into E. So a mapping is a chain of extents E_1 <= E_2 <= ..., one for each tile from the inside out, and a price
for each; the order between them matters only to inputs, whose windows slide. Between a tile of operand X and the next
one, of Y, only loops are needed that X depends on and Y does not: those that X does not depend on may go inside X's
tile, which does not change and goes round less often; those that Y depends on may go outside of Y's, which becomes
smaller and goes round as often. (Where windows slide, C, P, Q, R and S are tried inside of the tiles of inputs, too.)

Whole words. Where transfers take whole words (`Memory.whole_words`), the size of a tile says how full they are, so
loops that X depends on may go inside X's tile too, until its words are full. A transfer is never less than its bits,
and two are never less than one of both: what holds for bits, and for the whole operand as one tile, bounds words from
below.

Inputs. Moves along the rows or the columns alone keep part of the tile. Whatever the order, the factor next to the tile
makes all moves but one in `factor`, each by the same distance; the others move the tile along both axes, or start anew,
or keep at most what the smallest distance keeps that the loops of an axis can add up to. That, and that every element
is fetched once, bounds what is fetched from below. In every chain that is not ruled out four orders are then counted.

The search (csrc/mapper) looks at the spatial choices, those with the least bound first, and in each goes
through the chains from the inside out. It leaves a branch when the tiles cut, and at least those to come, cost no less
than the best found. Of those to come it knows: of any two, X before Y, the loops that save rounds of X lie within Y's
tile and must fit. `lower_bound` is the least bound of all that was left or looked at. If all was, it equals the energy
of the best mapping where windows do not slide; where they do, it gives away what the bound on inputs does, and the
bound on cycles the time to fill and drain, and energy passed on from neighbour to neighbour ("forward" links).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from dovetail import _native
from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import Counts, Objective, operation_for, price
from dovetail.hardware.counts import count, part_done
from dovetail.hardware.layer import LOOPS, OPERANDS, REDUCTION, Layer, Operand
from dovetail.hardware.mapping import Mapping, bits_in, held_bits, room

VERSION = 4
"""Of the search: what was found by another may differ."""

EFFORT = 100_000
"""Tilings that are looked at where no time is given, the same on every machine; ten times as many where the best found
may cost a quarter more than the bound."""

MOST_MEMORIES = 8
"""Memories of a chip that the search can represent."""

LONGEST_AXIS = 1 << 15
"""Rows or columns of input that the search can represent."""


@dataclass(frozen=True)
class Mapped:
    """The best mapping found, what it costs (pJ, cycles or their product), and what none costs less than.

    `exact`: the two are equal. `complete`: the search was not cut short. `explored`: tiles that were priced.
    """

    mapping: Mapping
    counts: Counts
    value: float
    lower_bound: float
    explored: int
    complete: bool

    @property
    def gap(self) -> float:
        """By how much of its cost the mapping may be worse than the best there is."""
        return 1 - self.lower_bound / self.value if self.value else 0.0

    @property
    def exact(self) -> bool:
        return self.gap <= 1e-9


def best_mapping(chip: Chip, layer: Layer, objective: Objective = "energy", *, seconds: float | None = None) -> Mapped:
    """The mapping of `layer` on `chip` (of kind "spatial") that has least of the objective.

    `seconds` limits the search: the best so far is returned, with a bound that is then lower. Without, `EFFORT` does.

    Raises:
        TargetError: no mapping fits (it names the memory and the bytes missing), or there is no price.
    """
    if objective not in get_args(Objective):
        raise TargetError(f"The objective is one of {', '.join(get_args(Objective))}, got {objective!r}")
    _check_fits(chip, layer)
    operation = operation_for(chip, layer)
    macs = layer.macs * part_done(chip, layer)
    found, bound, explored, complete = _native.best_mapping(
        [layer.extents[loop] for loop in LOOPS],
        list(layer.stride),
        list(layer.dilation),
        [[dimension.size, _bits(LOOPS.index(loop) for loop in dimension.unroll)] for dimension in chip.dimension],
        [_store(chip, memory) for memory in chip.memory],
        [row for operand in OPERANDS for row in _boundaries(chip, layer, operand)],
        [
            macs * (operation.picojoules or 0.0),
            operation.cycles * math.prod(layer.density[operand] for operand in chip.arithmetic.skips),
            chip.idle_milliwatts * 1e3 / chip.clock_mhz,
            chip.arithmetic.sum_bits,
        ],
        chip.settings.get("halo_reuse", True),
        get_args(Objective).index(objective),
        math.inf if seconds is None else seconds,
        EFFORT if seconds is None else 1 << 62,
    )
    candidates = []
    for _, spatial, temporal, inside, held in found:
        mapping = _mapping(chip, spatial, temporal, inside, held)
        counts = count(chip, layer, mapping)
        candidates.append((value_of(chip, layer, counts, objective), mapping, counts))
    value, mapping, counts = min(candidates, key=lambda candidate: candidate[0])
    return Mapped(mapping, counts, value, min(bound, value), explored, complete)


def value_of(chip: Chip, layer: Layer, counts: Counts, objective: Objective) -> float:
    """What the objective makes of counts: pJ, cycles, or pJ x cycles."""
    cycles = counts.cycles.total
    if objective == "latency":
        return cycles
    picojoules = math.fsum(entry.picojoules for entry in price(chip, layer, counts))
    return picojoules if objective == "energy" else picojoules * cycles


def _check_fits(chip: Chip, layer: Layer) -> None:
    """The least a memory must hold is one element of each of its operands."""
    if len(chip.memory) > MOST_MEMORIES:
        raise TargetError(f"Chip {chip.name!r} has {len(chip.memory)} memories; the mapper takes {MOST_MEMORIES}")
    for axis, size in zip(("rows", "columns"), layer.input_size, strict=True):
        if size > LONGEST_AXIS:
            raise TargetError(f"Layer {layer.name!r} has {size} {axis} of input; the mapper takes {LONGEST_AXIS}")
    for memory in chip.memory:
        inner = [operand for operand in memory.operands if chip.chain(operand)[-1] is not memory]
        needed = sum(_least_bits(chip, layer, memory, operand) for operand in inner) / 8
        there = room(memory)
        if needed > there:
            half = " (half of it, for it is double-buffered)" if memory.double_buffered else ""
            raise TargetError(
                f"Layer {layer.name!r} cannot be mapped on chip {chip.name!r}: memory {memory.name!r} has room for "
                f"{there:g} bytes{half}, and one element of each of {', '.join(inner)} takes {needed:g}; "
                f"{needed - there:g} bytes are missing"
            )


def _least_bits(chip: Chip, layer: Layer, memory: Memory, operand: Operand) -> float:
    """What an element takes in a memory at least: a memory further in may finish the sums."""
    summed = held_bits(chip, layer, memory, operand, unfinished=_sums(layer))
    return summed if chip.chain(operand)[0] is memory else min(summed, bits_in(memory, layer, operand))


def _sums(layer: Layer) -> bool:
    return any(layer.extents[loop] > 1 for loop in REDUCTION)


def _store(chip: Chip, memory: Memory) -> list[float]:
    """A memory as csrc/mapper.hpp has it. What has no price here has none when the mapping is priced, and fails."""
    return [
        8 * room(memory),
        _bits(index for index, dimension in enumerate(chip.dimension) if dimension.name in memory.per),
        (memory.read_picojoules or 0.0) / memory.width_bits,
        (memory.write_picojoules or 0.0) / memory.width_bits,
        memory.read_bandwidth or math.inf,
        memory.write_bandwidth or math.inf,
        memory.shared_port,
        memory.double_buffered,
        memory.width_bits if memory.whole_words else 0,
    ]


def _boundaries(chip: Chip, layer: Layer, operand: Operand) -> list[list[float]]:
    """The boundaries of an operand, from the inside out, as csrc/mapper.hpp has them."""
    chain = chip.chain(operand)
    apart = _bits(i for i, dimension in enumerate(chip.dimension) if dimension.links[operand] == "none")
    latched = operand in chip.settings.get("latched", ())
    rows = []
    for inner, outer in zip((None, *chain), chain, strict=False):
        kept = inner is not None or latched
        own = not kept and {*outer.per} >= {dimension.name for dimension in chip.dimension}
        rows.append(
            [
                OPERANDS.index(operand),
                chip.memory.index(inner) if inner else -1,
                chip.memory.index(outer),
                apart,
                kept,
                inner is not None and outer is chain[-1],
                bits_in(inner, layer, operand) if inner else 0,
                bits_in(outer, layer, operand),
                held_bits(chip, layer, inner, operand, unfinished=_sums(layer)) if inner else 0,
                part_done(chip, layer, besides=operand) if own else 1,
            ]
        )
    return rows


def _bits(members: Iterable[int]) -> int:
    return sum(1 << member for member in members)


def _mapping(
    chip: Chip, spatial: list[list[int]], temporal: list[tuple[int, int]], inside: int, held: list[int]
) -> Mapping:
    """A mapping from the search's numbers; `held` has an entry for every boundary, the first of an operand is none."""
    rest = iter(held)
    by_operand = {operand: tuple(next(rest) for _ in chip.chain(operand))[1:] for operand in OPERANDS}
    return Mapping(
        spatial={
            dimension.name: tuple((loop, n) for loop, n in zip(LOOPS, extents, strict=True) if n > 1)
            for dimension, extents in zip(chip.dimension, spatial, strict=True)
        },
        temporal=tuple((LOOPS[loop], number) for loop, number in temporal),
        inside=inside,
        held=by_operand,
    )
