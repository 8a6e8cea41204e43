"""How well something predicts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dovetail.data import Dataset
from dovetail.data.dataset import SplitName
from dovetail.errors import DataError, ModelError
from dovetail.train.placing import channels_last, device_of, placed

Predict = Callable[[Tensor], Tensor]


def score(
    predict: Predict,
    dataset: Dataset,
    split: SplitName = "test",
    *,
    batch_size: int = 500,
    limit: int | None = None,
    original: Predict | None = None,
) -> float:
    """The mean of the task's score over a split, or over its first `limit` images: for classes, the accuracy.

    A batch has fewer inputs than `batch_size` where they are large.

    `predict` takes normalised inputs (N, C, H, W); a torch module is run in eval mode, on the device where it is.
    `original` is the uncompressed network; only tasks that compare with it (MatchOutputs) need it, else DataError.
    """
    with placed(predict, training=False), placed(original, training=False), torch.no_grad():
        total, count = 0.0, 0
        for inputs, targets in dataset.batches(split, dataset.fitting(batch_size), limit=limit):
            if dataset.task.targets_from_original:
                if original is None:
                    raise DataError(f"data set {dataset.name} has no labels: scoring on it needs the original network")
                targets = original(_on_device_of(original, inputs))
            outputs = predict(_on_device_of(predict, inputs))
            if not isinstance(outputs, Tensor):
                gives = type(outputs).__name__
                raise ModelError(f"a network that gives one tensor is expected, this one gives a {gives}")
            total += float(dataset.task.score(outputs, targets.to(outputs.device)).sum())
            count += len(inputs)
    if count == 0:
        raise DataError(
            f"the {split} split of data set {dataset.name} is empty, so there is nothing to score: "
            "give it more images, or score on another split (--judge)"
        )
    return total / count


def _on_device_of(predict: Predict, inputs: Tensor) -> Tensor:
    return channels_last(inputs).to(device_of(predict)) if isinstance(predict, nn.Module) else inputs
