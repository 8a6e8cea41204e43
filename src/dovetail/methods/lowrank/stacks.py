"""Two layers in the place of one, from the factors of its weight.

The second always has a bias (zero where none is given), so that fitting it to responses adds no parameter to a plan.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.methods.layers import stack


def through_channels(layer: nn.Module, left: Tensor, right: Tensor, bias: Tensor | None) -> nn.Sequential:
    """R filters of the layer's own kind ("reduce"), then a 1x1 convolution or linear layer ("expand").

    `left` is (T, R), `right` (R, F) with F in the order of weight.flatten(1).
    """
    rank = len(right)
    first: nn.Module
    second: nn.Module
    if isinstance(layer, nn.Conv2d):
        first = nn.Conv2d(
            layer.in_channels, rank, _pair(layer.kernel_size), _pair(layer.stride),
            layer.padding if isinstance(layer.padding, str) else _pair(layer.padding), _pair(layer.dilation),
            bias=False, padding_mode=layer.padding_mode,
        )  # fmt: skip
        second = nn.Conv2d(rank, layer.out_channels, 1)
    else:
        assert isinstance(layer, nn.Linear)
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features)
    return stack({"reduce": _filled(first, right, None), "expand": _filled(second, left, bias)})


def through_space(layer: nn.Conv2d, vertical: Tensor, horizontal: Tensor, bias: Tensor | None) -> nn.Sequential:
    """A d x 1 convolution ("vertical"), then a 1 x d one ("horizontal").

    `vertical` is (R, S * d) with columns (channel, row), `horizontal` (T * d', R) with rows (filter, column). Each has
    its own axis' stride, padding and dilation; the first has no bias, so what it makes of padding is padding.
    """
    rank = len(vertical)
    (rows, columns), (down, right) = layer.kernel_size, layer.stride
    tall, wide = layer.dilation
    above: str | tuple[int, int]
    beside: str | tuple[int, int]
    if isinstance(layer.padding, str):
        above = beside = layer.padding
    else:
        above, beside = (layer.padding[0], 0), (0, layer.padding[1])
    first = nn.Conv2d(
        layer.in_channels, rank, (rows, 1), (down, 1), above, (tall, 1), bias=False, padding_mode=layer.padding_mode
    )
    second = nn.Conv2d(
        rank, layer.out_channels, (1, columns), (1, right), beside, (1, wide),
        padding_mode=layer.padding_mode,
    )  # fmt: skip
    kernels = horizontal.view(layer.out_channels, columns, rank).transpose(1, 2)
    return stack({"vertical": _filled(first, vertical, None), "horizontal": _filled(second, kernels, bias)})


def _filled(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Conv2d | nn.Linear:
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
    return layer


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return sizes[0], sizes[1]
