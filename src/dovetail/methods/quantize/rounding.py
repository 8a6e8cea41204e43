"""Adaptive rounding: up or down for each weight, so that the layer's responses stay, not the weights themselves.

Nagel, Amjad, van Baalen, Louizos, Blankevoort. Up or Down? Adaptive Rounding for Post-Training Quantization. ICML 2020.
arXiv:2004.10568

    min over codes Q of ||Y - X (s Q)^T - b||^2 = (s Q - W*) G (s Q - W*)^T + const,     G = X^T X centred, b free

X is what the layer sees in the network quantised so far, Y what the original answers there (equation 25), W* the least
squares weight (`reconstruction.normal_equations`). The rows of Q do not depend on one another.

Departs from the paper, which relaxes Q by sigmoids and trains them for thousands of steps: here the columns are rounded
in order, of the largest G_jj first, and what a column got wrong is made up for by those still open,

    W_k <- W_k - (W_j - s Q_j) U_jk / U_jj,       U^T U = G^-1 (upper Cholesky factor)

(Frantar, Ashkboos, Hoefler, Alistarh. GPTQ. ICLR 2023. arXiv:2210.17323), and then each code in turn takes its best
value with the others held, until none changes. Both are exact in each step, take a hundredth of the time, and have
ended lower. A code is not bound to the two nearest ones. Nonlinearities are left out. Weights that are zero stay zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 128
"""Columns after which the others are brought up to date, all in one product (GPTQ, section 3.3)."""

SWEEPS = 20
"""Times, at most, that every code is reconsidered."""


def response_error(values: Tensor, wanted: Tensor, gram: Tensor) -> Tensor:
    """(V - W*) G (V - W*)^T for each row of `values` (T, n): (T,)."""
    difference = values - wanted
    return ((difference @ gram) * difference).sum(1)


def nearest_codes(weight: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """Each entry of `weight` (T, n) rounded to the nearest multiple of its row's scale (T, 1), saturating."""
    return torch.round(weight / scale).clamp(lowest, highest)


def adaptive_codes(weight: Tensor, wanted: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """Codes (T, n), as floats, of small response error; in no row is it above that of `nearest_codes` of `weight`.

    `weight` (T, n) is the trained one, whose zeros stay zero; `wanted` W* (T, n) gives the best response by Gram matrix
    `gram` (n, n), positive definite; `scale` is (T, 1), positive. All should be float64.
    """
    free = weight != 0
    nearest = nearest_codes(weight, scale, lowest, highest)
    codes = torch.where(free, _in_order(wanted, free, gram, scale, lowest, highest), 0)
    better = response_error(codes * scale, wanted, gram) < response_error(nearest * scale, wanted, gram)
    return _settled(torch.where(better[:, None], codes, nearest), wanted, free, gram, scale, lowest, highest)


def _in_order(wanted: Tensor, free: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """GPTQ: column by column, the error passed on to the columns that are left."""
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left, free, codes = wanted[:, order].clone(), free[:, order], torch.zeros_like(wanted)
    for block in _blocks(len(gram)):
        errors = torch.zeros_like(left[:, block])
        for j in range(block.start, block.stop):
            code = torch.round(left[:, j] / scale[:, 0]).clamp(lowest, highest) * free[:, j]
            error = errors[:, j - block.start] = (left[:, j] - code * scale[:, 0]) / upper[j, j]
            left[:, j + 1 : block.stop] -= error[:, None] * upper[j, j + 1 : block.stop]
            codes[:, order[j]] = code
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    return codes


def _settled(
    codes: Tensor, wanted: Tensor, free: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int
) -> Tensor:
    """Coordinate descent: every code in turn to its best value, until none moves. Never raises the error."""
    for _ in range(SWEEPS):
        slope, before = (codes * scale - wanted) @ gram, codes.clone()
        for block in _blocks(len(gram)):
            near, start = slope[:, block].clone(), codes[:, block].clone()
            for j in range(block.start, block.stop):
                best = codes[:, j] - near[:, j - block.start] / (gram[j, j] * scale[:, 0])
                best = torch.round(best).clamp(lowest, highest) * free[:, j]
                near += ((best - codes[:, j]) * scale[:, 0])[:, None] * gram[j, block]
                codes[:, j] = best
            slope += ((codes[:, block] - start) * scale) @ gram[block]
        if torch.equal(codes, before):
            break
    return codes


def _blocks(columns: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK))


def fitted_scale(codes: Tensor, wanted: Tensor, gram: Tensor, scale: Tensor) -> Tensor:
    """The scale (T, 1) of least response error for these codes: (Q G W*^T) / (Q G Q^T); else the one there was."""
    weighted = codes @ gram
    fitted = (weighted * wanted).sum(1, keepdim=True) / (weighted * codes).sum(1, keepdim=True).clamp_min(1e-300)
    return torch.where(fitted > 0, fitted, scale)
