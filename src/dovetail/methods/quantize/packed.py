"""Products of signs as a chip computes them: packed 64 to a word, by exclusive or and population count.

Courbariaux, Hubara, Soudry, El-Yaniv, Bengio. Binarized Neural Networks. 2016. arXiv:1602.02830, section 1.3.

    dot(a, b) = n - 2 popcount(a xor b)              a, b in {-1, +1}^n, a bit is 1 for +1
    dot(a, b) = |m| - 2 popcount((a xor b) and m)    over the places that a mask m keeps

Tails of words are 0 in both operands, so they differ nowhere, and n is the true length. A padded tap of a convolution
is masked: it adds nothing, exactly as a float convolution's zero padding. This is the plain reference in numpy integers
with which the float layers in training are compared; it is not fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = 64

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


def pack(values: NDArray[np.floating]) -> Words:
    """The signs of `values` (..., n) in words (..., ceil(n / 64)): bit i of a word is 1 if its value i is >= 0."""
    count = values.shape[-1]
    bits = np.zeros((*values.shape[:-1], -(-count // WORD), WORD), np.uint64)
    bits.reshape(*values.shape[:-1], -1)[..., :count] = values >= 0
    words: Words = np.bitwise_or.reduce(bits << np.arange(WORD, dtype=np.uint64), axis=-1)
    return words


def dot(a: Words, b: Words, length: int) -> Integers:
    """Products (...) of the packed signs a and b (..., words), `length` of them each."""
    return length - 2 * _ones(a ^ b)


def masked_dot(a: Words, b: Words, mask: Words) -> Integers:
    """The same over the places that `mask` (..., words) has a 1 at."""
    return _ones(mask) - 2 * _ones((a ^ b) & mask)


def _ones(words: Words) -> Integers:
    counts: Integers = np.bitwise_count(words).sum(-1, dtype=np.int64)
    return counts


def conv2d(
    inputs: NDArray[np.floating], weight: NDArray[np.floating],
    stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
) -> Integers:  # fmt: skip
    """The convolution (N, K, P, Q) of the signs of `inputs` (N, C, H, W) with those of `weight` (K, C, R, S).

    Channels are packed, so that a tap of a window is a few words; taps in the padding count nothing.
    """
    (rows, columns), channels = weight.shape[2:], weight.shape[1]
    (top, left), height, width = padding, inputs.shape[2] + 2 * padding[0], inputs.shape[3] + 2 * padding[1]
    signs = pack(np.moveaxis(inputs, 1, -1))
    words = np.zeros((len(inputs), height, width, signs.shape[-1]), np.uint64)
    words[:, top : height - top, left : width - left] = signs
    inside = np.zeros((height, width), bool)
    inside[top : height - top, left : width - left] = True
    taps = pack(np.moveaxis(weight, 1, -1))
    high, wide = ((height - dilation[0] * (rows - 1) - 1) // stride[0] + 1,
                  (width - dilation[1] * (columns - 1) - 1) // stride[1] + 1)  # fmt: skip
    total = np.zeros((len(inputs), len(weight), high, wide), np.int64)
    for row in range(rows):
        for column in range(columns):
            ys = row * dilation[0] + stride[0] * np.arange(high)[:, None]
            xs = column * dilation[1] + stride[1] * np.arange(wide)
            products = dot(words[:, ys, xs, None], taps[:, row, column], channels)
            total += np.moveaxis(products * inside[ys, xs, None], -1, 1)
    return total


@dataclass(frozen=True)
class Thresholds:
    """Batch normalisation and sign of the next layer's input, of integers: one comparison a channel.

    The output is +1 where y >= `least` (or, where `falling`, y <= `least`), with y (N, channels, ...).
    """

    least: Integers
    falling: NDArray[np.bool_]

    def __call__(self, products: Integers) -> Integers:
        least, falling = (each.reshape(-1, *[1] * (products.ndim - 2)) for each in (self.least, self.falling))
        return np.where(np.where(falling, products <= least, products >= least), 1, -1)


def fold(following: Callable[[NDArray[np.float32]], NDArray[np.floating]], length: int, channels: int) -> Thresholds:
    """What `following` makes of each channel's products, up to its sign, as thresholds.

    following: takes (n, channels) to the same shape, each channel by itself and monotonically; +1 follows where it is
    >= 0. In real numbers that of sign(gamma (y - mean) / deviation + beta) is mean - beta deviation / gamma, >= if
    gamma > 0 and <= if gamma < 0, and no threshold if gamma = 0. Here it is found by asking `following` for every
    integer from -length to length, so rounding in it is part of the answer.
    """
    integers = np.arange(-length, length + 1)
    positive = following(np.repeat(integers[:, None], channels, axis=1).astype(np.float32)) >= 0
    falling = positive[0] & ~positive[-1]
    count = positive.sum(0)
    assert np.array_equal(np.sort(positive ^ falling, axis=0), positive ^ falling), "not monotone"
    return Thresholds(np.where(falling, count - 1 - length, length + 1 - count), falling)
