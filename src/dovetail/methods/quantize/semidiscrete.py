"""Solvers of the semi-discrete decomposition W ~ U diag(d) V^T, the entries of U and V being -1, 0 or 1.

Kolda, O'Leary. A Semidiscrete Matrix Decomposition for Latent Semantic Indexing. ACM TOIS 1998 (greedy, one component
after another). Wang, Cheng. Fixed-point Factorized Networks. CVPR 2017. arXiv:1611.01972 (sweeps, recovery); their
released code (responses). Arrays in, arrays out; all in the precision of what comes in.

A component alone is least squares: with v and the target E of the component given, the error is least for

    max_u (u^T s)^2 / ||u||^2,   s = E v    =>   u = sign(s) on the J largest |s|,  J = argmax (their sum)^2 / J
    d = u^T E v / (||u||^2 ||v||^2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

ROUNDS = 100
"""The most turns between u and v of one component; a bound only, for a dozen is usual."""

SETTLED = 1e-3
"""A relative fall of the error in one sweep below which no other follows."""

GAIN = 1e-4
"""What an epoch must gain of the energy of the responses for another to follow."""

MARGIN = 0.4
"""How far a recovered entry may be from the value that it is rounded to. The paper says less than a half, but there
lie many, and the first step of training throws them all over; the fit to responses is lost by it."""


@dataclass(frozen=True)
class Factors:
    """U (T, k) and V (n, k) of -1, 0 and 1, and d (k); the columns of U and V have an entry that is not 0."""

    left: Array
    scale: Array
    right: Array

    def product(self) -> Array:
        """U diag(d) V^T (T, n)."""
        product: Array = (self.left * self.scale) @ self.right.T
        return product

    @property
    def nonzeros(self) -> int:
        """Entries of U and V that are not zero: the additions it takes to multiply a vector by the product."""
        return int(np.count_nonzero(self.left) + np.count_nonzero(self.right))


def signs(s: Array) -> Array:
    """The u of -1, 0 and 1, not all 0, with the largest (u^T s)^2 / ||u||^2; exact. Of nothing but zeros all are 1."""
    size = np.abs(s)
    falling = np.sort(size)[::-1]
    last = falling[np.argmax(np.cumsum(falling) ** 2 / np.arange(1, len(s) + 1))]
    # If one of several equal entries is worth taking, so are the others.
    u: Array = np.where(size >= last, np.where(s >= 0, 1, -1), 0).astype(s.dtype)
    return u


def decompose(weight: Array, rank: int, *, sweeps: int = 20) -> Factors:
    """The decomposition of `weight` (T, n) into `rank` components: greedily, then `sweeps` times each of them anew.

    The error ||W - U diag(d) V^T|| falls with every component and in every sweep.
    """
    residual, exchange = np.array(weight), _Update(weight)
    rows, columns = weight.shape
    left, scale = np.zeros((rank, rows), weight.dtype), np.zeros(rank, weight.dtype)
    right = np.ones((rank, columns), weight.dtype)
    error = np.vdot(residual, residual)
    for _ in range(1 + sweeps):
        for c in range(rank):
            u, d, v = _component(residual, left[c], scale[c], right[c])
            if d != scale[c] or (v != right[c]).any() or (u != left[c]).any():
                exchange(residual, (scale[c] * left[c], -d * u), (right[c], v))
                left[c], scale[c], right[c] = u, d, v
        before, error = error, np.vdot(residual, residual)
        if error >= (1 - SETTLED) * before:
            break
    return Factors(left.T.copy(), scale, right.T.copy())


class _Update:
    """Adds two outer products to a matrix like the one given; making a new matrix each time takes far longer."""

    def __init__(self, like: Array) -> None:
        self._sum = np.empty_like(like)

    def __call__(self, matrix: Array, left: tuple[Array, Array], right: tuple[Array, Array]) -> None:
        np.matmul(np.stack(left, 1), np.stack(right), out=self._sum)
        matrix += self._sum


def _component(residual: Array, own_u: Array, own_d: float, own_v: Array) -> tuple[Array, float, Array]:
    """u, d and v, solved for by turns from `own_v`, of the residual with its own component put back."""
    u, v = own_u, own_v
    for _ in range(ROUNDS):
        old_u, old_v = u, v
        u = signs(residual @ v + own_d * (own_v @ v) * own_u)
        s = u @ residual + own_d * (own_u @ u) * own_v
        v = signs(s)
        if (v == old_v).all() and (u == old_u).all():
            break
    return u, float(s @ v / ((u @ u) * (v @ v))), v


def respond(factors: Factors, gram: Array, cross: Array, *, epochs: int = 50) -> Factors:
    """The factors changed so that responses to real inputs, not weights, have the least error.

    With inputs X (n, F) and the responses wanted Y (n, T), `gram` is X^T X (F, F) and `cross` X^T Y (F, T). In every
    epoch each component in turn, with E what the others leave of Y: u and d together, exactly; then the entries of v
    one after the other; then d. ||Y - X V diag(d) U^T|| never rises.
    """
    left, scale, right = factors.left.T.copy(), factors.scale.copy(), factors.right.T.copy()
    seen = right @ gram  # of each component X^T X v
    missing, exchange = cross - (seen.T * scale) @ left, _Update(cross)  # X^T of what is left of Y
    gained = _gained(left, scale, right, cross + missing)
    for _ in range(epochs):
        for c in range(len(scale)):
            old_u, old_d, old_seen = left[c].copy(), scale[c], seen[c].copy()
            energy = right[c] @ old_seen
            if energy <= 0:  # nothing to be seen of it
                continue
            s = right[c] @ missing + old_d * energy * old_u
            u = signs(s)
            d = u @ s / ((u @ u) * energy)
            target = missing @ u + old_d * (old_u @ u) * old_seen  # X^T E u
            if d > 0:
                turn(right[c], seen[c], gram, target / (d * (u @ u)))
                d = right[c] @ target / ((u @ u) * (right[c] @ seen[c]))
            exchange(missing, (old_seen, seen[c]), (old_d * old_u, -d * u))
            left[c], scale[c] = u, d
        before, gained = gained, _gained(left, scale, right, cross + missing)
        if gained - before <= GAIN * gained:
            break
    return Factors(left.T.copy(), scale, right.T.copy())


def turn(v: Array, seen: Array, gram: Array, target: Array) -> None:
    """Once around the entries of v, each set to what is best of -1, 0 and 1 in v^T G v - 2 v^T t, all others given.

    `seen` is G v; both are changed in place. The entries that stay are passed over all at once.
    """
    diagonal = gram.diagonal()
    place = 0
    while place < len(v):
        slope = target[place:] - seen[place:] + diagonal[place:] * v[place:]
        best = np.sign(slope) * (2 * np.abs(slope) > diagonal[place:])
        differs = best != v[place:]
        first = int(differs.argmax())
        if not differs[first]:
            return
        place += first
        seen += (best[first] - v[place]) * gram[place]
        v[place] = best[first]
        place += 1


def _gained(left: Array, scale: Array, right: Array, matrix: Array) -> float:
    """||Y||^2 less the error, given X^T of Y and of what is left of Y together."""
    return float(((right @ matrix) * left).sum(1) @ scale)


def recover(weight: Array, factors: Factors, *, rounds: int = 10) -> tuple[Array, Array]:
    """Real factors (T, k) and (n, k) that round to U and V, with the least ||W - Uh diag(d) Vh^T||.

    Column after column, each exactly within its bounds, so the error never rises. Training that starts from these
    starts from a product near to W.
    """
    left, right = factors.left.copy(), factors.right.copy()
    for _ in range(rounds):
        for own, other, start, matrix in (
            (left, right, factors.left, weight), (right, left, factors.right, weight.T),
        ):  # fmt: skip
            scaled = other * factors.scale
            gram, target = scaled.T @ scaled, matrix @ scaled
            for c in np.flatnonzero(gram.diagonal() > 0):
                best = own[:, c] + (target[:, c] - own @ gram[:, c]) / gram[c, c]
                own[:, c] = np.clip(best, start[:, c] - MARGIN, start[:, c] + MARGIN)
    return left, right
