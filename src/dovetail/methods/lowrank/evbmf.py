"""The rank of a noisy matrix by empirical variational Bayes matrix factorisation, in closed form.

Nakajima, Sugiyama, Babacan, Tomioka. Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization. JMLR 14, 2013 (theorem 2 and corollary 2). For an L x M matrix (L <= M) of singular values g_h with noise
of variance v, alpha = L / M, t = 2.5129 sqrt(alpha):

    rank     = #{ h : g_h > sqrt(M v xt) },    xt = (1 + t) (1 + alpha / t)
    v        = argmin  sum_h psi(g_h^2 / (M v))        (one bounded dimension)
    psi(x)   = x - log x + [x > xt] (log(tau + 1) + alpha log(tau / alpha + 1) - tau)
    tau(x)   = (x - 1 - alpha + sqrt((x - 1 - alpha)^2 - 4 alpha)) / 2

Departs: the minimum over v is sought on a grid of 200 log-spaced values first, then between the neighbours of its best,
as the objective has several minima.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from dovetail.methods.lowrank.hooi import Array

GRID = 200


def evbmf_rank(matrix: Array) -> int:
    """How many singular values of `matrix` stand out of the noise; from 0 to min(matrix.shape)."""
    short, long = sorted(matrix.shape)
    values = np.square(np.linalg.svd(matrix, compute_uv=False))
    if values[0] <= 0:
        return 0
    values = np.maximum(values, 1e-14 * values[0])
    alpha = short / long
    root = 2.5129 * np.sqrt(alpha)
    threshold = (1 + root) * (1 + alpha / root)

    def objective(log_variance: float) -> float:
        x = values / (long * np.exp(log_variance))
        large = x[x > threshold]
        tau = (large - 1 - alpha + np.sqrt(np.square(large - 1 - alpha) - 4 * alpha)) / 2
        total = np.sum(x - np.log(x)) + np.sum(np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau)
        return float(total)

    most = min(int(np.ceil(short / (1 + alpha))) - 1, short - 1)
    least_noise = max(values[most] / (long * threshold), values[most:].mean() / long)
    low, high = np.log(least_noise), np.log(values.sum() / (short * long))
    if high - low < 1e-9:
        found = low
    else:
        grid = np.linspace(low, high, GRID)
        best = int(np.argmin([objective(point) for point in grid]))
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
        found = minimize_scalar(objective, bounds=bounds, method="bounded").x
    return int(np.sum(values > long * np.exp(found) * threshold))
