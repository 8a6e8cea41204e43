"""Network slimming: channels whose batch normalisation learns to scale them by nothing go.

Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017.
arXiv:1708.06519

    L + lambda * sum |gamma|            trained first, gamma the scales of the batch normalisations
    keep a channel if |gamma| > t       t the p-quantile of all |gamma|, over the whole network

Departs from the paper: coupled channels (residual sums) go together, judged by the mean of their |gamma|, so that no
"channel selection" layer is needed. What a removed channel still gave, a constant near relu(beta), goes into the layers
that read it: with inputs by least squares, without by adding it to their bias (exact but at zero-padded borders).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.channels.channels import chosen_groups, least_important, removed_in, with_removed
from dovetail.methods.channels.groups import Dependencies, Group, dependencies
from dovetail.methods.channels.repair import take_out
from dovetail.methods.constraint import Constraint, bake, constrain
from dovetail.methods.method import Context, Kind, Method, Plan, check

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Sparse(Constraint):
    """Adds strength * sum |gamma| to the loss."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self._held: Tensor | None = None

    def forward(self, latent: Tensor) -> Tensor:
        self._held = latent if latent.requires_grad else None
        return latent

    def penalty(self) -> Tensor:
        return torch.zeros(()) if self._held is None else self.strength * self._held.abs().sum()

    def __deepcopy__(self, memo: object) -> Sparse:
        return Sparse(self.strength)


@dataclass(frozen=True, kw_only=True)
class Slimming(Method):
    """Trains batch normalisations to be sparse, then removes the channels that they scale least."""

    name: ClassVar[str] = "slimming"
    kind: ClassVar[Kind] = "shrink"

    sparsity: float = 0.4
    """The fraction of all the chosen channels (counted once where coupled) that go."""

    strength: float = 1e-4
    """The factor of the L1 penalty while the first round trains (the paper: 1e-4 for VGG, 1e-5 for deep ResNets)."""

    rounds: int = 1
    """How many times to remove and retrain, after the sparse training."""

    least: int = 1
    """Of each group of channels at least so many stay."""

    reconstruct: bool = True
    """Whether to fit the layers that have lost inputs anew."""

    def __post_init__(self) -> None:
        check(0 < self.sparsity < 1, self.name, "sparsity", "a fraction in (0, 1)", self.sparsity)
        check(self.strength >= 0, self.name, "strength", "0 or more", self.strength)
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check(self.least >= 1, self.name, "least", "1 or more", self.least)

    @property
    def stages(self) -> int:
        return 1 + self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        found = dependencies(model, context.example)
        groups = chosen_groups(self, found)
        plan: Plan = {
            name: {"units": group.size, "norms": norms}
            for name, group in groups.items()
            if (norms := _norms(found, group))
        }
        if not plan:
            raise ModelError(
                f"{self.name}: no channels that can go have a batch normalisation, whose scales tell which matter; "
                "take the method channels instead"
            )
        return plan

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        if stage == 0:
            return plan
        found = dependencies(bake(model), context.example)
        scales = {name: _scales(found, found.groups[name], row["norms"]) for name, row in plan.items()}
        units = sum(row["units"] for row in plan.values())
        stays = round(units * (1 - self.sparsity * stage / self.rounds))
        ordered = torch.cat(list(scales.values())).sort(descending=True).values
        threshold = ordered[min(stays, len(ordered)) - 1]
        kept = {name: max(min(self.least, len(s)), int((s >= threshold).sum())) for name, s in scales.items()}
        plan = with_removed(plan, stage, {name: least_important(scales[name], kept[name]) for name in plan})
        return {name: row | {"kept": [*row.get("kept", []), kept[name]]} for name, row in plan.items()}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        if stage == 0:
            for path in dict.fromkeys(path for row in plan.values() for path in row["norms"]):
                constrain(model, f"{path}.weight", Sparse(self.strength))
            return model
        return take_out(bake(model), removed_in(plan, stage), context, reconstruct=self.reconstruct)


def _norms(found: Dependencies, group: Group) -> list[str]:
    """The batch normalisations with a scale that a group goes through."""
    paths = [path for path, role in group.members if role == "follow"]
    layers = {path: found.model.get_submodule(path) for path in paths}
    return [path for path, layer in layers.items() if isinstance(layer, NORMS) and layer.affine]


def _scales(found: Dependencies, group: Group, norms: list[str]) -> Tensor:
    """The mean |gamma| of each unit."""
    total = torch.zeros(group.size)
    for path in norms:
        gamma = found.model.get_submodule(path).get_parameter("weight").detach().abs()
        total += torch.stack([gamma[torch.from_numpy(unit)].mean() for unit in group.members[path, "follow"]])
    return total / len(norms)
