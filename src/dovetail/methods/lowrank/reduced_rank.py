"""Solvers for low rank: tensors in, tensors out, all in double precision.

Rows are samples. `Fit` is an affine map of rank at most R between responses of T channels, y -> M y + b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-6
"""Pull of M towards the identity, relative to the mean variance of a channel: what no sample shows is left as it is."""

CONTINUATION = ((0.01, 25), (1.0, 25))
"""Weights of the relaxed constraint and how many rounds each is kept (Zhang et al., TPAMI 2016, section 3.2)."""

SETTLED = 1e-6
"""A relative fall of the objective in one round below which the next weight is taken."""


@dataclass(frozen=True)
class Fit:
    """M (T, T) of rank at most R, b (T), and the objective after every round, one list for each weight lambda."""

    matrix: Tensor
    bias: Tensor
    objectives: tuple[tuple[float, ...], ...] = ()

    def __call__(self, seen: Tensor) -> Tensor:
        return seen @ self.matrix.T + self.bias


def split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(T, R) and (R, F) whose product is the best approximation of `matrix` (T, F); both have sqrt(sigma)."""
    left, sigma, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = sigma[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


class ReducedRank:
    """Reduced-rank regression on one set of responses, for many targets and ranks.

    Minimises sum_i ||z_i - M y_i - b||^2 + n * ridge * v * ||M - I||^2 over M of rank at most R and b, where v is the
    mean variance of y's channels. With G = Y^T Y + n ridge v I of the centred Y (n, T) and Mhat the minimiser without
    the constraint, M = U U^T Mhat, U the R first eigenvectors of Mhat G Mhat^T (Izenman 1975; the GSVD of the paper).
    """

    def __init__(self, seen: Tensor, ridge: float = RIDGE) -> None:
        y = seen.double()
        self.mean = y.mean(0)
        self.centred = y - self.mean
        gram = self.centred.T @ self.centred
        self.pull = float(ridge * gram.diagonal().mean().clamp_min(1e-30))
        self.gram = gram + self.pull * torch.eye(len(gram), dtype=gram.dtype)
        self._factor = torch.linalg.cholesky(self.gram)

    def solve(self, target: Tensor, rank: int) -> Fit:
        """The best fit to `target` (n, T)."""
        z = target.double()
        z_mean = z.mean(0)
        cross = (z - z_mean).T @ self.centred
        cross = cross + self.pull * torch.eye(len(self.gram), dtype=cross.dtype)
        free = torch.cholesky_solve(cross.T, self._factor).T
        if rank < len(free):
            _, vectors = torch.linalg.eigh(free @ cross.T)
            kept = vectors[:, -rank:]
            free = kept @ (kept.T @ free)
        return Fit(free, z_mean - free @ self.mean)

    def shortfall(self, fit: Fit) -> float:
        """The term of the objective that pulls M towards the identity."""
        identity = torch.eye(len(fit.matrix), dtype=fit.matrix.dtype)
        return self.pull * float((fit.matrix - identity).square().sum())


def rectified_fit(
    target: Tensor,
    seen: Tensor,
    rank: int,
    offset: Tensor | None = None,
    *,
    ridge: float = RIDGE,
    continuation: Sequence[tuple[float, int]] = CONTINUATION,
) -> Fit:
    """M of rank at most R and b that minimise sum_i ||r(t_i) - r(M y_i + b + s_i)||^2, where r is the ReLU.

    t is `target`, y `seen`, s `offset` (what is added before the ReLU, such as a shortcut), all (n, T). Auxiliary z_i
    relax it to sum_i ||r(t_i) - r(z_i)||^2 + lambda ||z_i - M y_i - b - s_i||^2, solved for M, b and z by turns from
    the linear solution, while lambda grows. The best of all rounds in the unrelaxed sum is returned, so it is never
    worse than the linear solution.
    """
    offset = torch.zeros_like(target) if offset is None else offset
    wanted, target, offset = target.double().clamp_min(0), target.double(), offset.double()
    regression = ReducedRank(seen, ridge)
    y = regression.centred + regression.mean
    fit = best = regression.solve(target - offset, rank)
    response = fit(y) + offset
    least = _distance(wanted, response.clamp_min(0))
    histories = []
    for weight, rounds in continuation:
        history: list[float] = []
        for _ in range(rounds):
            z = nearest(wanted, response, weight)
            fit = regression.solve(z - offset, rank)
            response = fit(y) + offset
            relaxed = _distance(z, response) + regression.shortfall(fit)
            history.append(_distance(wanted, z.clamp_min(0)) + weight * relaxed)
            error = _distance(wanted, response.clamp_min(0))
            if error < least:
                least, best = error, fit
            if len(history) > 1 and history[-2] - history[-1] < SETTLED * history[-2]:
                break
        histories.append(tuple(history))
    return Fit(best.matrix, best.bias, tuple(histories))


def nearest(wanted: Tensor, response: Tensor, weight: float) -> Tensor:
    """z that minimises (a - r(z))^2 + weight * (z - y)^2, entry by entry; a >= 0 is `wanted`, y `response`."""
    off = response.clamp_max(0)
    on = ((weight * response + wanted) / (weight + 1)).clamp_min(0)
    cost_off = wanted.square() + weight * (off - response).square()
    cost_on = (on - wanted).square() + weight * (on - response).square()
    return torch.where(cost_off < cost_on, off, on)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum())
