"""What the methods share that put a stack of smaller layers in the place of one: options, budget, repair.

For every layer the method offers settings (ranks). Each is built and tried alone: what the network's loss rises by is
its measured sensitivity. `allocate` then picks one setting a layer (or leaves the layer) so that the sum of the rises
is least under the budget. Without data the rise is replaced by the relative squared error of the layer's weight.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods import layers as network_layers
from dovetail.methods.allocation import Option, allocate, measured_at, rises
from dovetail.methods.budget import Budget
from dovetail.methods.layers import Call, called
from dovetail.methods.method import Context, Kind, Method, Plan, weight_tensors
from dovetail.methods.reconstruction import refit, settle_norms

Setting = dict[str, Any]
"""What a method needs to build a stack, such as {"rank": 12}; JSON-able."""

LATENCY_ROUNDS = 4
"""How often the sum of the layers' latencies is corrected by that of the whole network."""


@dataclass(frozen=True, kw_only=True)
class Decomposition(Method):
    """A method that puts a stack of smaller layers in the place of one layer."""

    kind: ClassVar[Kind] = "rebuild"

    budget: Budget = field(default_factory=lambda: Budget(macs=0.5))
    """What the network may cost; the ranks are chosen so that it is met."""

    settings: dict[str, Setting] = field(default_factory=dict)
    """Settings by hand, by glob pattern of the layer's path; with any given, the budget is not used and the other
    layers are left as they are."""

    reconstruct: bool = True
    """Whether to fit the last layer of each stack to the original's responses, and batch statistics anew."""

    @abstractmethod
    def accepts(self, layer: nn.Module) -> bool:
        """Whether it can decompose this layer."""

    @abstractmethod
    def options(self, layer: nn.Module) -> list[Setting]:
        """The settings worth trying, about eight, from the largest stack to the smallest."""

    @abstractmethod
    def build(self, layer: nn.Module, setting: Setting) -> nn.Sequential:
        """The stack for a layer, from its weight alone. RecipeError if the setting is impossible."""

    def solve(self, model: nn.Module, path: str, settings: list[Setting], context: Context) -> list[nn.Sequential]:
        """The stacks for the layer at `path`, one a setting. Here from its weight; may use what `model` responds."""
        return [self.build(model.get_submodule(path), setting) for setting in settings]

    def plan(self, model: nn.Module, context: Context) -> Plan:
        calls = self.targets(model, context.example)
        if self.settings:
            chosen = self._by_hand(calls)
            return {path: self._row(calls[path], setting, None) for path, setting in chosen.items()}
        scan = self.scan(model, calls, context)
        chosen_options = self._allocate(model, calls, scan, context)
        return {
            path: self._row(calls[path], option.setting, option.loss)
            for path, option in chosen_options.items()
            if option.setting is not None
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        if context.inputs is not None and not context.rebuilding:
            context = replace(context, original=target_network(model, list(plan), context))
        stacks = {path: self.solve(model, path, [row["setting"]], context)[0] for path, row in plan.items()}
        for path, stack in stacks.items():
            if context.inputs is not None:
                give_bias(stack[-1])
            network_layers.replace(model, path, stack)
        if self.reconstruct and context.inputs is not None and not context.rebuilding:
            for path in plan:
                self.repair(model, path, context)
            settle_norms(model, context)
        return model

    def repair(self, model: nn.Module, path: str, context: Context) -> None:
        """Fit the last layer of the stack at `path` to the original's responses."""
        assert context.inputs is not None and context.original is not None
        last, _ = list(model.get_submodule(path).named_children())[-1]
        refit(model, context.original, path, f"{path}.{last}", context.inputs)

    def targets(self, model: nn.Module, example: Tensor) -> dict[str, Call]:
        """The layers this method takes, in the order in which the network calls them."""
        calls = called(model, example, self.accepts)
        return {path: calls[path] for path in self.chosen(list(calls))}

    def scan(self, model: nn.Module, calls: Mapping[str, Call], context: Context) -> dict[str, list[Option]]:
        """The options of each layer, what they cost in the budget's quantity, and what the loss rises by.

        Where the network is so large that probing all of them takes too long, the rises of some are taken as
        proportional to their weights' errors.
        """
        trial = copy.deepcopy(model)
        probes = context.probes(model, len(calls))
        settings = {path: self.options(call.layer) for path, call in calls.items()}
        context.expect(1 + sum(len(measured_at(len(each), probes)) for each in settings.values()))
        base = context.probe(trial) if context.probe is not None else 0.0
        found: dict[str, list[Option]] = {}
        for path, call in calls.items():
            whole = self._cost(call.layer, call, context)
            solved = self.solve(model, path, settings[path], context)
            rows = [
                (setting, stack, cost)
                for setting, stack in zip(settings[path], solved, strict=True)
                if (cost := self._cost(stack, call, context)) < whole
            ]
            stacks = [stack for _, stack, _ in rows]
            if context.probe is None:
                losses = [weight_error(call, stack) for stack in stacks]
            else:
                losses = _probed(context.probe, trial, call, stacks, probes, base)
            options = [Option(setting, cost, loss) for (setting, _, cost), loss in zip(rows, losses, strict=True)]
            found[path] = [Option(None, whole, 0.0), *options]
        return found

    def _allocate(
        self, model: nn.Module, calls: Mapping[str, Call], scan: Mapping[str, list[Option]], context: Context
    ) -> dict[str, Option]:
        what = f"budget {self.budget.quantity} = {self.budget.fraction:g}"
        total = context.cost(model, self.budget.quantity)
        rest = total - sum(options[0].cost for options in scan.values())
        wanted = self.budget.fraction * total
        least = rest + sum(min(option.cost for option in options) for options in scan.values())
        if least > wanted:
            reached = math.ceil(1000 * least / total) / 1000
            raise RecipeError(
                f"the {what} cannot be met by {self.name}: {reached:g} is the closest it comes"
                + (f", for {rest / total:.1%} are in layers that it does not take" if rest > 0.001 * total else "")
            )
        if self.budget.quantity != "latency":
            return allocate(scan, wanted - rest, f"{what} of {total:.4g} (of which {rest:.4g} are in other layers)")
        limit = wanted - rest
        for _ in range(LATENCY_ROUNDS):
            chosen = allocate(scan, limit, what)
            trial = copy.deepcopy(model)
            for path, option in chosen.items():
                if option.setting is not None:
                    network_layers.replace(trial, path, self.build(calls[path].layer, option.setting))
            excess = context.cost(trial, "latency") - wanted
            if excess <= 0.02 * wanted:
                return chosen
            limit -= excess
        raise RecipeError(f"the {what} cannot be met: {(excess + wanted) / total:.2f} is what these layers reach")

    def _cost(self, layer: nn.Module, call: Call, context: Context) -> float:
        match self.budget.quantity:
            case "macs":
                return float(network_layers.macs(layer, call.input_shape))
            case "params":
                return float(network_layers.parameters(layer))
            case _:
                return context.seconds(layer, torch.zeros(call.input_shape))

    def _by_hand(self, calls: Mapping[str, Call]) -> dict[str, Setting]:
        chosen = {
            path: setting
            for path in calls
            for pattern, setting in reversed(self.settings.items())
            if fnmatchcase(path, pattern)
        }
        if not chosen:
            raise RecipeError(f"{self.name}.settings: no layer matches {list(self.settings)}; there are {list(calls)}")
        return chosen

    def _row(self, call: Call, setting: Setting, rise: float | None) -> dict[str, Any]:
        stack = self.build(call.layer, setting)
        row: dict[str, Any] = {
            "setting": setting,
            "macs": [network_layers.macs(layer, call.input_shape) for layer in (call.layer, stack)],
            "params": [network_layers.parameters(layer) for layer in (call.layer, stack)],
        }
        return row if rise is None else row | {"loss_rise": rise}


def _probed(
    probe: Callable[[nn.Module], float],
    trial: nn.Module,
    call: Call,
    stacks: list[nn.Sequential],
    probes: int,
    base: float,
) -> list[float]:
    """What the loss rises by with each of these stacks in the layer's place in `trial`; `probes` of them are tried."""
    measured = {}
    for i in measured_at(len(stacks), probes):
        network_layers.replace(trial, call.path, copy.deepcopy(stacks[i]))
        measured[i] = probe(trial) - base
    trial.set_submodule(call.path, copy.deepcopy(call.layer))
    if len(measured) == len(stacks):
        return [measured[i] for i in range(len(stacks))]
    return rises([weight_error(call, stack) for stack in stacks], measured)


def target_network(model: nn.Module, paths: list[str], context: Context) -> nn.Module:
    """Whose responses to match: the original's; or the model's as it is, where it has lost channels meanwhile."""
    original = context.original
    if original is not None:
        before, now = (dict(weight_tensors(network)) for network in (original, model))
        if all(path in before and len(before[path]) == len(now[path]) for path in paths):
            return original
    return copy.deepcopy(model)


def give_bias(last: nn.Module) -> None:
    """A bias of zeros where there is none: fitting to responses fills it, so a structure made anew must have it too."""
    if last.bias is None:
        assert isinstance(last.weight, Tensor)
        last.bias = nn.Parameter(last.weight.new_zeros(len(last.weight)))


def weight_error(call: Call, stack: nn.Module) -> float:
    """||y - y'||^2 / ||y||^2 of the two layers' outputs, without bias, on white noise: the weights' relative error."""
    noise = torch.randn((4, *call.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = call.layer(noise), stack(noise)
        return float((expected - found).square().sum() / expected.square().sum().clamp_min(1e-30))
