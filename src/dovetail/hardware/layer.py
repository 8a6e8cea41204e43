"""A layer as an accelerator sees it: eight nested loops, and how wide and how dense its three operands are.

    for g in G: for n in N: for k in K: for p in P: for q in Q:          # one output each
        for c in C: for r in R: for s in S:                              # its sum
            O[n, g, k, p, q] += W[g, k, c, r, s] * I[n, g, c, p * stride + r * dilation, q * stride + s * dilation]

K and C are those of one group. A matrix product (B of M x K by K x N) is the same with G = B, N = M, C = K, K = N and
the rest 1; a transposed convolution is the product of its pixels with all taps, whose outputs are then added up where
they overlap. Padding is part of the input: its zeros are fetched like everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from dovetail.errors import TargetError
from dovetail.workload import Operand as WorkloadOperand
from dovetail.workload import Operation, Workload

Loop = Literal["G", "N", "K", "C", "P", "Q", "R", "S"]
Operand = Literal["I", "W", "O"]

LOOPS: tuple[Loop, ...] = get_args(Loop)
OPERANDS: tuple[Operand, ...] = get_args(Operand)

RELEVANT: dict[Operand, frozenset[Loop]] = {
    "I": frozenset({"G", "N", "C", "P", "Q", "R", "S"}),
    "W": frozenset({"G", "K", "C", "R", "S"}),
    "O": frozenset({"G", "N", "K", "P", "Q"}),
}
"""The loops that choose which element of an operand is used; over the others it stays the same."""

REDUCTION: frozenset[Loop] = frozenset({"C", "R", "S"})
"""The loops over which one output is summed."""

MAPPED = frozenset({"conv", "matmul", "attention"})
"""The kinds of operations that have such loops."""


@dataclass(frozen=True)
class Layer:
    """The loops of one layer; every loop of LOOPS is in `extents`.

    `bits` (16 where left out) is the width of an element, `density` (1.0) the fraction of nonzeros, `stored_bits` what
    the whole operand takes in its compressed form, where that is known.
    """

    name: str
    extents: Mapping[Loop, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    bits: Mapping[Operand, int] = field(default_factory=dict)
    density: Mapping[Operand, float] = field(default_factory=dict)
    stored_bits: Mapping[Operand, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.extents) - set(LOOPS):
            raise TargetError(f"Layer {self.name!r}: loops are {', '.join(LOOPS)}, got {', '.join(sorted(unknown))}")
        extents = {loop: self.extents.get(loop, 1) for loop in LOOPS}
        for loop, extent in extents.items():
            if extent < 1:
                raise TargetError(f"Layer {self.name!r}: loop {loop} runs at least once, got an extent of {extent}")
        object.__setattr__(self, "extents", extents)
        object.__setattr__(self, "bits", {operand: self.bits.get(operand, 16) for operand in OPERANDS})
        object.__setattr__(self, "density", {o: self.density.get(o, 1.0) for o in OPERANDS})

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with zeros and padding included."""
        return math.prod(self.extents.values())

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the input that are touched, padding included."""
        (stride_h, stride_w), (dilation_h, dilation_w), extents = self.stride, self.dilation, self.extents
        return (
            (extents["P"] - 1) * stride_h + (extents["R"] - 1) * dilation_h + 1,
            (extents["Q"] - 1) * stride_w + (extents["S"] - 1) * dilation_w + 1,
        )

    def elements(self, operand: Operand) -> int:
        """Number of elements of an operand; the input's within `input_size`, also where a stride leaves some out."""
        extents = self.extents
        if operand == "I":
            return extents["G"] * extents["N"] * extents["C"] * math.prod(self.input_size)
        return math.prod(extents[loop] for loop in RELEVANT[operand])

    def coded_bits(self, operand: Operand) -> float | None:
        """Bits of an element in the operand's compressed form; None where that is not known, or it has none."""
        if operand not in self.stored_bits:
            return None
        each = self.stored_bits[operand] / self.elements(operand)
        return each if each < self.bits[operand] else None

    def same_shape(self, other: Layer) -> bool:
        """Whether what costs the one costs the other, whatever their names."""
        return replace(self, name="") == replace(other, name="")


def layers(workload: Workload, *, batch: int = 1, bits: int | None = None) -> tuple[Layer, ...]:
    """The convolutions and matrix products of `workload`, a trace of one input, for `batch` inputs at once.

    `bits` computes them with integers of that many bits, whatever the workload says; floating point is otherwise taken
    at its width. What has no loops (pooling, activations, normalisation) is left out: accelerators do it on the way.

    Raises:
        TargetError: for a convolution over more than two dimensions, which has no mapping here.
    """
    found: list[Layer] = []
    for operation in workload.operations:
        operation = replace(operation, name=operation.name or operation.operator)
        if operation.kind == "conv":
            found.append(_convolution(operation, batch))
        elif operation.kind == "matmul":
            found.append(_product(operation, batch))
        elif operation.kind == "attention":
            found += _attention(operation, batch)
    return tuple(_of_width(layer, bits) for layer in found) if bits else tuple(found)


def _of_width(layer: Layer, bits: int) -> Layer:
    """The layer computed with integers of `bits`; what was stored in more than those takes no more.

    Nonzeros that were stored as wide as they are become as narrow; what says where they are stays.
    """
    stored = {}
    for operand, size in layer.stored_bits.items():
        elements = layer.elements(operand)
        nonzeros = elements * layer.density[operand]
        if size >= nonzeros * layer.bits[operand]:
            size -= round(nonzeros * max(0, layer.bits[operand] - bits))
        stored[operand] = min(size, elements * bits)
    return replace(layer, bits=dict.fromkeys(OPERANDS, bits), stored_bits=stored)


def _convolution(operation: Operation, batch: int) -> Layer:
    extents = operation.extents
    if "Z" in extents:
        raise TargetError(
            f"Layer {operation.name!r} convolves over three dimensions; chips map convolutions over one or two"
        )
    groups, operands = extents["groups"], _operands(operation)
    loops: dict[Loop, int] = {"G": groups, "N": extents["N"] * batch}
    loops |= {"K": extents["K"] // groups, "C": extents["C"] // groups}
    loops |= {loop: extents[loop] for loop in ("P", "Q", "R", "S")}
    if operation.operator == "transposed_convolution":  # its P and Q are the input's
        pixels, taps = loops["N"] * loops["P"] * loops["Q"], loops["K"] * loops["R"] * loops["S"]
        return Layer(operation.name, {"G": groups, "N": pixels, "K": taps, "C": loops["C"]}, (1, 1), (1, 1), *operands)
    stride, dilation = (_pair(operation.attributes.get(name, ())) for name in ("stride", "dilation"))
    return Layer(operation.name, loops, stride, dilation, *operands)


def _product(operation: Operation, batch: int) -> Layer:
    extents = operation.extents
    constant = bool(operation.with_role("weight"))
    loops: dict[Loop, int] = {"G": extents["B"], "N": extents["M"], "C": extents["K"], "K": extents["N"]}
    loops["N" if constant else "G"] *= batch  # without a weight every input has a product of its own
    return Layer(operation.name, loops, (1, 1), (1, 1), *_operands(operation))


def _attention(operation: Operation, batch: int) -> list[Layer]:
    """Queries times keys, and what comes of it times values."""
    e = operation.extents
    bits, density, _ = _operands(operation)
    products: dict[str, dict[Loop, int]] = {"scores": {"C": e["E"], "K": e["S"]}, "values": {"C": e["S"], "K": e["V"]}}
    around: dict[Loop, int] = {"G": e["B"] * e["H"] * batch, "N": e["L"]}
    return [
        Layer(f"{operation.name}.{what}", around | inner, bits=bits, density=density)
        for what, inner in products.items()
    ]


def _operands(operation: Operation) -> tuple[dict[Operand, int], dict[Operand, float], dict[Operand, int]]:
    """Bits, density and stored bits of an operation's operands; where nothing is stored, the second input is W."""
    inputs = operation.with_role("input")
    weights = operation.with_role("weight") or inputs[1:2]
    named: dict[Operand, tuple[WorkloadOperand, ...]] = {
        "I": inputs[:1],
        "W": weights[:1],
        "O": operation.with_role("output")[:1],
    }
    present = {name: found[0] for name, found in named.items() if found}
    return (
        {name: operand.bits for name, operand in present.items()},
        {name: operand.density for name, operand in present.items()},
        {name: operand.stored_bits for name, operand in present.items() if operand.stored_bits is not None},
    )


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns; a convolution over one dimension has columns."""
    rows, columns = (1, 1, *values)[-2:]
    return rows, columns
