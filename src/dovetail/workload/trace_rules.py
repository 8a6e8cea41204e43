"""What one call of a torch operator amounts to: its kind, loop extents and counts.

A rule is a function of a `Call`; `RULES` names the operators with a rule of their own, `KINDS` those for which the kind
and a number of operations per element say everything. Anything else is judged by the tags that torch gives operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dovetail.workload.operation import Kind


@dataclass(frozen=True)
class Call:
    """One call of an operator: `operator` without underscores, arguments by their names in torch's schema."""

    operator: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    tags: frozenset[torch.Tag]

    @property
    def output(self) -> Tensor:
        """The first output; the others of pooling, normalisation and attention serve only the backward pass."""
        return self.outputs[0]


@dataclass(frozen=True)
class Work:
    """What a call amounts to, as in `Operation`."""

    kind: Kind
    extents: Mapping[str, int]
    macs: int = 0
    other_ops: int = 0
    attributes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    operator: str | None = None
    """The operator's name where it is not torch's."""


def is_known(operator: str, tags: Iterable[torch.Tag]) -> bool:
    """Whether `operator` need not be taken apart to be understood."""
    return operator in RULES or operator in KINDS or torch.Tag.pointwise in tags


def work(call: Call) -> Work:
    """What `call` amounts to."""
    if rule := RULES.get(call.operator):
        return rule(call)
    kind, operations_per_element = KINDS.get(call.operator) or _by_tag(call)
    counted = _first_input(call) if kind == "reduction" else call.output
    other_ops = operations_per_element * counted.numel()
    return Work(kind, {"elements": call.output.numel()}, other_ops=other_ops)


def _by_tag(call: Call) -> tuple[Kind, int]:
    if torch.Tag.pointwise in call.tags:
        return "elementwise", 1
    if torch.Tag.reduction in call.tags:
        return "reduction", 1
    return "other", 0


def _convolution(call: Call) -> Work:
    """Input (N, C, *spatial); weight (K, C / groups, *kernel), or transposed (C, K / groups, *kernel)."""
    source, weight, groups = call.arguments["input"], call.arguments["weight"], call.arguments["groups"]
    transposed = call.arguments["transposed"]
    looped = source if transposed else call.output
    (n, c), k = source.shape[:2], call.output.shape[1]
    extents = {"N": n, "K": k, "C": c, **_named("ZPQ", looped.shape[2:]), **_named("TRS", weight.shape[2:])}
    names = ("stride", "padding", "dilation", *(("output_padding",) if transposed else ()))
    return Work(
        "conv",
        extents | {"groups": groups},
        macs=math.prod(extents.values()) // groups,
        other_ops=call.output.numel() if call.arguments["bias"] is not None else 0,
        attributes={name: tuple(call.arguments[name]) for name in names},
        operator="transposed_convolution" if transposed else None,
    )


def _named(names: str, extents: Sequence[int]) -> dict[str, int]:
    """The last two or three `names` with their extents; a missing dimension has extent 1, but no third is invented."""
    padded = (1,) * (2 - len(extents)) + tuple(extents)
    return dict(zip(names[-len(padded) :], padded, strict=True))


MATRICES = {
    "mm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "addmm_activation": ("mat1", "mat2"),
    "bmm": ("self", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"),
    "addmv": ("mat", "vec"),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
}
"""Matrix products, with the arguments that are multiplied; an operator with "add" in its name adds `self` to them."""


def _matmul(call: Call) -> Work:
    left, right = (call.arguments[name] for name in MATRICES[call.operator])
    extents = {
        "B": left.shape[0] if left.ndim == 3 else 1,
        "M": left.shape[-2] if left.ndim > 1 else 1,
        "N": right.shape[-1] if right.ndim > 1 else 1,
        "K": left.shape[-1],
    }
    other_ops = call.output.numel() if "add" in call.operator else 0
    return Work("matmul", extents, macs=math.prod(extents.values()), other_ops=other_ops)


SOFTMAX_OPS = 5
"""Per element: compare for the maximum, subtract it, exponential, add up, divide."""


def _attention(call: Call) -> Work:
    """Query (..., heads, L, E), key (..., heads, S, E), value (..., heads, S, V)."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    *batch, heads, queries, width = query.shape
    extents = {"B": math.prod(batch), "H": heads, "L": queries, "S": key.shape[-2], "E": width, "V": value.shape[-1]}
    scores = extents["B"] * heads * queries * extents["S"]
    macs = scores * (extents["E"] + extents["V"])
    return Work("attention", extents, macs=macs, other_ops=scores * (1 + SOFTMAX_OPS))


def _pool(call: Call) -> Work:
    """Windows of `kernel_size`; adaptive pooling has the windows that cover its input."""
    source, output = call.arguments["self"], call.output
    rank = 3 if call.operator.endswith("3d") else 2
    spatial = output.shape[-rank:]
    kernel = call.arguments.get("kernel_size")
    if kernel is None:
        kernel = [-(-old // new) for old, new in zip(source.shape[-rank:], spatial, strict=True)]
    elif len(kernel) == 1:
        kernel = list(kernel) * rank
    given = {name: tuple(call.arguments.get(name) or ()) for name in ("stride", "padding")}
    return _pooling(output.shape[:-rank], spatial, kernel, {name: value for name, value in given.items() if value})


def _mean(call: Call) -> Work:
    """A mean over all but (N, C) is what torch makes of global average pooling."""
    source = call.arguments["self"]
    dims = {dim % source.ndim for dim in call.arguments.get("dim") or range(source.ndim)}
    if source.ndim in (4, 5) and dims == set(range(2, source.ndim)):
        return _pooling(source.shape[:2], (1,) * (source.ndim - 2), source.shape[2:], {})
    return Work("reduction", {"elements": call.output.numel()}, other_ops=source.numel())


def _pooling(
    channels: Sequence[int], spatial: Sequence[int], kernel: Sequence[int], attributes: dict[str, tuple[int, ...]]
) -> Work:
    c = channels[-1] if channels else 1
    extents = {"N": math.prod(channels[:-1]), "C": c, **_named("ZPQ", spatial), **_named("TRS", kernel)}
    return Work("pool", extents, other_ops=math.prod(extents.values()), attributes=attributes)


def _first_input(call: Call) -> Tensor:
    return next(value for value in call.arguments.values() if isinstance(value, Tensor))


ATTENTION = (
    "scaled_dot_product_flash_attention_for_cpu",
    "scaled_dot_product_flash_attention",
    "scaled_dot_product_efficient_attention",
    "scaled_dot_product_cudnn_attention",
    "scaled_dot_product_fused_attention_overrideable",
)

POOLS = (
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_max_pool2d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
)

RULES: dict[str, Callable[[Call], Work]] = {
    "convolution": _convolution,
    "mean": _mean,
    **dict.fromkeys(MATRICES, _matmul),
    **dict.fromkeys(ATTENTION, _attention),
    **dict.fromkeys(POOLS, _pool),
}


def _kinds(kind: Kind, operations_per_element: int, operators: str) -> Iterable[tuple[str, tuple[Kind, int]]]:
    return ((operator, (kind, operations_per_element)) for operator in operators.split())


KINDS: dict[str, tuple[Kind, int]] = dict(
    (
        # With the statistics known, one multiplication and one addition; else two passes for them besides.
        *_kinds("normalisation", 2, "native_batch_norm native_batch_norm_legit_no_training cudnn_batch_norm"),
        *_kinds("normalisation", 7, "native_layer_norm native_group_norm native_batch_norm_legit fused_rms_norm"),
        *_kinds("softmax", SOFTMAX_OPS, "softmax log_softmax safe_softmax"),
        *_kinds("activation", 1, "relu hardtanh sigmoid tanh gelu silu mish elu leaky_relu prelu_kernel hardswish"),
        *_kinds("activation", 1, "hardsigmoid softplus hardshrink softshrink threshold log_sigmoid_forward"),
        *_kinds("move", 0, "cat stack copy clone to_copy repeat repeat_interleave roll flip tril triu where"),
        *_kinds("move", 0, "index index_put index_select gather scatter embedding masked_select masked_fill"),
        *_kinds("move", 0, "select_scatter slice_scatter view_copy split_with_sizes_copy im2col"),
        *_kinds("move", 0, "pixel_shuffle pixel_unshuffle channel_shuffle"),
        *_kinds("move", 0, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
        *_kinds("move", 0, "replication_pad1d replication_pad2d replication_pad3d"),
        *_kinds("move", 0, "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
        *_kinds("reduction", 1, "col2im cumsum cumprod"),
        # A multiplication and an addition for each of 2, 4, 8 or 16 neighbours.
        *_kinds("resample", 4, "upsample_linear1d"),
        *_kinds("resample", 8, "upsample_bilinear2d grid_sampler_2d"),
        *_kinds("resample", 16, "upsample_trilinear3d grid_sampler_3d"),
        *_kinds("resample", 32, "upsample_bicubic2d"),
    )
)
