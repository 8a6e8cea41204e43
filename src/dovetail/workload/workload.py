"""A network as the list of operations it executes, and the sums over that list."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dovetail.errors import ModelError
from dovetail.formats import Format
from dovetail.workload.operation import Operand, Operation


@dataclass(frozen=True)
class Summary:
    """Sums over some operations of a workload: one row of a profile.

    `name` is a module path where the row is of one layer. `parameters` and `weight_bytes` count every stored tensor
    once, however often it is read (`weight_bytes` includes buffers); `activation_bytes` are the bytes of all outputs.
    `weight_density` and `input_density` are means over elements, None where there is no weight or no input.
    `arithmetic_intensity` is in operations (two per multiply-accumulate) per byte, if every operation read all its
    operands from memory and wrote its output there. `macs_share` is the part of the whole workload's MACs.
    """

    name: str
    kind: str
    operations: int
    macs: int
    macs_share: float
    other_ops: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    weight_density: float | None
    input_density: float | None
    arithmetic_intensity: float


@dataclass(frozen=True)
class Workload:
    """What must be computed: `operations` in order of execution.

    `constants` are the tensors stored with the network that the operations read, each once and whole. Left out, they
    are collected from the operations by name.
    """

    operations: tuple[Operation, ...]
    constants: tuple[Operand, ...] = ()

    def __post_init__(self) -> None:
        if not self.constants:
            found = {operand.name: operand for _, operand in self._operands() if operand.is_constant}
            object.__setattr__(self, "constants", tuple(found.values()))

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(operation.macs for operation in self.operations)

    @cached_property
    def macs_by_weight(self) -> Counter[str]:
        """Multiply-accumulates that each weight takes part in, by its name in the state_dict."""
        found: Counter[str] = Counter()
        for operation in self.operations:
            for weight in operation.with_role("weight"):
                found[weight.name] += operation.macs
        return found

    @cached_property
    def nonzero_macs(self) -> int:
        """Multiply-accumulates whose weights are nonzero: what hardware that skips zero weights has to do."""
        return round(
            sum(op.macs * math.prod(weight.density for weight in op.with_role("weight")) for op in self.operations)
        )

    @cached_property
    def totals(self) -> Summary:
        """The sums over all operations."""
        return self._summary("", "total", self.operations)

    def by_kind(self) -> tuple[Summary, ...]:
        """One row for each kind of operation, those with the most MACs (then the most other arithmetic) first."""
        groups: dict[str, list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault(operation.kind, []).append(operation)
        rows = [self._summary("", kind, group) for kind, group in groups.items()]
        return tuple(sorted(rows, key=lambda row: (-row.macs, -row.other_ops)))

    def by_layer(self) -> tuple[Summary, ...]:
        """One row for each module path and kind of operation, in the order of execution."""
        groups: dict[tuple[str, str], list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault((operation.name, operation.kind), []).append(operation)
        return tuple(self._summary(name, kind, group) for (name, kind), group in groups.items())

    def with_weights(self, formats: Mapping[str, Format]) -> Workload:
        """This workload with the named tensors kept in `formats`: their stored bits and density are the formats'.

        An operand that is a part of a tensor gets its share of the bits.

        Raises:
            ModelError: if no operation reads a tensor of some name, or if it has another number of elements.
        """
        whole = {constant.name: constant for constant in self.constants}
        for name, format in formats.items():
            if name not in whole:
                raise ModelError(
                    f"A format is given for '{name}', but no operation of this workload reads that tensor."
                )
            if math.prod(format.shape) != whole[name].elements:
                raise ModelError(
                    f"The format given for '{name}' is of shape {format.shape}, but the tensor of {whole[name].shape}."
                )
        stored = {name: (format.bits, float(format.density)) for name, format in formats.items()}

        def keep(operand: Operand) -> Operand:
            if not operand.is_constant or operand.name not in stored:
                return operand
            bits, density = stored[operand.name]
            part = operand.elements / max(whole[operand.name].elements, 1)
            return replace(operand, stored_bits=round(bits * part), density=density)

        return self._with_operands(keep)

    def with_integers(self, weights: Mapping[str, int], inputs: Mapping[str, int]) -> Workload:
        """This workload computed with integers of so many bits: of the named weights, and of what they multiply.

        `inputs` are by the weight's name too. What such an operation writes is then taken as wide as what it reads,
        for the next one reads it so.
        """

        def computed(operation: Operation) -> Operation:
            name = next((w.name for w in operation.with_role("weight") if w.name in weights), None)
            if name is None:
                return operation
            widths = {"weight": weights[name]}
            if name in inputs:
                widths |= {"input": inputs[name], "output": inputs[name]}
            operands = (
                replace(o, bits=widths[o.role], integer=True) if o.role in widths else o for o in operation.operands
            )
            return replace(operation, operands=tuple(operands))

        return Workload(tuple(map(computed, self.operations)), self.constants)

    def with_floats_as(self, bits: int) -> Workload:
        """This workload with every floating-point operand of more than `bits` computed, and stored, in `bits`."""

        def narrowed(operand: Operand) -> Operand:
            if operand.integer or operand.bits <= bits:
                return operand
            stored = None if operand.stored_bits is None else min(operand.stored_bits, operand.elements * bits)
            return replace(operand, bits=bits, stored_bits=stored)

        return self._with_operands(narrowed)

    def with_dense_activations(self) -> Workload:
        """This workload without what its trace found of zeros in activations: on noise they mean nothing."""
        return self._with_operands(lambda operand: operand if operand.is_constant else replace(operand, density=1.0))

    def _with_operands(self, changed: Callable[[Operand], Operand]) -> Workload:
        operations = (replace(op, operands=tuple(map(changed, op.operands))) for op in self.operations)
        return Workload(tuple(operations), tuple(map(changed, self.constants)))

    def _operands(self) -> Iterable[tuple[Operation, Operand]]:
        return ((operation, operand) for operation in self.operations for operand in operation.operands)

    def _summary(self, name: str, kind: str, operations: Iterable[Operation]) -> Summary:
        group = tuple(operations)
        operands = [operand for operation in group for operand in operation.operands]
        read = {operand.name for operand in operands if operand.is_constant}
        constants = [constant for constant in self.constants if constant.name in read]
        macs = sum(operation.macs for operation in group)
        other_ops = sum(operation.other_ops for operation in group)
        moved = sum(operand.bytes for operand in operands)
        return Summary(
            name=name,
            kind=kind,
            operations=len(group),
            macs=macs,
            macs_share=macs / self.macs if self.macs else 0.0,
            other_ops=other_ops,
            parameters=sum(constant.elements for constant in constants if constant.role != "buffer"),
            weight_bytes=sum(constant.bytes for constant in constants),
            activation_bytes=sum(operand.bytes for operand in operands if operand.role == "output"),
            weight_density=_mean_density(operand for operand in operands if operand.role == "weight"),
            input_density=_mean_density(operand for operand in operands if operand.role == "input"),
            arithmetic_intensity=(2 * macs + other_ops) / moved if moved else 0.0,
        )


def _mean_density(operands: Iterable[Operand]) -> float | None:
    """Mean over elements; None without operands."""
    known = list(operands)
    elements = sum(operand.elements for operand in known)
    if not elements:
        return None
    return sum(operand.density * operand.elements for operand in known) / elements
