"""Ternary weight networks: every filter is zeros, and signs times one number.

Li, Zhang, Liu. Ternary Weight Networks. 2016. arXiv:1605.04711

    W~ = alpha sign(W) where |W| > D;  0 elsewhere
    D = 0.75 mean|W|        alpha = mean of |W| where |W| > D        nearly the nearest such W~, of each filter
    dL/dW = dL/dW~                                                   an estimate

The factor is that of the paper's third version; the first has 0.7. The first and the last layer stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Ternary, ValueEncoder
from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context, Kind, Plan, check
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, straight_through


class TernaryWeight(Quantizer):
    """-alpha, 0 or alpha, of each filter (index of the first axis)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    @property
    def bits(self) -> float:
        return 2

    def forward(self, latent: Tensor) -> Tensor:
        return straight_through(latent, ternary(latent.detach(), self.factor))

    def encoder(self) -> ValueEncoder:
        return partial(Ternary.encode, axis=0, symmetric=True)

    @property
    def in_place(self) -> bool:
        return True


def ternary(weight: Tensor, factor: float) -> Tensor:
    """`weight` (filters, ...) with every filter's values put to -alpha, 0 or alpha."""
    others = tuple(range(1, weight.ndim))
    magnitude = weight.abs()
    kept = magnitude > factor * magnitude.mean(others, keepdim=True)
    alpha = (magnitude * kept).sum(others, keepdim=True) / kept.sum(others, keepdim=True).clamp_min(1)
    return alpha * weight.sign() * kept


@dataclass(frozen=True, kw_only=True)
class Twn(KeepsEnds):
    """Gives every filter three values, zero and two of one magnitude."""

    name: ClassVar[str] = "twn"
    kind: ClassVar[Kind] = "share"

    factor: float = 0.75
    """Weights below this multiple of the filter's mean magnitude become zero."""

    def __post_init__(self) -> None:
        check(0 <= self.factor < 1, self.name, "factor", "a number in [0, 1)", self.factor)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return {name: {"bits": 2} for name in self.inner(model, context, self.weights(model))}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for name in plan:
            constrain(model, name, TernaryWeight(self.factor))
        return model
