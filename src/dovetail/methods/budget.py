"""What the compressed network may cost, as a fraction of what the uncompressed one costs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dovetail.errors import RecipeError


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
