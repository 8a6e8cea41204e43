"""Trained quantisation by weight sharing.

Han, Mao, Dally. Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
Coding. ICLR 2016. arXiv:1510.00149

    W_ij = C[I_ij]                        2^b shared values C a layer, I from k-means of the nonzero weights
    dL/dC_k = sum_{ij: I_ij = k} dL/dW_ij          the assignment I stays fixed

k-means starts from values spaced evenly over [min, max]. Zeros keep an entry of their own, fixed at 0.0, so that
pruned weights stay zero and fillers of a relative index have a code; 2^b - 1 values are left to learn.

Departs from the paper: the shared values are float16 in the file, and are rounded so from the start of fine-tuning's
forward pass. With `from_bits` the bits are taken away one by one, with fine-tuning between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.formats import Codebook, Layout
from dovetail.methods.constraint import Constraint, constrain, find
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.quantize.kmeans import initial_centroids, kmeans, nearest


class SharedValues(Constraint):
    """Replaces a weight by entries of a small learned table. The latent weight below is no longer used."""

    assignment: Tensor

    def __init__(self, assignment: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("assignment", assignment)
        self.values = nn.Parameter(values)

    def forward(self, latent: Tensor) -> Tensor:
        return _Lookup.apply(self.table(), self.assignment)  # type: ignore[no-any-return,no-untyped-call]

    def table(self) -> Tensor:
        """The shared values as stored: entry 0 is zero, all are representable in float16."""
        rounded = self.values + (self.values.half().float() - self.values).detach()
        return torch.cat([rounded.new_zeros(1), rounded])

    def freeze(self, layout: Layout) -> Layout:
        table = self.table().detach().cpu().numpy()
        # Factors of the weight below are not factors of the shared values.
        structure = layout.structure if isinstance(layout.structure, str) else "smallest"
        return replace(layout, structure=structure, values=partial(Codebook.encode, table=table))


class _Lookup(torch.autograd.Function):
    """table[assignment], whose gradient is summed per entry in a fixed order."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table: Tensor, assignment: Tensor) -> Tensor:
        ctx.save_for_backward(assignment)
        ctx.entries = len(table)  # type: ignore[attr-defined]
        return table[assignment]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (assignment,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        summed = torch.bincount(assignment.flatten(), gradient.flatten().double(), ctx.entries)  # type: ignore[attr-defined]
        return summed.to(gradient.dtype), None


@dataclass(frozen=True, kw_only=True)
class WeightSharing(Method):
    """Gives each layer at most 2^bits distinct weights, zero among them."""

    name: ClassVar[str] = "weight_sharing"
    kind: ClassVar[Kind] = "share"

    bits: int = 4
    """Bits of a code in the end."""

    from_bits: int | None = None
    """Bits of a code in the first round, if the bits are to be taken away one by one."""

    initialisation: str = "linear"
    """Where k-means starts: "linear", "density" or "random"."""

    seed: int = 0
    """For the random start."""

    def __post_init__(self) -> None:
        check(1 <= self.bits <= 8, self.name, "bits", "from 1 to 8", self.bits)
        check(self.from_bits is None or self.bits <= self.from_bits <= 8, self.name, "from_bits",
              f"from {self.bits} (bits) to 8", self.from_bits)  # fmt: skip
        check(self.initialisation in ("linear", "density", "random"), self.name, "initialisation",
              '"linear", "density" or "random"', self.initialisation)  # fmt: skip

    @property
    def stages(self) -> int:
        return 1 if self.from_bits is None else self.from_bits - self.bits + 1

    def plan(self, model: nn.Module, context: Context) -> Plan:
        first = self.bits + self.stages - 1
        return {name: {"bits": list(range(first, self.bits - 1, -1))} for name in self.weights(model)}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            weight = weights[name]
            values, assignment = share(weight, row["bits"][stage], self.initialisation, self.seed)
            held = find(model, name, SharedValues)
            if held is None:
                constrain(model, name, SharedValues(assignment, values))
            else:
                held.assignment, held.values = assignment, nn.Parameter(values)
        return model


def share(weight: Tensor, bits: int, initialisation: str, seed: int) -> tuple[Tensor, Tensor]:
    """The 2^bits - 1 shared nonzero values of a weight, and for each of its entries the index into [0, values...]."""
    flat = weight.detach().double().cpu().numpy().ravel()
    nonzero = flat[flat != 0]
    count = 2**bits - 1
    centroids = np.zeros(count)
    codes = np.zeros(flat.shape, np.int64)
    if len(nonzero):
        centroids = kmeans(nonzero, initial_centroids(nonzero, count, initialisation, seed))
        codes[flat != 0] = 1 + nearest(nonzero, centroids)
    return (
        torch.from_numpy(centroids).to(weight.dtype).to(weight.device),
        torch.from_numpy(codes).view(weight.shape).to(weight.device),
    )
