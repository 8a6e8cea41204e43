"""What a layer costs on a chip: counts from a model, then prices.

Every model, closed form or simulator, of any kind of chip, returns `Counts`; `price` is the only place where they
become joules. An action that the chip has no energy for is an error that names it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, OperationEnergy
from dovetail.hardware.layer import Layer, Operand
from dovetail.hardware.mapping import Mapping

Objective = Literal["energy", "latency", "edp"]
"""What the best mapping has least of: energy, cycles, or their product."""

ARITHMETIC = "arithmetic"
IDLE = "idle"


@dataclass(frozen=True)
class Access:
    """How many elements of an operand, of `bits` in all, one memory was asked to read or write in a layer.

    `words` are what it then moves and what is paid for; None: they are full.
    """

    memory: str
    operand: Operand
    action: Literal["read", "write"]
    elements: float
    bits: float
    words: float | None = None


@dataclass(frozen=True)
class Hops:
    """Bits times elements passed, along one dimension of the array."""

    dimension: str
    operand: Operand
    bits: float


@dataclass(frozen=True)
class Cycles:
    """Cycles of a layer; they sum to `total`.

    `computing`: the array has work. `filling`: the first tiles arrive; `draining`: the last leave. `stalled`: by the
    memory (or whatever else) that was waited for.
    """

    computing: float
    filling: float = 0.0
    draining: float = 0.0
    stalled: Table[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.computing + self.filling + self.draining + sum(self.stalled.values())


@dataclass(frozen=True)
class Counts:
    """What a layer does on a chip: no joules yet.

    `macs` are those that cost energy (gated ones do not), `accesses` has at most one entry for each memory, operand
    and action.
    """

    macs: float
    accesses: tuple[Access, ...]
    cycles: Cycles
    hops: tuple[Hops, ...] = ()

    def bits(self, memory: str, operand: Operand | None = None, action: str | None = None) -> float:
        """Bits that crossed the port of one memory, of all operands and actions unless one is named."""
        return math.fsum(
            access.bits
            for access in self.accesses
            if access.memory == memory and operand in (None, access.operand) and action in (None, access.action)
        )


@dataclass(frozen=True)
class Energy:
    """Energy spent at one place ("arithmetic", "idle", a memory, an array dimension's links) on one operand, in pJ."""

    place: str
    operand: str
    picojoules: float


@dataclass(frozen=True)
class LayerCost:
    """A layer on a chip. `mapping` is None where the chip runs it in a fixed way, which `note` then tells.

    `utilisation` is useful multiply-accumulates by those that the array could do while it computes. `lower_bound`,
    where a mapper gives one: no mapping at all costs less of the objective it searched for.
    """

    layer: Layer
    counts: Counts
    energy: tuple[Energy, ...]
    utilisation: float
    mapping: Mapping | None = None
    note: str = ""
    objective: str = ""
    value: float | None = None
    lower_bound: float | None = None

    @property
    def picojoules(self) -> float:
        return math.fsum(entry.picojoules for entry in self.energy)

    @property
    def cycles(self) -> float:
        return self.counts.cycles.total


@dataclass(frozen=True)
class ChipCost:
    """A network on a chip, layer after layer; `left_out` names what the chip's model does not count, and why."""

    chip: Chip
    layers: tuple[LayerCost, ...]
    batch: int
    left_out: tuple[str, ...] = ()

    @cached_property
    def picojoules(self) -> float:
        """Of the whole batch."""
        return math.fsum(layer.picojoules for layer in self.layers)

    @cached_property
    def cycles(self) -> float:
        """Of the whole batch, the layers one after the other."""
        return math.fsum(layer.cycles for layer in self.layers)

    @property
    def seconds(self) -> float:
        return self.cycles / (self.chip.clock_mhz * 1e6)

    @property
    def utilisation(self) -> float:
        """Useful multiply-accumulates by those that the array could have done in the time."""
        return sum(layer.layer.macs for layer in self.layers) / (self.chip.peak_macs_per_second * self.seconds)

    def by(self, view: Literal["place", "operand"]) -> dict[str, float]:
        """Energy in pJ by place or by operand."""
        sums: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            for entry in layer.energy:
                sums[getattr(entry, view)] += entry.picojoules
        return dict(sums)


def operation_for(chip: Chip, layer: Layer) -> OperationEnergy:
    """The quickest, then cheapest, then narrowest multiply-accumulate of the chip that is wide enough for the layer.

    Raises:
        TargetError: there is none.
    """
    wide = [
        operation
        for operation in chip.arithmetic.operation
        if operation.input_bits >= layer.bits["I"] and operation.weight_bits >= layer.bits["W"]
    ]
    if not wide:
        widths = ", ".join(f"{o.input_bits} x {o.weight_bits}" for o in chip.arithmetic.operation)
        raise TargetError(
            f"Layer {layer.name!r} multiplies {layer.bits['I']} bits by {layer.bits['W']}; chip {chip.name!r} does "
            f"{widths}. Quantise the network, or say with --bits how wide it should be taken"
        )
    return min(wide, key=lambda each: (each.cycles, each.picojoules or 0.0, each.input_bits + each.weight_bits))


def as_multiplied(chip: Chip, layer: Layer) -> Layer:
    """The layer with every operand as wide as what multiplies it; its outputs as what can multiply those next.

    Memories keep numbers so, for nothing unpacks narrower ones but what decodes a `compressed` operand.

    Raises:
        TargetError: no operation is wide enough.
    """
    operation, needed = operation_for(chip, layer), layer.bits["O"]
    following = min((o.input_bits for o in chip.arithmetic.operation if o.input_bits >= needed), default=needed)
    return replace(layer, bits={"I": operation.input_bits, "W": operation.weight_bits, "O": following})


def price(chip: Chip, layer: Layer, counts: Counts) -> tuple[Energy, ...]:
    """The energy of `counts`, by place and operand.

    Raises:
        TargetError: the chip has no energy for something that was done; it says for what.
    """
    operation = operation_for(chip, layer)
    entries = []
    if counts.macs:
        each = _known(chip, operation.picojoules, f"multiplying {operation.input_bits} bits by {operation.weight_bits}")
        entries.append(Energy(ARITHMETIC, ARITHMETIC, counts.macs * each))
    memories = {memory.name: memory for memory in chip.memory}
    for access in counts.accesses:
        memory = memories[access.memory]
        if access.bits:
            known = memory.read_picojoules if access.action == "read" else memory.write_picojoules
            each = _known(chip, known, f"a {access.action} of memory {memory.name!r} ({access.action}_picojoules)")
            words = access.bits / memory.width_bits if access.words is None else access.words
            entries.append(Energy(memory.name, access.operand, words * each))
    dimensions = {dimension.name: dimension for dimension in chip.dimension}
    for hops in counts.hops:
        if hops.bits:
            known = dimensions[hops.dimension].hop_picojoules
            each = _known(chip, known, f"links along {hops.dimension!r} (hop_picojoules; 0 if memory prices have them)")
            entries.append(Energy(f"links of {hops.dimension}", hops.operand, hops.bits * each))
    if chip.idle_milliwatts:
        seconds = counts.cycles.total / (chip.clock_mhz * 1e6)
        entries.append(Energy(IDLE, IDLE, chip.idle_milliwatts * 1e9 * seconds))
    return tuple(entries)


def _known(chip: Chip, picojoules: float | None, what: str) -> float:
    if picojoules is None:
        raise TargetError(f"Chip {chip.name!r} has no energy for {what}; add it to its file")
    return picojoules
