"""Where a module lives and in which mode, for a while; how its inputs lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's first parameter or buffer; the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def placed(module: object, *, training: bool, device: torch.device | None = None) -> Iterator[None]:
    """While inside, `module` is in training or eval mode (each part as it was, afterwards) and on `device`.

    What is not a torch module is left alone.
    """
    if not isinstance(module, nn.Module):
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    home = device_of(module)
    try:
        module.train(training)
        module.to(device or home)
        yield
    finally:
        module.to(home)
        for part, mode in modes:
            part.training = mode


def channels_last(images: Tensor) -> Tensor:
    """The same images, laid out pixel by pixel: convolutions keep the layout and are faster for it.

    The strides are set by hand because `contiguous` leaves images of one channel as they are. Inputs that are not
    (N, C, H, W) stay as they are.
    """
    if images.ndim != 4:
        return images
    return torch.empty(images.shape, memory_format=torch.channels_last).copy_(images)
