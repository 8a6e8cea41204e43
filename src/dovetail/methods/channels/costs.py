"""What a network costs as a function of how many units of each group are left, and sharing out a budget by it.

The cost of a layer is a product of its widths, so it is linear in each group's size but not in all of them together.
`share_out` therefore takes turns: allocate exactly with every group's costs taken at the others' current sizes, move
towards what was found, and so on until the sizes stay, with the limit corrected by the true cost.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.allocation import Option, allocate
from dovetail.methods.channels.groups import Dependencies
from dovetail.methods.channels.rules import CONVOLUTIONS, TRANSPOSED
from dovetail.workload.trace import trace

ROUNDS = 25

Sizes = Mapping[str, float]
"""How many units of each group are left."""


class Costs:
    """MACs and parameters of a network for any sizes of its groups."""

    def __init__(self, found: Dependencies, example: Tensor) -> None:
        self.found = found
        self.traced: dict[str, int] = defaultdict(int)
        for operation in trace(found.model, example[:1]).operations:
            self.traced[operation.name] += operation.macs
        self.macs = sum(self.traced.values())
        self.params = sum(p.numel() for p in found.model.parameters())
        self.layers: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        """For each module and role: how many channels a unit of each group has, on average."""
        for name, group in found.groups.items():
            for (path, role), members in group.members.items():
                self.layers[path].setdefault(role, {})[name] = sum(map(len, members)) / group.size

    def __call__(self, quantity: str, sizes: Sizes) -> float:
        """The whole network's cost, "macs" or "params"."""
        whole = self.macs if quantity == "macs" else self.params
        return whole - sum(self.layer(path, quantity, {}) - self.layer(path, quantity, sizes) for path in self.layers)

    def layer(self, path: str, quantity: str, sizes: Sizes) -> float:
        """One layer's cost."""
        layer: Any = self.found.model.get_submodule(path)
        left = {role: self._left(path, role, sizes) for role in self.layers[path]}
        if "heads" in left:
            return left["heads"] * self._amount(path, layer, quantity)
        if "follow" in left:
            return 0.0 if quantity == "macs" else left["follow"] * sum(p.numel() for p in layer.parameters())
        depthwise = isinstance(layer, CONVOLUTIONS + TRANSPOSED) and layer.groups == layer.in_channels > 1
        product = left.get("out", 1.0) * (1.0 if depthwise else left.get("in", 1.0))
        if quantity == "macs":
            return float(product * self.traced.get(path, 0))
        bias = getattr(layer, "bias", None)
        return float(product * layer.weight.numel()) + (
            0.0 if bias is None else left.get("out", 1.0) * int(bias.numel())
        )

    def _left(self, path: str, role: str, sizes: Sizes) -> float:
        total = len(self.found.walk.ports[path, role])
        groups = self.found.groups
        gone = sum(
            each * (groups[n].size - sizes.get(n, groups[n].size)) for n, each in self.layers[path][role].items()
        )
        return 1 - gone / total

    def _amount(self, path: str, layer: nn.Module, quantity: str) -> float:
        if quantity == "params":
            return float(sum(p.numel() for p in layer.parameters()))
        return float(sum(macs for name, macs in self.traced.items() if name == path or name.startswith(path + ".")))


Curves = Mapping[str, Mapping[int, float]]
"""For each group: the rise of the loss when so many units are left."""


def share_out(costs: Costs, curves: Curves, quantity: str, fraction: float) -> dict[str, int]:
    """How many units of each group to keep so that the network costs at most `fraction`, at the least sum of rises.

    Raises:
        RecipeError: these groups cannot save that much; says what they can.
    """
    whole = costs(quantity, {})
    wanted = fraction * whole
    least = costs(quantity, {name: min(curve) for name, curve in curves.items()})
    if least > wanted:
        raise RecipeError(
            f"the budget {quantity} = {fraction:g} cannot be met: {least / whole:.3f} is what the chosen channels reach"
        )
    size = {name: costs.found.groups[name].size for name in curves}
    at: dict[str, float] = {name: max(min(curves[name]), math.sqrt(fraction) * n) for name, n in size.items()}
    best: tuple[float, dict[str, int]] | None = None
    correction = 0.0
    for turn in range(ROUNDS):
        chosen = _linear(costs, curves, quantity, at, wanted - correction)
        true, rise = costs(quantity, chosen), sum(max(0.0, curves[name][n]) for name, n in chosen.items())
        if true <= wanted and (best is None or rise < best[0]):
            best = rise, chosen
        if true > wanted and turn > ROUNDS // 2:
            correction += true - wanted
        at = {name: (at[name] + chosen[name]) / 2 for name in at}
    return best[1] if best is not None else {name: min(curve) for name, curve in curves.items()}


def _linear(costs: Costs, curves: Curves, quantity: str, at: Sizes, wanted: float) -> dict[str, int]:
    """The best sizes if every group's costs are as at these sizes of the others."""
    options: dict[str, Sequence[Option]] = {}
    rest = here = costs(quantity, at)
    for name, curve in curves.items():
        price = {n: costs(quantity, {**at, name: n}) - here for n in (0.0, *curve)}
        options[name] = [Option(n, price[n] - price[0.0], rise) for n, rise in curve.items()]
        rest += price[0.0]
    cheapest = sum(min(option.cost for option in own) for own in options.values())
    chosen = allocate(options, max(wanted - rest, cheapest * (1 + 1e-9)), f"budget of {quantity}")
    return {name: int(option.setting) for name, option in chosen.items()}
