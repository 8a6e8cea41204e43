"""VGG-16, for ImageNet and for CIFAR.

Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015. arXiv:1409.1556,
configuration D. The names in the state_dict are torchvision's. The CIFAR form has batch normalisation and one linear
layer of 512 inputs (Liu, Deng, ACPR 2015; Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017).
"""

import torch
from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions between two poolings."""


class VGG(nn.Module):
    """13 convolutions, then `classifier` on the flattened features."""

    def __init__(self, classifier: nn.Sequential | nn.Linear, *, normalise: bool) -> None:
        super().__init__()
        self.features = _features(normalise)
        self.classifier = classifier
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes) of pictures (N, 3, H, W); five poolings halve H and W."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def vgg16(classes: int = 1000, dropout: float = 0.5, *, normalise: bool = False) -> VGG:
    """The ImageNet form, three linear layers, for pictures (N, 3, 224, 224)."""
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, classes),
    )
    return VGG(classifier, normalise=normalise)


def vgg16_cifar(classes: int = 10) -> VGG:
    """The CIFAR form, with batch normalisation and one linear layer, for pictures (N, 3, 32, 32)."""
    return VGG(nn.Linear(512, classes), normalise=True)


def _features(normalise: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for widths in WIDTHS:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if normalise:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
