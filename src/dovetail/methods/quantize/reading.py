"""What the layers of a network read: seen batch by batch before they do, and the figures from which a step starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.method import Context
from dovetail.methods.quantize.uniform import TINY
from dovetail.methods.watching import before_layers, require_finite

REAL = 32
"""The number of bits that stands for: not quantised."""


@dataclass(frozen=True)
class Reading:
    """What one layer reads: the mean magnitude, and whether there is anything below zero."""

    magnitude: float
    signed: bool


def magnitudes_read(model: nn.Module, paths: Iterable[str], inputs: Tensor) -> dict[str, Reading]:
    """What each of the layers reads, over all inputs, in eval mode; layers that are never called are left out.

    Raises:
        DataError: a layer reads NaN or infinity.
    """
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    lowest: dict[str, float] = {}

    def see(path: str, x: Tensor) -> None:
        require_finite(path, x)
        totals[path] = totals.get(path, 0.0) + float(x.abs().sum(dtype=torch.float64))
        counts[path] = counts.get(path, 0) + x.numel()
        lowest[path] = min(lowest.get(path, 0.0), float(x.min()))

    modes = [(module, module.training) for module in model.modules()]
    try:
        before_layers(model.eval(), paths, inputs, see)
    finally:
        for module, mode in modes:
            module.training = mode
    return {path: Reading(total / counts[path], lowest[path] < 0) for path, total in totals.items()}


def starting_step(magnitude: float | Tensor, highest: int) -> Tensor:
    """2 <|x|> / sqrt(highest code), where a learned step starts (arXiv:1902.08153, section 2.1); never zero."""
    return torch.as_tensor(2 * magnitude / math.sqrt(highest), dtype=torch.float32).reshape(1).clamp_min(TINY)


def images(context: Context, method: str, field: str) -> Tensor:
    """The unlabelled images of `context`.

    Raises:
        RecipeError: there are none.
    """
    if context.inputs is None:
        raise RecipeError(
            f"{method} measures on images what the layers read, and there are none: give some, or leave the layers' "
            f"inputs as they are ({field} = {REAL})"
        )
    return context.inputs
