"""Products of k-bit and m-bit codes by AND and population count, one pair of bit planes at a time.

Zhou, Wu, Ni, Zhou, Wen, Zou. DoReFa-Net. 2016. arXiv:1606.06160, equation 3; Hubara, Courbariaux, Soudry, El-Yaniv,
Bengio. Quantized Neural Networks. JMLR 2018. arXiv:1609.07061.

    x = sum_i 2^i x_i,  w = sum_j 2^j w_j      x_i, w_j in {0, 1}
    x . w = sum_ij 2^(i+j) popcount(x_i and w_j)

Codes are unsigned. What they stand for, v = s (q - z), is brought in afterwards:

    sum (q_x - z_x)(q_w - z_w) = sum q_x q_w - z_w sum q_x - z_x sum q_w + n z_x z_w

sum q_w is known beforehand; sum q_x is the product with a plane of ones. This is the plain reference; it is not fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError

Integers = NDArray[np.int64]


def planes(codes: NDArray[np.integer[Any]], bits: int) -> NDArray[np.uint8]:
    """The bit planes (bits, ..., ceil(n / 8)) of unsigned codes (..., n), the lowest first, eight codes to a byte.

    Raises FormatError if a code does not fit.
    """
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << bits):
        raise FormatError(
            f"bit planes hold codes from 0 to {(1 << bits) - 1}, found {codes.min()} to {codes.max()}; add the zero "
            "point to signed ones"
        )
    each = [np.packbits((codes >> place & 1).astype(np.uint8), axis=-1) for place in range(bits)]
    return np.stack(each)


def product(x: NDArray[np.integer[Any]], w: NDArray[np.integer[Any]], x_bits: int, w_bits: int) -> Integers:
    """x @ w.T of unsigned codes (M, n) and (K, n), from their bit planes: x_bits * w_bits binary products."""
    total = np.zeros((len(x), len(w)), np.int64)
    for i, x_plane in enumerate(planes(x, x_bits)):
        for j, w_plane in enumerate(planes(w, w_bits)):
            common = np.bitwise_count(x_plane[:, None] & w_plane[None])
            total += common.sum(-1, dtype=np.int64) << (i + j)
    return total


def offset_product(
    x: NDArray[np.integer[Any]], w: NDArray[np.integer[Any]], x_bits: int, w_bits: int, x_zero: float, w_zero: float
) -> NDArray[np.float64]:
    """(x - x_zero) @ (w - w_zero).T from the bit planes of the codes, exactly.

    Zero points are multiples of 1/2: a grid without a zero has its own between two codes.
    """
    x_sums, w_sums = product(x, np.ones((1, x.shape[1]), np.int64), x_bits, 1), w.sum(1, dtype=np.int64)
    plain = product(x, w, x_bits, w_bits).astype(np.float64)
    result: NDArray[np.float64] = plain - w_zero * x_sums - x_zero * w_sums + x.shape[1] * x_zero * w_zero
    return result
