"""A convolution as a matrix product (im2col), forwards and backwards, within a given amount of scratch memory.

    A[(n, p, q), (c, r, s)] = X[n, p * stride + r * dilation - top, q * stride + s * dilation - left, c]   0 outside
    Y = A W^T            W: (outputs, inputs / groups * rows * columns); one product for each group
    dW = dY^T A
    dX = the rows of dY W added up where A took them from (col2im): windows overlap

What makes a matrix product cheaper, a systolic array or fewer bits, thereby does so for a convolution. Whole rows of A
are made, as many at a time as the scratch memory holds. Arithmetic is that of the arrays' type: integers are exact.

Chellapilla, Puri, Simard. High Performance Convolutional Neural Networks for Document Processing. IWFHR 2006.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dovetail.errors import DovetailError
from dovetail.kernels.convolution import Window
from dovetail.kernels.epilogue import Array

Multiply = Callable[[Array, Array], Array]


def _multiply(a: Array, b: Array) -> Array:
    return np.asarray(a @ b)


def lowered_convolution(
    x: Array, weights: Array, window: Window, *, scratch_bytes: int, multiply: Multiply = _multiply
) -> Array:
    """Y (batch, rows, columns, outputs) of X (batch, rows, columns, inputs) and W.

    `multiply` gets rows of A (rows, window) and the weights of a group (window, outputs). Raises DovetailError if
    `scratch_bytes` does not hold one row of A.
    """
    matrices = _matrices(weights, window.groups)
    size = window.output_size(x.shape[1:3], weights.shape[2:])
    y = np.empty((len(x), *size, len(weights)), np.result_type(x, weights))
    rows = y.reshape(-1, window.groups, matrices.shape[1])
    patches = _patches(_padded(x, window), weights.shape[2:], window)
    for part, a in _blocks([patches], window.groups, scratch_bytes):
        for group, matrix in enumerate(matrices):
            rows[part, group] = multiply(a[:, group], matrix.T)
    return y


def lowered_gradients(
    x: Array, weights: Array, window: Window, gradient: Array, *, scratch_bytes: int
) -> tuple[Array, Array]:
    """The gradients of X and of W, given that of Y. Raises DovetailError as `lowered_convolution`."""
    (top, left, bottom, right), groups = window.padding, window.groups
    matrix = _matrices(weights, groups)
    rows = gradient.reshape(-1, groups, matrix.shape[1])
    by_weight = np.zeros(matrix.shape, np.result_type(x, gradient))
    padded = np.zeros(
        (len(x), x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3]), np.result_type(weights, gradient)
    )
    places = np.arange(padded.size).reshape(padded.shape)
    both = [_patches(array, weights.shape[2:], window) for array in (_padded(x, window), places)]
    for part, a, taken_from in _blocks(both, groups, scratch_bytes):
        by_weight += np.einsum("igk,igw->gkw", rows[part], a, optimize=True)
        np.add.at(padded.reshape(-1), taken_from, np.einsum("igk,gkw->igw", rows[part], matrix, optimize=True))
    inner = padded[:, top : top + x.shape[1], left : left + x.shape[2]]
    return inner, by_weight.reshape(weights.shape)


def _matrices(weights: Array, groups: int) -> Array:
    """(groups, outputs of one, window)."""
    return weights.reshape(groups, len(weights) // groups, -1)


def _padded(x: Array, window: Window) -> Array:
    top, left, bottom, right = window.padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _patches(padded: Array, size: tuple[int, ...], window: Window) -> Array:
    """A view (batch, P, Q, inputs, rows, columns)."""
    extent = [(taps - 1) * step + 1 for taps, step in zip(size, window.dilation, strict=True)]
    seen = sliding_window_view(padded, extent, axis=(1, 2))
    return seen[:, :: window.stride[0], :: window.stride[1], :, :: window.dilation[0], :: window.dilation[1]]


def _blocks(patches: Sequence[Array], groups: int, scratch_bytes: int) -> Iterator[tuple[Any, ...]]:
    """Which rows of A, then these rows (rows, groups, window) of each, as many at a time as fit."""
    pixels, row = patches[0].shape[:3], sum(array[0, 0, 0].nbytes for array in patches)
    copies = 3  # as gathered, in order, and the rows before, which are still held
    count, at_a_time = math.prod(pixels), scratch_bytes // (copies * row)
    if at_a_time < 1:
        raise DovetailError(f"one row of the lowered input takes {copies * row} bytes, but scratch is {scratch_bytes}")
    for first in range(0, count, at_a_time):
        rows = range(first, min(first + at_a_time, count))
        places = np.unravel_index(rows, pixels)
        yield slice(rows.start, rows.stop), *(array[places].reshape(len(rows), groups, -1) for array in patches)
