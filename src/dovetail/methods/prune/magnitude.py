"""Magnitude pruning with a threshold per layer.

Han, Pool, Tran, Dally. Learning both Weights and Connections for Efficient Neural Networks. NeurIPS 2015.
arXiv:1506.02626

    t_l  = q_l * std(W_l)              threshold of layer l, its quality q_l from a sensitivity scan
    M_l  = [ |W_l| >= t_l ]            mask
    W_l <- W_l * M_l                   retrained from the surviving weights; repeated with growing q_l

Departs from the paper: the scan is on the loss, which is smoother than accuracy on a thousand pictures; it gives each
layer's kept fraction directly (t_l is then the fraction's quantile of |W_l|), chosen so that the layers together reach
the sparsity asked for. Round r of R keeps (1 - s)^((r + 1) / R) of all weights, so each round removes the same share
of what is left. Biases and normalisation are not pruned. Pruned weights never return.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Layout
from dovetail.methods.constraint import Constraint, constrain, find
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.prune.sensitivity import largest, scan, share_out


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


@dataclass(frozen=True, kw_only=True)
class Magnitude(Method):
    """Prunes the weights of smallest magnitude, layer by layer."""

    name: ClassVar[str] = "magnitude"
    kind: ClassVar[Kind] = "prune"

    sparsity: float = 0.9
    """The fraction of all the chosen layers' weights that is zero in the end."""

    rounds: int = 3
    """How many times to prune and retrain."""

    allocation: str = "sensitivity"
    """How the sparsity is shared among the layers: "sensitivity" (by the scan) or "uniform"."""

    keep: dict[str, float] = field(default_factory=dict)
    """Kept fractions given by hand, by glob pattern of the layer's path; these layers are not scanned."""

    def __post_init__(self) -> None:
        check(0 <= self.sparsity < 1, self.name, "sparsity", "a fraction in [0, 1)", self.sparsity)
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check(self.allocation in ("sensitivity", "uniform"), self.name, "allocation",
              '"sensitivity" or "uniform"', self.allocation)  # fmt: skip
        for pattern, kept in self.keep.items():
            check(0 < kept <= 1, self.name, f"keep.{pattern}", "a fraction in (0, 1]", kept)

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        by_hand = {name: kept for name in weights if (kept := self._given(name)) is not None}
        free = {name: weight.numel() for name, weight in weights.items() if name not in by_hand}
        curves = scan(model, free, context.loss) if self.allocation == "sensitivity" and free else {}
        plan: Plan = {name: {"kept": [], "weights": weight.numel()} for name, weight in weights.items()}
        for stage in range(self.rounds):
            exponent = (stage + 1) / self.rounds
            sparsity = 1 - (1 - self.sparsity) ** exponent
            shared = share_out(curves, free, sparsity) if curves else dict.fromkeys(free, 1 - sparsity)
            for name in weights:
                plan[name]["kept"].append(by_hand[name] ** exponent if name in by_hand else shared[name])
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            weight = weights[name]
            mask = largest(weight, max(1, round(row["kept"][stage] * weight.numel())))
            held = find(model, name, Mask)
            if held is None:
                constrain(model, name, Mask(mask))
            else:
                held.mask.logical_and_(mask)
        return model

    def _given(self, name: str) -> float | None:
        path = name.removesuffix("weight").removesuffix(".")
        return next((kept for pattern, kept in self.keep.items() if fnmatchcase(path, pattern)), None)
