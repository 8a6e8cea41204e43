"""What a network computes, one operation at a time, and what each operation reads and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["input", "weight", "bias", "buffer", "output"]
"""What an operand is to its operation. "buffer": stored with the network but not trained (BatchNorm's statistics)."""

Kind = Literal[
    "conv",
    "matmul",
    "attention",
    "pool",
    "normalisation",
    "activation",
    "softmax",
    "elementwise",
    "reduction",
    "resample",
    "move",
    "other",
]
"""The sort of work an operation is; the kinds of one row in `Workload.by_kind`."""

CONSTANT_ROLES: frozenset[Role] = frozenset({"weight", "bias", "buffer"})
"""Roles of operands that are stored with the network; the others are activations."""


@dataclass(frozen=True)
class Operand:
    """One tensor that an operation reads or writes.

    `name` is the tensor's name in the state_dict, "" for an activation; `bits` is the width of one element as it is
    computed with, an integer if `integer`; `density` is the measured fraction of nonzero elements; `stored_bits` is
    what the whole operand takes where it is kept in a storage format, None where it is kept as it is computed with.
    """

    role: Role
    name: str
    shape: tuple[int, ...]
    bits: int
    density: float
    stored_bits: int | None = None
    integer: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size where it is kept, rounded up to whole bytes."""
        return -(-(self.elements * self.bits if self.stored_bits is None else self.stored_bits) // 8)

    @property
    def is_constant(self) -> bool:
        """Whether it is stored with the network, as weights are."""
        return self.role in CONSTANT_ROLES


@dataclass(frozen=True)
class Operation:
    """One operation that was executed.

    `name` is the path of the innermost module that executed it ("" for the network itself), `operator` what torch calls
    it. `extents` are the loops of which `macs` (multiply-accumulates) is the product:

        conv        N K C P Q R S groups; 3-D also Z (output depth) and T (kernel depth); 1-D has P = R = 1.
                    macs = N * K * (C / groups) * P * Q * R * S. Transposed: P and Q are the input's.
        matmul      B M N K: B products of (M, K) and (K, N)
        attention   B H L S E V: batch, heads, queries, keys, width of a key, width of a value. macs = B H L S (E + V),
                    also where a mask makes part of it superfluous
        pool        N C P Q R S, with Z and T in 3-D
        others      elements: of the output

    Multiplications with padding count, as everywhere in the literature. `other_ops` counts all other arithmetic:
    additions of a bias, comparisons, exponentials, one each. `attributes` holds stride, padding and dilation.
    """

    name: str
    kind: Kind
    extents: Mapping[str, int]
    operands: tuple[Operand, ...]
    macs: int = 0
    other_ops: int = 0
    operator: str = ""
    attributes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def with_role(self, *roles: Role) -> tuple[Operand, ...]:
        """The operands in one of `roles`, in their order."""
        return tuple(operand for operand in self.operands if operand.role in roles)
