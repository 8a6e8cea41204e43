"""Magnitude pruning with a threshold per layer.

Han, Pool, Tran, Dally. Learning both Weights and Connections for Efficient Neural Networks. NeurIPS 2015.
arXiv:1506.02626
Narang, Undersander, Diamos. Block-Sparse Recurrent Neural Networks. 2017. arXiv:1711.02782 (`block`).

    t_l  = q_l * std(W_l)              threshold of layer l, its quality q_l from a sensitivity scan
    M_l  = [ |W_l| >= t_l ]            mask
    W_l <- W_l * M_l                   retrained from the surviving weights; repeated with growing q_l

Departs from the paper: the scan is on the loss, which is smoother than accuracy on a thousand pictures; it gives each
layer's kept fraction directly (t_l is then the fraction's quantile of |W_l|), chosen so that the layers together reach
the sparsity or budget asked for. The paper permits every layer the same loss ("sensitivity"); by default the sum of the
losses is made least instead ("least_loss"). Each of R rounds removes the same share of what is left: where k is to stay
in the end, round r keeps k^((r + 1) / R), of every layer or ("sensitivity") of all together, shared out anew. Of blocks
those of the largest mean square stay, and the same share of them. Biases and normalisation are not pruned. Pruned
weights never return. Weights that have lost their path to the output go too (`dead_units`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.formats import Layout
from dovetail.methods.budget import Budget, largest
from dovetail.methods.constraint import Constraint, constrain, find
from dovetail.methods.method import Context, Kind, Method, Plan, check, layer_path
from dovetail.methods.prune.counts import Sizes, measure
from dovetail.methods.prune.dead_units import live
from dovetail.methods.prune.sensitivity import (
    KEPT_FRACTIONS,
    Curve,
    kept_largest,
    least_loss,
    scan,
    share_out,
    weight_errors,
)

SHARINGS = ("least_loss", "sensitivity", "uniform")


class Mask(Constraint):
    """Keeps the masked-out entries of a weight at exactly zero, whatever momentum and weight decay do below."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, latent: Tensor) -> Tensor:
        return latent * self.mask

    def freeze(self, layout: Layout) -> Layout:
        return replace(layout, structure="smallest")


def restrict(model: nn.Module, masks: Mapping[str, Tensor], make: Callable[[Tensor], Mask] = Mask) -> None:
    """Keep only what the boolean masks keep of the named weights, and of that what earlier masks on them keep.

    `make` makes the constraint of a weight that has no mask yet.
    """
    for name, mask in masks.items():
        held = find(model, name, Mask)
        if held is None:
            constrain(model, name, make(mask))
        else:
            held.mask.logical_and_(mask)


@dataclass(frozen=True, kw_only=True)
class Magnitude(Method):
    """Prunes the weights of smallest magnitude, layer by layer."""

    name: ClassVar[str] = "magnitude"
    kind: ClassVar[Kind] = "prune"

    sparsity: float = 0.9
    """The fraction of all the chosen layers' weights that is zero in the end."""

    budget: Budget | None = None
    """What the network may cost instead: macs or params, both of nonzero weights, or latency on a target that leaves
    zeros out: a chip for that, or "cpu" with a `block` that it knows. `sparsity` is then not used."""

    rounds: int = 3
    """How many times to prune and retrain."""

    allocation: str = "least_loss"
    """How the sparsity is shared among the layers: "least_loss" (the measured rises of the loss add up to the least),
    "sensitivity" (every layer's rise alike) or "uniform"."""

    keep: dict[str, float] = field(default_factory=dict)
    """Kept fractions given by hand, by glob pattern of the layer's path; these layers are not scanned."""

    block: tuple[int, int] = (1, 1)
    """Outputs and inputs whose weights stay and go together, at each place of a kernel. (16, 4) are what the engine
    multiplies at once where layer inputs are in 8 bits: zeros then make the network faster."""

    dead_units: bool = True
    """Whether weights without a path from input to output are pruned too."""

    def __post_init__(self) -> None:
        check(0 <= self.sparsity < 1, self.name, "sparsity", "a fraction in [0, 1)", self.sparsity)
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check(self.allocation in SHARINGS, self.name, "allocation", ", ".join(SHARINGS), self.allocation)
        check(min(self.block) >= 1, self.name, "block", "two numbers of 1 or more", self.block)
        for pattern, kept in self.keep.items():
            check(0 < kept <= 1, self.name, f"keep.{pattern}", "a fraction in (0, 1]", kept)

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        sizes = measure(model, self.weights(model), context.example)
        by_hand = {name: kept for name in sizes.weights if (kept := self._given(name)) is not None}
        costs = sizes.costs(self.budget)
        free = {name: cost for name, cost in costs.items() if name not in by_hand}
        target = self._target(sizes, {name: by_hand[name] * costs[name] for name in by_hand}, sum(free.values()))
        curves = self._curves(model, list(free), context)
        if self.budget is not None and self.budget.quantity == "latency":
            target = self._by_latency(model, self.budget.fraction, by_hand, curves, free, context)
        plan: Plan = {name: {"kept": [], "weights": size.params} for name, size in sizes.weights.items()}
        last = by_hand | self._share(curves, free, 1 - target)
        for stage in range(self.rounds):
            exponent = (stage + 1) / self.rounds
            stay = {name: fraction**exponent for name, fraction in last.items()}
            if self.allocation == "sensitivity":
                stay |= self._share(curves, free, 1 - target**exponent)
            for name, row in plan.items():
                row["kept"].append(stay[name])
        return {name: row | sizes.weights[name].row(row["kept"][-1]) for name, row in plan.items()}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        restrict(model, {name: self._mask(weights[name], row["kept"][stage]) for name, row in plan.items()})
        if self.dead_units and not context.rebuilding:
            left = self.weights(model)
            restrict(model, live(model, {name: left[name] != 0 for name in plan}, context.example))
        return model

    def _target(self, sizes: Sizes, by_hand: Mapping[str, float], free: float) -> float:
        """The fraction that may stay of the layers which are not given by hand, `free` in all, in the end."""
        if self.budget is None:
            return 1 - self.sparsity
        if self.budget.quantity == "latency":
            return 1.0  # that is found once it is known how operations are shared
        permitted = sizes.permitted(self.budget) - sum(by_hand.values())
        if free and permitted <= 0:
            raise RecipeError("magnitude.budget cannot be met: what magnitude.keep keeps alone costs more")
        return min(1.0, permitted / free) if free else 1.0

    def _by_latency(
        self,
        model: nn.Module,
        wanted: float,
        by_hand: dict[str, float],
        curves: Mapping[str, Curve],
        costs: Mapping[str, float],
        context: Context,
    ) -> float:
        """The largest fraction of the layers' operations with which the network takes at most `wanted` of its time."""
        whole = context.cost(model, "latency")

        def taken(target: float) -> float:
            kept = by_hand | self._share(curves, costs, 1 - target)
            rows = {name: {"kept": [fraction]} for name, fraction in kept.items()}
            return context.cost(self.apply(copy.deepcopy(model).eval(), rows, 0, context), "latency") / whole

        least = KEPT_FRACTIONS[-1]
        if (reached := taken(least)) > wanted:
            raise RecipeError(
                f"the budget latency = {wanted:g} cannot be met: with {least:.0%} of the operations left it is "
                f"{reached:.3f}. Zeros save time on chips that skip them, and on cpu where block = [16, 4]"
            )
        return largest(lambda target: taken(target) <= wanted, least)

    def _curves(self, model: nn.Module, names: list[str], context: Context) -> dict[str, Curve]:
        if self.allocation == "uniform" or not names:
            return {}
        if context.probe is None:
            return weight_errors(model, names, self._mask)
        return scan(model, names, context, self._mask)

    def _share(self, curves: Mapping[str, Curve], costs: Mapping[str, float], sparsity: float) -> dict[str, float]:
        if not curves:
            return dict.fromkeys(costs, 1 - sparsity)
        return (least_loss if self.allocation == "least_loss" else share_out)(curves, costs, sparsity)

    def _mask(self, weight: Tensor, kept: float) -> Tensor:
        return kept_largest(weight, kept, self.block)

    def _given(self, name: str) -> float | None:
        path = layer_path(name)
        return next((kept for pattern, kept in self.keep.items() if fnmatchcase(path, pattern)), None)
