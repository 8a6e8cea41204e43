"""VGG-like networks for CIFAR-10 of any widths, trained where they are needed: no records, no weights to give away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dovetail.data import load_dataset
from dovetail.train import Training, train

Widths = Sequence[Sequence[int]]


def vgg(widths: Widths) -> nn.Sequential:
    """Groups of 3x3 convolutions with batch normalisation, each ended by a pooling; one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for group in widths:
        for width in group:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (32 >> len(widths)) ** 2, 10))


def trained(widths: Widths, training: Training, folder: Path) -> nn.Sequential:
    """The network with seed 0; kept in the folder, where a killed training goes on."""
    torch.manual_seed(0)
    model, file = vgg(widths), folder / "vgg.safetensors"
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    train(model, load_dataset("cifar10"), training, seed=0, checkpoint=folder / "vgg-training.safetensors")
    part = file.with_suffix(".part")
    save_file(model.state_dict(), part)
    part.replace(file)
    return model.eval()
