"""Learned step size quantisation.

Esser, McKinstry, Bablani, Appuswamy, Modha. Learned Step Size Quantization. ICLR 2020. arXiv:1902.08153

    v_bar = round(clip(v / s, -Q_N, Q_P)),   v_hat = v_bar s                           (equations 1 and 2)
    dv_hat/ds = -v/s + round(v/s)   where -Q_N < v/s < Q_P,   else -Q_N or Q_P          (3)
    dv_hat/dv = 1                   where -Q_N < v/s < Q_P,   else 0                    (5)
    Q_N = 2^(b-1), Q_P = 2^(b-1) - 1 signed;   Q_N = 0, Q_P = 2^b - 1 unsigned
    s starts at 2 <|v|> / sqrt(Q_P);   its gradient is scaled by 1 / sqrt(N Q_P), N the number of weights, or of
    features that one input of the layer has (section 2.2)

One step for each layer's weights and one for its inputs, both learned with the network. Inputs are unsigned where the
images given show none below zero, else signed. The step of the inputs starts from these images, not from the first
batch. The first and the last layer stay as they are, where the paper gives them 8 bits (`keep_ends`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Affine, ValueEncoder
from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context, Kind, Plan, check, layer_path
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, quantize_input, straight_through
from dovetail.methods.quantize.reading import REAL, images, magnitudes_read, starting_step
from dovetail.methods.quantize.uniform import TINY


class LearnedStep(Quantizer):
    """A uniform grid whose step is learned; its gradient is scaled for the `weight`, or for one input of a layer."""

    def __init__(self, bits: int, step: Tensor, *, signed: bool, weight: bool) -> None:
        super().__init__()
        self.code_bits, self.signed, self.of_weight = bits, signed, weight
        self.step = nn.Parameter(step.detach().float().reshape(1))

    @property
    def bits(self) -> float:
        return self.code_bits

    @property
    def lowest(self) -> int:
        return -(1 << (self.code_bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return (1 << (self.code_bits - self.signed)) - 1

    @property
    def positive_step(self) -> Tensor:
        """The step in use: training may take the parameter below zero."""
        return self.step.abs().clamp_min(TINY)

    def forward(self, latent: Tensor) -> Tensor:
        numbers = latent.numel() if self.of_weight else latent[0].numel()
        step = _scaled_gradient(self.positive_step, 1 / math.sqrt(numbers * self.highest))
        inside = (latent / step).clamp(self.lowest, self.highest)
        return straight_through(inside, inside.detach().round()) * step

    def encoder(self) -> ValueEncoder:
        step = self.positive_step.detach().cpu().numpy()
        return partial(Affine.encode, bits=self.code_bits, symmetric=False, scale=step, zero_point=-self.lowest)


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x, exactly; its gradient times `factor`."""
    return straight_through(x * factor, x.detach())


@dataclass(frozen=True, kw_only=True)
class Lsq(KeepsEnds):
    """Gives weights and inputs uniform grids whose steps are learned."""

    name: ClassVar[str] = "lsq"
    kind: ClassVar[Kind] = "share"

    weight_bits: int = 4
    """Of a weight."""

    activation_bits: int = 4
    """Of what a layer reads; 32: not quantised."""

    def __post_init__(self) -> None:
        check(2 <= self.weight_bits <= 8, self.name, "weight_bits", "from 2 to 8", self.weight_bits)
        check(2 <= self.activation_bits <= 8 or self.activation_bits == REAL, self.name, "activation_bits",
              f"from 2 to 8, or {REAL} for real numbers", self.activation_bits)  # fmt: skip

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = self.inner(model, context, self.weights(model))
        plan: Plan = {name: {"weight_bits": self.weight_bits} for name in names}
        if self.activation_bits == REAL:
            return plan
        paths = {layer_path(name): name for name in names}
        for path, reading in magnitudes_read(model, paths, images(context, self.name, "activation_bits")).items():
            plan[paths[path]] |= {
                "activation_bits": self.activation_bits, "signed": reading.signed, "magnitude": reading.magnitude
            }  # fmt: skip
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            magnitude = weights[name].abs().mean()
            constrain(model, name, _grid(row["weight_bits"], magnitude, signed=True, weight=True))
            if "activation_bits" in row:
                grid = _grid(row["activation_bits"], row["magnitude"], signed=row["signed"], weight=False)
                quantize_input(model, layer_path(name), grid.to(weights[name].device))
        return model


def _grid(bits: int, magnitude: float | Tensor, *, signed: bool, weight: bool) -> LearnedStep:
    return LearnedStep(bits, starting_step(magnitude, (1 << (bits - signed)) - 1), signed=signed, weight=weight)
