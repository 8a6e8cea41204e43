"""Attention from which heads can be taken: nn.MultiheadAttention insists on heads * size == embedding."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """nn.MultiheadAttention for one embedding size, with any number of heads; its tensors have the same names.

    Vaswani et al. Attention Is All You Need. NeurIPS 2017. arXiv:1706.03762, section 3.2.2.
    """

    is_leaf: ClassVar[bool] = True

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.batch_first = source.num_heads, source.head_dim, source.batch_first
        self.dropout = source.dropout
        self.in_proj_weight = source.in_proj_weight
        self.register_parameter("in_proj_bias", source.in_proj_bias)
        self.out_proj = nn.Linear(source.embed_dim, source.embed_dim, source.out_proj.bias is not None, device="meta")
        self.out_proj.weight, self.out_proj.bias = source.out_proj.weight, source.out_proj.bias
        self.train(source.training)

    in_proj_bias: Tensor | None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values and, with `need_weights`, the attention (N, L, S) averaged over the heads."""
        batched = query.ndim == 3
        given = (query, key, value)
        if not batched:
            given = (query[None], key[None], value[None])
        elif not self.batch_first:
            given = (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(given, self.in_proj_weight.chunk(3), biases, strict=True)
        )
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
            if mask is not None:
                mask = mask.view(-1, self.num_heads, *mask.shape[1:]) if mask.ndim == 3 else mask
                scores = scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        weights = torch.softmax(scores, -1)
        attended = functional.dropout(weights, self.dropout, self.training) @ v
        y = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            y, weights = y[0], weights[0]
        elif not self.batch_first:
            y = y.transpose(0, 1)
        if not need_weights:
            return y, None
        return y, weights.mean(-3) if average_attn_weights else weights


def supported(module: nn.MultiheadAttention) -> bool:
    """Whether `Attention` computes the same."""
    return module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
