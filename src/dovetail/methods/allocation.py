"""Sharing out a budget among layers: which of its options each layer takes, so that together they lose least.

Each option has a cost and a measured loss; costs and losses add up (for losses that is an assumption, as in every
method of this kind). Choosing one option a layer under a limit on the total cost is the multiple-choice knapsack
problem, solved exactly as an integer program by HiGHS (Huangfu, Hall. Parallelizing the dual revised simplex method.
Math. Prog. Comp. 2018). `greedy` is the baseline: it takes the best loss per cost, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from dovetail.errors import RecipeError

GAP = 1e-6
"""Relative distance from the proven optimum at which the solver stops."""

TIE = 1e-5
"""What the whole limit weighs beside the largest loss, so that equals are told apart above the solver's tolerance."""


@dataclass(frozen=True)
class Option:
    """One way to treat a layer: `setting` (JSON-able; None leaves it as it is), what it costs, how much is lost."""

    setting: Any
    cost: float
    loss: float


def allocate(options: Mapping[str, Sequence[Option]], limit: float, what: str = "budget") -> dict[str, Option]:
    """One option for each layer, of least total loss among those whose total cost is at most `limit`.

    Negative losses count as 0: they are noise of the measurement.

    Raises:
        RecipeError: even the cheapest options cost more; says what they cost. `what` names the limit in the message.
    """
    _check(options, limit, what)
    flat = [(layer, option) for layer, own in options.items() for option in own]
    layer_of = {layer: row for row, layer in enumerate(options)}
    rows = np.array([layer_of[layer] for layer, _ in flat])
    choose_one = csr_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(len(options), len(flat)))
    costs = np.array([option.cost for _, option in flat]) / max(limit, 1e-30)
    losses = np.array([max(0.0, option.loss) for _, option in flat])
    # Of options that lose the same, the cheapest is taken.
    objective = losses / max(losses.max(initial=0.0), 1e-30) + TIE * costs
    constraints = [LinearConstraint(choose_one, 1, 1), LinearConstraint(costs[None, :], -np.inf, 1 + 1e-12)]
    found = milp(objective, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints,
                 options={"mip_rel_gap": GAP})  # fmt: skip
    assert found.x is not None, found.message
    return {layer: option for (layer, option), taken in zip(flat, found.x, strict=True) if taken > 0.5}


def measured_at(settings: int, probes: int) -> list[int]:
    """Which of so many settings to measure where only so many probes can be afforded: the last, and others evenly."""
    if probes >= settings:
        return list(range(settings))
    return sorted({settings - 1 - round(i * settings / max(1, probes)) for i in range(max(1, probes))})


def rises(errors: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """The rise of the loss for every setting, from those measured at some of them.

    `errors` is what each setting loses by a cheap measure. The rise is taken as proportional to it, and the factor
    interpolated between the settings that were measured. Measured ones are returned as they are.
    """
    if not measured:
        return []
    known = sorted(measured, key=lambda i: errors[i])
    factors = [measured[i] / max(errors[i], 1e-30) for i in known]
    factor = np.interp(errors, [errors[i] for i in known], factors)
    return [measured.get(i, float(error * factor[i])) for i, error in enumerate(errors)]


def greedy(options: Mapping[str, Sequence[Option]], limit: float, what: str = "budget") -> dict[str, Option]:
    """The baseline: from the dearest options, always take the step that loses least for the cost it saves."""
    _check(options, limit, what)
    taken = {layer: max(own, key=lambda option: option.cost) for layer, own in options.items()}
    while sum(option.cost for option in taken.values()) > limit:
        steps = [
            ((max(0.0, option.loss) - max(0.0, taken[layer].loss)) / (taken[layer].cost - option.cost), layer, option)
            for layer, own in options.items()
            for option in own
            if option.cost < taken[layer].cost
        ]
        _, layer, option = min(steps, key=lambda step: step[0])
        taken[layer] = option
    return taken


def _check(options: Mapping[str, Sequence[Option]], limit: float, what: str) -> None:
    least = sum(min(option.cost for option in own) for own in options.values())
    if least > limit:
        raise RecipeError(f"the {what} cannot be met: {limit:.4g} is asked for, and {least:.4g} is the least possible")
