"""MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov, Chen. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018.
arXiv:1801.04381, Table 2 at width 1.0. The names in the state_dict are torchvision's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2: expansion t, channels c, repeats n, stride s."""


class InvertedResidual(nn.Module):
    """1x1 expansion (none if `expansion` is 1), depthwise 3x3, linear 1x1; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = channels_in * expansion
        expand = [_conv_bn_relu(channels_in, width, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu(width, width, 3, stride=stride, groups=width),
            nn.Conv2d(width, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.has_shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """3.5M parameters and 300M multiplications at 224 x 224."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu(3, 32, 3, stride=2)]
        channels_in = 32
        for expansion, channels, repeats, stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(channels_in, channels, expansion, stride if index == 0 else 1))
                channels_in = channels
        layers.append(_conv_bn_relu(channels_in, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes) of pictures (N, 3, H, W)."""
        x = torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1)
        logits: Tensor = self.classifier(x)
        return logits


def _conv_bn_relu(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )
