"""Binary-Weight-Network: every filter is its signs times one number; activations stay real.

Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks.
ECCV 2016. arXiv:1603.05279, section 3.1; authors' code github.com/allenai/XNOR-Net.

    W~ = alpha sign(W)      alpha = |W|_1 / n        the nearest such W~ of a filter of n weights
    dL/dW_i = alpha g_i 1{|W_i| <= 1} + sign(W_i) / n sum_j g_j sign(W_j)      "exact" but for the sign, g = dL/dW~
    dL/dW_i = (alpha 1{|W_i| <= 1} + 1 / n) g_i                                "diagonal": of the sum only j = i

W is centred (less its mean over the filter's input channels, at each tap) and clipped to [-1, 1] before; alpha is that
of the centred and clipped W. The gradient goes through the centring too, "diagonal" again with its diagonal, 1 - 1/S
for S input channels, as in the code. The first and the last layer stay as they are.

Departs from the code: that multiplies gradients by n for SGD; here the learning rate does. A filter of one input
channel (a depthwise convolution's) is not centred, as nothing would be left of it. There is no zero on the grid:
weights that were pruned before get a sign.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Binary, Layout, ValueEncoder
from dovetail.methods.constraint import Step, constrain
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.quantize.ends import inner
from dovetail.methods.quantize.quantizer import Quantizer, sign, straight_through

GRADIENTS = ("exact", "diagonal")


class BinaryWeight(Quantizer):
    """The signs of a weight, a scale for each filter (index of the first axis) being their mean magnitude."""

    def __init__(self, gradient: str = "exact", centre: bool = True) -> None:
        super().__init__()
        self.gradient, self.centre = gradient, centre
        self.latent: Tensor | None = None  # in training, what forward last saw

    @property
    def bits(self) -> float:
        return 1

    def forward(self, latent: Tensor) -> Tensor:
        self.latent = latent.detach() if self.training else None
        if self.gradient == "exact":
            return scaled_signs(prepared(latent, self.centre))
        weight = prepared(latent.detach(), self.centre)
        inside = centred(latent.detach(), self.centre).abs() <= 1
        slope = scales(weight) * inside + 1 / weight[0].numel()
        if self.centre and latent.shape[1] > 1:
            slope = slope * (1 - 1 / latent.shape[1])
        return straight_through(latent, scaled_signs(weight), slope)

    def after_step(self, step: Step) -> None:
        """Keeps the latent weight itself centred and clipped: outside [-1, 1] it would get no gradient."""
        if self.latent is not None:
            self.latent.copy_(prepared(self.latent, self.centre))

    def encoder(self) -> ValueEncoder:
        return partial(Binary.encode, axis=0)

    def freeze(self, layout: Layout) -> Layout:
        # A scale for each filter needs every filter's values in their places.
        return replace(super().freeze(layout), structure="dense")


def centred(weight: Tensor, centre: bool) -> Tensor:
    """`weight` (filters, input channels, ...) less its mean over the input channels, if there are several."""
    return weight - weight.mean(1, keepdim=True) if centre and weight.shape[1] > 1 else weight


def prepared(weight: Tensor, centre: bool) -> Tensor:
    """`weight` centred, then clipped to [-1, 1]."""
    return centred(weight, centre).clamp(-1, 1)


def scales(weight: Tensor) -> Tensor:
    """The mean magnitude of each filter (filters, 1, ...); its gradient at 0 is that of a positive weight."""
    return (weight * sign(weight)).mean(tuple(range(1, weight.ndim)), keepdim=True)


def scaled_signs(weight: Tensor) -> Tensor:
    """alpha sign(W), with the gradient of alpha and the straight-through one of the sign."""
    return scales(weight) * straight_through(weight, sign(weight))


@dataclass(frozen=True, kw_only=True)
class Bwn(Method):
    """Gives every filter one magnitude: a bit for each weight."""

    name: ClassVar[str] = "bwn"
    kind: ClassVar[Kind] = "share"

    gradient: str = "exact"
    """Of the latent weights: "exact" (all of the scale's gradient) or "diagonal" (as published)."""

    centre: bool = True
    """Whether filters have mean 0 over their input channels."""

    keep_ends: bool = True
    """Whether the network's first and last layer stay as they are."""

    def __post_init__(self) -> None:
        check(self.gradient in GRADIENTS, self.name, "gradient", '"exact" or "diagonal"', self.gradient)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = list(self.weights(model))
        return {name: {"bits": 1} for name in (inner(model, context.example, names) if self.keep_ends else names)}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for name in plan:
            constrain(model, name, BinaryWeight(self.gradient, self.centre))
        return model
