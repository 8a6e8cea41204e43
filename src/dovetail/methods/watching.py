"""Looking at what the layers of a network read and answer while it runs, and putting something else in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dovetail.errors import DataError

BATCH = 125
"""Inputs that go through the network at a time, at most."""

ELEMENTS = 2**19
"""Numbers that these have together, at most: three or four pictures of ImageNet's size. What layers answer to more is
asked of the system anew each time, which can take longer than the network."""


def batches(model: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """The inputs (N, ...) as they go through the network: all at once if it normalises by what is in a batch."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules()):
        return (inputs,)
    return torch.split(inputs, max(1, min(BATCH, ELEMENTS // max(1, math.prod(inputs.shape[1:])))))


@torch.no_grad()
def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the network answers to all inputs, in the mode that it is in."""
    return torch.cat([model(x) for x in batches(model, inputs)])


def before_layers(
    model: nn.Module,
    paths: Iterable[str],
    inputs: Tensor,
    see: Callable[[str, Tensor], Tensor | None],
    batch: int | None = None,
) -> None:
    """Run the network; before each call of one of the layers `see(path, x)` gets what it is about to read.

    What `see` returns, if anything, the layer reads instead. Layers that read integers (embeddings) are not seen. Runs
    without gradients, in the mode that the network is in.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def before(layer: nn.Module, read: tuple[Any, ...]) -> tuple[Any, ...] | None:
            instead = see(path, read[0]) if read[0].is_floating_point() else None
            return None if instead is None else (instead, *read[1:])

        return before

    _run(model, [model.get_submodule(path).register_forward_pre_hook(hook(path)) for path in paths], inputs, batch)


def after_layers(
    model: nn.Module,
    paths: Iterable[str],
    inputs: Tensor,
    note: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None],
    batch: int | None = None,
) -> None:
    """Run the network; after each call of one of the layers `note(path, layer, x, y)` gets what it has read and its
    answer, which is replaced by what `note` returns, if it does. Without gradients, in the mode that it is in."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        return lambda layer, read, y: note(path, layer, read[0], y)

    _run(model, [model.get_submodule(path).register_forward_hook(hook(path)) for path in paths], inputs, batch)


def require_finite_inputs(inputs: Tensor) -> None:
    """Raise DataError if some of the inputs (N, ...) are not finite."""
    bad = int((~torch.isfinite(inputs.flatten(1)).all(1)).sum())
    if bad:
        raise DataError(f"calibration data must be finite numbers; {bad} of {len(inputs)} inputs hold NaN or infinity")


def require_finite(path: str, x: Tensor) -> None:
    """Raise DataError if what the layer at `path` reads is not finite."""
    if not torch.isfinite(x).all():
        raise DataError(f"layer {path!r} reads NaN or infinity on the images given: look for such values in them")


def _run(model: nn.Module, handles: list[RemovableHandle], inputs: Tensor, batch: int | None) -> None:
    try:
        with torch.no_grad():
            for x in torch.split(inputs, batch) if batch else batches(model, inputs):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
