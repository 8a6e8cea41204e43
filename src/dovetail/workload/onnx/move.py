"""ONNX operators that move, select or make data. Parameters have ONNX's names and defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.workload.onnx.types import Host, Ints, host_array, ints, torch_type


def shape(data: Tensor, start: int = 0, end: int | None = None) -> Host:
    return host_array(data.shape[start:end])


def size(data: Tensor) -> Host:
    return host_array([math.prod(data.shape)]).reshape(())


def identity(input: Tensor) -> Tensor:
    return input


def reshape(data: Tensor, shape: Ints, allowzero: int = 0) -> Tensor:
    """A 0 keeps the input's size there, unless `allowzero` is set."""
    target = ints(shape)
    if not allowzero:
        target = [data.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return data.reshape(target)


def flatten(input: Tensor, axis: int = 1) -> Tensor:
    """To a matrix, split at `axis`."""
    split = axis + input.ndim if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:split]), math.prod(input.shape[split:]))


def squeeze(data: Tensor, axes: Ints | None = None) -> Tensor:
    return torch.squeeze(data) if axes is None else torch.squeeze(data, tuple(ints(axes)))


def unsqueeze(data: Tensor, axes: Ints) -> Tensor:
    chosen = ints(axes)
    rank = data.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        data = data.unsqueeze(axis)
    return data


def transpose(data: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    return data.permute(tuple(perm) if perm is not None else tuple(reversed(range(data.ndim))))


def concat(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


def split(
    input: Tensor, split: Ints | None = None, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Into given sizes, or into `num_outputs` equal parts, of which the last may be smaller."""
    if split is not None:
        return torch.split(input, ints(split), axis)
    assert num_outputs is not None
    return torch.split(input, -(-input.shape[axis] // num_outputs), axis)


def slice_(data: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Python's slices; torch has no negative step, so these are index lists."""
    first, last = ints(starts), ints(ends)
    along = ints(axes) if axes is not None else list(range(len(first)))
    step = ints(steps) if steps is not None else [1] * len(first)
    for start, end, axis, by in zip(first, last, along, step, strict=True):
        if by > 0:
            index = [slice(None)] * (axis % data.ndim) + [slice(start, end, by)]
            data = data[tuple(index)]
        else:
            positions = range(*slice(start, end, by).indices(data.shape[axis]))
            data = data.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=data.device))
    return data


def gather(data: Tensor, indices: Tensor | int, axis: int = 0) -> Tensor:
    """Whole slices along one axis; negative indices count from the end."""
    if isinstance(indices, int):
        return data.select(axis, indices)
    return data[(slice(None),) * (axis % data.ndim) + (indices.long(),)]


def _wrapped(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def gather_elements(data: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return torch.gather(data, axis, _wrapped(indices, data.shape[axis]).long())


def gather_nd(data: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """Slices at index tuples (the last axis of `indices`), for each element of the batch axes."""
    tuples = indices.long().unbind(-1)
    if batch_dims == 0:
        return data[tuples]
    batch = torch.meshgrid(*(torch.arange(size, device=data.device) for size in data.shape[:batch_dims]), indexing="ij")
    lift = tuples[0].ndim - batch_dims
    return data[tuple(index.reshape(*index.shape, *[1] * lift) for index in batch) + tuples]


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none") -> Tensor:
    positions = _wrapped(indices, data.shape[axis]).long()
    if reduction == "none":
        return data.scatter(axis, positions, updates)
    return data.scatter_reduce(axis, positions, updates, REDUCTIONS[reduction])


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    tuples = indices.long().unbind(-1)
    if reduction in ("none", "add"):
        return data.index_put(tuples, updates, accumulate=reduction == "add")
    depth = indices.shape[-1]
    flat = torch.zeros_like(tuples[0])
    for index, extent in zip(tuples, data.shape[:depth], strict=True):
        flat = flat * extent + _wrapped(index, extent)
    rows = data.reshape(math.prod(data.shape[:depth]), -1)
    values = updates.reshape(flat.numel(), -1)
    positions = flat.reshape(-1, 1).expand_as(values)
    return rows.scatter_reduce(0, positions, values, REDUCTIONS[reduction]).reshape(data.shape)


def expand(input: Tensor, shape: Ints) -> Tensor:
    """Broadcast against `shape`, both ways."""
    target = ints(shape)
    lift = max(input.ndim - len(target), 0)
    target = [1] * lift + target
    own = [1] * (len(target) - input.ndim) + list(input.shape)
    return input.expand([mine if wanted == 1 else wanted for mine, wanted in zip(own, target, strict=True)])


def tile(input: Tensor, repeats: Ints) -> Tensor:
    return input.repeat(ints(repeats))


def pad(
    data: Tensor,
    pads: Ints,
    constant_value: Tensor | float | None = None,
    axes: Ints | None = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """Begins of all axes, then ends. Negative pads crop. `value` is the attribute of opsets before 11."""
    amounts = ints(pads)
    chosen = ints(axes) if axes is not None else list(range(len(amounts) // 2))
    pairs = {axis % data.ndim: (amounts[i], amounts[i + len(chosen)]) for i, axis in enumerate(chosen)}
    if mode == "constant":
        fill = constant_value.item() if isinstance(constant_value, Tensor) else constant_value
        flat = [amount for axis in reversed(range(data.ndim)) for amount in pairs.get(axis, (0, 0))]
        return functional.pad(data, flat, value=value if fill is None else fill)
    for axis, (before, after) in pairs.items():
        if before or after:
            data = data.index_select(axis, _pad_positions(data.shape[axis], before, after, mode).to(data.device))
    return data


def _pad_positions(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which element each padded position repeats."""
    positions = torch.arange(-before, size + after)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = positions % period
        return torch.minimum(folded, period - folded) if size > 1 else positions * 0
    raise ModelError(f"Pad mode is constant, reflect, edge or wrap, got {mode!r}")


def constant_of_shape(input: Ints, like: Tensor | None = None, value: Tensor | float = 0.0, dtype: int = 1) -> Tensor:
    device = None if like is None else like.device
    return torch.full(ints(input), value, dtype=torch_type(dtype), device=device)  # type: ignore[arg-type]


def range_(start: Ints, limit: Ints, delta: Ints, like: Tensor | None = None) -> Tensor:
    first, last, step = (ints(values)[0] for values in (start, limit, delta))
    device = None if like is None else like.device
    kind = torch.float32 if any(isinstance(number, float) for number in (first, last, step)) else torch.int64
    return torch.arange(first, last, step, dtype=kind, device=device)


def eye_like(input: Tensor, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = input.dtype if dtype is None else torch_type(dtype)
    return torch.ones(input.shape, device=input.device).tril(k).triu(k).to(kind)


def one_hot(indices: Tensor, depth: Ints, values: Tensor, axis: int = -1) -> Tensor:
    """`values` = [off, on]; indices out of range give a row of off."""
    (count,) = ints(depth)
    rank = indices.ndim + 1
    positions = torch.arange(count, device=indices.device).reshape([-1] + [1] * (rank - 1 - axis % rank))
    hit = _wrapped(indices.long(), count).unsqueeze(axis) == positions
    return torch.where(hit, values[1], values[0])


def nonzero(X: Tensor) -> Tensor:
    return torch.nonzero(X).T


def compress(input: Tensor, condition: Tensor, axis: int | None = None) -> Tensor:
    data, along = (input.reshape(-1), 0) if axis is None else (input, axis)
    return data.index_select(along, torch.nonzero(condition).reshape(-1))


def triangle(input: Tensor, k: Ints | None = None, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else ints(k)[0]
    return torch.triu(input, diagonal) if upper else torch.tril(input, diagonal)


def reverse_sequence(input: Tensor, sequence_lens: Tensor, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    steps = torch.arange(input.shape[time_axis], device=input.device)
    lengths = sequence_lens.unsqueeze(1)
    positions = torch.where(steps < lengths, lengths - 1 - steps, steps)
    data = input.movedim((batch_axis, time_axis), (0, 1))
    index = positions.reshape(*positions.shape, *[1] * (data.ndim - 2)).expand_as(data)
    return torch.gather(data, 1, index).movedim((0, 1), (batch_axis, time_axis))


def depth_to_space(input: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    b = blocksize
    if mode == "DCR":
        parts = input.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = input.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // b**2, h * b, w * b)


def space_to_depth(input: Tensor, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = input.shape
    b = blocksize
    parts = input.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b**2, h // b, w // b)


def einsum(*Inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *Inputs)
