"""How much of each layer can go: the sensitivity scan, and sharing out a sparsity among the layers by it.

Han, Pool, Tran, Dally. Learning both Weights and Connections for Efficient Neural Networks. NeurIPS 2015.
arXiv:1506.02626, section 4.1 and figure 6: each layer is pruned alone, without retraining, and the loss recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.methods.allocation import Option, allocate
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context

KEPT_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)

GRID = np.linspace(KEPT_FRACTIONS[-1], 1, 99)
"""Kept fractions among which `least_loss` chooses, besides the scanned ones."""

Curve = Sequence[float]
"""The rise of the loss at each of KEPT_FRACTIONS."""


def largest(weight: Tensor, count: int) -> Tensor:
    """The boolean mask of the `count` entries of largest magnitude; of equals, the first."""
    order = torch.argsort(weight.detach().abs().flatten(), descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count]] = True
    return mask.view(weight.shape)


def kept_largest(weight: Tensor, kept: float, block: tuple[int, int] = (1, 1)) -> Tensor:
    """The boolean mask of that fraction of the entries, at least one, that are largest.

    Entries stay and go by blocks of so many neighbours along the first and the second dimension, smaller ones at the
    end where those do not divide; the largest blocks are those of the largest mean square.
    """
    if block == (1, 1):
        return largest(weight, max(1, round(kept * weight.numel())))
    rows, columns, *window = weight.shape
    squares = weight.detach().square().reshape(1, rows, columns, -1).permute(3, 0, 1, 2)
    sizes = functional.avg_pool2d(squares, block, ceil_mode=True)
    stays = largest(sizes, max(1, round(kept * sizes.numel())))
    for dimension, size in zip((2, 3), block, strict=True):
        stays = stays.repeat_interleave(size, dimension)
    return stays[:, 0, :rows, :columns].permute(1, 2, 0).reshape(rows, columns, *window)


def scan(
    model: nn.Module,
    names: Collection[str],
    context: Context,
    mask: Callable[[Tensor, float], Tensor] = kept_largest,
) -> dict[str, Curve]:
    """For each named weight, the rise of the loss when that weight alone is pruned to each of KEPT_FRACTIONS.

    `mask` gives what stays of a weight at a kept fraction. Not by `context.probe`: with that quarter of the images
    ResNet-20, a third of its operations left, has 76.6 % before it is retrained, instead of 79.4 %.
    """
    plain, loss = bake(model), context.loss
    parameters = dict(plain.named_parameters())
    context.expect(1 + len(names) * len(KEPT_FRACTIONS))
    base = loss(plain)
    curves: dict[str, Curve] = {}
    for name in names:
        weight = parameters[name].data
        original = copy.deepcopy(weight)
        rises = []
        for kept in KEPT_FRACTIONS:
            weight.copy_(original * mask(original, kept))
            rises.append(loss(plain) - base)
        weight.copy_(original)
        curves[name] = rises
    return curves


def weight_errors(
    model: nn.Module, names: Iterable[str], mask: Callable[[Tensor, float], Tensor] = kept_largest
) -> dict[str, Curve]:
    """The stand-in for `scan` where there are no data: the relative squared error of each named weight."""
    parameters = dict(bake(model).named_parameters())
    curves: dict[str, Curve] = {}
    for name in names:
        squares = parameters[name].detach().double().square()
        total = float(squares.sum().clamp_min(1e-30))
        curves[name] = [1 - float((squares * mask(parameters[name], kept)).sum()) / total for kept in KEPT_FRACTIONS]
    return curves


def share_out(curves: Mapping[str, Curve], sizes: Mapping[str, float], sparsity: float) -> dict[str, float]:
    """The fraction of each weight to keep, so that the whole reaches `sparsity` and every layer's loss rises alike.

    For a permitted rise d, layer l keeps the smallest fraction k_l(d) whose rise is at most d (the same d for all
    layers, as in the paper); d is found by bisection so that sum_l k_l(d) n_l = (1 - sparsity) sum_l n_l.
    Between the scanned fractions k_l is interpolated linearly, and below the last one all layers shrink in proportion.
    """
    kept_total = (1 - sparsity) * sum(sizes.values())

    def fractions(rise: float) -> dict[str, float]:
        return {name: _smallest_kept(curve, rise) for name, curve in curves.items()}

    def total(kept: Mapping[str, float]) -> float:
        return sum(kept[name] * sizes[name] for name in sizes)

    low, high = 0.0, max(1e-9, *(float(np.max(np.maximum.accumulate(curve))) for curve in curves.values()))
    if total(fractions(high)) >= kept_total:
        scale = kept_total / total(fractions(high))
        return {name: kept * scale for name, kept in fractions(high).items()}
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(fractions(middle)) > kept_total else (low, middle)
    return _filled_up(fractions(high), sizes, kept_total)


def _smallest_kept(curve: Curve, rise: float) -> float:
    """The smallest kept fraction whose loss rises by at most `rise`, on the curve made monotone."""
    rises = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(curve, 0.0))])
    fractions = np.concatenate([[1.0], KEPT_FRACTIONS])
    reached = int(np.searchsorted(rises, rise, side="right")) - 1
    if reached + 1 >= len(rises):
        return float(fractions[-1])
    span = rises[reached + 1] - rises[reached]
    return float(np.interp(rise, [rises[reached], rises[reached] + span], fractions[reached : reached + 2]))


def least_loss(curves: Mapping[str, Curve], sizes: Mapping[str, float], sparsity: float) -> dict[str, float]:
    """The fraction of each weight to keep, so that the whole reaches `sparsity` and the rises add up to the least.

    The curves are made monotone and interpolated between the scanned fractions; one fraction a layer is then chosen by
    `allocate`. If even the last scanned fractions keep too much, all layers shrink in proportion, as in `share_out`.
    """
    kept_total = (1 - sparsity) * sum(sizes.values())
    known = np.array([1.0, *KEPT_FRACTIONS])
    least = known[-1] * sum(sizes.values())
    if least >= kept_total:
        return dict.fromkeys(curves, known[-1] * kept_total / least)
    options = {}
    for name, curve in curves.items():
        rises = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(curve, 0.0))])
        options[name] = [
            Option(float(kept), kept * sizes[name], float(np.interp(-kept, -known, rises)))
            for kept in np.union1d(known, GRID)
        ]
    chosen = allocate(options, kept_total, "sparsity")
    return _filled_up({name: option.setting for name, option in chosen.items()}, sizes, kept_total)


def _filled_up(found: dict[str, float], sizes: Mapping[str, float], kept_total: float) -> dict[str, float]:
    """Where a curve is flat the kept fraction jumps, maybe past the target; what is then missing is shared alike."""
    total = sum(found[name] * sizes[name] for name in sizes)
    if total >= kept_total:
        return found
    excess = (kept_total - total) / max(1e-9, sum(sizes.values()) - total)
    return {name: kept + excess * (1 - kept) for name, kept in found.items()}
