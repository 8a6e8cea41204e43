"""A data set: its splits, its task, and how its images become batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dovetail.data.task import Task
from dovetail.errors import DataError

SplitName = Literal["train", "validation", "test"]
Augment = Callable[[Tensor, torch.Generator], Tensor]
VALIDATION_IMAGES = 5_000

BATCH_ELEMENTS = 2**24
"""Numbers up to which a batch of inputs fits in any memory, with what a network makes of them."""


class Split(ABC):
    """A numbered list of images with their targets."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The uint8 images (N, C, H, W) and the targets of `indices` (int64, N)."""


@dataclass(frozen=True, eq=False)
class TensorSplit(Split):
    """A split that lies in memory: uint8 images (N, C, H, W) and one target for each."""

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != len(self.targets):
            raise DataError(
                "a split holds uint8 images (N, C, H, W) and N targets, "
                f"got {self.images.dtype} {tuple(self.images.shape)} and {len(self.targets)} targets"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.targets[indices]


@dataclass(frozen=True, eq=False)
class Slice(Split):
    """Some of another split's images."""

    whole: Split
    indices: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.whole.batch(self.indices[indices])


def hold_out(training: Split) -> tuple[Split, Split]:
    """The training set without its last images, and those: 5,000, or a tenth of a smaller set, at least one."""
    held = min(VALIDATION_IMAGES, max(len(training) // 10, min(1, len(training) - 1)))
    indices = torch.arange(len(training))
    kept = len(training) - held
    return Slice(training, indices[:kept]), Slice(training, indices[kept:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images with a task, split in three that do not overlap.

    `mean` and `std` are per channel, of pixels scaled to 0..1; a network sees (pixel / 255 - mean) / std. With
    `channels_last` it sees them as (N, H, W, C). `synthetic` data say nothing about what the network is used on.
    """

    name: str
    task: Task
    train: Split
    validation: Split
    test: Split
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    channels_last: bool = False
    synthetic: bool = False

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        splits: dict[str, Split] = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in splits:
            raise DataError(f"data set {self.name} has the splits {', '.join(splits)}, not {name!r}")
        return splits[name]

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in 0..255 to float32 inputs of the network."""
        shape = (-1, *[1] * (images.ndim - 2))
        mean, std = (torch.tensor(values, dtype=torch.float32).view(shape) for values in (self.mean, self.std))
        inputs = images.to(torch.float32, copy=True).mul_(1 / (255 * std)).sub_(mean / std)
        return inputs.permute(0, 2, 3, 1) if self.channels_last else inputs

    def fitting(self, batch_size: int) -> int:
        """`batch_size`, or fewer where inputs are so large that as many would not fit in memory."""
        return max(1, min(batch_size, BATCH_ELEMENTS // math.prod(self.input_shape)))

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (N, C, H, W), float32 and normalised, with their targets; the last batch may be smaller.

        In order without a seed; shuffled with one, and the same seed gives the same batches. `limit` takes that many
        images: the first ones, or a random choice if shuffled. Raises DataError if `augment` has no seed to draw from.
        """
        if augment and seed is None:
            raise DataError("augmented batches are random: give batches() a seed")
        source = self.split(split)
        generator = torch.Generator().manual_seed(seed or 0)
        order = torch.arange(len(source)) if seed is None else torch.randperm(len(source), generator=generator)
        for indices in torch.split(order[:limit], batch_size) if len(order) else ():
            images, targets = source.batch(indices)
            if augment and self.augment is not None:
                images = self.augment(images, generator)
            yield self.normalise(images), targets

    def example(self, count: int = 1) -> Tensor:
        """The first `count` test images as a network sees them, (N, C, H, W)."""
        return next(self.batches("test", count, limit=count))[0]
