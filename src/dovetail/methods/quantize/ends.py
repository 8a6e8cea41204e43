"""Which layers are first and last: many papers leave those in full precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context, Method, weight_name, weight_tensors
from dovetail.workload.trace import trace


@dataclass(frozen=True, kw_only=True)
class KeepsEnds(Method):
    """A method that leaves the network's ends alone unless it is told to take them too."""

    keep_ends: bool = True
    """Whether the network's first and last layer stay as they are."""

    def inner(self, model: nn.Module, context: Context, names: Iterable[str]) -> list[str]:
        """Those of the named weights that are taken.

        Raises:
            ModelError: none is.
        """
        return inner(model, context.example, names) if self.keep_ends else list(names)


def inner(model: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Those of the named weights that are neither the first nor the last that `model` multiplies by on `example`.

    Raises:
        ModelError: none of them is, or the network does not run on it.
    """
    order = executed(model, example)
    asked = list(names)
    kept = [name for name in asked if name not in order[:1] + order[-1:]]
    if not kept:
        raise ModelError(
            f"of the weights {asked} none lies between the network's first and last, {order[:1] + order[-1:]}, "
            "which are to be kept as they are; set keep_ends to false to take them too"
        )
    return kept


def executed(model: nn.Module, example: Tensor) -> list[str]:
    """The names of the weights that `model` multiplies by on `example`, in the order it does."""
    weights = {weight_name(path) for path, _ in weight_tensors(model)}
    operands = (operand for operation in trace(bake(model), example[:1]).operations for operand in operation.operands)
    return [operand.name for operand in operands if operand.name in weights]
