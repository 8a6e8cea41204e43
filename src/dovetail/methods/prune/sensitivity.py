"""How much of each layer can go: the sensitivity scan, and sharing out a sparsity among the layers by it.

Han, Pool, Tran, Dally. Learning both Weights and Connections for Efficient Neural Networks. NeurIPS 2015.
arXiv:1506.02626, section 4.1 and figure 6: each layer is pruned alone, without retraining, and the loss recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.methods.constraint import bake

KEPT_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)

Curve = Sequence[float]
"""The rise of the loss at each of KEPT_FRACTIONS."""


def largest(weight: Tensor, count: int) -> Tensor:
    """The boolean mask of the `count` entries of largest magnitude; of equals, the first."""
    order = torch.argsort(weight.detach().abs().flatten(), descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[:count]] = True
    return mask.view(weight.shape)


def scan(model: nn.Module, names: Iterable[str], loss: Callable[[nn.Module], float]) -> dict[str, Curve]:
    """For each named weight, the rise of the loss when that weight alone is pruned to each of KEPT_FRACTIONS."""
    plain = bake(model)
    parameters = dict(plain.named_parameters())
    base = loss(plain)
    curves: dict[str, Curve] = {}
    for name in names:
        weight = parameters[name].data
        original = copy.deepcopy(weight)
        rises = []
        for kept in KEPT_FRACTIONS:
            weight.copy_(original * largest(original, round(kept * original.numel())))
            rises.append(loss(plain) - base)
        weight.copy_(original)
        curves[name] = rises
    return curves


def share_out(curves: Mapping[str, Curve], sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
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
    # Where a curve is flat the kept fraction jumps, maybe past the target; what is then missing is shared alike.
    found = fractions(high)
    if total(found) < kept_total:
        excess = (kept_total - total(found)) / max(1e-9, sum(sizes.values()) - total(found))
        found = {name: kept + excess * (1 - kept) for name, kept in found.items()}
    return found


def _smallest_kept(curve: Curve, rise: float) -> float:
    """The smallest kept fraction whose loss rises by at most `rise`, on the curve made monotone."""
    rises = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(curve, 0.0))])
    fractions = np.concatenate([[1.0], KEPT_FRACTIONS])
    reached = int(np.searchsorted(rises, rise, side="right")) - 1
    if reached + 1 >= len(rises):
        return float(fractions[-1])
    span = rises[reached + 1] - rises[reached]
    return float(np.interp(rise, [rises[reached], rises[reached] + span], fractions[reached : reached + 2]))
