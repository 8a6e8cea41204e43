"""ONNX reductions. `axes` None or empty means all axes, unless `noop_with_empty_axes` is set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.workload.onnx.types import Ints, ints


def reduction(
    function: Callable[[Tensor, list[int], bool], Tensor], before: Callable[[Tensor], Tensor] | None = None
) -> Callable[..., Tensor]:
    """The operator of `function(data, axes, keepdims)`; `before` acts on every element, even if no axis is reduced."""

    def operator(data: Tensor, axes: Ints | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        data = before(data) if before else data
        chosen = [] if axes is None else ints(axes)
        if not chosen and noop_with_empty_axes:
            return data
        chosen = [axis % data.ndim for axis in chosen] or list(range(data.ndim))
        return function(data, chosen, bool(keepdims)) if chosen else function(data[None], [0], False)

    operator.__name__ = operator.__qualname__ = f"reduce_{function.__name__}"
    return operator


def total(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(data, axes, keep, dtype=data.dtype)


def product(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = torch.prod(data, axis, keep, dtype=data.dtype)
    return data


def log_total(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(total(data, axes, keep))


def root_total(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(total(data, axes, keep))


reduce_sum = reduction(total)
reduce_mean = reduction(torch.mean)
reduce_max = reduction(torch.amax)
reduce_min = reduction(torch.amin)
reduce_prod = reduction(product)
reduce_l1 = reduction(total, before=torch.abs)
reduce_l2 = reduction(root_total, before=torch.square)
reduce_log_sum = reduction(log_total)
reduce_log_sum_exp = reduction(torch.logsumexp)
reduce_sum_square = reduction(total, before=torch.square)


def arg_max(data: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if not select_last_index:
        return torch.argmax(data, axis, keepdim=bool(keepdims))
    return data.shape[axis] - 1 - torch.argmax(data.flip(axis), axis, keepdim=bool(keepdims))


def arg_min(data: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return arg_max(-data, axis, keepdims, select_last_index)


def top_k(X: Tensor, k: Ints | int, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """Sorted by value, then by index: a stable sort, because torch.topk leaves the order of equals open."""
    count = ints(k)[0]
    values, indices = torch.sort(X, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def cumulative_sum(x: Tensor, axis: Ints | int, exclusive: int = 0, reverse: int = 0) -> Tensor:
    (along,) = ints(axis)
    x = x.flip(along) if reverse else x
    result = torch.cumsum(x, along, dtype=x.dtype)
    result = result - x if exclusive else result
    return result.flip(along) if reverse else result
