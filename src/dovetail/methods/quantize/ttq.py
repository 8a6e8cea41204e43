"""Trained ternary quantisation: the two magnitudes of a layer are learned.

Zhu, Han, Mao, Dally. Trained Ternary Quantization. ICLR 2017. arXiv:1612.01064

    W~ = Wp where w > D;  -Wn where w < -D;  0 elsewhere             D = t max|w|, not differentiated
    dL/dWp = sum over w > D of g          dL/dWn = -sum over w < -D of g          g = dL/dW~
    dL/dw  = Wp g where w > D;  Wn g where w < -D;  g elsewhere      an estimate

The first and the last layer stay as they are.

Departs from the paper: that prints the gradient of Wn without the minus, which -Wn in the forward pass gives it. The
magnitudes start from the means of the weights they stand for, which are nearest to those (the code starts from 1), and
are kept above a small positive number. t is 0.1 and not 0.05: nearer to a trained layer, for a short retraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.formats import Ternary, ValueEncoder
from dovetail.methods.constraint import Step, constrain
from dovetail.methods.method import Context, Kind, Plan, check
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, straight_through

LEAST = 1e-6
"""The least magnitude: at 0 the two sides could not be told apart, below they would change places."""


class TrainedTernary(Quantizer):
    """-minus, 0 or plus; `plus` and `minus` (1,) are learned. `threshold` is a fraction of the largest |latent|."""

    def __init__(self, threshold: float, plus: Tensor, minus: Tensor) -> None:
        super().__init__()
        self.threshold = threshold
        self.plus = nn.Parameter(plus.detach().reshape(1).clamp_min(LEAST))
        self.minus = nn.Parameter(minus.detach().reshape(1).clamp_min(LEAST))

    @property
    def bits(self) -> float:
        return 2

    def forward(self, latent: Tensor) -> Tensor:
        above, below = sides(latent.detach(), self.threshold)
        value = self.plus * above - self.minus * below
        slope = torch.where(above, self.plus.detach(), torch.where(below, self.minus.detach(), 1.0))
        return straight_through(latent, value, slope)

    def after_step(self, step: Step) -> None:
        with torch.no_grad():
            self.plus.clamp_(min=LEAST)
            self.minus.clamp_(min=LEAST)

    def encoder(self) -> ValueEncoder:
        return Ternary.encode


def sides(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Where `weight` is above D and where below -D: two boolean masks of its shape."""
    limit = threshold * weight.abs().max()
    return weight > limit, weight < -limit


def magnitudes(weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The mean of the weights above D and that of those below -D, as magnitudes; 0 where there are none."""
    means = [(weight.abs() * side).sum() / side.sum().clamp_min(1) for side in sides(weight, threshold)]
    return means[0], means[1]


@dataclass(frozen=True, kw_only=True)
class Ttq(KeepsEnds):
    """Gives each layer three values, zero and two that are learned."""

    name: ClassVar[str] = "ttq"
    kind: ClassVar[Kind] = "share"

    threshold: float = 0.1
    """Weights below this fraction of the layer's largest become zero."""

    def __post_init__(self) -> None:
        check(0 <= self.threshold < 1, self.name, "threshold", "a fraction in [0, 1)", self.threshold)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return {name: {"bits": 2} for name in self.inner(model, context, self.weights(model))}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name in plan:
            constrain(model, name, TrainedTernary(self.threshold, *magnitudes(weights[name], self.threshold)))
        return model
