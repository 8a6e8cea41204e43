"""Block-term decomposition: Tucker-2 whose core is block diagonal over channels.

De Lathauwer. Decompositions of a Higher-Order Tensor in Block Terms. SIAM J. Matrix Anal. Appl. 2008. With the blocks
of a core B_p (one matrix for each spatial position p) and slices W_p (T, S) of the kernel:

    W_p ~ U4 B_p U3^T,    U3 = [U3_1 ... U3_G],  U4 = [U4_1 ... U4_G],  B_p = blockdiag(C_1p ... C_Gp)

One sweep solves for U4, for U3 and for the blocks in turn, each the least-squares optimum, so the error never rises:
 1. U4 <- argmin sum_p ||W_p - U4 M_p||^2, M_p = B_p U3^T, with a pull towards the U4 there is
 2. U3 likewise
 3. the blocks: H vec(C) = vec(U4^T W_p U3) on the blocks, H = (U3^T U3) (x) (U4^T U4), by conjugate gradients
with the columns of each U_g made orthonormal after 1 and 2 (then H has ones on its diagonal). Starts are Tucker-2
(HOOI), its core's rows and columns clustered, and random rotations of the same subspaces. Where the core's slices are
square, the eigenvectors of M1 M2^-1 for two random combinations of them, clustered, are one more: of an exact
block-term tensor each eigenvector lies within one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from dovetail.methods.lowrank.hooi import Array, hooi

Labels = NDArray[np.integer[Any]]

PULL = 1e-6
"""Towards the matrix there is, relative to the mean diagonal of its normal equations: it keeps them solvable and,
unlike a pull towards zero, never raises the error."""

CANCELLING = 25.0
"""Blocks whose energy is more than this many times that of the weight cancel each other; such a start comes last."""


@dataclass(frozen=True)
class BlockTerms:
    """W[t, s, p] ~ sum_ba core[p, b, a] inward[s, a] outward[t, b]; `core` is block diagonal."""

    core: Array
    """(P, R4, R3), zero outside of G blocks on the diagonal."""
    inward: Array
    """(S, R3)."""
    outward: Array
    """(T, R4)."""
    groups: int
    errors: tuple[float, ...]
    """||W - W'||^2 / ||W||^2 at the start and after every sweep."""

    def tensor(self) -> Array:
        """W' (T, S, P)."""
        slices: Array = self.outward @ self.core @ self.inward.T
        return slices.transpose(1, 2, 0)

    def blocks(self) -> Array:
        """The weight of a grouped convolution: (R4, R3 / G, P)."""
        _, rows, columns = self.core.shape
        split = self.core.reshape(-1, self.groups, rows // self.groups, self.groups, columns // self.groups)
        return np.asarray(np.einsum("pgbga->gbap", split).reshape(rows, columns // self.groups, -1))


def block_terms(
    weight: Array,
    groups: int,
    rank_in: int,
    rank_out: int,
    *,
    restarts: int = 3,
    trial_sweeps: int = 8,
    sweeps: int = 100,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> BlockTerms:
    """`weight` (T, S, P) as `groups` terms of rank (rank_in, rank_out); with one group this is Tucker-2.

    Every start gets `trial_sweeps`; the best goes on until the error falls by less than `tolerance` of itself, or for
    `sweeps` sweeps.
    """
    scale = max(float(np.linalg.norm(weight)), 1e-300)
    tucker = hooi(weight / scale, groups * rank_in, groups * rank_out)
    core = tucker.core.transpose(2, 0, 1)
    if groups == 1:
        return BlockTerms(core * scale, tucker.inward, tucker.outward, 1, tucker.errors)
    slices = np.ascontiguousarray((weight / scale).transpose(2, 0, 1))
    starts = _starts(core, groups, restarts, np.random.default_rng(seed))
    found = [
        alternate(slices, tucker.inward @ right, tucker.outward @ left, groups, trial_sweeps, tolerance)
        for left, right in starts
    ]
    best = min(found, key=lambda terms: (float(np.square(terms.core).sum()) > CANCELLING, terms.errors[-1]))
    final = alternate(slices, best.inward, best.outward, groups, sweeps, tolerance, best.core)
    errors = best.errors + final.errors[1:]
    return BlockTerms(final.core * scale, final.inward, final.outward, groups, errors)


def alternate(
    slices: Array,
    inward: Array,
    outward: Array,
    groups: int,
    sweeps: int,
    tolerance: float = 0.0,
    core: Array | None = None,
) -> BlockTerms:
    """Alternating least squares on slices (P, T, S) of norm 1, from these matrices (and blocks, if they are known)."""
    mask = np.kron(np.eye(groups), np.ones((outward.shape[1] // groups, inward.shape[1] // groups)))
    inward, right = _orthonormal(inward, groups)
    outward, left = _orthonormal(outward, groups)
    core = np.zeros((len(slices), *mask.shape)) if core is None else left @ core @ right.T
    seen = slices @ inward
    core = _solve_blocks(outward.T @ seen, core, inward, outward, mask)
    errors = [_error(outward.T @ seen, core, inward, outward)]
    for _ in range(sweeps):
        outward, left = _orthonormal(_solve_factor(seen, core, inward, outward), groups)
        core = left @ core
        turned = core.transpose(0, 2, 1)
        answered = slices.transpose(0, 2, 1) @ outward
        inward, right = _orthonormal(_solve_factor(answered, turned, outward, inward), groups)
        target = answered.transpose(0, 2, 1) @ inward
        core = _solve_blocks(target, core @ right.T, inward, outward, mask)
        errors.append(_error(target, core, inward, outward))
        if errors[-2] - errors[-1] < tolerance * errors[-1]:
            break
        seen = slices @ inward
    return BlockTerms(core, inward, outward, groups, tuple(errors))


def _solve_factor(seen: Array, core: Array, other: Array, current: Array) -> Array:
    """argmin_U sum_p ||W_p - U B_p V^T||^2 + pull ||U - current||^2, from W_p V (P, T, R3), B_p and V."""
    normal = np.sum(core @ (other.T @ other) @ core.transpose(0, 2, 1), axis=0)
    pull = PULL * max(float(normal.diagonal().mean()), 1e-300)
    right = np.sum(seen @ core.transpose(0, 2, 1), axis=0) + pull * current
    return np.asarray(np.linalg.solve(normal + pull * np.eye(len(normal)), right.T).T)


def _solve_blocks(target: Array, core: Array, inward: Array, outward: Array, mask: Array, steps: int = 20) -> Array:
    """The blocks of least error for these matrices, by conjugate gradients from `core`."""
    left, right = outward.T @ outward, inward.T @ inward
    residual = (target - left @ core @ right) * mask
    direction, size = residual, float(np.square(residual).sum())
    goal = 1e-12 * float(np.square(target * mask).sum())
    for _ in range(steps):
        if size <= goal:
            break
        applied = (left @ direction @ right) * mask
        step = size / float(np.vdot(direction, applied))
        core = core + step * direction
        residual = residual - step * applied
        previous, size = size, float(np.square(residual).sum())
        direction = residual + size / previous * direction
    return core


def _error(target: Array, core: Array, inward: Array, outward: Array) -> float:
    """||W - W'||^2 for a W of norm 1, given U4^T W_p U3."""
    own = outward.T @ outward @ core @ (inward.T @ inward)
    return max(0.0, 1 + float(np.vdot(core, own - 2 * target)))


def _orthonormal(matrix: Array, groups: int) -> tuple[Array, Array]:
    """Q with orthonormal columns in each group, and block diagonal R, with matrix = Q R."""
    rows, columns = matrix.shape
    q, r = np.linalg.qr(matrix.reshape(rows, groups, -1).transpose(1, 0, 2))
    size = columns // groups
    whole = np.zeros((columns, columns))
    for group, block in enumerate(r):
        whole[group * size : (group + 1) * size, group * size : (group + 1) * size] = block
    return q.transpose(1, 0, 2).reshape(rows, columns), whole


def _starts(core: Array, groups: int, restarts: int, generator: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Bases (R4, R4) and (R3, R3) in which the blocks of a core (P, R4, R3) are to be sought."""
    yield _clustered(core, np.eye(core.shape[1]), np.eye(core.shape[2]), groups)
    if core.shape[1] == core.shape[2]:
        first, second = np.tensordot(generator.standard_normal((2, len(core))), core, axes=1)
        if min(np.linalg.cond(first), np.linalg.cond(second)) < 1e8:
            left = _real_eigenvectors(first @ np.linalg.inv(second))
            right = _real_eigenvectors((np.linalg.inv(second) @ first).T)
            yield _clustered(core, left, right, groups)
    for _ in range(restarts):
        left, _ = np.linalg.qr(generator.standard_normal((core.shape[1], core.shape[1])))
        right, _ = np.linalg.qr(generator.standard_normal((core.shape[2], core.shape[2])))
        yield left, right


def _real_eigenvectors(matrix: Array) -> Array:
    """Eigenvectors as columns; of a complex pair the real and the imaginary part, which span the same plane."""
    values, vectors = np.linalg.eig(matrix)
    real = np.where(values.imag < 0, vectors.imag, vectors.real)
    return np.asarray(real / np.maximum(np.linalg.norm(real, axis=0), 1e-300))


def _clustered(core: Array, left: Array, right: Array, groups: int) -> tuple[Array, Array]:
    """The columns of both bases in an order that puts much of the core's energy into blocks on the diagonal."""
    coordinates = np.linalg.pinv(left) @ core @ np.linalg.pinv(right).T
    rows, columns = _cocluster(np.square(coordinates).sum(axis=0), groups)
    return left[:, np.argsort(rows, kind="stable")], right[:, np.argsort(columns, kind="stable")]


def _cocluster(energy: Array, groups: int) -> tuple[Labels, Labels]:
    """Balanced clusters of the rows and columns of `energy` (n, m): a spectral start (Dhillon, KDD 2001), then rows and
    columns are by turns assigned to the clusters that hold most of their energy, each cluster taking its share."""
    rows, columns = energy.shape
    normalised = energy / np.sqrt(np.maximum(np.outer(energy.sum(1), energy.sum(0)), 1e-300))
    _, _, vectors = np.linalg.svd(normalised, full_matrices=False)
    order = np.argsort(vectors[min(1, len(vectors) - 1)])
    of_column: Labels = np.empty(columns, dtype=np.int64)
    of_column[order] = np.arange(columns) * groups // columns
    for _ in range(10):
        of_row = _assigned(energy @ np.eye(groups)[of_column], rows // groups)
        of_column = _assigned(energy.T @ np.eye(groups)[of_row], columns // groups)
    return of_row, of_column


def _assigned(benefit: Array, places: int) -> Labels:
    """The cluster of each row of `benefit` (n, G), `places` of them in each, of most total benefit."""
    _, taken = linear_sum_assignment(-np.repeat(benefit, places, axis=1))
    return np.asarray(taken) // places
