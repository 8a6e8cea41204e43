"""How often a mapping reads and writes every memory, in closed form; `loops.py` runs the loops and judges it.

Everything follows from one observation. What a tile holds depends on the factors outside it only by a shift: when
factor j advances by one, and with it all factors between the tile and j fall from their last value to 0, the set of
elements moves by the same distance d_j every time. That happens (f_j - 1) x (product of the factors outside j) times,
and fetches what is new each time:

    fetched = |tile| + sum over j of (f_j - 1) prod_{i > j} f_i |tile minus (tile shifted by d_j)|

A factor that the operand does not depend on shifts by 0, so nothing is fetched: stationarity is no special case. The
window of a convolution moves by less than its size, so only the rest is fetched: nor is the reuse of halos.

A tile is a product of sets, one for each axis of the operand. The axes of weights and outputs are their loops; the rows
of an input are the sums p * stride + r * dilation, which may coincide and leave holes. The set of an axis is an integer
whose bit x says whether x is in it, and a loop over it makes shifted copies (tiles.py).

Elements that several instances of a memory need at once are fetched once if their links share them. Each instance lacks
the same set, shifted to its place, so what they lack together is the union of shifted copies again: with S_a the set of
axis a for all of them together, and K_a the part of it that none of them lacks,

    fetched together = prod_a |S_a| - prod_a |K_a|

Sums go the other way: a tile of outputs leaves as a whole when it changes, and comes back if its sums are not finished.
All instances do the same at the same time; where several add to one sum (a reduction is unrolled over them), what comes
back goes to the first of them and the others start from zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from dovetail.hardware.arch import Chip, Dimension, Memory
from dovetail.hardware.cost import Counts, Hops
from dovetail.hardware.layer import OPERANDS, Layer, Operand
from dovetail.hardware.mapping import Mapping, bits_in, view
from dovetail.hardware.moves import Action, Move, Phase, Port, accesses, cycles
from dovetail.hardware.tiles import Steps, product, relevant, spread, volume


def count(chip: Chip, layer: Layer, mapping: Mapping) -> Counts:
    """What `layer` does on `chip` under `mapping`, which is taken to be valid (`mapping.problems` tells)."""
    boundaries = [boundary for operand in OPERANDS for boundary in _boundaries(chip, layer, mapping, operand)]
    moves = [move for boundary in boundaries for move in boundary.moves()]
    return Counts(
        macs=layer.macs * part_done(chip, layer),
        accesses=tuple(accesses(moves)),
        cycles=cycles(chip, layer, mapping, moves),
        hops=tuple(_hops(boundaries)),
    )


def part_done(chip: Chip, layer: Layer, besides: Operand | None = None) -> float:
    """The part of the multiplications that no zero of an operand (other than `besides`) spares the chip."""
    watched = {*chip.arithmetic.gates, *chip.arithmetic.skips} - {besides}
    return math.prod(layer.density[operand] for operand in OPERANDS if operand in watched)


def _all_relevant(factors: Iterable[Steps]) -> bool:
    return all(factor.axis is not None or factor.number == 1 for factor in factors)


def _boundaries(chip: Chip, layer: Layer, mapping: Mapping, operand: Operand) -> Iterator[_Boundary]:
    """Every step that an operand takes, from the processing elements outwards."""
    seen = view(chip, layer, mapping, operand)
    inner, per, held = None, tuple(seen.spatial), 0
    for outer, outer_held in zip(chip.chain(operand), (*mapping.held[operand], len(seen.temporal)), strict=True):
        between = (dimension for dimension in chip.dimension if dimension.name in {*per} - {*outer.per})
        yield _Boundary(
            chip,
            layer,
            operand,
            inner,
            outer,
            tile=seen.tile(per, held),
            outside=seen.temporal[held:],
            between=tuple((dimension, seen.spatial[dimension.name]) for dimension in between),
            above=tuple(factor for name in outer.per for factor in seen.spatial[name]),
        )
        inner, per, held = outer, outer.per, outer_held


@dataclass(frozen=True)
class _Boundary:
    """Between the tiles of an operand in `inner` (None: the one element that a processing element needs) and `outer`.

    `tile` is what an instance of `inner` holds, by axis; `outside` are the temporal factors outside it, `between` the
    dimensions along which several instances belong to one of `outer`, with their factors, `above` the spatial factors
    that have an `outer` each.
    """

    chip: Chip
    layer: Layer
    operand: Operand
    inner: Memory | None
    outer: Memory
    tile: dict[str, int]
    outside: tuple[Steps, ...]
    between: tuple[tuple[Dimension, tuple[Steps, ...]], ...]
    above: tuple[Steps, ...]

    def moves(self) -> list[Move]:
        found = self._sums() if self.operand == "O" else self._fetches()
        return [move for move in found if any(port.elements for port in move.ports)]

    def passed(self) -> dict[str, float]:
        """Bits passed between neighbours, by dimension: what reaches more of them less what reached fewer."""
        if self.operand == "O":
            visits, bits = self._visits[0], self.chip.arithmetic.sum_bits
            through = [visits * sums for sums in self._sent]
        else:
            bits = self.layer.bits[self.operand]
            asked = ([times * elements for elements in wanted] for times, wanted in self._wanted)
            through = [sum(sums) for sums in zip(*asked, strict=True)]
        return {
            dimension.name: bits * (before - after)
            for (dimension, _), before, after in zip(self.between, through, through[1:], strict=False)
            if dimension.links[self.operand] == "forward"
        }

    def _bits(self, memory: Memory) -> float:
        return bits_in(memory, self.layer, self.operand)

    @cached_property
    def _instances(self) -> int:
        """Instances of `inner` at work."""
        return product(self.above) * math.prod(product(factors) for _, factors in self.between)

    @cached_property
    def _apart(self) -> int:
        """Transfers at a time, of all instances of `outer`: along links that share nothing each has its own."""
        return product(self.above) * math.prod(product(factors) for factors in self._unshared)

    @cached_property
    def _whole(self) -> int:
        """Those of them, of outputs, that carry every sum once."""
        return product(self.above) * math.prod(relevant(factors) for factors in self._unshared)

    @property
    def _unshared(self) -> Iterator[tuple[Steps, ...]]:
        return (factors for dimension, factors in self.between if dimension.links[self.operand] == "none")

    def _outer_port(self, action: Action, transfers: float, each: int, bits: float) -> Port:
        return _port(self.outer, action, transfers, each, bits, product(self.above))

    @property
    def _kept(self) -> bool:
        """Whether what is held stays until it changes; a processing element asks anew in every step."""
        return self.inner is not None or self.operand in self.chip.settings.get("latched", ())

    @property
    def _waited_for(self) -> bool:
        """Whether the first (or last) tiles come from (or go to) the outermost memory."""
        return self.inner is not None and self.outer is self.chip.chain(self.operand)[-1]

    @property
    def _spent(self) -> float:
        """The part of the accesses that zeros do not save: they do at a processing element's own memory."""
        own = not self._kept and not self.between
        return part_done(self.chip, self.layer, besides=self.operand) if own else 1

    def _advances(self) -> Iterator[tuple[int, dict[str, int]]]:
        """How often the outside factors advance and move the tile, and how far along each axis."""
        times, fallen = product(self.outside), dict.fromkeys(self.tile, 0)
        for axis, step, number in self.outside:
            times //= number
            distance = {name: -back for name, back in fallen.items()}
            if axis is not None:
                distance[axis] += step
                fallen[axis] += (number - 1) * step
            if number > 1 and any(distance.values()):
                yield times * (number - 1), distance

    # Inputs and weights

    def _fetches(self) -> list[Move]:
        first, *later = self._wanted
        phase: Phase = "filling" if self._waited_for else "running"
        return [self._fetch(*first, phase), *(self._fetch(*more, "running") for more in later)]

    def _fetch(self, times: int, wanted: list[int], phase: Phase) -> Move:
        apart, own = self._apart, self._instances
        ports = [self._outer_port("read", times * apart * self._spent, wanted[-1] // apart, self._bits(self.outer))]
        if self.inner is not None:
            bits = self._bits(self.inner)
            ports.append(_port(self.inner, "write", times * own, wanted[0] // own, bits, own))
        return Move(self.operand, self.inner, tuple(ports), phase)

    @cached_property
    def _wanted(self) -> list[tuple[int, list[int]]]:
        """How often elements are asked of `outer`, and how many at a time, the first tiles first: see `_together`."""
        first = self._together(self.tile)
        if not self._kept:
            return [(1, first), (product(self.outside) - 1, first)]
        reuse = self.chip.settings.get("halo_reuse", True)
        later = []
        for times, distance in self._advances():
            new = {  # sets of sums are symmetric: either way as many are new
                axis: mask & ~(mask >> abs(distance[axis])) if reuse or not distance[axis] else mask
                for axis, mask in self.tile.items()
            }
            later.append((times, self._together(new)))
        return [(1, first), *later]

    def _together(self, new: dict[str, int]) -> list[int]:
        """Elements with anything `new` on some axis, if links share them along the first 0, 1, ... dimensions."""
        every, apart, elements = self.tile, self._instances, []
        for dimension, factors in (*self.between, (None, ())):
            old = {axis: mask & ~new[axis] for axis, mask in every.items()}
            elements.append(apart * (volume(every) - volume(old)))
            if dimension is not None and dimension.links[self.operand] != "none":
                every, new, apart = spread(every, factors), spread(new, factors), apart // product(factors)
        return elements

    # Outputs

    def _sums(self) -> list[Move]:
        """All leave; those that are not finished come back."""
        visits, tiles = self._visits
        last, width = int(self._waited_for), self.chip.arithmetic.sum_bits
        times, whole = visits - tiles, self._whole
        returned = [self._outer_port("read", times * whole * self._spent, self._distinct // whole, width)]
        if self.inner is not None:
            each = volume(self.tile)
            receivers = self._distinct // each
            returned.append(_port(self.inner, "write", times * receivers, each, width, receivers))
        return [
            self._leave(visits - tiles, tiles - last, "running"),
            self._leave(0, last, "draining"),
            Move("O", self.inner, tuple(returned)),
        ]

    def _leave(self, unfinished: int, finished: int, phase: Phase) -> Move:
        """So many tiles leave every instance.

        Where parts of a sum arrive one by one, `outer` reads what it has before it adds all but the first; the last to
        arrive completes a finished sum.
        """
        width, leaving, each = self.chip.arithmetic.sum_bits, unfinished + finished, self._sent[-1] // self._apart
        done = self.inner is not None and _all_relevant(self.above)
        narrower = finished * self._whole if done else 0
        ports = [
            self._outer_port("write", (leaving * self._apart - narrower) * self._spent, each, width),
            self._outer_port("write", narrower, each, self._bits(self.outer)),
            self._outer_port("read", leaving * (self._apart - self._whole) * self._spent, each, width),
        ]
        if self.inner is not None:
            own = self._instances
            done = done and all(_all_relevant(factors) for _, factors in self.between)
            narrower = finished * own if done else 0
            for transfers, bits in (leaving * own - narrower, width), (narrower, self._bits(self.inner)):
                ports.append(_port(self.inner, "read", transfers, volume(self.tile), bits, own))
        return Move("O", self.inner, tuple(ports), phase)

    @cached_property
    def _visits(self) -> tuple[int, int]:
        """How many tiles an instance holds one after the other, and how many different ones."""
        tiles = relevant(self.outside)
        if not self._kept:
            return product(self.outside), tiles
        return 1 + sum(times for times, _ in self._advances()), tiles

    @cached_property
    def _sent(self) -> list[int]:
        """Sums under way whenever tiles leave, once those along the first 0, 1, ... dimensions are added up."""
        sums = [volume(self.tile) * self._instances]
        for dimension, factors in self.between:
            added = 1 if dimension.links["O"] == "none" else product(factors) // relevant(factors)
            sums.append(sums[-1] // added)
        return sums

    @cached_property
    def _distinct(self) -> int:
        """Outputs that all tiles together hold, of every `outer` its own."""
        between = math.prod(relevant(factors) for _, factors in self.between)
        return volume(self.tile) * between * product(self.above)


def _port(memory: Memory, action: Action, transfers: float, each: int, bits: float, instances: int) -> Port:
    """So many transfers of so many elements of so many bits."""
    elements = transfers * each
    return Port(memory, action, elements, elements * bits, instances, transfers)


def _hops(boundaries: Iterable[_Boundary]) -> Iterator[Hops]:
    sums: Counter[tuple[str, Operand]] = Counter()
    for boundary in boundaries:
        sums.update({(dimension, boundary.operand): bits for dimension, bits in boundary.passed().items()})
    return (Hops(dimension, operand, bits) for (dimension, operand), bits in sums.items() if bits)
