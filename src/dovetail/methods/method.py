"""What every compression method is: a frozen dataclass that plans from measurements, then applies its plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import Tensor, nn

from dovetail.errors import ModelError, RecipeError

Plan = dict[str, dict[str, Any]]
"""What a method will do to each weight, by the weight's name; JSON-able, so that it can be shown and replayed."""


@dataclass(frozen=True)
class Context:
    """What a method may measure while it plans."""

    loss: Callable[[nn.Module], float]
    """Mean loss of a model on held-out data."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One published method; its fields are its configuration, checked on construction.

    A method works in `rounds`, each stronger than the one before and followed by retraining. Its plan, made once,
    covers them all. Replaying `apply` with the same plan rebuilds the same structure, so a run can be resumed.
    """

    name: ClassVar[str]

    layers: tuple[str, ...] = ("*",)
    """Glob patterns of the paths of the modules whose weight is taken, such as "fc*" or "layer1.*"."""

    @property
    def stages(self) -> int:
        """How many rounds there are."""
        return 1

    @abstractmethod
    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Decide from measurements on `model`, which is left as it was."""

    @abstractmethod
    def apply(self, model: nn.Module, plan: Plan, stage: int) -> None:
        """Change `model` in place as the plan says for round `stage`, counted from 0."""

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The effective weights this method takes, by name.

        Raises:
            ModelError: no layer matches.
        """
        chosen = {
            f"{path}.weight" if path else "weight": weight
            for path, weight in weight_tensors(model)
            if any(fnmatchcase(path, pattern) for pattern in self.layers)
        }
        if not chosen:
            raise ModelError(
                f"{self.name}: no layer matches {list(self.layers)}; "
                f"the layers with weights are {[path for path, _ in weight_tensors(model)]}"
            )
        return chosen


def weight_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Path and weight of every module that multiplies by a weight of two dimensions or more."""
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and weight.is_floating_point():
            yield path, weight.detach()


def check(holds: bool, method: str, field: str, expected: str, found: object) -> None:
    """Raise a RecipeError about a field's value unless `holds`."""
    if not holds:
        raise RecipeError(f"{method}.{field} must be {expected}, got {found!r}")
