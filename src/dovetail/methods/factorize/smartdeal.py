"""SmartDeal: weights are sparse powers of two times a small basis, rebuilt by shifts and additions.

Chen, Zhao, Wang, Xu, You, Li, Fu, Lin, Wang. SmartDeal: Re-Modeling Deep Network Weights for Efficient Inference and
Training. TNNLS 2022. arXiv:2101.01163 (after SmartExchange, ISCA 2020)

    A = C B        A (m x n) a slice of the weight, C (m x n) of 0 and +-2^p, mostly 0, B (n x n) dense, 8 bits

Every output has slices of its own: the rows of its kernels (n = 3 for 3 x 3), or three weights of a linear layer or a
1x1 convolution to a row, at most 192 rows each. A slice costs 8 n^2 bits for B and a sign, an exponent and a position
for every nonzero of C; each weight is rebuilt by at most n shifts and additions.

Training projects the latent weight at every step: C is A B^-1 rounded, through which gradients pass straight, within
a pattern of nonzeros that stays as the first decomposition made it; B is fitted anew from time to time.

Departs from the paper: thresholds are relative to a slice's root mean square, not absolute; a start from the directions
that rows share, beside the unit matrix; the best factors seen are kept, because rounding can make the iteration cycle;
the scale of B is a power of two (and B is really stored in 8 bits), so that the product is exact in integers and
float32 alike; projection at every step instead of every epoch; kernels of other sizes than 3 and 1 are taken too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.formats import Affine, Dense, Format, Layout, PowerOfTwo, Product
from dovetail.methods.constraint import Constraint, Step, constrain, find
from dovetail.methods.factorize.powers import BASIS_MAX, Factors, Slices, factorise, improve, to_powers
from dovetail.methods.method import Context, Kind, Method, Plan, check

FILTERS = 32
"""Filters that lose the same vectors together (released code)."""


class PowersTimesBasis(Constraint):
    """Rounds a weight to the product of sparse powers of two and its slices' bases."""

    basis: Tensor
    inverse: Tensor
    mask: Tensor

    def __init__(self, slices: Slices, factors: Factors, levels: int, interval: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.slices, self.levels, self.interval = slices, levels, interval
        self.register_buffer("mask", factors.coefficients != 0)
        self.register_buffer("basis", factors.basis.to(dtype))
        self.register_buffer("inverse", torch.linalg.inv(factors.basis).to(dtype))
        self._latent: Tensor | None = None

    def forward(self, latent: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self._latent = latent.detach()
        coefficients = self.rounded(self.slices.cut(latent) @ self.inverse) * self.mask
        return self.slices.join(coefficients @ self.basis)

    def rounded(self, coefficients: Tensor) -> Tensor:
        """Powers of two, with the gradient of the coefficients."""
        powers = to_powers(coefficients.detach(), self.levels)
        return powers + (coefficients - coefficients.detach())

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        due = int(step.progress / self.interval) > int((step.index - 1) / step.total / self.interval)
        if due and step.index < step.total and self._latent is not None:
            self.refit(self._latent)
        self._latent = None

    def refit(self, latent: Tensor) -> None:
        """Fit the bases to the latent weight as it is now, within the mask."""
        found = improve(self.slices.cut(latent), self.basis, self.mask, threshold=0, levels=self.levels, iterations=3)
        regular = torch.linalg.det(found.basis / found.basis.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)).abs()
        taken = (regular > 1e-7)[:, None, None]
        basis = torch.where(taken, found.basis, self.basis.double())
        self.basis.copy_(basis)
        self.inverse.copy_(torch.linalg.inv(basis))

    def freeze(self, layout: Layout) -> Layout:
        basis = self.basis.detach().cpu().double().numpy()
        return replace(layout, structure=partial(encode, basis=basis, slices=self.slices, levels=self.levels))


def encode(weight: NDArray[Any], *, basis: NDArray[Any], slices: Slices, levels: int) -> Format:
    """A weight that is such a product, as that: the coefficients are found again, because every basis is invertible."""
    matrices = slices.cut(torch.from_numpy(np.asarray(weight, np.float64)))
    coefficients = to_powers(matrices @ torch.linalg.inv(torch.from_numpy(basis)), levels).numpy()
    _find_last_rows(coefficients, matrices.numpy(), basis, slices, levels)
    scale = _scales(basis)
    return Product.encode(
        weight,
        coefficients=Layout(structure="smallest", values=PowerOfTwo.encode).encode(coefficients),
        basis=Dense.encode(basis, partial(Affine.encode, bits=8, axis=0, scale=scale, dtype="float16")),
    )


def _find_last_rows(
    coefficients: NDArray[Any], matrices: NDArray[Any], basis: NDArray[Any], slices: Slices, levels: int
) -> None:
    """Where the last row of an output is filled up, only the first of its products are known: try all coefficients."""
    row, known = divmod(prod(slices.shape[1:]), slices.columns)
    if not known:
        return
    values = [0.0] + [sign * 2.0**-i for i in range(levels) for sign in (1, -1)]
    trials = np.array(sorted(product(values, repeat=slices.columns), key=np.count_nonzero))
    for place in range(row // slices.rows, len(matrices), slices.each):
        found = (trials @ basis[place][:, :known] == matrices[place, row % slices.rows, :known]).all(1)
        coefficients[place, row % slices.rows] = trials[found.argmax()]


def _scales(basis: NDArray[Any]) -> NDArray[np.float64]:
    """The power of two of each slice in units of which its basis is integers."""
    mantissa, exponent = np.frexp(np.abs(basis).max((1, 2)) / BASIS_MAX)
    scales: NDArray[np.float64] = np.ldexp(np.ones(len(basis)), exponent - (mantissa == 0.5))
    return scales


@dataclass(frozen=True, kw_only=True)
class SmartDeal(Method):
    """Gives each weight the form of sparse powers of two times a basis, to be rebuilt by shifts and additions."""

    name: ClassVar[str] = "smartdeal"
    kind: ClassVar[Kind] = "share"

    threshold: float = 0.2
    """What a coefficient must contribute, relative to the slice's root mean square; a row five times that."""

    vectors: float = 0.0
    """The fraction of vectors (one row of the kernels of one input channel) to prune first, by their magnitude in 32
    filters together; of convolutions with windows only."""

    exponent_bits: int = 3
    """Bits of an exponent: 2^bits powers of two from 1 downwards."""

    rows: int = 192
    """The most rows of a slice."""

    iterations: int = 30
    """Rounds of the decomposition."""

    interval: float = 0.1
    """The fraction of training after which bases are fitted anew."""

    def __post_init__(self) -> None:
        check(self.threshold >= 0, self.name, "threshold", "0 or more", self.threshold)
        check(0 <= self.vectors < 1, self.name, "vectors", "a fraction in [0, 1)", self.vectors)
        check(1 <= self.exponent_bits <= 3, self.name, "exponent_bits", "from 1 to 3", self.exponent_bits)
        check(self.rows >= 1, self.name, "rows", "1 or more", self.rows)
        check(self.iterations >= 1, self.name, "iterations", "1 or more", self.iterations)
        check(0 < self.interval <= 1, self.name, "interval", "a fraction in (0, 1]", self.interval)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        plan: Plan = {}
        for name, weight in self.weights(model).items():
            held = self._constraint(weight)
            with torch.no_grad():
                rounded = held(weight)
            stored = held.freeze(Layout()).encode(rounded.cpu().numpy())
            energy = float(weight.square().sum().clamp_min(1e-30))
            plan[name] = {
                "weights": weight.numel(),
                "nonzeros": int(held.mask.sum()),
                "error": float((rounded - weight).square().sum()) / energy,
                "bytes": [4 * weight.numel(), stored.bits // 8],
            }
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name in plan:
            if find(model, name, PowersTimesBasis) is None:
                constrain(model, name, self._constraint(weights[name]))
        return model

    def _constraint(self, weight: Tensor) -> PowersTimesBasis:
        levels, slices = 2**self.exponent_bits, Slices.of(tuple(weight.shape), self.rows)
        matrices = slices.cut(without_vectors(weight.detach(), self.vectors))
        factors = factorise(matrices, threshold=self.threshold, levels=levels, iterations=self.iterations)
        return PowersTimesBasis(slices, factors, levels, self.interval, weight.dtype)


def without_vectors(weight: Tensor, fraction: float) -> Tensor:
    """The weight (T, S, R, Q) with this fraction of its rows of Q weights zero, the same for 32 filters together."""
    if weight.ndim < 4 or weight.shape[-1] == 1 or fraction == 0:
        return weight
    pruned = weight.clone()
    for filters in torch.split(pruned, FILTERS):
        sums = filters.abs().sum((0, 3)).flatten()
        gone = sums.argsort(stable=True)[: round(fraction * len(sums))]
        filters.flatten(1, 2)[:, gone] = 0
    return pruned
