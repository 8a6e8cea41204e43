"""Binarized Neural Networks: weights and layers' inputs are signs.

Hubara, Courbariaux, Soudry, El-Yaniv, Bengio. Binarized Neural Networks. NeurIPS 2016. arXiv:1602.02830

    Wb = sign(W)       dL/dW = dL/dWb, and W <- clip(W, -1, 1) after each step
    xb = sign(x)       dL/dx = dL/dxb [ |x| <= 1 ]                     sign(0) = +1
    y  = Wb * xb       an integer; normalisation and the next sign are one threshold a channel (`packed.fold`)

Departs from the paper, for the network is given and trained:
- The paper draws W over all of [-1, 1] and divides each layer's step by its Glorot bound. Here W stays as it is trained
  and is clipped to +-sqrt(3) times its root mean square, where a uniform draw of that spread would end. Signs and their
  changes are the same, so a usual learning rate serves.
- Wb is times a fixed power of two near mean |W|, a shift, so that a network without normalisation can be started from.
- x is less a threshold (the mean of what the layer reads if that is never negative, and else 0).
- The signs of inputs are not drawn at random in training.

As in both of the authors' programs the weights of the first and last layer are signs too, and so is what the last one
reads; what the first one reads, the pictures, is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.formats import Binary, ValueEncoder
from dovetail.methods.constraint import Step, constrain
from dovetail.methods.method import Context, Plan, layer_path
from dovetail.methods.quantize.binary_input import BinaryMethod, SignedInput
from dovetail.methods.quantize.ends import executed
from dovetail.methods.quantize.quantizer import Quantizer, quantize_input, sign, straight_through
from dovetail.methods.reconstruction import settle_norms


class SignedWeight(Quantizer):
    """The signs of a weight times a fixed power of two. The gradient passes; the latent weight is kept in bounds."""

    scale: Tensor
    bound: Tensor

    def __init__(self, weight: Tensor) -> None:
        """`weight`: the one to start from."""
        super().__init__()
        magnitude = weight.detach().abs()
        self.register_buffer("scale", torch.exp2(magnitude.mean().clamp_min(2**-60).log2().round()))
        self.register_buffer("bound", math.sqrt(3) * magnitude.square().mean().sqrt())
        self.latent: Tensor | None = None  # in training, what forward last saw

    def forward(self, latent: Tensor) -> Tensor:
        self.latent = latent.detach() if self.training else None
        return self.scale * straight_through(latent, sign(latent.detach()))

    def after_step(self, step: Step) -> None:
        if self.latent is not None:
            self.latent.clamp_(-self.bound, self.bound)

    @property
    def bits(self) -> float:
        return 1

    def encoder(self) -> ValueEncoder:
        return partial(Binary.encode, axis=None)

    @property
    def in_place(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Bnn(BinaryMethod):
    """Makes weights and inputs signs; a normalisation should follow every layer."""

    name: ClassVar[str] = "bnn"

    keep_ends: bool = False
    """Whether the network's first and last layer stay as they are."""

    def plan(self, model: nn.Module, context: Context) -> Plan:
        first = executed(model, context.example)[:1]
        return {
            name: {"bits": 1} if name in first else {"bits": 1, "threshold": threshold}
            for name, threshold in self.thresholds(model, context).items()
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            if "threshold" in row:
                quantize_input(model, layer_path(name), SignedInput(torch.tensor(row["threshold"])))
            constrain(model, name, SignedWeight(weights[name]))
        settle_norms(model, context)
        return model
