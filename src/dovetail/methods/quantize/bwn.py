"""Binary-Weight-Network: every filter is its signs times one number; activations stay real.

Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks.
ECCV 2016. arXiv:1603.05279, section 3.1; authors' code github.com/allenai/XNOR-Net.

    W~ = alpha sign(W)      alpha = |W|_1 / n        the nearest such W~ of a filter of n weights
    dL/dW_i = alpha g_i 1{|W_i| <= 1} + sign(W_i) / n sum_j g_j sign(W_j)      "exact" but for the sign, g = dL/dW~
    dL/dW_i = (alpha 1{|W_i| <= 1} + 1 / n) g_i                                "diagonal": of the sum only j = i

After every step W is clipped to [-1, 1]. With `centre` its mean over the filter's input channels, at each tap, is taken
from W first; the gradient goes through that too, "diagonal" again with its diagonal, 1 - 1/S for S input channels, as
in the code. The first and the last layer stay as they are.

Departs from the code: that always centres, which throws away what a trained network holds in those means. It multiplies
gradients by n for SGD; here the learning rate does. A filter of one input channel (a depthwise convolution's) is never
centred, as nothing would be left of it. Where a trained layer has weights beyond 1, its largest is the limit instead.
There is no zero on the grid: weights that were pruned before get a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Binary, ValueEncoder
from dovetail.methods.constraint import Step, constrain
from dovetail.methods.method import Context, Kind, Plan, check
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, sign, straight_through

GRADIENTS = ("exact", "diagonal")


class BinaryWeight(Quantizer):
    """The signs of a weight, a scale for each filter (index of the first axis) being their mean magnitude.

    `limit` (a buffer, scalar) is how far from 0 the latent weight may go.
    """

    limit: Tensor

    def __init__(self, limit: Tensor, gradient: str = "exact", centre: bool = False) -> None:
        super().__init__()
        self.gradient, self.centre = gradient, centre
        self.register_buffer("limit", limit.detach().clone())
        self.latent: Tensor | None = None  # in training, what forward last saw

    @property
    def bits(self) -> float:
        return 1

    def forward(self, latent: Tensor) -> Tensor:
        self.latent = latent.detach() if self.training else None
        if self.gradient == "exact":
            weight = centred(latent, self.centre)
            return scales(weight) * straight_through(weight, sign(weight), weight.abs() <= self.limit)
        weight = centred(latent.detach(), self.centre)
        slope = scales(weight) * (weight.abs() <= self.limit) + 1 / weight[0].numel()
        if self.centre and weight.shape[1] > 1:
            slope = slope * (1 - 1 / weight.shape[1])
        return straight_through(latent, scales(weight) * sign(weight), slope)

    def after_step(self, step: Step) -> None:
        """Centres and clips the latent weight itself, unless it is computed by another constraint below."""
        if self.latent is not None:
            self.latent.copy_(centred(self.latent, self.centre).clamp(-self.limit, self.limit))

    def encoder(self) -> ValueEncoder:
        return partial(Binary.encode, axis=0)

    @property
    def in_place(self) -> bool:
        return True


def centred(weight: Tensor, centre: bool) -> Tensor:
    """`weight` (filters, input channels, ...) less its mean over the input channels, if there are several."""
    return weight - weight.mean(1, keepdim=True) if centre and weight.shape[1] > 1 else weight


def scales(weight: Tensor) -> Tensor:
    """The mean magnitude of each filter (filters, 1, ...); its gradient at 0 is that of a positive weight."""
    return (weight * sign(weight)).mean(tuple(range(1, weight.ndim)), keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Bwn(KeepsEnds):
    """Gives every filter one magnitude: a bit for each weight."""

    name: ClassVar[str] = "bwn"
    kind: ClassVar[Kind] = "share"

    gradient: str = "exact"
    """Of the latent weights: "exact" (all of the scale's gradient) or "diagonal" (as published)."""

    centre: bool = False
    """Whether filters are made to have mean 0 over their input channels, as the authors' code does from scratch."""

    def __post_init__(self) -> None:
        check(self.gradient in GRADIENTS, self.name, "gradient", '"exact" or "diagonal"', self.gradient)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return {name: {"bits": 1} for name in self.inner(model, context, self.weights(model))}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name in plan:
            limit = centred(weights[name], self.centre).abs().max().clamp_min(1)
            constrain(model, name, BinaryWeight(limit, self.gradient, self.centre))
        return model
