"""Which layers are first and last: many papers leave those in full precision."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.constraint import bake
from dovetail.methods.method import weight_tensors
from dovetail.workload.trace import trace


def inner(model: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Those of the named weights that are neither the first nor the last that `model` multiplies by on `example`.

    Raises:
        ModelError: none of them is, or the network does not run on it.
    """
    weights = {f"{path}.weight" if path else "weight" for path, _ in weight_tensors(model)}
    operands = (operand for operation in trace(bake(model), example[:1]).operations for operand in operation.operands)
    executed = [operand.name for operand in operands if operand.name in weights]
    asked = list(names)
    kept = [name for name in asked if name not in executed[:1] + executed[-1:]]
    if not kept:
        raise ModelError(
            f"of the weights {asked} none lies between the network's first and last, {executed[:1] + executed[-1:]}, "
            "which are to be kept as they are; set keep_ends to false to take them too"
        )
    return kept
