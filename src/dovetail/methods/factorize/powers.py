"""Matrices as products of sparse powers of two and a small basis of 8-bit integers. All arrays are batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch
from torch import Tensor

BASIS_MAX = 127
"""Largest entry of a basis, in units of its scale."""

SCALES = range(-24, 9)
"""Exponents that the scale of a basis may have; all are exact in float16."""

VECTOR = 5.0
"""A whole row of coefficients goes below so many thresholds (Chen et al., released code)."""


@dataclass(frozen=True)
class Slices:
    """How a weight is cut into matrices of `rows` x `columns`, `each` of them for every output; the rest is filled up
    with zeros."""

    shape: tuple[int, ...]
    each: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, ...], longest: int) -> Slices:
        """Rows are those of the kernels; of three weights in a linear layer or a 1x1 convolution."""
        columns = shape[-1] if len(shape) > 2 and shape[-1] > 1 else 3
        rows = -(-prod(shape[1:]) // columns)
        each = -(-rows // longest)
        return cls(tuple(shape), each, -(-rows // each), columns)

    def cut(self, weight: Tensor) -> Tensor:
        """(T, ...) to (T * each, rows, columns)."""
        flat = weight.reshape(self.shape[0], -1)
        flat = torch.nn.functional.pad(flat, (0, self.each * self.rows * self.columns - flat.shape[1]))
        return flat.reshape(-1, self.rows, self.columns)

    def join(self, matrices: Tensor) -> Tensor:
        """The inverse of `cut`."""
        return matrices.reshape(self.shape[0], -1)[:, : prod(self.shape[1:])].reshape(self.shape)


@dataclass(frozen=True)
class Factors:
    """Matrices (slices, m, n) ~ coefficients (slices, m, n), 0 or +-2^p with p <= 0, x basis (slices, n, n), integers
    of 8 bits times a power of two for each slice. Every basis is invertible."""

    coefficients: Tensor
    basis: Tensor

    def product(self) -> Tensor:
        """The matrices; exact in float32, because all terms are small integers times one power of two."""
        return self.coefficients @ self.basis


def to_powers(values: Tensor, levels: int) -> Tensor:
    """The nearest (the smaller of two equally near) of 0 and +-2^p, p in 0, -1, ... 1 - levels."""
    mantissa, exponent = torch.frexp(values.abs())
    power = (exponent - 1 + (mantissa > 0.75)).clamp(max=0)
    table = torch.tensor([2.0**-i for i in range(levels)], dtype=values.dtype, device=values.device)
    found = table[(-power).clamp(0, levels - 1).long()]
    return torch.where(values.abs() > table[-1] / 2, values.sign() * found, 0.0)


def to_eight_bits(basis: Tensor) -> Tensor:
    """The nearest integers in -127..127 times the smallest sufficient power of two for each slice."""
    mantissa, exponent = torch.frexp(basis.abs().amax((1, 2)) / BASIS_MAX)
    power = (exponent - (mantissa == 0.5).int()).clamp(SCALES[0], SCALES[-1])
    table = torch.tensor([2.0**p for p in SCALES], dtype=basis.dtype, device=basis.device)
    scale = table[(power - SCALES[0]).long()][:, None, None]
    return (basis / scale).round().clamp(-BASIS_MAX, BASIS_MAX) * scale


def factorise(matrices: Tensor, *, threshold: float, levels: int, iterations: int) -> Factors:
    """The best factors found from two starts, the unit matrix and the directions that most rows share.

    In turns C <- A B^+, made sparse and rounded to powers of two, and B <- C^+ A. Rounding may make that a cycle, so
    the best factors seen are kept, slice by slice. Coefficients that contribute less than `threshold` times the slice's
    root mean square to a row become zero, and rows whose contributions sum to less than five times that.
    """
    a = matrices.double()
    unit = torch.eye(a.shape[2], dtype=a.dtype, device=a.device).expand(len(a), -1, -1)
    scale = a.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    starts = (unit * scale, shared_directions(a, unit * scale, levels))
    best = _rounded(a, unit * scale, _kept(a, a / scale, unit * scale, threshold), levels)
    for start in starts:
        found = improve(a, start, None, threshold=threshold, levels=levels, iterations=iterations)
        best = _better(a, best, found)
    return best


def improve(
    matrices: Tensor, basis: Tensor, mask: Tensor | None, *, threshold: float, levels: int, iterations: int
) -> Factors:
    """The same from one start; with a `mask`, the coefficients outside it are zero and no others are made so."""
    a, b = matrices.double(), basis.double()
    best, before = None, None
    for _ in range(iterations):
        c, b = _balanced(a @ torch.linalg.pinv(b), b)
        kept = _kept(a, c, b, threshold) if mask is None else mask
        rounded = to_powers(c, levels) * kept
        if before is not None and torch.equal(rounded, before):
            break
        before = rounded
        b = torch.linalg.pinv(rounded) @ a
        found = Factors(rounded, to_eight_bits(b))
        best = found if best is None else _better(a, best, found)
    assert best is not None
    return best


def shared_directions(matrices: Tensor, otherwise: Tensor, levels: int) -> Tensor:
    """For each slice, rows that many other rows are multiples of: if the coefficients are sparse, rows with a single
    one give the basis away. Of the candidates with most votes those are taken together that leave the least error;
    `otherwise` where the rows do not show enough directions."""
    n = matrices.shape[2]
    candidates = _candidates(matrices, 7 if n == 3 else n)
    best, least = otherwise, torch.full((len(matrices),), torch.inf, dtype=matrices.dtype, device=matrices.device)
    for chosen in combinations(range(candidates.shape[1]), n):
        basis = candidates[:, list(chosen)]
        volume = torch.linalg.det(basis / basis.norm(dim=2, keepdim=True).clamp_min(1e-30)).abs()
        basis = torch.where((volume > 1e-6)[:, None, None], basis, otherwise)
        c, basis = _balanced(matrices @ torch.linalg.inv(basis), basis)
        error = (matrices - to_powers(c, levels) @ basis).square().sum((1, 2))
        best = torch.where((error < least)[:, None, None], basis, best)
        least = torch.minimum(error, least)
    return best


def _candidates(matrices: Tensor, count: int) -> Tensor:
    """For each slice the rows (slices, count, n) that most others point along, each standing for all of those."""
    left, n = matrices, matrices.shape[2]
    norms = left.norm(dim=2)
    largest = norms.amax(1, keepdim=True).clamp_min(1e-30)
    found = []
    for _ in range(count):
        norms = left.norm(dim=2)
        unit = left / norms[:, :, None].clamp_min(1e-30)
        alike = (unit @ unit.transpose(1, 2)).abs() > 1 - 1e-9
        votes = torch.where(norms > 1e-9 * largest, alike.sum(2) + 0.5 * norms / largest, -1.0)
        winner = votes.argmax(1)[:, None, None]
        found.append(left.gather(1, winner.expand(-1, 1, n)))
        gone = alike.gather(1, winner.expand(-1, 1, alike.shape[2]))[:, 0, :, None]
        left = torch.where(gone, 0.0, left)
    return torch.cat(found, 1)


def _balanced(c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with every row of the basis as large as 8 bits hold, all in one unit, and with the largest
    coefficient in (3/4, 3/2], which rounds to 1."""
    factors = _power(b.abs().amax(2).clamp_min(1e-30) / BASIS_MAX, 0.5)
    c, b = c * factors[:, None, :], b / factors[:, :, None]
    scale = _power(c.abs().amax((1, 2)).clamp_min(1e-30), 0.75)[:, None, None]
    return c / scale, b * scale


def _power(values: Tensor, above: float) -> Tensor:
    """Of values m 2^p with m in [1/2, 1): 2^p where m is above that, else 2^(p - 1)."""
    mantissa, exponent = torch.frexp(values)
    powers: Tensor = torch.pow(torch.full_like(values, 2.0), exponent - (mantissa <= above).int())
    return powers


def _kept(a: Tensor, c: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Where a coefficient contributes enough, and its row does."""
    limit = threshold * a.square().mean((1, 2), keepdim=True).sqrt()
    contribution = c.abs() * b.norm(dim=2)[:, None, :]
    kept: Tensor = (contribution > limit) & (contribution.sum(2, keepdim=True) >= VECTOR * limit)
    return kept


def _rounded(a: Tensor, b: Tensor, kept: Tensor, levels: int) -> Factors:
    """With a basis that is surely invertible: what is left if nothing better comes."""
    b = to_eight_bits(b)
    b = torch.where((b == 0).all(2).all(1)[:, None, None], torch.eye(b.shape[1], dtype=b.dtype, device=b.device), b)
    return Factors(to_powers(a @ torch.linalg.pinv(b), levels) * kept, b)


def _better(a: Tensor, old: Factors, new: Factors) -> Factors:
    """Slice by slice the factors of smaller error; never a basis that cannot be inverted."""
    error = [(a - factors.product()).square().sum((1, 2)) for factors in (old, new)]
    lengths = new.basis.abs().amax((1, 2)).clamp_min(1e-30)
    regular = torch.linalg.det(new.basis / lengths[:, None, None]).abs() > 1e-7
    taken = ((error[1] < error[0]) & regular)[:, None, None]
    return Factors(torch.where(taken, new.coefficients, old.coefficients), torch.where(taken, new.basis, old.basis))
