"""What methods measure while they plan: losses on held-out images, shown as they come, kept for a run that goes on."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor, nn

from dovetail.data import Dataset
from dovetail.methods.constraint import to_compress
from dovetail.methods.method import Context
from dovetail.methods.watching import require_finite_inputs
from dovetail.train.placing import channels_last

PLANNING_IMAGES = 1000
"""How many validation images a plan's measurements use."""

PROBE_IMAGES = 250
"""How many of them a scan of many settings uses."""

CALIBRATION_IMAGES = 1000
"""How many training images, without their labels, statistics and reconstruction use."""

CALIBRATION_ELEMENTS = 2**27
"""How many numbers these images may have together: large ones are fewer."""

SAVE_SECONDS = 20.0
"""How far apart measurements are saved, about."""

Latency = Callable[[nn.Module, Tensor], float]
Loss = Callable[[nn.Module], float]


def planning_context(dataset: Dataset, original: nn.Module, latency: Latency | None = None) -> Context:
    """What a method may use: the loss on validation images, against labels or else the original; unlabelled inputs.

    Where nothing but the original says what is right, and validation images are few, the loss is on training images.
    Synthetic data are no data: a method then measures weights.
    """
    original = to_compress(original)
    unlabelled = dataset.task.targets_from_original
    few = len(dataset.validation) < min(PROBE_IMAGES, len(dataset.train)) and not dataset.synthetic
    batches = [
        (channels_last(inputs), targets)
        for inputs, targets in dataset.batches(
            "train" if unlabelled and few else "validation", dataset.fitting(PROBE_IMAGES), limit=PLANNING_IMAGES
        )
    ]
    if unlabelled:
        with torch.no_grad():
            batches = [(inputs, original(inputs)) for inputs, _ in batches]

    @torch.no_grad()
    def mean_loss(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
        model.eval()
        sums = [float(dataset.task.loss(model(inputs), targets)) * len(inputs) for inputs, targets in batches]
        return sum(sums) / sum(len(inputs) for inputs, _ in batches)

    loss, example = partial(mean_loss, batches=batches), dataset.example()
    if dataset.synthetic:
        return Context(loss=loss, example=example, original=original, latency=latency)
    probed = _first(batches, PROBE_IMAGES)
    return Context(
        loss=loss,
        probe=partial(mean_loss, batches=probed),
        probe_images=sum(len(inputs) for inputs, _ in probed),
        example=example,
        inputs=_calibration(dataset),
        original=original,
        latency=latency,
    )


def _calibration(dataset: Dataset) -> Tensor:
    """Training inputs without their labels, always the same ones."""
    count = min(CALIBRATION_IMAGES, max(1, CALIBRATION_ELEMENTS // math.prod(dataset.input_shape)))
    batches = dataset.batches("train", dataset.fitting(PROBE_IMAGES), seed=0, limit=count)
    found = torch.cat([inputs for inputs, _ in batches])
    require_finite_inputs(found)
    return channels_last(found)


def _first(batches: list[tuple[Tensor, Tensor]], images: int) -> list[tuple[Tensor, Tensor]]:
    """The first batches, up to so many images, one batch at least."""
    ends = itertools.accumulate(len(inputs) for inputs, _ in batches)
    return [batch for batch, end in zip(batches, ends, strict=True) if end <= images] or batches[:1]


@contextmanager
def measuring(
    context: Context,
    what: str,
    progress: Progress | None,
    known: list[float],
    save: Callable[[], None] = lambda: None,
) -> Iterator[Context]:
    """`context` with losses that are shown as they are measured, and kept.

    The same plan measures the same losses in the same order: the first ones are taken from `known`, the others are
    added to it. Times are never the same, nor what is decided by them: what is measured after the first is not kept.

    Args:
        what: what is planned, for people.
        save: called now and then where there is more in `known`.
    """
    task = None if progress is None else progress.add_task(what, total=None)
    taken, repeatable, saved = 0, True, time.monotonic()

    def kept(loss: Loss) -> Loss:
        def measure(model: nn.Module) -> float:
            nonlocal taken, saved
            value = known[taken] if repeatable and taken < len(known) else loss(model)
            taken += 1
            if progress is not None and task is not None:
                progress.advance(task)
            if repeatable and taken > len(known):
                known.append(value)
                if time.monotonic() - saved >= SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
            return value

        return measure

    def timed(module: nn.Module, example: Tensor) -> float:
        nonlocal repeatable
        repeatable = False
        assert context.latency is not None
        return context.latency(module, example)

    def expect(losses: int) -> None:
        if progress is not None and task is not None:
            progress.update(task, total=taken + losses)

    try:
        yield replace(
            context,
            loss=kept(context.loss),
            probe=None if context.probe is None else kept(context.probe),
            latency=None if context.latency is None else timed,
            expect=expect,
        )
    finally:
        if progress is not None and task is not None:
            progress.remove_task(task)
