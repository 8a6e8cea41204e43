"""What the compressed network may cost, as a fraction of what the uncompressed one costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from dovetail.errors import RecipeError

BISECTIONS = 6
"""Steps in which `largest` halves what is open: to 1.6 % of a network, about what latencies are known to."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Exactly one of these, as the fraction in (0, 1) of the network as the step finds it that may remain.

    `macs` are multiply-accumulates of one input, `params` the numbers in all weights, `latency` the seconds of one
    input on the target that is named beside it. Where single weights are pruned, only nonzero ones count.
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            raise RecipeError(f"a budget is one of macs, params and latency, got {given or 'none'}")
        if not 0 < self.fraction < 1:
            raise RecipeError(f"budget.{self.quantity} must be a fraction in (0, 1), got {self.fraction!r}")

    @property
    def quantity(self) -> str:
        """ "macs", "params" or "latency"."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def fraction(self) -> float:
        """The number given."""
        return float(getattr(self, self.quantity))


def largest(fits: Callable[[float], bool], least: float) -> float:
    """Of the fractions from `least`, which fits, to 1 about the largest that does, where smaller ones then do too."""
    low, high = least, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
