"""Pattern pruning: every 3x3 kernel keeps four weights in one of a few patterns, and some kernels go altogether.

Niu, Ma, Lin, Wang, Qian, Lin, Wang, Ren. PatDNN: Achieving Real-Time DNN Execution on Mobile Devices with Pattern-based
Weight Pruning. ASPLOS 2020. arXiv:2001.00138, section 4 (of the CoCoPIE XGen compiler, arXiv:2206.10620).

    natural pattern of a kernel     its centre and the three largest others (of 56)
    library                         the `patterns` that are natural to most kernels of the trained network
    kernel pruning                  each kernel keeps the pattern of the library that keeps most of its energy
    connectivity pruning            of each layer the kernels (one input to one output channel) of least norm go

Departs from the papers: hard masks in rounds, with retraining in between, in the place of ADMM. The patterns come with
the first round. How many kernels a layer keeps is chosen by the measured rise of the loss (`sensitivity`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.method import Context, Kind, Method, Plan, check, tied, weight_name
from dovetail.methods.prune.counts import Sizes, check_budget, measure
from dovetail.methods.prune.magnitude import restrict
from dovetail.methods.prune.sensitivity import largest, least_loss, scan, weight_errors

CENTRE = 4
NATURAL = tuple(sum(1 << place for place in (CENTRE, *others)) for others in combinations((0, 1, 2, 3, 5, 6, 7, 8), 3))
"""The 56 patterns of the centre and three others; bit r * 3 + s of the number stands for row r, column s."""

KEPT_OF_A_KERNEL = 4 / 9


@dataclass(frozen=True, kw_only=True)
class Pattern(Method):
    """Prunes 3x3 kernels to four weights in a few patterns, and whole kernels."""

    name: ClassVar[str] = "pattern"
    kind: ClassVar[Kind] = "prune"

    sparsity: float = 0.75
    """The fraction of all the chosen layers' weights that is zero in the end; 5/9 go by the patterns alone."""

    budget: Budget | None = None
    """What the network may cost instead: macs or params, both of nonzero weights. `sparsity` is then not used."""

    patterns: int = 8
    """How many patterns there are in the library."""

    rounds: int = 2
    """How many times to prune and retrain."""

    def __post_init__(self) -> None:
        check(5 / 9 - 1e-3 <= self.sparsity < 1, self.name, "sparsity", "a fraction in [5/9, 1)", self.sparsity)
        check(1 <= self.patterns <= len(NATURAL), self.name, "patterns", f"from 1 to {len(NATURAL)}", self.patterns)
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check_budget(self.budget, self.name)

    @property
    def stages(self) -> int:
        return self.rounds

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of 3x3 convolutions that this method takes, by name."""
        modules, held = dict(model.named_modules()), tied(model)
        pictures = {path: module for path, module in modules.items() if isinstance(module, nn.Conv2d)}
        paths = [path for path, module in pictures.items() if _is_3x3(module) and path not in held]
        tensors = {path: modules[path].weight for path in self.chosen(paths)}
        return {weight_name(path): tensor.detach() for path, tensor in tensors.items()}

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        sizes = measure(model, weights, context.example)
        chosen = library(list(weights.values()), self.patterns)
        kernels = self._kernels(sizes)
        curves = weight_errors(model, weights, kernel_mask)
        if context.probe is not None:
            curves = scan(model, weights, context, kernel_mask)
        shared = least_loss(curves, sizes.costs(self.budget), 1 - kernels)
        return {
            name: {
                "patterns": chosen,
                "kernels": [kept ** ((stage + 1) / self.rounds) for stage in range(self.rounds)],
                "kept": kept * KEPT_OF_A_KERNEL,
                **sizes.weights[name].row(kept * KEPT_OF_A_KERNEL),
            }
            for name, kept in shared.items()
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            mask = pattern_mask(weights[name], row["patterns"])
            # Kernels are ranked by what is left of them.
            mask &= kernel_mask(weights[name] * mask, row["kernels"][stage])
            restrict(model, {name: mask})
        return model

    def _kernels(self, sizes: Sizes) -> float:
        """The fraction of kernels that may stay."""
        if self.budget is None:
            return min(1.0, (1 - self.sparsity) / KEPT_OF_A_KERNEL)
        costs = sizes.costs(self.budget)
        return min(1.0, sizes.permitted(self.budget) / (KEPT_OF_A_KERNEL * sum(costs.values())))


def library(weights: Sequence[Tensor], count: int) -> list[int]:
    """The `count` patterns natural to most of the kernels of weights (T, S, 3, 3), the most frequent first."""
    if not weights:
        raise RecipeError("pattern needs 3x3 convolutions")
    seen: Counter[int] = Counter(dict.fromkeys(NATURAL, 0))
    for weight in weights:
        energy = _masks(NATURAL, weight) @ weight.square().reshape(-1, 9).T
        # Dead kernels have no natural pattern.
        best = energy.argmax(0)[energy.amax(0) > 0]
        seen.update(Counter(NATURAL[index] for index in best.tolist()))
    return [pattern for pattern, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:count]]


def pattern_mask(weight: Tensor, patterns: Sequence[int]) -> Tensor:
    """The boolean mask of a weight (T, S, 3, 3) that keeps of each kernel the pattern with most of its energy."""
    masks = _masks(patterns, weight)
    best = (masks @ weight.square().reshape(-1, 9).T).argmax(0)
    return masks[best].bool().view(weight.shape)


def kernel_mask(weight: Tensor, kept: float) -> Tensor:
    """The boolean mask of a weight (T, S, R, R') that keeps this fraction of its kernels, those of largest norm."""
    norms = weight.detach().flatten(2).square().sum(2)
    mask = largest(norms, max(1, round(kept * norms.numel())))
    return mask[:, :, None, None].expand(weight.shape)


def _masks(patterns: Sequence[int], like: Tensor) -> Tensor:
    """(patterns, 9) of 0.0 and 1.0."""
    places = torch.arange(9, device=like.device)
    return ((torch.tensor(patterns, device=like.device)[:, None] >> places) & 1).to(like.dtype)


def _is_3x3(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3)
