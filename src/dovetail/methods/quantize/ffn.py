"""Fixed-point factorised networks: a ternary convolution, a scale for each of its maps, a ternary 1x1 convolution.

Wang, Cheng. Fixed-point Factorized Networks. CVPR 2017. arXiv:1611.01972 (and the authors' released code)

    W (T, n) ~ U diag(d) V^T        U (T, k), V (n, k) of -1, 0 and 1        n = S R S' weights of a filter, or inputs

V^T is a convolution like the layer's own, with k filters; then k multiplications, all there are; then U, 1x1, with the
bias. An output pixel takes nnz(V) + nnz(U) additions instead of T n multiply-accumulates.

Without labels: the semi-discrete decomposition of the weight; where there are inputs, the factors are then changed,
from the first layer to the last, until the layer answers to what it now sees as the original did (`semidiscrete`);
at last batch statistics are estimated anew, if that helps. For training with labels, straight through the rounding:

    latent factors   Uh, Vh round to U and V and have the least ||W - Uh diag(d) Vh^T||: training starts near W
    balance          latents are held in units of their own, U = round(Uh' / a), V = round(Vh' / b), and the parameter
                     for d is d / (a b). If the gradient of W is white, of deviation g, that of an entry of Uh' is
                     g |d| ||v|| / a (mean square over the components); a and b are such that it changes Uh' and Vh'
                     by the same fraction as W by its gradient g

Departs from the paper: the formula of the balance is ours, from the same aim; latents keep away from where they would
round to another value, or the first step of training throws many over (`semidiscrete.MARGIN`); in a response u and d
are solved for together; responses and inputs are centred and the bias takes the difference, so the 1x1 convolution
always has one; inputs are too few for all weights of a layer, so `reconstruction.RIDGE` pulls the product towards W; k
may be more than min(T, n), because a sum of more components can still come closer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.formats import Ternary, ValueEncoder
from dovetail.methods import layers as network_layers
from dovetail.methods.constraint import Constraint, constrain
from dovetail.methods.decomposition import target_network
from dovetail.methods.layers import Call, called
from dovetail.methods.lowrank.stacks import through_channels
from dovetail.methods.method import Context, Kind, Plan, check, weight_name
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, straight_through
from dovetail.methods.quantize.semidiscrete import Array, Factors, decompose, recover, respond
from dovetail.methods.reconstruction import RIDGE, best_bias, normal_equations, settle_norms
from dovetail.methods.responses import outputs, patches


class TernaryFactor(Quantizer):
    """Rounds a latent factor, in units of `unit`, to -1, 0 or 1; the gradient passes up to one and a half units."""

    unit: Tensor

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(unit))

    @property
    def bits(self) -> float:
        return math.log2(3)

    def forward(self, latent: Tensor) -> Tensor:
        entries = latent / self.unit
        rounded = entries.detach().round()
        return straight_through(entries, rounded.clamp(-1, 1) + 0.0, rounded.abs() <= 1)  # + 0: without -0

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * self.unit

    def encoder(self) -> ValueEncoder:
        return partial(Ternary.encode, symmetric=True)


class Unit(Constraint):
    """Holds a weight in units of `unit`, which changes nothing but how far a training step goes."""

    unit: Tensor

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(unit))

    def forward(self, latent: Tensor) -> Tensor:
        return latent * self.unit

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.unit


class Scale(nn.Module):
    """Multiplies every channel by a number of its own; channels are the last axis, or the third from last."""

    def __init__(self, scale: Tensor, *, pictures: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale)
        self.pictures = pictures

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.weight.view(-1, 1, 1) if self.pictures else self.weight)


@dataclass(frozen=True, kw_only=True)
class Ffn(KeepsEnds):
    """Makes each convolution (groups 1) and linear layer two ternary ones with a scale for each channel between."""

    name: ClassVar[str] = "ffn"
    kind: ClassVar[Kind] = "rebuild"
    pace: ClassVar[float] = 0.25

    rank_ratio: float = 1.0
    """The channels between, k, as a multiple of min(T, n)."""

    sweeps: int = 20
    """How often at most each component of the decomposition is solved for anew."""

    epochs: int = 50
    """How often at most each component is fitted to the original's responses; 0 keeps the weights' decomposition."""

    def __post_init__(self) -> None:
        check(0 < self.rank_ratio <= 4, self.name, "rank_ratio", "above 0 and at most 4", self.rank_ratio)
        check(self.sweeps >= 0, self.name, "sweeps", "0 or more", self.sweeps)
        check(self.epochs >= 0, self.name, "epochs", "0 or more", self.epochs)

    @property
    def separable(self) -> bool:
        return True

    def plan(self, model: nn.Module, context: Context) -> Plan:
        calls = called(model, context.example, accepts)
        paths = self.chosen(list(calls))
        names = {weight_name(path): path for path in paths}
        return {names[name]: self._row(calls[names[name]]) for name in self.inner(model, context, names)}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        if context.rebuilding:
            for path, row in plan.items():
                layer = model.get_submodule(path)
                network_layers.replace(model, path, stack(layer, _empty(layer, row["rank"]), None))
            return model
        if context.inputs is not None:
            context = replace(context, original=target_network(model, list(plan), context))
        for path, row in plan.items():
            layer = model.get_submodule(path)
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            factors = decompose(matrix(layer), row["rank"], sweeps=self.sweeps)
            bias = None if layer.bias is None else layer.bias.detach()
            if context.inputs is not None and self.epochs:
                factors, bias = self._respond(model, path, factors, context)
            network_layers.replace(model, path, stack(layer, factors, bias))
        settle_norms(model, context)
        return model

    def _respond(
        self, model: nn.Module, path: str, factors: Factors, context: Context
    ) -> tuple[Factors, Tensor | None]:
        """Factors and bias with which the layer at `path`, on what it sees in `model`, answers as in the original."""
        assert context.inputs is not None and context.original is not None
        seen = patches(model, path, context.inputs)
        wanted = outputs(context.original, [path], context.inputs)[path]
        weight = torch.from_numpy(matrix(model.get_submodule(path))).to(seen.device)
        best, gram = normal_equations(seen, wanted, weight, RIDGE)
        factors = respond(factors, gram.cpu().numpy(), (gram @ best.T).cpu().numpy(), epochs=self.epochs)
        return factors, best_bias(seen, wanted, torch.from_numpy(factors.product()).to(seen.device))

    def _row(self, call: Call) -> dict[str, Any]:
        """What is decided, the rank; and the costs, those of the decomposition before it is fitted to responses."""
        weight = matrix(call.layer)
        rank = max(1, round(self.rank_ratio * min(weight.shape)))
        factors = decompose(weight, rank, sweeps=self.sweeps)
        positions = math.prod(call.output_shape) // len(weight)
        made = stack(call.layer, factors, None)
        return {
            "rank": rank,
            "macs": [network_layers.macs(layer, call.input_shape) for layer in (call.layer, made)],
            "params": [network_layers.parameters(layer) for layer in (call.layer, made)],
            "additions": positions * factors.nonzeros,
            "multiplications": positions * rank,
        }


def accepts(layer: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution that is not grouped."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def matrix(layer: nn.Module) -> Array:
    """The weight as (T, n), in double precision."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight: Array = layer.weight.detach().flatten(1).cpu().double().numpy()
    return weight


def stack(layer: nn.Module, factors: Factors, bias: Tensor | None) -> nn.Sequential:
    """The three layers in the place of `layer`, "reduce", "scale" and "expand", with latent factors to be trained."""
    weight = matrix(layer)
    left, right = recover(weight, factors)
    left_unit, right_unit = units(weight, factors, left, right)
    reduce, expand = through_channels(layer, torch.from_numpy(left), torch.from_numpy(right.T), bias)
    scale = Scale(torch.from_numpy(factors.scale).float(), pictures=isinstance(layer, nn.Conv2d))
    made = network_layers.stack({"reduce": reduce, "scale": scale, "expand": expand})
    constrain(made, "reduce.weight", TernaryFactor(right_unit))
    constrain(made, "scale.weight", Unit(left_unit * right_unit))
    constrain(made, "expand.weight", TernaryFactor(left_unit))
    return made


def units(weight: Array, factors: Factors, left: Array, right: Array) -> tuple[float, float]:
    """a and b of the balance (see above) for the recovered factors `left` and `right`; 1 where nothing tells."""

    def unit(own: Array, other: Array) -> float:
        gradient = _mean_root(factors.scale * np.linalg.norm(other, axis=0))
        squared = gradient * _mean_root(weight) / max(_mean_root(own), 1e-30)
        return math.sqrt(squared) if squared > 0 else 1.0

    return unit(left, factors.right), unit(right, factors.left)


def _mean_root(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _empty(layer: nn.Module, rank: int) -> Factors:
    rows, columns = matrix(layer).shape
    return Factors(np.zeros((rows, rank)), np.zeros(rank), np.zeros((columns, rank)))
