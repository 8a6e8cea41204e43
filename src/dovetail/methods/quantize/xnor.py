"""XNOR-Net: signs of weights times signs of inputs, both scaled.

Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks.
ECCV 2016. arXiv:1603.05279

    I * W ~= (sign(I) * sign(W)) . K alpha
    alpha = mean |W|           of each filter, as in `bwn`, whose gradient this has too
    K     = mean |patch of I|  of each output position, one for all filters of a group: a box filter over the channels'
                               mean |I|, with the convolution's stride, padding and dilation
    dL/dI = dL/dsign(I) [ |I| <= 1 ]       K counts as a constant

Departs from the paper: I stands for the input less a threshold (the mean of the layer's inputs if these are never
negative, and else 0), for the network is given, with its ReLU where it is. The order of layers is the network's too:
the paper normalises just before the sign. The authors' code has no K; see `input_scale`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.methods.method import Context, Plan, layer_path
from dovetail.methods.quantize.binary_input import (
    CONVOLUTIONS,
    BinaryMethod,
    Remembering,
    SignedInput,
    remember_input,
)
from dovetail.methods.quantize.bwn import Bwn
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.reconstruction import settle_norms


class ScaledInput(SignedInput, Remembering):
    """Signs of a layer's input, and their scale K on the layer's output."""

    def forward(self, latent: Tensor) -> Tensor:
        self.read = latent
        return super().forward(latent)

    def finish(self, layer: nn.Module, read: Tensor, output: Tensor) -> Tensor:
        scale = patch_means(layer, (read.detach() - self.threshold).abs())
        if not isinstance(layer.bias, Tensor):
            return output * scale
        bias = layer.bias.view(-1, *[1] * len(layer.kernel_size)) if isinstance(layer, CONVOLUTIONS) else layer.bias
        return (output - bias) * scale + bias


def patch_means(layer: nn.Module, x: Tensor) -> Tensor:
    """The mean of all that an output of the layer is computed from: (N, groups or channels, P, Q), or (..., 1).

    The padding counts as zeros. x has no negative values, in the shape of what the layer reads.
    """
    if not isinstance(layer, CONVOLUTIONS):
        return x.mean(-1, keepdim=True)
    if layer.groups == 1:  # engines have a mean over all channels
        means = x.mean(1, keepdim=True)
    else:
        means = x.view(-1, layer.groups, x.shape[1] // layer.groups, *x.shape[2:]).mean(2)
    box = x.new_full((layer.groups, 1, *layer.kernel_size), 1 / math.prod(layer.kernel_size))
    scale: Tensor = layer._conv_forward(means, box, None)
    return scale if layer.groups == 1 else scale.repeat_interleave(layer.out_channels // layer.groups, 1)


@dataclass(frozen=True, kw_only=True)
class Xnor(BinaryMethod):
    """Makes weights and inputs binary, with a scale for each filter and one for each output position."""

    name: ClassVar[str] = "xnor"

    input_scale: bool = True
    """Whether there is a K. Without it products are of integers alone, and a normalisation must follow each layer."""

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return {name: {"threshold": threshold} for name, threshold in self.thresholds(model, context).items()}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for name, row in plan.items():
            path, threshold = layer_path(name), torch.tensor(row["threshold"])
            if self.input_scale:
                remember_input(model, path, ScaledInput(threshold))
            else:
                quantize_input(model, path, SignedInput(threshold))
        model = Bwn().apply(model, plan, 0, context)
        settle_norms(model, context)
        return model
