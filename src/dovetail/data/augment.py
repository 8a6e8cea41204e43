"""Random changes to training images, on whole batches of uint8 pixels at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ShiftAndFlip:
    """Shift each image by up to `shift` pixels each way (zeros come in) and, if `flip`, mirror half of them.

    With shift=4 and flip this is the random crop from padded images that CIFAR networks are trained with
    (He et al. 2016, arXiv:1512.03385, section 4.2).
    """

    shift: int
    flip: bool

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise DataError(f"ShiftAndFlip.shift is a number of pixels >= 0, got {self.shift}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) of any type to images of the same shape and type."""
        count, _, height, width = images.shape
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.shift:
            padded = functional.pad(images, (self.shift,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # N C dy dx H W, a view
            dy, dx = torch.randint(2 * self.shift + 1, (2, count), generator=generator)
            images = windows[torch.arange(count), :, dy, dx]
        return images
