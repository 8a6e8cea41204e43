"""Weights and feature maps of one bit each, jointly and more gently than XNOR-Net: our choice of published ideas.

Liu, Wu, Luo, Yang, Liu, Cheng. Bi-Real Net: Enhancing the Performance of 1-bit CNNs. ECCV 2018. arXiv:1808.00278
(the gradient, and the shortcut around every binary layer).
Liu, Shen, Savvides, Cheng. ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions.
ECCV 2020. arXiv:2003.03488 (the learned thresholds; ReLUs that leak; inputs first, then weights).
Li, Ni, Zhang, Yang, Gao. Performance Guaranteed Network Acceleration via High-Order Residual Quantization. ICCV 2017.
arXiv:1708.08687 (a second sign, of what the first leaves over).
Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net. ECCV 2016. arXiv:1603.05279 (the weights: alpha sign(W), as in `bwn`).

    x^  = c + s_1 sign(x - t) + s_2 sign(x - x^_1) + ...            x^_m is x^ up to its m-th sign
    dx^/dx = sum_m F'((x - t_m) / 2 s_m) / 2,  F'(u) = max(0, 2 - 2|u|)     with t_1 = t, t_m = x^_(m - 1)
    y   = conv(x^) + g x

The threshold t is learned for each channel. The centre c and the scales s are learned too, but of the whole tensor: a
scale for each channel could not be taken out of a product of signs. So

    conv(x^, alpha B) = alpha (c sum B + s_1 conv(sign(x - t), B) + ...)

is popcounts, of which sum B (over the taps inside the picture) is a constant. At first t is the channel's mean, and c
and s the least-squares fit. The gain g of the shortcut, one for each channel, is 0 at first; it is there where
the layer's output has the shape of its input.

What goes around the layers is all that is left of the numbers, and a ReLU would cut off half of it: those before the
layers learn a slope for what is negative, for each channel, that is 0 at first.

Departs from the papers: they put these blocks into networks of their own, with a normalisation before each and a
shortcut of gain 1 after it, trained from nothing for long. Here the network is given and keeps its order. Gradients
pass within two scales of a threshold, not one, for more of a given network's inputs lie far from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.formats import Codebook, ValueEncoder
from dovetail.methods.graph import give_to, is_relu, symbolic
from dovetail.methods.method import Context, Plan, check, layer_path
from dovetail.methods.quantize.binary_input import (
    CONVOLUTIONS,
    BinaryMethod,
    Remembering,
    channels,
    finite_readings,
    remember_input,
)
from dovetail.methods.quantize.bwn import Bwn
from dovetail.methods.quantize.quantizer import sign, straight_through
from dovetail.methods.quantize.uniform import TINY
from dovetail.methods.reconstruction import settle_norms
from dovetail.workload.trace import trace

WIDTH = 2
"""How far from a threshold gradients pass, in units of its sign's scale."""

ROUNDS = 10
"""Of the fit of several signs."""


class BinaryMap(Remembering):
    """The nearest of 2^orders values, all of which are sums of the centre and the scales with either sign.

    `threshold` has a number for each channel of the input, `gain` for each of the output if there is a shortcut;
    `extents` is how many dimensions the maps have: 2 of pictures, 0 of what a linear layer reads.
    """

    def __init__(
        self, threshold: Tensor, centre: Tensor, scales: Tensor, gain: Tensor | None = None, extents: int = 0
    ) -> None:
        super().__init__()
        self.threshold, self.centre, self.scales = nn.Parameter(threshold), nn.Parameter(centre), nn.Parameter(scales)
        self.gain = None if gain is None else nn.Parameter(gain)
        self.extents = extents

    def forward(self, latent: Tensor) -> Tensor:
        if self.gain is not None:
            self.read = latent
        value, threshold = self.centre, self._shaped(self.threshold)
        for scale in self.scales:
            width = (WIDTH * scale.detach().abs()).clamp_min(TINY)
            value = value + scale * bi_real_sign((latent - threshold) / width)
            threshold = value.detach()
        return value

    def finish(self, layer: nn.Module, read: Tensor, output: Tensor) -> Tensor:
        return output if self.gain is None else output + self._shaped(self.gain) * read

    def _shaped(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * self.extents)

    @property
    def bits(self) -> float:
        return len(self.scales)

    def encoder(self) -> ValueEncoder:
        values = []
        for signs in itertools.product((-1.0, 1.0), repeat=len(self.scales)):
            value = self.centre.detach()
            for one, scale in zip(signs, self.scales.detach(), strict=True):
                value = value + scale * one
            values.append(value)
        return partial(Codebook.encode, table=torch.stack(values).cpu().numpy())


def bi_real_sign(x: Tensor) -> Tensor:
    """The sign, with the gradient of a piecewise quadratic: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0."""
    return straight_through(x, sign(x.detach()), x.detach().abs().mul_(-2).add_(2).clamp_min_(0))


def fit(readings: Tensor, orders: int) -> tuple[Tensor, Tensor, Tensor]:
    """The threshold (C), centre () and scales (orders) to start from, of readings (n, C).

    Alternately the signs by the rule above and the least squares given the signs; of one order the first is the last.
    """
    threshold, centre = readings.mean(0), readings.mean()
    scales = (readings - threshold).abs().mean() / 2 ** torch.arange(orders, device=readings.device)
    for _ in range(ROUNDS if orders > 1 else 1):
        columns, value, turn = [torch.ones_like(readings)], centre, threshold
        for scale in scales:
            columns.append(sign(readings - turn))
            value = turn = value + scale * columns[-1]
        design = torch.stack([column.flatten() for column in columns], 1).double()
        # Of constant maps all columns are alike; of the many solutions the pseudoinverse has the least one.
        solution = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ readings.flatten().double())
        centre, scales = solution[0].to(readings.dtype), solution[1:].to(readings.dtype)
    return threshold, centre, scales


@dataclass(frozen=True, kw_only=True)
class BinaryMaps(BinaryMethod):
    """Makes weights and feature maps binary together: learned thresholds, Bi-Real's gradient and shortcuts."""

    name: ClassVar[str] = "binary_maps"

    orders: int = 1
    """How many signs stand for an input; the work grows with it."""

    shortcut: bool = True
    """Whether what a layer reads is added to what it gives, times a learned gain, where the shapes permit."""

    leaky: bool = True
    """Whether the ReLUs before convolutions learn slopes, where the network's graph can be read."""

    gradual: bool = True
    """Whether the inputs go first, and the weights after a round of retraining."""

    def __post_init__(self) -> None:
        check(1 <= self.orders <= 4, self.name, "orders", "from 1 to 4", self.orders)

    @property
    def stages(self) -> int:
        return 2 if self.gradual else 1

    def plan(self, model: nn.Module, context: Context) -> Plan:
        self.images(context)
        taken, able = self.taken(model, context), shape_preserving(model, context.example)
        return {
            name: {"orders": self.orders, "shortcut": self.shortcut and path in able} for name, path in taken.items()
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        paths = {name: layer_path(name) for name in plan}
        if stage == 0:
            found = {} if context.rebuilding else finite_readings(model, paths.values(), self.images(context))
            model = leaking(model, paths.values()) if self.leaky else model
            for name, path in paths.items():
                layer, row = model.get_submodule(path), plan[name]
                threshold, centre, scales = fit(found.get(path, torch.zeros(1, channels(layer))), row["orders"])
                gain = torch.zeros_like(threshold) if row["shortcut"] else None
                extents = len(layer.kernel_size) if isinstance(layer, CONVOLUTIONS) else 0
                remember_input(model, path, BinaryMap(threshold, centre, scales, gain, extents))
        if stage == self.stages - 1:
            model = Bwn().apply(model, plan, 0, context)
        settle_norms(model, context)
        return model


def leaking(model: nn.Module, paths: Collection[str]) -> nn.Module:
    """The same network as a graph in which the ReLUs that convolutions at `paths` read have slopes to learn, all 0.

    What cannot be read as a graph stays as it is.
    """
    try:
        network = symbolic(model)
    except ModelError:
        return model
    modules = dict(network.named_modules())
    for node in [node for node in network.graph.nodes if is_relu(node, modules)]:
        readers = [str(user.target) for user in node.users if user.op == "call_module" and user.target in paths]
        first = next((path for path in readers if isinstance(modules[path], CONVOLUTIONS)), None)
        if first is not None:
            slopes = nn.PReLU(channels(modules[first]), init=0.0)
            give_to(network, node, f"{first}_relu", slopes.train(model.training))
    network.recompile()
    return network


def shape_preserving(model: nn.Module, example: Tensor) -> set[str]:
    """The paths of the layers all of whose products have the shape of what they read."""
    keep: dict[str, bool] = {}
    for operation in trace(model, example[:1]).operations:
        if operation.kind in ("conv", "matmul"):
            shapes = {operand.shape for operand in operation.operands if operand.role in ("input", "output")}
            keep[operation.name] = keep.get(operation.name, True) and len(shapes) == 1
    return {name for name, kept in keep.items() if kept}
