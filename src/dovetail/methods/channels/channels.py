"""Removing the channels that matter least, under a budget.

Li et al. Pruning Filters for Efficient ConvNets. ICLR 2017. arXiv:1608.08710 (filters by their norm, a sensitivity per
layer); Molchanov et al. Importance Estimation for Neural Network Pruning. CVPR 2019. arXiv:1906.10771 (by a Taylor
expansion); Fang et al. DepGraph. CVPR 2023. arXiv:2301.12900 (coupled channels go as groups).

For each group of coupled channels the rise of the loss is measured with 10 ... 90 % of its units, the least important
ones, masked; `costs.share_out` then chooses each group's size. Departs from all of them in that the layers that
read the channels are fitted anew to unlabelled inputs right after (`repair`), so that a network can do without
retraining.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from dovetail.errors import ModelError, RecipeError
from dovetail.methods.allocation import measured_at, rises
from dovetail.methods.budget import Budget, largest
from dovetail.methods.channels.costs import Costs, share_out
from dovetail.methods.channels.groups import Dependencies, Group, dependencies
from dovetail.methods.channels.importance import Importance, scores
from dovetail.methods.channels.removal import mask, remove
from dovetail.methods.channels.repair import take_out
from dovetail.methods.method import Context, Kind, Method, Plan, check

FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True, kw_only=True)
class Channels(Method):
    """Removes channels, all that are coupled together, so that a budget is met."""

    name: ClassVar[str] = "channels"
    kind: ClassVar[Kind] = "shrink"

    budget: Budget = field(default_factory=lambda: Budget(macs=0.5))
    """What the network may cost in the end."""

    importance: Importance = "response"
    """Which units go first: "magnitude", "response" or "taylor" (see `channels.importance`)."""

    rounds: int = 1
    """How many times to remove and retrain."""

    least: int = 1
    """Of each group at least so many units stay."""

    multiple: int = 1
    """Groups are left with a multiple of so many units, for kernels that work on several channels at once."""

    reconstruct: bool = True
    """Whether to fit the layers that have lost inputs anew."""

    def __post_init__(self) -> None:
        check(self.importance in ("magnitude", "response", "taylor"), self.name, "importance",
              '"magnitude", "response" or "taylor"', self.importance)  # fmt: skip
        for name in ("rounds", "least", "multiple"):
            check(getattr(self, name) >= 1, self.name, name, "1 or more", getattr(self, name))

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        found = dependencies(model, context.example)
        groups = self.groups(found)
        costs = Costs(found, context.example)
        curves = self._curves(model, groups, context)
        if self.budget.quantity == "latency":
            sizes = self._by_latency(model, costs, curves, context)
        else:
            sizes = share_out(costs, curves, self.budget.quantity, self.budget.fraction)
        return rows(costs, groups, sizes, self.rounds, {name: curves[name][n] for name, n in sizes.items()})

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        order = scores(model, context.example, context.inputs, self.importance)
        return with_removed(plan, stage, {name: least_important(order[name], row["kept"][stage])
                                          for name, row in plan.items()})  # fmt: skip

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        return take_out(model, removed_in(plan, stage), context, reconstruct=self.reconstruct)

    def groups(self, found: Dependencies) -> dict[str, Group]:
        """The groups all of whose producers match `layers`.

        Raises:
            ModelError: there is none; says why.
        """
        return chosen_groups(self, found)

    def _curves(self, model: nn.Module, groups: Mapping[str, Group], context: Context) -> dict[str, dict[int, float]]:
        """The rise of the loss for each size that a group may have.

        Where the network is so large that probing all sizes takes too long, the rises of some are taken as
        proportional to the importance that goes.
        """
        order = scores(model, context.example, context.inputs, self.importance)
        trial = copy.deepcopy(model).eval()
        found = dependencies(trial, context.example)
        state = {name: tensor.clone() for name, tensor in trial.state_dict().items()}
        probes = context.probes(model, len(groups))
        context.expect(1 + sum(len(measured_at(len(self._sizes(g.size)), probes)) for g in groups.values()))
        base = context.probe(trial) if context.probe is not None else 0.0
        curves: dict[str, dict[int, float]] = {}
        for name, group in groups.items():
            sizes = self._sizes(group.size)
            lost = [least_important(order[name], size) for size in sizes]
            rise = [float(order[name][goes].sum() / order[name].sum().clamp_min(1e-30)) for goes in lost]
            if context.probe is not None:
                measured = {}
                for i in measured_at(len(sizes), probes):
                    mask(found, {name: lost[i]})
                    measured[i] = context.probe(trial) - base
                    trial.load_state_dict(state)
                rise = rises(rise, measured)
            curves[name] = {group.size: 0.0, **dict(zip(sizes, rise, strict=True))}
        return curves

    def _sizes(self, size: int) -> list[int]:
        multiples = {max(1, round(fraction * size / self.multiple)) * self.multiple for fraction in FRACTIONS}
        wanted = {max(self.least, n) for n in multiples}
        return sorted((n for n in wanted if 0 < n < size), reverse=True)

    def _by_latency(
        self, model: nn.Module, costs: Costs, curves: dict[str, dict[int, float]], context: Context
    ) -> dict[str, int]:
        """The largest network by MACs, found by bisection, that is fast enough."""
        whole = context.cost(model, "latency")
        wanted = self.budget.fraction * whole

        def seconds(sizes: Mapping[str, int]) -> float:
            trial = copy.deepcopy(model).eval()
            goes = {name: range(n, max(curves[name])) for name, n in sizes.items()}
            return context.cost(remove(dependencies(trial, context.example), goes), "latency")

        smallest = {name: min(curve) for name, curve in curves.items()}
        if (reached := seconds(smallest)) > wanted:
            raise RecipeError(
                f"the budget latency = {self.budget.fraction:g} cannot be met: {reached / whole:.3f} is what the "
                "chosen channels reach"
            )

        def fits(fraction: float) -> bool:
            return seconds(share_out(costs, curves, "macs", fraction)) <= wanted

        least = costs("macs", smallest) / costs("macs", {})
        found = largest(fits, least)
        return smallest if found == least else share_out(costs, curves, "macs", found)


def chosen_groups(method: Method, found: Dependencies) -> dict[str, Group]:
    """The groups of more than one unit all of whose producers match the method's `layers`; ModelError if none."""
    free = {name: group for name, group in found.groups.items() if group.size > 1}
    paths = [path for group in free.values() for path in group.producers]
    if not paths:
        raise ModelError(f"{method.name}: no channels of this network can go:\n{found}")
    wanted = set(method.chosen(list(dict.fromkeys(paths))))
    groups = {name: group for name, group in free.items() if wanted.issuperset(group.producers)}
    if not groups:
        coupled = next(group for group in free.values() if wanted.intersection(group.producers))
        raise ModelError(f"{method.name}: the channels of {list(method.layers)} go with those of {coupled.producers}; "
                         "choose all of these")  # fmt: skip
    return groups


def least_important(order: torch.Tensor, keep: int) -> list[int]:
    """The positions of all but the `keep` highest, in ascending order."""
    found: list[int] = torch.argsort(order, stable=True)[: len(order) - keep].tolist()
    return sorted(found)


def rows(
    costs: Costs, groups: Mapping[str, Group], sizes: Mapping[str, int], rounds: int, rises: Mapping[str, float]
) -> Plan:
    """The plan that leaves these sizes, in equal proportions each round; a layer's cost stands in its first group's."""
    plan: Plan = {}
    taken: set[str] = set()
    for name, size in sizes.items():
        group = groups[name]
        own = [path for path in group.producers if path not in taken]
        taken.update(own)
        kept = [max(size, round(group.size * (size / group.size) ** ((r + 1) / rounds))) for r in range(rounds)]
        plan[name] = {"kept": kept, "units": group.size}
        for quantity in ("macs", "params"):
            plan[name][quantity] = [round(sum(costs.layer(path, quantity, s) for path in own)) for s in ({}, sizes)]
        if name in rises:
            plan[name]["loss_rise"] = rises[name]
    return plan


def with_removed(plan: Plan, stage: int, removed: Mapping[str, list[int]]) -> Plan:
    """The plan with the units that go in a round; a group that is left whole has none."""
    result: dict[str, dict[str, Any]] = {}
    for name, row in plan.items():
        before = dict(row.get("removed", {}))
        result[name] = {**row, "removed": {**before, str(stage): removed.get(name, [])}}
    return result


def removed_in(plan: Plan, stage: int) -> dict[str, list[int]]:
    """The units that go in a round, by group."""
    return {name: row["removed"][str(stage)] for name, row in plan.items() if row["removed"][str(stage)]}
