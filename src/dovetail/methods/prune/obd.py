"""Optimal Brain Damage: prune where a quadratic model of the loss says that it rises least.

LeCun, Denker, Solla. Optimal Brain Damage. NIPS 1989.

    dE = g^T dw + 1/2 sum_i h_ii dw_i^2 + 1/2 sum_{i != j} h_ij dw_i dw_j + ...
    s_k = h_kk w_k^2 / 2                       at a minimum (g = 0), the diagonal alone, dw_k = -w_k

The weights of lowest saliency s of all layers together are set to zero; then the network is retrained, and so on.
Unlike magnitudes, saliencies of different layers are of one unit, so that no share-out is needed.

Departs from the paper: its recursion for h (a second backward pass for multilayer perceptrons, which takes the Hessian
by the hidden units for diagonal) is replaced by estimates of the same diagonal that hold for any network (`curvature`);
a convolution's h is then summed over all uses of a weight, as it should be. No labels are used. With a budget of
multiply-accumulates weights are ranked by saliency per multiply-accumulate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.prune.counts import check_budget, measure
from dovetail.methods.prune.curvature import fisher, gauss_newton, hutchinson, self_divergence
from dovetail.methods.prune.magnitude import restrict
from dovetail.methods.prune.sensitivity import kept_largest

ESTIMATORS = ("gauss_newton", "hutchinson", "fisher")


@dataclass(frozen=True, kw_only=True)
class Obd(Method):
    """Prunes the weights whose removal raises the loss least, by the diagonal of its Hessian."""

    name: ClassVar[str] = "obd"
    kind: ClassVar[Kind] = "prune"

    sparsity: float = 0.8
    """The fraction of all the chosen layers' weights that is zero in the end."""

    budget: Budget | None = None
    """What the network may cost instead: macs or params, both of nonzero weights. `sparsity` is then not used."""

    rounds: int = 3
    """How many times to prune and retrain."""

    estimator: str = "gauss_newton"
    """Of the Hessian's diagonal: "gauss_newton", "hutchinson" (double backpropagation) or "fisher" (empirical)."""

    images: int = 1000
    """At most so many inputs are used."""

    draws: int = 1
    """Random vectors for each input ("gauss_newton"), or hundreds of them for all inputs together ("hutchinson")."""

    seed: int = 0
    """For the random vectors."""

    def __post_init__(self) -> None:
        check(0 <= self.sparsity < 1, self.name, "sparsity", "a fraction in [0, 1)", self.sparsity)
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check(self.estimator in ESTIMATORS, self.name, "estimator", ", ".join(ESTIMATORS), self.estimator)
        check(self.images >= 1, self.name, "images", "1 or more", self.images)
        check(self.draws >= 1, self.name, "draws", "1 or more", self.draws)
        check_budget(self.budget, self.name)

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        sizes = measure(model, self.weights(model), context.example)
        costs = sizes.costs(self.budget)
        whole = sum(costs.values())
        target = 1 - self.sparsity if self.budget is None else min(1.0, sizes.permitted(self.budget) / whole)
        saliencies = self.saliencies(model, list(costs), context)
        rounds = [_ranked(saliencies, costs, whole * target ** ((r + 1) / self.rounds)) for r in range(self.rounds)]
        return {
            name: {"kept": [kept[name] for kept in rounds], **size.row(rounds[-1][name])}
            for name, size in sizes.weights.items()
        }

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        """Ranks anew on the retrained model; what stays in all is as planned."""
        if stage == 0:
            return plan
        sizes = measure(model, plan, context.example)
        costs = sizes.costs(self.budget)
        limit = sum(row["kept"][stage] * costs[name] for name, row in plan.items())
        kept = _ranked(self.saliencies(model, list(costs), context), costs, limit)
        refined: Plan = {}
        for name, row in plan.items():
            fractions = [*row["kept"][:stage], kept[name], *row["kept"][stage + 1 :]]
            after = sizes.weights[name].row(fractions[-1])
            changed = {quantity: [row[quantity][0], after[quantity][1]] for quantity in ("macs", "params")}
            refined[name] = row | {"kept": fractions} | changed
        return refined

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        if context.rebuilding:
            whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights(model).items()}
            restrict(model, whole)
            return model
        saliencies = self.saliencies(model, list(plan), context)
        restrict(model, {name: kept_largest(saliencies[name], row["kept"][stage]) for name, row in plan.items()})
        return model

    def saliencies(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """h w^2 / 2 of the named weights, each in its shape.

        Raises:
            RecipeError: there are no inputs to measure with.
        """
        if context.inputs is None:
            raise RecipeError("obd measures the loss's curvature and needs inputs; without data, use magnitude")
        inputs = context.inputs[: self.images]
        plain = bake(model).eval().requires_grad_(False)
        weights = [plain.get_parameter(name).requires_grad_() for name in names]
        match self.estimator:
            case "gauss_newton":
                diagonals = gauss_newton(plain, weights, inputs, self.draws, self.seed)
            case "hutchinson":
                diagonals = hutchinson(self_divergence(plain, inputs), weights, 100 * self.draws, self.seed)
            case _:
                diagonals = fisher(plain, weights, inputs)
        return {
            name: (h * weight.detach().square() / 2).clamp_min(0)
            for name, weight, h in zip(names, weights, diagonals, strict=True)
        }


def _ranked(saliencies: Mapping[str, Tensor], costs: Mapping[str, float], limit: float) -> dict[str, float]:
    """The fraction of each weight that stays where those of highest saliency for their cost do, up to `limit` in all.

    At least one element of each stays, so that no layer is cut through.
    """
    each = {name: costs[name] / saliency.numel() for name, saliency in saliencies.items()}
    worth = torch.cat([s.flatten() / max(each[name], 1e-30) for name, s in saliencies.items()])
    price = torch.cat([torch.full((s.numel(),), each[name], dtype=torch.float64) for name, s in saliencies.items()])
    order = torch.argsort(worth, descending=True, stable=True)
    taken = torch.zeros(len(worth), dtype=torch.bool)
    taken[order] = price[order].cumsum(0) <= limit * (1 + 1e-9)
    parts = torch.split(taken, [s.numel() for s in saliencies.values()])
    return {name: max(1, int(part.sum())) / len(part) for name, part in zip(saliencies, parts, strict=True)}
