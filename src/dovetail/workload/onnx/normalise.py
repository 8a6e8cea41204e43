"""ONNX normalisation operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import ModelError


def batch_normalization(
    X: Tensor,
    scale: Tensor,
    B: Tensor,
    input_mean: Tensor,
    input_var: Tensor,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:
    """With given statistics."""
    if training_mode or not spatial:
        raise ModelError("BatchNormalization with training_mode=1 or spatial=0 cannot be read; export it for inference")
    normalised: Tensor = functional.batch_norm(X, input_mean, input_var, scale, B, False, 0.0, epsilon)
    return normalised


def layer_normalization(
    X: Tensor, Scale: Tensor, B: Tensor | None = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    shape = X.shape[axis:]
    if Scale.shape == shape and (B is None or B.shape == shape):
        return functional.layer_norm(X, shape, Scale, B, epsilon)
    Y = functional.layer_norm(X, shape, None, None, epsilon) * Scale
    return Y if B is None else Y + B


def rms_normalization(X: Tensor, scale: Tensor, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    axes = tuple(range(axis % X.ndim, X.ndim))
    return X * torch.rsqrt(X.square().mean(axes, keepdim=True) + epsilon) * scale


def instance_normalization(input: Tensor, scale: Tensor, B: Tensor, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(input, None, None, scale, B, True, 0.0, epsilon)


def group_normalization(
    X: Tensor, scale: Tensor, bias: Tensor, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """`scale` and `bias` are per channel, or (opset 18) per group."""
    repeats = X.shape[1] // scale.numel()
    return functional.group_norm(
        X, num_groups, scale.repeat_interleave(repeats), bias.repeat_interleave(repeats), epsilon
    )


def local_response_normalization(
    X: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Over `size` neighbouring channels; of an even number the odd one lies after."""
    before = (size - 1) // 2
    n, c = X.shape[:2]
    squares = functional.pad(X.square().reshape(n, c, -1), (0, 0, before, size - 1 - before))
    sums = squares.unfold(1, size, 1).sum(-1).reshape(X.shape)
    return X / (bias + alpha / size * sums) ** beta


def mean_variance_normalization(X: Tensor, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    centred = X - X.mean(tuple(axes), keepdim=True)
    deviation = centred.square().mean(tuple(axes), keepdim=True).sqrt()
    return centred / (deviation + 1e-9)


def lp_normalization(input: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(input, p, axis, keepdim=True)
    return input / norm


def gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha A' B' + beta C, where a weight is computed; others become nn.Linear."""
    product = (A.T if transA else A) @ (B.T if transB else B)
    product = product if alpha == 1 else alpha * product
    return product if C is None else product + (C if beta == 1 else beta * C)


def linear(X: Tensor, W: Tensor, B: Tensor | None = None, transposed: int = 0) -> Tensor:
    """X W' + B with W of shape (out, in), or (in, out) if `transposed`: a product whose weight another layer owns."""
    return functional.linear(X, W.T if transposed else W, B)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads * size) -> (batch, heads, length, size)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: int = 0,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
) -> Tensor:
    """Scaled dot-product attention of (batch, heads, length, size), or of (batch, length, heads * size)."""
    if softcap:
        raise ModelError("Attention with softcap cannot be read; export the model with its attention decomposed")
    packed = Q.ndim == 3
    if packed:
        Q = _heads(Q, q_num_heads)
        K, V = (_heads(x, kv_num_heads) for x in (K, V))
    Y = functional.scaled_dot_product_attention(
        Q, K, V, attn_mask, is_causal=bool(is_causal), scale=scale, enable_gqa=Q.shape[1] != K.shape[1]
    )
    return Y.transpose(1, 2).flatten(2) if packed else Y


def determinant(X: Tensor) -> Tensor:
    result: Tensor = torch.linalg.det(X)
    return result
