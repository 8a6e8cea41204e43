"""A plain simulation of a mapping: it runs every loop, keeps in every memory what that memory holds, and counts.

It is the judge of `counts.py`, with which it shares no formula, and of the mapping itself: every multiplication takes
its inputs from the memory next to it and every sum is made of the parts that arrive, so what lies in the outermost
memory at the end is the layer's output only if all of that was right. For small layers: every multiplication takes
some fifty microseconds. Zeros are multiplied like all other values; gating and skipping are not simulated.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import Cycles, operation_for
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer, Loop, Operand
from dovetail.hardware.mapping import Factor, Mapping, bits_in

Element = tuple[int, ...]
"""Where an element lies in its operand: I[g, n, c, row, column], W[g, k, c, r, s], O[g, n, k, p, q]."""

Position = tuple[int, ...]
"""Where something lies along each dimension of the array; 0 along those in which there is one for all elements."""

Kind = tuple[str, Operand, str]
"""A memory, an operand and an action."""

Port = tuple[str, Position, str, str, str]
"""A memory, an instance of it, an action, its phase, and the memory further in that it was for ("": elements)."""


class Sum(NamedTuple):
    """A partial sum, and how many products are in it."""

    value: int = 0
    terms: int = 0

    def plus(self, other: Sum) -> Sum:
        return Sum(self.value + other.value, self.terms + other.terms)


@dataclass
class Level:
    """The instances of a memory (None: latches) for one operand; a tile lasts for `block` successive steps."""

    memory: Memory | None
    per: tuple[bool, ...]
    block: int
    content: defaultdict[Position, dict[Element, Any]] = field(default_factory=lambda: defaultdict(dict))

    def instance(self, position: Position) -> Position:
        """Which one serves a processing element or a memory further in."""
        return tuple(index if own else 0 for index, own in zip(position, self.per, strict=True))


@dataclass
class Tally:
    """What passed the ports: elements, bits and words of each kind, and what every port carried."""

    elements: Counter[Kind] = field(default_factory=Counter)
    bits: defaultdict[Kind, float] = field(default_factory=lambda: defaultdict(float))
    words: defaultdict[Kind, float] = field(default_factory=lambda: defaultdict(float))
    hops: Counter[tuple[str, Operand]] = field(default_factory=Counter)
    ports: defaultdict[Port, float] = field(default_factory=lambda: defaultdict(float))
    """The bits of whole words."""


class Machine:
    """A chip that runs one layer: `run` returns the outputs, `tally` then says what it took."""

    def __init__(self, chip: Chip, layer: Layer, mapping: Mapping, values: Table[Operand, Table[Element, int]]) -> None:
        self.chip, self.layer, self.mapping = chip, layer, mapping
        self.positions = list(itertools.product(*(range(_product(mapping, d.name)) for d in chip.dimension)))
        self.steps = list(self._steps())
        self.levels = {operand: self._levels(operand) for operand in OPERANDS}
        self.tally = Tally()
        self.moving: defaultdict[tuple[Port, Operand, Position], float] = defaultdict(float)
        """The bits of every transfer under way, by its port and the position that it is for."""
        self.most: dict[tuple[str, Operand], float] = {}
        """The bits that any instance of a memory held at a time, all but the outermost."""
        for operand in ("I", "W"):
            outermost = self.levels[operand][-1]
            for position in self.positions:
                outermost.content[outermost.instance(position)] = Counter(values[operand])  # 0 where there is padding
        factors = mapping.factors()
        self.terms = factors["C"] * factors["R"] * factors["S"]

    def run(self) -> dict[Element, int]:
        """Runs the loops and returns the outputs that arrived in the outermost memory, padding included."""
        for time in range(len(self.steps)):
            for inner, outer in itertools.pairwise(self.levels["O"]):
                if time and self._changes(inner, time, "O"):
                    self._drain(inner, outer, "running")
            for operand in OPERANDS:
                for inner, outer in reversed(list(itertools.pairwise(self.levels[operand]))):
                    if self._changes(inner, time, operand):
                        (self._return if operand == "O" else self._fill)(operand, inner, outer, time)
            self._compute(time)
            self._look()
        for inner, outer in itertools.pairwise(self.levels["O"]):
            last = outer is self.levels["O"][-1] and inner.memory is not None
            self._drain(inner, outer, "draining" if last else "running")
        outputs: Counter[Element] = Counter()
        for content in self.levels["O"][-1].content.values():
            outputs.update({element: sum_.value for element, sum_ in content.items()})
        return dict(outputs)

    def _look(self) -> None:
        """How much lies in every instance, the place for sums that are on their way further in included."""
        for operand, levels in self.levels.items():
            for memory, content in ((level.memory, level.content) for level in levels[:-1] if level.memory is not None):
                held = (sum(self._width(operand, memory, each) for each in tile.values()) for tile in content.values())
                self.most[memory.name, operand] = max([self.most.get((memory.name, operand), 0.0), *held])

    def _width(self, operand: Operand, memory: Memory, element: Any) -> float:
        """Bits of what lies in a memory, or passes its port: finished sums are as wide as outputs."""
        if operand == "O" and (element is None or element.terms < self.terms):
            return self.chip.arithmetic.sum_bits
        return bits_in(memory, self.layer, operand)

    def cycles(self) -> Cycles:
        """The time that computing and the ports took: every instance counted for itself."""
        computing = len(self.steps) * operation_for(self.chip, self.layer).cycles
        stalled = {}
        for memory in self.chip.memory:
            alone = self._busy("running", memory)
            if not memory.double_buffered and alone:
                stalled[memory.name] = max(alone.values())
        spent, ports = computing + sum(stalled.values()), self._busy("running")
        if ports and max(ports.values()) > spent:
            busiest = [memory.name for memory in self.chip.memory if ports.get(memory.name) == max(ports.values())][-1]
            stalled[busiest] = stalled.get(busiest, 0.0) + ports[busiest] - spent
        filling, draining = (max(self._busy(phase).values(), default=0.0) for phase in ("filling", "draining"))
        return Cycles(computing, filling, draining, {name: time for name, time in stalled.items() if time})

    def _busy(self, phase: str, into: Memory | None = None) -> dict[str, float]:
        """By memory, how long its busiest instance moves bits, of one phase (and to or from `into` alone)."""
        bits: defaultdict[tuple[str, Position, str], float] = defaultdict(float)
        for (name, instance, action, its_phase, inner), moved in self.tally.ports.items():
            if its_phase == phase and (into is None or inner == into.name):
                bits[name, instance, action] += moved
        memories = {memory.name: memory for memory in self.chip.memory}
        times: defaultdict[str, float] = defaultdict(float)
        for name, instance, _ in list(bits):
            memory, read, write = memories[name], bits[name, instance, "read"], bits[name, instance, "write"]
            if memory.shared_port:
                read, write = read + write, 0
            time = max(read / (memory.read_bandwidth or math.inf), write / (memory.write_bandwidth or math.inf))
            times[name] = max(times[name], time)
        return times

    # What is needed when and where

    def _steps(self) -> Iterator[list[dict[Operand, Element]]]:
        """For every step, what every processing element multiplies and where the product belongs."""
        mapping, inside = self.mapping, self.mapping.inside
        ranges = [range(number) for _, number in reversed(mapping.temporal)]
        for outer_first in itertools.product(*ranges):
            time = outer_first[::-1]
            yield [
                self._elements(
                    [
                        *zip(mapping.temporal[:inside], time[:inside], strict=True),
                        *self._digits(position),
                        *zip(mapping.temporal[inside:], time[inside:], strict=True),
                    ]
                )
                for position in self.positions
            ]

    def _digits(self, position: Position) -> Iterator[tuple[Factor, int]]:
        """The value of every spatial factor at a processing element."""
        for dimension, index in zip(self.chip.dimension, position, strict=True):
            for loop, number in self.mapping.spatial.get(dimension.name, ()):
                yield (loop, number), index % number
                index //= number

    def _elements(self, digits: Iterable[tuple[Factor, int]]) -> dict[Operand, Element]:
        """The elements that belong to the values of all factors, those of a loop from the least significant."""
        index: dict[Loop, int] = dict.fromkeys(LOOPS, 0)
        place: dict[Loop, int] = dict.fromkeys(LOOPS, 1)
        for (loop, number), digit in digits:
            index[loop] += digit * place[loop]
            place[loop] *= number
        g, n, k, c, p, q, r, s = (index[loop] for loop in LOOPS)
        (down, right), (rows, columns) = self.layer.stride, self.layer.dilation
        return {
            "I": (g, n, c, p * down + r * rows, q * right + s * columns),
            "W": (g, k, c, r, s),
            "O": (g, n, k, p, q),
        }

    def _levels(self, operand: Operand) -> list[Level]:
        chain, temporal = self.chip.chain(operand), self.mapping.temporal
        latch = [Level(None, (True,) * len(self.chip.dimension), 1)]
        held = (*self.mapping.held[operand], len(temporal))
        return (latch if operand in self.chip.settings.get("latched", ()) else []) + [
            Level(
                memory,
                tuple(dimension.name in memory.per for dimension in self.chip.dimension),
                math.prod(number for _, number in temporal[:covered]),
            )
            for memory, covered in zip(chain, held, strict=True)
        ]

    def _tile(self, level: Level, time: int, operand: Operand) -> dict[Position, set[Element]]:
        """What every instance holds at a time: all that it is for until the factors outside advance."""
        first = time // level.block * level.block
        tile: defaultdict[Position, set[Element]] = defaultdict(set)
        for step in self.steps[first : first + level.block]:
            for position, elements in zip(self.positions, step, strict=True):
                tile[level.instance(position)].add(elements[operand])
        return tile

    def _changes(self, level: Level, time: int, operand: Operand) -> bool:
        if time % level.block:
            return False
        return not time or self._tile(level, time, operand) != self._tile(level, time - 1, operand)

    # Inputs and weights

    def _fill(self, operand: Operand, inner: Level, outer: Level, time: int) -> None:
        """New elements come in, those of the tile before that are not in the new one go."""
        whole = not self.chip.settings.get("halo_reuse", True)
        tile = self._tile(inner, time, operand)
        lacking = {
            position: elements if whole else elements - inner.content[position].keys()
            for position, elements in tile.items()
        }
        phase = "filling" if not time and outer is self.levels[operand][-1] and inner.memory else "running"
        for position, elements in tile.items():
            for element in lacking[position]:
                self._count(operand, inner, position, "write", inner, phase)
                inner.content[position][element] = outer.content[outer.instance(position)][element]
            inner.content[position] = {element: inner.content[position][element] for element in elements}
        self._request(operand, lacking, inner, outer, phase)
        self._arrived()

    def _request(
        self, operand: Operand, wanted: dict[Position, set[Element]], inner: Level | None, outer: Level, phase: str
    ) -> None:
        """Reads once for all that share, and passes on."""
        for together in self._shared(operand, wanted, outer).values():
            for positions in together:
                self._count(operand, outer, positions[0], "read", inner, phase)
                self._pass(operand, positions, self.layer.bits[operand])

    def _shared(
        self, operand: Operand, wanted: Table[Position, Iterable[Element]], outer: Level
    ) -> dict[Element, list[list[Position]]]:
        """For every element, the positions that want it, in groups that one transfer serves."""
        groups: defaultdict[Element, defaultdict[Position, list[Position]]] = defaultdict(lambda: defaultdict(list))
        for position, elements in wanted.items():
            alone = self._alone(operand, position, outer)
            for element in elements:
                groups[element][alone].append(position)
        return {element: list(together.values()) for element, together in groups.items()}

    def _alone(self, operand: Operand, position: Position, outer: Level) -> Position:
        """The same for all positions that one transfer serves."""
        return tuple(
            index if own or dimension.links[operand] == "none" else 0
            for index, own, dimension in zip(position, outer.per, self.chip.dimension, strict=True)
        )

    def _pass(self, operand: Operand, positions: Iterable[Position], bits: int) -> None:
        """Hops between those that share: along the last dimension, then from there along the one before, and so on."""
        reached = set(positions)
        for axis, dimension in enumerate(self.chip.dimension, start=1):
            sources = {(0,) * axis + position[axis:] for position in reached}
            if dimension.links[operand] == "forward":
                self.tally.hops[dimension.name, operand] += bits * (len(reached) - len(sources))
            reached = sources

    # Outputs

    def _return(self, operand: Operand, inner: Level, outer: Level, time: int) -> None:
        """Sums that were begun come back to the first of the instances that add to them."""
        taken = set()
        for position, elements in self._tile(inner, time, operand).items():
            home = outer.instance(position)
            for element in elements & outer.content[home].keys():
                inner.content[position][element] = Sum()
                if (home, element) not in taken:
                    taken.add((home, element))
                    self._count("O", outer, position, "read", inner, "running")
                    self._count("O", inner, position, "write", inner, "running")
                    inner.content[position][element] = outer.content[home][element]
                    outer.content[home][element] = Sum()
        self._arrived()

    def _drain(self, inner: Level, outer: Level, phase: str) -> None:
        """All sums leave; where several arrive for one output, they are added up."""
        for position, content in inner.content.items():
            for sum_ in content.values():
                self._count("O", inner, position, "read", inner, phase, sum_)
        sent = {position: dict(content) for position, content in inner.content.items()}
        inner.content.clear()
        self._arrive(sent, inner, outer, phase)

    def _arrive(self, sent: dict[Position, dict[Element, Sum]], inner: Level | None, outer: Level, phase: str) -> None:
        """Sums on their way outwards; the first to arrive replaces what came back inwards before."""
        for element, together in self._shared("O", sent, outer).items():
            replaced = set()
            for positions in together:
                home = outer.instance(positions[0])
                content = outer.content[home]
                if element in content and (home in replaced or inner is None):
                    self._count("O", outer, positions[0], "read", inner, phase)
                replaced.add(home)
                self._pass("O", positions, self.chip.arithmetic.sum_bits)
                for position in positions:
                    content[element] = content.get(element, Sum()).plus(sent[position][element])
                sum_ = content[element] if inner is not None and inner.memory is not None else None
                self._count("O", outer, positions[0], "write", inner, phase, sum_)
        self._arrived()

    def _compute(self, time: int) -> None:
        """One multiplication in every processing element."""
        levels = {operand: self.levels[operand][0] for operand in OPERANDS}
        products: dict[Position, dict[Element, Sum]] = {}
        for position, elements in zip(self.positions, self.steps[time], strict=True):
            value = math.prod(levels[o].content[levels[o].instance(position)][elements[o]] for o in ("I", "W"))
            products[position] = {elements["O"]: Sum(value, 1)}
        for operand in ("I", "W"):
            if levels[operand].memory is not None:
                wanted = {p: {elements[operand]} for p, elements in zip(self.positions, self.steps[time], strict=True)}
                self._request(operand, wanted, None, levels[operand], "running")
        self._arrive(products, None, levels["O"], "running")

    def _count(
        self,
        operand: Operand,
        level: Level,
        position: Position,
        action: str,
        inner: Level | None,
        phase: str,
        sum_: Sum | None = None,
    ) -> None:
        """One element for (or from) a position crossed a port; an output has its own width if `sum_` is finished."""
        if level.memory is None:
            return
        bits = self._width(operand, level.memory, sum_)
        name = level.memory.name
        self.tally.elements[name, operand, action] += 1
        self.tally.bits[name, operand, action] += bits
        into = inner.memory.name if inner is not None and inner.memory is not None else ""
        port = name, level.instance(position), action, phase, into
        apart = position if level is inner else self._alone(operand, position, level)
        self.moving[port, operand, apart] += bits

    def _arrived(self) -> None:
        """Every transfer under way is one by itself: its last word may not be full."""
        memories = {memory.name: memory for memory in self.chip.memory}
        for (port, operand, _), bits in self.moving.items():
            name, _, action, _, _ = port
            carried = memories[name].carried(bits)
            self.tally.words[name, operand, action] += carried / memories[name].width_bits
            self.tally.ports[port] += carried
        self.moving.clear()


def _product(mapping: Mapping, dimension: str) -> int:
    return math.prod(number for _, number in mapping.spatial.get(dimension, ()))
