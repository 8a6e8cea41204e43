"""What the layers of a network read: seen batch by batch before they do, and the figures from which a step starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dovetail.errors import DataError, RecipeError
from dovetail.methods.method import Context
from dovetail.methods.quantize.uniform import TINY

BATCH = 125
"""Inputs that go through the network at a time."""

REAL = 32
"""The number of bits that stands for: not quantised."""


@dataclass(frozen=True)
class Reading:
    """What one layer reads: the mean magnitude, and whether there is anything below zero."""

    magnitude: float
    signed: bool


def watch(
    model: nn.Module,
    paths: Iterable[str],
    inputs: Tensor,
    see: Callable[[str, Tensor], Tensor | None],
    batch: int = BATCH,
) -> None:
    """Call `see(path, x)` with what each of the layers is about to read, in the order in which they are executed.

    What `see` returns, if anything, the layer reads instead. Layers that read integers (embeddings) are not seen. Runs
    without gradients, in the mode that the model is in.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def before(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            instead = see(path, arguments[0]) if arguments[0].is_floating_point() else None
            return None if instead is None else (instead, *arguments[1:])

        return before

    handles = [model.get_submodule(path).register_forward_pre_hook(hook(path)) for path in paths]
    try:
        with torch.no_grad():
            for x in torch.split(inputs, batch):
                model(x)
    finally:
        for handle in handles:
            handle.remove()


def readings(model: nn.Module, paths: Iterable[str], inputs: Tensor) -> dict[str, Reading]:
    """What each of the layers reads, over all inputs, in eval mode; layers that are never called are left out.

    Raises:
        DataError: a layer reads NaN or infinity.
    """
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    lowest: dict[str, float] = {}

    def see(path: str, x: Tensor) -> None:
        totals[path] = totals.get(path, 0.0) + float(x.abs().sum(dtype=torch.float64))
        counts[path] = counts.get(path, 0) + x.numel()
        lowest[path] = min(lowest.get(path, 0.0), float(x.min()))

    modes = [(module, module.training) for module in model.modules()]
    try:
        watch(model.eval(), paths, inputs, see)
    finally:
        for module, mode in modes:
            module.training = mode
    for path, total in totals.items():
        if not math.isfinite(total):
            raise DataError(f"layer {path!r} reads NaN or infinity on the images given: look for such values in them")
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
