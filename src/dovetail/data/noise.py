"""Synthetic inputs for a network whose data nobody has: noise that is smooth as pictures are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.data.dataset import Dataset, Split
from dovetail.data.task import CloseOutputs

COUNTS = {"train": 16, "validation": 16, "test": 32}
LIKE = 125
"""As many from which the ranges of layers' inputs are taken, at most."""
ELEMENTS = 2**22
"""Numbers that these may have together: large ones show a layer as much in fewer."""
COARSEST = 4
"""Sides, in cells, of the coarsest octave of an image."""


@dataclass(frozen=True, eq=False)
class NoiseSplit(Split):
    """Inputs of one shape, float32 of mean 0 and variance 1; each is drawn from its own seed when a batch asks."""

    shape: tuple[int, ...]
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.stack([self._draw(index) for index in indices.tolist()]), torch.full((len(indices),), -1)

    def _draw(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
        if len(self.shape) != 3:
            return torch.randn(self.shape, generator=generator)
        last = channels_come_last(self.shape)
        channels, height, width = (self.shape[2], *self.shape[:2]) if last else self.shape
        image = smooth_noise((channels, height, width), generator)
        return image.permute(1, 2, 0) if last else image


def smooth_noise(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """An image (C, H, W) of mean 0 and variance 1 with as much energy in each octave of frequency.

    Pictures are so too (Field. Relations between the statistics of natural images and the response properties of
    cortical cells. J. Opt. Soc. Am. A 4(12), 1987): a sum of noises of 4, 8, 16, ... cells a side, of two pixels at
    least.
    """
    channels, height, width = shape
    image = torch.zeros(1, channels, height, width)
    octaves = max(1, int(math.log2(max(height, width) / COARSEST)))
    for cells in (COARSEST * 2**octave for octave in range(octaves)):
        sides = (min(cells, height), min(cells, width))
        octave = torch.randn((1, channels, *sides), generator=generator)
        image += functional.interpolate(octave, (height, width), mode="bilinear", align_corners=False)
    return ((image - image.mean()) / image.std().clamp_min(1e-6))[0]


def noise_like(example: Tensor, seed: int = 0) -> Tensor:
    """Noise (count, ...) of the shape of `example` (1, ...)."""
    shape = tuple(example.shape[1:])
    count = max(1, min(LIKE, ELEMENTS // math.prod(shape)))
    return NoiseSplit(shape, count, seed).batch(torch.arange(count))[0]


def channels_come_last(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are (H, W, C), as networks that were TensorFlow's take them, and not (C, H, W)."""
    return len(shape) == 3 and shape[0] not in (1, 3) and shape[2] in (1, 3)


def noise(input_shape: tuple[int, ...] = (3, 224, 224)) -> Dataset:
    """Smooth noise of the network's input shape, where no data are given; outputs are compared with the original's."""
    splits = {name: NoiseSplit(input_shape, count, seed) for seed, (name, count) in enumerate(COUNTS.items())}
    return Dataset(
        name="noise",
        task=CloseOutputs(),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        input_shape=input_shape,
        classes=(),
        mean=(0.0,),
        std=(1 / 255,),
        synthetic=True,
    )
