"""The energy of one inference: counts first, prices last.

`count` says how many operations a network does and how many bits cross the boundary of which memory, for which operand;
`network_energy` multiplies those counts with an `EnergyTable`. The traffic counted is the compulsory one:

    weights       every stored bit once per inference, from the smallest memory that holds the whole stored model:
                  a model that was compressed until it fits on the chip is no longer fetched from DRAM (the effect that
                  EIE, Han et al., ISCA 2016, is built on)
    activations   every input read once and every output written once, in the smallest memory that holds both
    registers     reuse inside the array is free

so the result is a lower bound, the same one for every network. A multiply-accumulate is one multiplication and one
addition. With `skip_zero_weights` only those of nonzero weights are done; with `skip_zero_activations` only those of
nonzero inputs, and a weight whose every use meets a zero input is not read either: of a weight with u uses and inputs
of density d, the expected fraction read is 1 - (1 - d)^u. Operations on integers (`Workload.with_integers`) are priced
by their widths, with sums of 32 bits; a weight of one or two bits is -1, 0 or 1 times a scale and takes no
multiplication. Activation functions, normalisation, elementwise operations and moves are fused into the operation
before them: their arithmetic counts, but of their activations only the second and further inputs (of a residual
addition) move.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dovetail.errors import TargetError
from dovetail.hardware.prices import EnergyTable
from dovetail.workload import Operand, Operation, Workload

FUSED = frozenset({"activation", "normalisation", "softmax", "elementwise", "move"})

ARITHMETIC = "arithmetic"

ACCUMULATOR = "int32"
"""What products of integers are summed in."""

SIGNS = 2
"""Bits up to which a weight is -1, 0 or 1 times a scale."""


@dataclass(frozen=True)
class Level:
    """A memory of `capacity_bytes` made of banks of `bank_bytes`; an access costs what one bank costs (None: DRAM)."""

    name: str
    capacity_bytes: float
    bank_bytes: int | None


EMBEDDED = (
    Level("SRAM 32 KB", 32 << 10, 32 << 10),
    Level("SRAM 1 MB", 1 << 20, 1 << 20),
    Level("DRAM", math.inf, None),
)


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """A device: its prices, its memories from the smallest to the largest, its number type and what it can skip."""

    table: EnergyTable
    levels: tuple[Level, ...] = EMBEDDED
    arithmetic: str = "float32"
    skip_zero_weights: bool = True
    skip_zero_activations: bool = False

    def __post_init__(self) -> None:
        capacities = [level.capacity_bytes for level in self.levels]
        if not capacities or capacities != sorted(capacities) or capacities[-1] != math.inf:
            raise TargetError(
                "EnergyModel.levels runs from the smallest memory to one of unlimited capacity, got "
                + ", ".join(f"{level.name} of {level.capacity_bytes} bytes" for level in self.levels)
            )

    def level(self, size_bytes: float) -> Level:
        """The smallest memory that holds `size_bytes`."""
        return next(level for level in self.levels if size_bytes <= level.capacity_bytes)

    def price(self, level: Level, bits: float) -> float:
        """Energy of moving `bits` to or from `level`, in pJ."""
        return self.table.dram(bits) if level.bank_bytes is None else self.table.sram(level.bank_bytes, bits)


@dataclass(frozen=True)
class Traffic:
    """Bits of one operand ("weights", "inputs", "outputs") that cross the boundary of one memory."""

    operand: str
    level: Level
    bits: int


@dataclass(frozen=True)
class LayerCounts:
    """What one operation does, in whole operations and bits; no joules yet."""

    layer: str
    kind: str
    multiplications: int
    additions: int
    traffic: tuple[Traffic, ...]
    integers: tuple[int, int] | None = None
    """Bits of what is multiplied, by which weights, where both are integers; else they are the model's numbers."""


@dataclass(frozen=True)
class EnergyEntry:
    """Energy that one layer spends on one operand at one level ("arithmetic" for both: on operations), in pJ."""

    layer: str
    operand: str
    level: str
    picojoules: float


@dataclass(frozen=True)
class NetworkEnergy:
    """The energy of one inference. Every view sums to `total`."""

    entries: tuple[EnergyEntry, ...]

    @cached_property
    def total(self) -> float:
        """In pJ."""
        return math.fsum(entry.picojoules for entry in self.entries)

    def by(self, view: Literal["layer", "operand", "level"]) -> dict[str, float]:
        """Energy in pJ by layer, by operand or by level of memory."""
        sums: dict[str, float] = defaultdict(float)
        for entry in self.entries:
            sums[getattr(entry, view)] += entry.picojoules
        return dict(sums)


def network_energy(workload: Workload, model: EnergyModel) -> NetworkEnergy:
    """The energy of one run of `workload`, with weights stored as it says (`Workload.with_weights`)."""
    table, entries = model.table, []
    for counts in count(workload, model):
        read, weight, summed = model.arithmetic, model.arithmetic, model.arithmetic
        if counts.integers is not None:
            read, weight, summed = f"int{counts.integers[0]}", f"int{counts.integers[1]}", ACCUMULATOR
        operations = counts.multiplications * table.multiplication(read, weight)
        operations += counts.additions * table.addition(summed)
        entries.append(EnergyEntry(counts.layer, ARITHMETIC, ARITHMETIC, operations))
        entries += [
            EnergyEntry(counts.layer, move.operand, move.level.name, model.price(move.level, move.bits))
            for move in counts.traffic
        ]
    return NetworkEnergy(tuple(entries))


def count(workload: Workload, model: EnergyModel) -> tuple[LayerCounts, ...]:
    """Operations and traffic of every operation of `workload`."""
    home = model.level(_bits(workload.constants) / 8)
    return tuple(_count_operation(operation, home, model) for operation in workload.operations)


def _bits(operands: Iterable[Operand]) -> int:
    """What the operands take where they are kept."""
    return sum(o.elements * o.bits if o.stored_bits is None else o.stored_bits for o in operands)


def _count_operation(operation: Operation, home: Level, model: EnergyModel) -> LayerCounts:
    """The counts of one operation, whose weights lie in `home`."""
    inputs, outputs = operation.with_role("input"), operation.with_role("output")
    weights, others = operation.with_role("weight"), operation.with_role("bias", "buffer")
    elements = sum(weight.elements for weight in weights)
    nonzero = sum(weight.elements * weight.density for weight in weights)

    weight_density = nonzero / elements if elements and model.skip_zero_weights else 1.0
    input_density = inputs[0].density if inputs and model.skip_zero_activations else 1.0
    macs = round(operation.macs * weight_density * input_density)
    uses = operation.macs / elements if elements else 1.0
    read = 1 - (1 - input_density) ** uses

    moved = {"weights": round(_bits(weights) * read) + _bits(others)}
    if operation.kind in FUSED:
        moved["inputs"] = _bits(inputs[1:])
    else:
        moved |= {"inputs": _bits(inputs), "outputs": _bits(outputs)}
    activations = model.level(_bits((*inputs, *outputs)) / 8)
    traffic = [
        Traffic(operand, home if operand == "weights" else activations, bits) for operand, bits in moved.items() if bits
    ]
    signs = bool(weights) and all(weight.integer and weight.bits <= SIGNS for weight in weights)
    integers = None
    if weights and inputs and weights[0].integer and inputs[0].integer:
        integers = inputs[0].bits, weights[0].bits
    multiplications, additions = 0 if signs else macs, macs + operation.other_ops
    return LayerCounts(operation.name, operation.kind, multiplications, additions, tuple(traffic), integers)
