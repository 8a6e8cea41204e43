"""Low rank for the responses after the ReLU, reconstructed asymmetrically.

Zhang, Zou, Ming, He, Sun. Efficient and Accurate Approximations of Nonlinear Convolutional Networks. CVPR 2015; the
same in TPAMI 2016, arXiv:1505.06798.

A convolution of T filters becomes R filters of its size and a 1x1 convolution. With y_i the responses of the original
network, yh_i those of the same layer on what the network as approximated so far makes of the same inputs, r the ReLU:

    min_{M, b: rank(M) <= R}  sum_i ||r(y_i) - r(M yh_i + b)||^2         `reduced_rank.rectified_fit`

Layers are solved from the first to the last, so that each makes up for the errors of those before it. No labels and no
retraining are needed. Without `nonlinear` r is left out; without `asymmetric` yh = y.

The batch normalisation that follows is part of the response and is taken out of the 1x1 convolution again. Which ranks
a budget allows is chosen by the rise of the loss that each causes ("measured") or, as in the paper, so that the
product over the layers of the energy kept by their first R principal components is largest ("energy").

Departs from the paper: where a shortcut is added before the ReLU, the sum is what is approximated, so the layer makes
up for the error of the shortcut as well. What no sample shows is left as it is (a ridge towards M = I instead of a
pseudo-inverse). The product of energies is maximised exactly, not greedily. The measured ranks are those of the linear,
symmetric solution, for speed. Batch statistics are not taken anew: that undoes the fit. With `reconstruct` off, or
without data, the factors are those of the weight alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.methods import layers as network_layers
from dovetail.methods.allocation import Option
from dovetail.methods.decomposition import Decomposition, Setting, target_network
from dovetail.methods.junctions import Responses, inverted, norm_after, responses
from dovetail.methods.layers import Call
from dovetail.methods.lowrank.reduced_rank import Fit, ReducedRank, rectified_fit, split
from dovetail.methods.lowrank.stacks import through_channels
from dovetail.methods.lowrank.svd import accepts, as_matrix, checked_rank, ranks
from dovetail.methods.method import Context, Plan, check


@dataclass(frozen=True, kw_only=True)
class Nonlinear(Decomposition):
    """Makes each layer two with few channels between them, so that what comes out of its ReLU changes least."""

    name: ClassVar[str] = "nonlinear"

    asymmetric: bool = True
    """Whether a layer's input is that of the network as approximated so far, and not the original's."""

    nonlinear: bool = True
    """Whether the error is taken after the ReLU, where one follows."""

    selection: str = "measured"
    """How the ranks are chosen under the budget: "measured" or "energy"."""

    def __post_init__(self) -> None:
        check(self.selection in ("measured", "energy"), self.name, "selection", '"measured" or "energy"',
              self.selection)  # fmt: skip

    def accepts(self, layer: nn.Module) -> bool:
        return accepts(layer)

    def options(self, layer: nn.Module) -> list[Setting]:
        return [{"rank": rank} for rank in dict.fromkeys(ranks(layer, "channel"))]

    def build(self, layer: nn.Module, setting: Setting) -> nn.Sequential:
        left, right = split(as_matrix(layer, "channel"), checked_rank(self.name, layer, "channel", setting))
        bias = layer.bias
        return through_channels(layer, left, right, bias.detach() if isinstance(bias, Tensor) else None)

    def solve(self, model: nn.Module, path: str, settings: list[Setting], context: Context) -> list[nn.Sequential]:
        """The linear, symmetric solutions."""
        if context.inputs is None:
            return super().solve(model, path, settings, context)
        layer = model.get_submodule(path)
        seen = responses(model, [path], context.inputs)[path]
        norm, regression = norm_after(model, path), ReducedRank(seen.own)
        chosen = [checked_rank(self.name, layer, "channel", setting) for setting in settings]
        return [_unfolded(layer, norm, regression.solve(seen.own, rank), rank) for rank in chosen]

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        if not self.reconstruct or context.inputs is None or context.rebuilding:
            for path, row in plan.items():
                network_layers.replace(model, path, self.build(model.get_submodule(path), row["setting"]))
            return model
        wanted = responses(target_network(model, list(plan), context), list(plan), context.inputs)
        for path, row in plan.items():
            layer = model.get_submodule(path)
            rank = checked_rank(self.name, layer, "channel", row["setting"])
            seen = responses(model, [path], context.inputs)[path] if self.asymmetric else wanted[path]
            fit = self._fit(wanted[path], seen, rank)
            network_layers.replace(model, path, _unfolded(layer, norm_after(model, path), fit, rank))
        return model

    def scan(self, model: nn.Module, calls: Mapping[str, Call], context: Context) -> dict[str, list[Option]]:
        if self.selection == "measured":
            return super().scan(model, calls, context)
        found = {}
        energies = _energies(model, list(calls), context.inputs)
        for path, call in calls.items():
            kept = energies[path].cumsum(0) / energies[path].sum().clamp_min(1e-30)
            found[path] = [Option(None, self._cost(call.layer, call, context), 0.0)]
            for setting in self.options(call.layer):
                cost = self._cost(self.build(call.layer, setting), call, context)
                if cost < found[path][0].cost:
                    loss = -log(max(1e-30, float(kept[setting["rank"] - 1])))
                    found[path].append(Option(setting, cost, loss))
        return found

    def _fit(self, wanted: Responses, seen: Responses, rank: int) -> Fit:
        target = wanted.own + wanted.offset
        if self.nonlinear and wanted.relu and seen.relu:
            return rectified_fit(target, seen.own, rank, seen.offset)
        return ReducedRank(seen.own).solve(target - seen.offset, rank)


def _unfolded(layer: nn.Module, norm: tuple[Tensor, Tensor], fit: Fit, rank: int) -> nn.Sequential:
    """The stack whose output, batch-normalised as `norm` (g, c) says, is the fit of the layer's."""
    scale, shift = norm
    inverse = inverted(scale)
    weight = inverse[:, None] * fit.matrix @ (scale[:, None] * as_matrix(layer, "channel"))
    bias = layer.bias.detach().double() if isinstance(layer.bias, Tensor) else torch.zeros_like(shift)
    left, right = split(weight, rank)
    return through_channels(layer, left, right, inverse * (fit.matrix @ (scale * bias + shift) + fit.bias - shift))


def _energies(model: nn.Module, paths: list[str], inputs: Tensor | None) -> dict[str, Tensor]:
    """The principal components' variances, from the largest, of each layer's responses; without data on white noise."""
    if inputs is None:
        weights = {path: as_matrix(model.get_submodule(path), "channel") for path in paths}
        return {
            path: torch.linalg.svdvals(norm_after(model, path)[0][:, None] * weight).square()
            for path, weight in weights.items()
        }
    found = responses(model, paths, inputs)
    return {path: torch.linalg.eigvalsh(seen.own.double().T.cov()).flip(0).clamp_min(0) for path, seen in found.items()}
