"""ONNX operators with a sliding window: convolution and pooling over any number of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import ModelError

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def by_rank(table: dict[int, Any], rank: int) -> Any:
    """The entry for a number of spatial axes; ModelError if torch has none."""
    if rank not in table:
        raise ModelError(f"Convolution and pooling take 1 to 3 spatial axes, got {rank}")
    return table[rank]


def is_symmetric(pads: Sequence[int]) -> bool:
    """Whether the pads before and after each axis are equal."""
    half = len(pads) // 2
    return list(pads[:half]) == list(pads[half:])


def same_pads(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], lower: bool
) -> list[int]:
    """Pads for ceil(size / stride) outputs: befores, then afters; the odd one goes after, or before if `lower`."""
    befores, afters = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        befores.append(total - total // 2 if lower else total // 2)
        afters.append(total - befores[-1])
    return befores + afters


def pad_window(
    X: Tensor,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
    value: float = 0.0,
) -> Tensor:
    """Pad the spatial axes for a window that is then used without padding."""
    if auto_pad.startswith("SAME"):
        pads = same_pads(X.shape[2:], kernel_shape, strides, dilations, auto_pad == "SAME_LOWER")
    return _pad_spatial(X, pads, value)


def _pad_spatial(X: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    half = len(pads) // 2
    flat = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[half + axis])]
    return functional.pad(X, flat, value=value) if any(flat) else X


def convolution(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution whose weight is computed or shared; others become modules."""
    kernel, rank = W.shape[2:], W.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    X = pad_window(X, kernel, strides, dilations, pads or [0] * 2 * rank, auto_pad)
    return by_rank(CONVOLUTIONS, rank)(X, W, B, stride=strides, dilation=dilations, groups=group)  # type: ignore[no-any-return]


def transposed_convolution(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Unpadded first, then cropped, or extended with zeros, to the size that pads or `output_shape` ask for."""
    kernel, rank = W.shape[2:], W.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    more, pads = output_padding or [0] * rank, pads or [0] * 2 * rank
    if auto_pad.startswith("SAME") and output_shape is None:
        output_shape = [n * s for n, s in zip(X.shape[2:], strides, strict=True)]
    if output_shape is not None:
        befores, afters = [], []
        for i, wanted in enumerate(output_shape[-rank:]):
            full = strides[i] * (X.shape[2 + i] - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1
            total = max(full - wanted, 0)
            befores.append(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)
            afters.append(full - wanted - befores[-1])
        pads = befores + afters
    Y = by_rank(TRANSPOSED, rank)(X, W, stride=strides, groups=group, dilation=dilations)
    Y = _pad_spatial(Y, [-before for before in pads[:rank]] + [m - a for m, a in zip(more, pads[rank:], strict=True)])
    return Y if B is None else Y + B.reshape(-1, *[1] * rank)


def _pool_pads(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    ceil_mode: int,
) -> list[int]:
    """The pads after each axis (may be negative) with which a window without padding and ceiling gives every output.

    A last window that would start beyond the input and its pads before is left out, as ONNX and torch have it.
    """
    rank, result = len(kernel), []
    for i in range(rank):
        extent = (kernel[i] - 1) * dilations[i] + 1
        free = size[i] + pads[i] + pads[rank + i] - extent
        outputs = (-(-free // strides[i]) if ceil_mode else free // strides[i]) + 1
        if ceil_mode and (outputs - 1) * strides[i] >= size[i] + pads[i]:
            outputs -= 1
        result.append((outputs - 1) * strides[i] + extent - size[i] - pads[i])
    return result


def max_pool(
    X: Tensor,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * 2 * rank
    pool = by_rank(MAX_POOLS, rank)
    small = all(2 * pad <= kernel for pad, kernel in zip(pads, [*kernel_shape] * 2, strict=True))
    if auto_pad in ("NOTSET", "VALID") and not ceil_mode and is_symmetric(pads) and small:
        return pool(X, kernel_shape, strides, pads[:rank], dilations)  # type: ignore[no-any-return]
    if auto_pad.startswith("SAME"):
        pads = same_pads(X.shape[2:], kernel_shape, strides, dilations, auto_pad == "SAME_LOWER")
    afters = _pool_pads(X.shape[2:], kernel_shape, strides, dilations, pads, ceil_mode)
    lowest = -math.inf if X.is_floating_point() else torch.iinfo(X.dtype).min
    return pool(_pad_spatial(X, [*pads[:rank], *afters], lowest), kernel_shape, strides, 0, dilations)  # type: ignore[no-any-return]


def _window_sum(
    X: Tensor, kernel_shape: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> Tensor:
    """The sum over each window, zero outside."""
    n, c = X.shape[:2]
    X = _pad_spatial(X.reshape(n * c, 1, *X.shape[2:]), pads)
    ones = torch.ones(1, 1, *kernel_shape, dtype=X.dtype, device=X.device)
    Y = by_rank(CONVOLUTIONS, len(kernel_shape))(X, ones, stride=strides, dilation=dilations)
    return Y.reshape(n, c, *Y.shape[2:])  # type: ignore[no-any-return]


def average_pool(
    X: Tensor,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The mean over each window; padding counts with `count_include_pad`, what lies beyond it never does."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * 2 * rank
    small = all(2 * pad <= kernel for pad, kernel in zip(pads, [*kernel_shape] * 2, strict=True))
    plain = auto_pad in ("NOTSET", "VALID") and not ceil_mode and max(dilations) == 1
    if plain and is_symmetric(pads) and small:
        pool = by_rank(AVERAGE_POOLS, rank)
        return pool(X, kernel_shape, strides, pads[:rank], False, bool(count_include_pad))  # type: ignore[no-any-return]
    if auto_pad.startswith("SAME"):
        pads = same_pads(X.shape[2:], kernel_shape, strides, dilations, auto_pad == "SAME_LOWER")
    afters = _pool_pads(X.shape[2:], kernel_shape, strides, dilations, pads, ceil_mode)
    counted = torch.ones(1, 1, *X.shape[2:], dtype=X.dtype, device=X.device)
    around = [*pads[:rank], *afters]
    if count_include_pad:
        counted = _pad_spatial(counted, pads, 1.0)
        count_around = [0] * rank + [after - pad for after, pad in zip(afters, pads[rank:], strict=True)]
    else:
        count_around = around
    count = _window_sum(counted, kernel_shape, strides, dilations, count_around)
    return _window_sum(X, kernel_shape, strides, dilations, around) / count


def lp_pool(
    X: Tensor,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The p-norm of each window."""
    rank = len(kernel_shape)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads or [0] * 2 * rank
    if auto_pad.startswith("SAME"):
        pads = same_pads(X.shape[2:], kernel_shape, strides, dilations, auto_pad == "SAME_LOWER")
    afters = _pool_pads(X.shape[2:], kernel_shape, strides, dilations, pads, ceil_mode)
    sums = _window_sum(X.abs() ** p, kernel_shape, strides, dilations, [*pads[:rank], *afters])
    return sums ** (1 / p)


def global_average_pool(X: Tensor) -> Tensor:
    return torch.mean(X, tuple(range(2, X.ndim)), keepdim=True)


def global_max_pool(X: Tensor) -> Tensor:
    return torch.amax(X, tuple(range(2, X.ndim)), keepdim=True)


def global_lp_pool(X: Tensor, p: int = 2) -> Tensor:
    return torch.sum(X.abs() ** p, tuple(range(2, X.ndim)), keepdim=True) ** (1 / p)
