"""Inputs for a network of which no real ones are at hand: noise a little like pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COUNT = 125


def noise_like(example: Tensor, count: int = COUNT, seed: int = 0) -> Tensor:
    """Inputs (count, ...) of mean 0 and deviation 1, of the shape of `example` (1, ...).

    Pictures (C, H, W) have as much of each coarseness: noise of 1, 2, 4, ... pixels to a side, enlarged and added up,
    half of it alike in all channels. Other inputs are white noise.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(example.shape[1:])
    if len(shape) != 3:
        return torch.randn((count, *shape), generator=generator)
    channels, height, width = shape
    total, size = torch.zeros(count, channels, height, width), 1
    while size < 2 * max(height, width):
        sides = min(size, height), min(size, width)
        grain = torch.randn((count, channels, *sides), generator=generator)
        grain = grain + torch.randn((count, 1, *sides), generator=generator)
        total += functional.interpolate(grain, (height, width), mode="nearest")
        size *= 2
    return (total - total.mean()) / total.std()
