"""What each layer and function does to channel labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, fx, nn

from dovetail.methods.channels.attention import supported
from dovetail.methods.channels.labels import Array, Labels, along, constant

if TYPE_CHECKING:
    from dovetail.methods.channels.walk import Walk

Rule = Callable[["Walk", fx.Node, Any], Any]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def inputs(walk: Walk, n: fx.Node) -> list[Labels]:
    """The labels of every tensor that goes into a node, in order."""
    found: list[Labels] = []
    for node in n.all_input_nodes:
        labels = walk.labels[node]
        if isinstance(labels, Labels):
            found.append(labels)
        elif labels is None and isinstance(walk.plain[node], Tensor):
            found.append(constant(walk.plain[node].shape))
    return found


def _module(walk: Walk, n: fx.Node) -> tuple[str, Any]:
    return str(n.target), walk.fetch_attr(str(n.target))


# Layers with weights.


def convolution(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """Ends the channels of its input and begins those of its output."""
    path, layer = _module(walk, n)
    x = walk.source(n)
    if len(x.shape) != len(layer.kernel_size) + 2:
        return walk.unknown(n, value, f"{path} is called without a batch")
    ids = walk.merge(x, 1)
    inner, outer = walk.port(path, "in", layer.in_channels), walk.port(path, "out", layer.out_channels)
    walk.classes.union(inner, ids)
    if layer.groups == layer.in_channels > 1:  # depthwise
        walk.classes.union(outer.reshape(layer.in_channels, -1), inner[:, None])
    elif layer.groups > 1:  # every group loses equally
        for port in (inner, outer):
            places = port.reshape(layer.groups, -1)
            walk.classes.union(places, places[:1])
    return along(outer, value.shape, 1)


def linear(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """The same for the last axis; acts alike on every channel where these lie along another axis."""
    path, layer = _module(walk, n)
    x = walk.source(n)
    last = len(x.shape) - 1
    inner, outer = walk.port(path, "in", layer.in_features), walk.port(path, "out", layer.out_features)
    if not walk.varies(x, last) and any(walk.varies(x, axis) for axis in range(last)):
        for port in (inner, outer):
            walk.classes.freeze(port, f"{path} mixes positions, not channels")
        return Labels(x.ids.take([0], last), tuple(value.shape))
    walk.classes.union(inner, walk.merge(x, last))
    return along(outer, value.shape, last)


def embedding(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    path, layer = _module(walk, n)
    return along(walk.port(path, "out", layer.embedding_dim), value.shape, value.ndim - 1)


def follow(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """One set of numbers a channel: normalisation, PReLU."""
    path, layer = _module(walk, n)
    x = walk.source(n)
    count = layer.num_parameters if isinstance(layer, nn.PReLU) else layer.num_features
    if count == 1 and isinstance(layer, nn.PReLU):
        return x
    ids = walk.merge(x, 1)
    walk.classes.union(walk.port(path, "follow", count), ids)
    return Labels(x.ids, tuple(value.shape))


def normalise(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """Mixes channels, so they must all stay."""
    path, layer = _module(walk, n)
    x = walk.source(n)
    axes = (
        range(1, 2) if isinstance(layer, nn.GroupNorm) else range(value.ndim - len(layer.normalized_shape), value.ndim)
    )
    return mixed(walk, x, value.shape, axes, f"{path} ({type(layer).__name__}) normalises over it")


def attention(walk: Walk, n: fx.Node, value: tuple[Tensor, Tensor | None]) -> Any:
    """Heads may go; the embedding stays."""
    path, layer = _module(walk, n)
    reason = f"{path} ({type(layer).__name__}) reads or writes it"
    walk.freeze_inputs(n, reason)
    heads = walk.port(path, "heads", layer.num_heads)
    masked = len(n.args) > 5 or n.kwargs.get("attn_mask") is not None
    if masked or (isinstance(layer, nn.MultiheadAttention) and not supported(layer)):
        walk.classes.freeze(heads, f"{path} has a mask or tensors of its own for each head")
    return walk.frozen(value, reason)


# Functions of one tensor.


def mixed(walk: Walk, x: Labels, shape: Any, axes: Any, reason: str) -> Labels:
    """Acts on all positions of some axes together: channels along them are frozen."""
    for axis in axes:
        if walk.varies(x, axis % len(x.shape)):
            walk.classes.freeze(x.ids, reason)
    kept = len(shape) == len(x.shape)
    sizes = tuple(shape)
    if kept:
        ids = x.ids
        for axis, (old, new) in enumerate(zip(x.shape, sizes, strict=True)):
            ids = ids.take([0], axis) if old != new else ids
        return Labels(ids, sizes)
    gone = {axis % len(x.shape) for axis in axes}
    return Labels(x.ids[tuple(0 if axis in gone else slice(None) for axis in range(len(x.shape)))], sizes)


def window(walk: Walk, n: fx.Node, value: Any) -> Any:
    """Pooling, interpolation, dropout of channels: acts on the axes after the channels, within each channel."""
    x = walk.source(n)
    if not isinstance(value, Tensor) or value.ndim != len(x.shape) or value.ndim < 3 or value.shape[1] != x.shape[1]:
        return walk.unknown(n, value)
    ids = walk.merge(x, 1)
    return along(ids if x.ids.shape[1] > 1 else ids[:1], value.shape, 1)


def _axes(given: Any, rank: int) -> list[int]:
    if given is None or (isinstance(given, list | tuple) and not given):
        return list(range(rank))
    return [axis % rank for axis in (given if isinstance(given, list | tuple) else [given])]


def reduction(name: str = "dim", default: Any = None) -> Rule:
    """A function over the axes that its second argument names."""

    def rule(walk: Walk, n: fx.Node, value: Any) -> Any:
        x = walk.source(n)
        given = walk.argument(n, 1, name, default)
        if not isinstance(value, Tensor) or not isinstance(given, int | list | tuple | type(None)):
            return walk.unknown(n, value)
        axes = _axes(given, len(x.shape))
        if value.ndim not in (len(x.shape), len(x.shape) - len(axes)):
            return walk.unknown(n, value)
        return mixed(walk, x, value.shape, axes, f"{n.name} is computed over it")

    return rule


def module_axis(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    path, layer = _module(walk, n)
    axis = 1 if getattr(layer, "dim", None) is None else layer.dim
    return mixed(walk, walk.source(n), value.shape, [axis], f"{path} ({type(layer).__name__}) is computed over it")


def function_normalise(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """A normalisation whose numbers are tensors of the network: per channel, or over the channels."""
    first, *vectors = inputs(walk, n)
    if "batch" not in str(n.target) and "instance" not in str(n.target):
        return walk.unknown(n, value)
    ids = walk.merge(first, 1)
    for vector in vectors:
        walk.classes.union(vector.vector(0), ids)
    return first


# Functions of several tensors.


def elementwise(walk: Walk, n: fx.Node, value: Any) -> Any:
    """Channels that meet go together; a size of 1 that is broadcast meets none."""
    found = inputs(walk, n)
    if not isinstance(value, Tensor) or not found:
        return walk.unknown(n, value)
    result = _lift(found[0], value.ndim)
    for other in found[1:]:
        result = meet(walk, result, _lift(other, value.ndim))
    if result.shape != tuple(value.shape):
        return walk.unknown(n, value)
    return result


def _lift(x: Labels, rank: int) -> Labels:
    more = (1,) * (rank - len(x.shape))
    return Labels(x.ids.reshape(more + x.ids.shape), more + x.shape)


def meet(walk: Walk, a: Labels, b: Labels) -> Labels:
    """The labels of an elementwise function of two tensors of the same rank."""
    rank = len(a.shape)
    shape = tuple(max(left, right) for left, right in zip(a.shape, b.shape, strict=True))
    spread_a = any(a.shape[axis] < shape[axis] and walk.varies(b, axis) for axis in range(rank))
    spread_b = any(b.shape[axis] < shape[axis] and walk.varies(a, axis) for axis in range(rank))
    single_a, single_b = (not any(walk.varies(x, axis) for axis in range(rank)) for x in (a, b))
    if spread_a and single_a:
        return Labels(b.ids, shape)
    if spread_b and single_b:
        return Labels(a.ids, shape)
    # A tensor of full size along the other's channels loses what the other loses.
    walk.classes.union(a.ids, b.ids)
    left, right = np.broadcast_arrays(a.ids, b.ids)
    return Labels(right if spread_a or (single_a and not single_b) else left, shape)


def matmul(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """A product of two computed matrices: heads lie along the axes before the last two, and go as a whole."""
    found = inputs(walk, n)
    if len(found) != 2 or min(len(x.shape) for x in found) < 2:
        return walk.unknown(n, value)
    a, b = found
    if not _varies(walk, a) and _only(walk, b, len(b.shape) - 1):
        return along(b.vector(-1), value.shape, value.ndim - 1)
    if not _varies(walk, b) and _only(walk, a, len(a.shape) - 2):
        return along(a.vector(-2), value.shape, value.ndim - 2)
    return _lift_last(meet(walk, _heads(walk, a, value.ndim), _heads(walk, b, value.ndim)), value.shape)


def scaled_dot_product(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """The same for softmax(q k^T) v."""
    found = inputs(walk, n)
    if any(len(x.shape) != value.ndim for x in found[:3]) or len({x.shape[:-2] for x in found[:3]}) > 1:
        return walk.unknown(n, value)
    result = _heads(walk, found[0], value.ndim)
    for other in found[1:]:
        result = meet(walk, result, _heads(walk, other, value.ndim))
    return _lift_last(result, value.shape)


def _varies(walk: Walk, x: Labels) -> bool:
    return any(walk.varies(x, axis) for axis in range(len(x.shape)))


def _only(walk: Walk, x: Labels, axis: int) -> bool:
    return all(walk.varies(x, other) == (other == axis) for other in range(len(x.shape)))


def _heads(walk: Walk, x: Labels, rank: int) -> Labels:
    """Labels along all axes but the last two, which become of size 1."""
    first = x.ids[..., :1, :1]
    walk.classes.union(x.ids, first)
    return _lift(Labels(first, (*x.shape[:-2], 1, 1)), rank)


def _lift_last(x: Labels, shape: Any) -> Labels:
    return Labels(x.ids, tuple(shape))


def pad(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """New positions along the channels get labels of their own, which nothing else has."""
    x = walk.source(n)
    amounts = pad_amounts(walk, n, len(x.shape))
    if amounts is None:
        return walk.unknown(n, value)
    ids = x.ids
    for axis, (before, after) in amounts.items():
        if (before, after) == (0, 0) or not walk.varies(x, axis):
            continue
        if ids.size > ids.shape[axis] or not constant_mode(walk, n):
            walk.classes.freeze(ids, f"{n.name} pads it")
            return constant(value.shape)
        vector: Array = ids.reshape(-1)[max(-before, 0) : ids.size - max(-after, 0)]
        sides = [walk.classes.fresh(max(amount, 0)) for amount in (before, after)]
        shape = [-1 if i == axis else 1 for i in range(ids.ndim)]
        ids = np.concatenate([sides[0], vector, sides[1]]).reshape(shape)
        walk.kinds[n] = "pads"
    return Labels(ids, tuple(value.shape))


def route(walk: Walk, n: fx.Node, value: Tensor) -> Any:
    """What an earlier removal put in: positions with nothing in them get labels of their own."""
    _, layer = _module(walk, n)
    x = walk.source(n)
    ids = walk.merge(x, layer.axis)
    index = layer.index.numpy()
    picked = np.where(index < 0, walk.classes.fresh(len(index)), ids[np.maximum(index, 0)])
    walk.kinds[n] = "routes"
    return along(picked, value.shape, layer.axis)


def pad_amounts(walk: Walk, n: fx.Node, rank: int) -> dict[int, tuple[int, int]] | None:
    """How much is added before and after each axis; None if it is not known."""
    given = walk.argument(n, 1, "pads" if is_onnx(n) else "pad")
    amounts = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(amounts, list | tuple) or not all(isinstance(amount, int) for amount in amounts):
        return None
    if not is_onnx(n):
        return {rank - 1 - i: (amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)}
    axes = walk.argument(n, 3, "axes")
    chosen = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    return {axis: (amounts[i], amounts[i + len(chosen)]) for i, axis in enumerate(chosen)}


def constant_mode(walk: Walk, n: fx.Node) -> bool:
    """Whether a pad node fills with one number."""
    return bool(walk.argument(n, 4 if is_onnx(n) else 2, "mode", "constant") == "constant")


def is_onnx(n: fx.Node) -> bool:
    """Whether a node calls one of the ONNX reader's functions."""
    return (getattr(n.target, "__module__", None) or "").startswith("dovetail.workload.onnx.")
