"""Kernels as sums of a few shared ones: the decomposition, and what computing with it costs."""

from __future__ import annotations

import torch
from torch import Tensor


def decompose(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Coefficients (T, S, D) and a basis (D, K) of the weight (T, S, R, Q), K = R Q, with D = min(count, K).

    The T S kernels are the rows of M (TS, K); the basis is the D leading right singular vectors of M, not centred, and
    the coefficients are M B^T. So M - C B has the Frobenius norm of the singular values left out, which is the least
    possible, and D = K gives the weight back.
    """
    matrix = weight.flatten(2).double()
    gram = torch.einsum("tsk,tsl->kl", matrix, matrix)
    _, vectors = torch.linalg.eigh(gram)
    basis = vectors.T.flip(0)[:count]
    # The sign of a singular vector is free: its largest entry is positive.
    signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    basis = basis * signs
    return (matrix @ basis.T).to(weight.dtype), basis.to(weight.dtype).contiguous()


def two_step_macs(*, positions: int, maps: int, taps: int, nonzeros: int) -> int:
    """Multiply-accumulates of a convolution through its basis: P Q (maps K + nonzeros).

    Args:
        positions: output pixels, P Q. A 1x1 convolution has no maps and costs positions x nonzeros.
        maps: intermediate maps, one for each pair of input channel and basis kernel; S D if all are used.
        taps: K, the weights of one kernel.
        nonzeros: nonzero coefficients.
    """
    return positions * (maps * taps + nonzeros)


def used_maps(kept: Tensor) -> int:
    """Of coefficients (T, S, D), the pairs of input channel and basis kernel that some output has a coefficient of."""
    return int(kept.bool().any(0).sum())


def above(coefficients: Tensor, threshold: float) -> Tensor:
    """Where |c| reaches `threshold` standard deviations of all coefficients. At 0, all of them."""
    if coefficients.numel() < 2:
        return torch.ones_like(coefficients, dtype=torch.bool)
    return coefficients.abs() >= threshold * coefficients.std()
