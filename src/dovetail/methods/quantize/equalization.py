"""Cross-layer equalisation and absorption of high biases.

Nagel, van Baalen, Blankevoort, Welling. Data-Free Quantization Through Weight Equalization and Bias Correction. ICCV
2019. arXiv:1906.04721, equations 8 to 13.

    s_i = sqrt(r1_i r2_i) / r2_i       r1_i the range of the first layer's weights of output i, r2_i of the second's of
                                       input i
    W1 <- S^-1 W1,  b1 <- S^-1 b1,  W2 <- W2 S          the same function, for ReLU(s x) = s ReLU(x)
    c_i = max(0, mean_i - 3 deviation_i)                b1 <- b1 - c,  b2 <- b2 + W2 c

Departs from the paper: where weights have a scale for each output, r1 is what the first layer answers at most in that
channel. The range of its weights is of no matter there, and a channel of small weights and a high bias would be blown
up. A bias is absorbed only where the second layer does not pad, because a padded zero would then be a -c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.methods.graph import called_once, is_relu, only_user, symbolic
from dovetail.methods.quantize.fold_norms import Layer, Statistics, bias_of, scale_weight

SWEEPS = 20
CONVERGED = 1e-3
DEVIATIONS = 3.0
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
POOL_FUNCTIONS = (
    functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d, torch.max_pool2d,
    torch.adaptive_avg_pool1d,
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second reads nothing but what the first answers, by way of what commutes with positive
    factors of channels."""

    first: str
    second: str
    repeat: int
    """How many inputs of the second come from each output of the first (the pixels of a picture laid flat)."""
    absorbs: bool
    """Whether it may also be moved: only a ReLU lies between, and nothing pads."""


def pairs(model: nn.Module, paths: Sequence[str]) -> list[Pair]:
    """The pairs among the layers at `paths`; none where the graph cannot be read."""
    try:
        network = symbolic(model)
    except ModelError:
        return []
    calls, modules = called_once(network), dict(model.named_modules())
    found = []
    for path, node in calls.items():
        if path not in paths or not isinstance(modules[path], Layer):
            continue
        second, plain, flat = _next_layer(node, modules)
        if second not in paths or second not in calls or not isinstance(layer := modules[second], Layer):
            continue
        outputs, inputs = len(modules[path].weight), _inputs(layer)
        if inputs % outputs == 0 and (flat or inputs == outputs):
            found.append(Pair(path, second, inputs // outputs, plain and inputs == outputs and not _pads(layer)))
    return found


def equalize(
    model: nn.Module,
    found: Sequence[Pair],
    known: Mapping[str, Statistics],
    answers: Mapping[str, Tensor] | None = None,
) -> dict[str, Statistics]:
    """Equalise the pairs, over and over until nothing changes; then absorb high biases, where outputs are `known`.

    `answers` has r1 (T) for each first layer; without, it is the range of the layer's weights. Returns what is known of
    the outputs now.
    """
    known, answers = dict(known), None if answers is None else dict(answers)
    modules = dict(model.named_modules())
    active = list(found)
    for _ in range(SWEEPS):
        largest = 0.0
        for pair in list(active):
            factors = balance(*_ranges(pair, modules, answers))
            if not _rescale(pair, modules, factors):
                active.remove(pair)
                continue
            largest = max(largest, float(factors.log().abs().max()))
            if answers is not None:
                answers[pair.first] = answers[pair.first] / factors
            if pair.first in known:
                known[pair.first] = known[pair.first].scaled(1 / factors)
        if largest < CONVERGED:
            break
    for pair in active:
        if pair.absorbs and pair.first in known:
            known[pair.first] = _absorb(pair, modules, known[pair.first])
    return known


def balance(first: Tensor, second: Tensor) -> Tensor:
    """The factors s (T) from the ranges of both layers by channel; 1 where a channel is dead."""
    alive = (first > 0) & (second > 0)
    return torch.where(alive, (first / torch.where(alive, second, 1.0)).sqrt(), 1.0)


def _next_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[str | None, bool, bool]:
    """The layer that reads this value alone, whether only a ReLU lies between, and whether pictures are laid flat."""
    plain, flat = True, False
    while (following := only_user(node)) is not None:
        node = following
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Layer):
            return str(node.target), plain, flat
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d) or is_relu(node, dict(modules)):
            continue
        if isinstance(module, nn.Flatten) or node.target in (torch.flatten, "flatten"):
            flat = True
        elif isinstance(module, POOLS) or (node.op == "call_function" and node.target in POOL_FUNCTIONS):
            plain = False
        else:
            break
    return None, False, False


def _inputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return layer.in_channels


def _pads(layer: nn.Module) -> bool:
    padding = getattr(layer, "padding", 0)
    return padding != "valid" if isinstance(padding, str) else any(torch.tensor(padding).flatten().tolist())


def _by_input(layer: nn.Module) -> Tensor:
    """The weight as (groups, T / groups, S / groups, taps)."""
    groups = getattr(layer, "groups", 1)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().reshape(groups, len(weight) // groups, weight.shape[1], -1)


def _ranges(
    pair: Pair, modules: Mapping[str, nn.Module], answers: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor]:
    first = modules[pair.first].weight
    assert isinstance(first, Tensor)
    second = _by_input(modules[pair.second]).abs().amax((1, 3)).view(-1, pair.repeat).amax(1)
    return first.detach().abs().flatten(1).amax(1) if answers is None else answers[pair.first], second


def _rescale(pair: Pair, modules: Mapping[str, nn.Module], factors: Tensor) -> bool:
    first, second = modules[pair.first], modules[pair.second]
    if parametrize.is_parametrized(first, "bias") or not scale_weight(first, 1 / factors):
        return False
    grouped = _by_input(second)
    columns = factors.repeat_interleave(pair.repeat).view(len(grouped), 1, -1, 1).expand(grouped.shape)
    weight = second.weight
    assert isinstance(weight, Tensor)
    if not scale_weight(second, columns.reshape(weight.shape)):
        scale_weight(first, factors)
        return False
    if isinstance(first.bias, Tensor):
        first.bias.data.div_(factors)
    return True


def _absorb(pair: Pair, modules: Mapping[str, nn.Module], known: Statistics) -> Statistics:
    first, second = modules[pair.first], modules[pair.second]
    excess = (known.mean - DEVIATIONS * known.deviation).clamp_min(0)
    grouped = _by_input(second)
    bias_of(first).data.sub_(excess)
    bias_of(second).data.add_((grouped * excess.view(len(grouped), 1, -1, 1)).sum((2, 3)).flatten())
    return Statistics(known.norm, known.kind, known.mean - excess, known.deviation)
