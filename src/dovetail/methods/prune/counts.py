"""What weights cost, dense and with their zeros left out: the numbers behind a plan's rows and a pruning budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake
from dovetail.workload.trace import trace


@dataclass(frozen=True)
class Size:
    """One weight: its elements, the multiply-accumulates of one input they cause, and the fraction that is nonzero."""

    params: int
    macs: int
    density: float

    def row(self, kept: float) -> dict[str, Any]:
        """Nonzero multiply-accumulates and weights before and after, if the fraction `kept` of all elements stays."""
        return {
            "macs": [round(self.macs * self.density), round(self.macs * kept)],
            "params": [round(self.params * self.density), round(self.params * kept)],
        }


@dataclass(frozen=True)
class Sizes:
    """The weights that a method takes, by name, and the network they are in, zeros left out everywhere."""

    weights: Mapping[str, Size]
    network_macs: int
    network_params: int

    def costs(self, budget: Budget | None) -> dict[str, float]:
        """What each weight costs dense: in parameters, or where the budget is of macs or latency, in macs."""
        quantity = "params" if budget is None or budget.quantity == "params" else "macs"
        return {name: float(getattr(size, quantity)) for name, size in self.weights.items()}

    def permitted(self, budget: Budget) -> float:
        """What the weights may cost together, so that the whole network is within the budget.

        Raises:
            RecipeError: the rest of the network alone costs more.
        """
        total = float(self.network_macs if budget.quantity == "macs" else self.network_params)
        own = sum(cost * self.weights[name].density for name, cost in self.costs(budget).items())
        rest = max(0.0, total - own)
        if (permitted := budget.fraction * total - rest) <= 0:
            raise RecipeError(
                f"the budget {budget.quantity} = {budget.fraction:g} cannot be met: {rest / total:.3g} of the network "
                "is not in the weights that are pruned"
            )
        return permitted


def measure(model: nn.Module, names: Iterable[str], example: Tensor) -> Sizes:
    """The sizes of the named weights of `model`, which is run once on `example` (1, ...).

    Raises:
        ModelError: the network does not run on it.
    """
    plain = bake(model)
    parameters = dict(plain.named_parameters())
    workload = trace(plain, example[:1])
    macs = workload.macs_by_weight
    return Sizes(
        weights={
            name: Size(parameters[name].numel(), macs[name], float((parameters[name] != 0).double().mean()))
            for name in names
        },
        network_macs=workload.nonzero_macs,
        network_params=sum(int((parameter != 0).sum()) for parameter in parameters.values()),
    )


def check_budget(budget: Budget | None, method: str) -> None:
    """Raise a RecipeError if the budget is of something that zeros do not change."""
    if budget is not None and budget.quantity == "latency":
        raise RecipeError(f"{method}.budget must be of macs or params (of those that are nonzero), got latency")
