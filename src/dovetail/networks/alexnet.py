"""AlexNet, with the grouped convolutions of the paper.

Krizhevsky, Sutskever, Hinton. ImageNet Classification with Deep Convolutional Neural Networks. NIPS 2012.

This is the network of the paper (two groups in conv2, conv4 and conv5: 60,965,224 parameters, 724M multiplications),
which Deep Compression, Eyeriss and EIE report on; torchvision's is a later one-tower form with other widths.
The input is 227 x 227, without which the paper's 55 x 55 first feature maps do not come out.
"""

import torch
from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions and three linear layers on pictures (N, 3, 227, 227)."""

    def __init__(self, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4),
            nn.ReLU(),
            _local_response_norm(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            _local_response_norm(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def _local_response_norm() -> nn.LocalResponseNorm:
    """Section 3.3 with its constants; torch divides alpha by the size, the paper does not."""
    return nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
