"""The table of reference networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from dovetail.networks.alexnet import AlexNet
from dovetail.networks.lenet import LeNet5, LeNet300100
from dovetail.networks.mobilenet import MobileNetV2
from dovetail.networks.resnet import resnet18, resnet50
from dovetail.networks.resnet_cifar import CifarResNet
from dovetail.networks.vgg import vgg16, vgg16_cifar


@dataclass(frozen=True)
class Network:
    """One built-in network.

    `build` makes it with random weights; `input_shape` is (C, H, W); `dataset` names the data it is meant for, if any;
    `weights` is a file in networks/weights, if we trained some; `source` is the publication.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    dataset: str | None
    weights: str | None
    source: str


GREY, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)

_NETWORKS = (
    Network("lenet_300_100", LeNet300100, GREY, "mnist", "lenet_300_100_mnist.safetensors", "LeCun et al. 1998"),
    Network("lenet5", LeNet5, GREY, "mnist", "lenet5_mnist.safetensors", "LeCun et al. 1998, Caffe's form"),
    Network(
        "resnet8_fashion",
        partial(CifarResNet, 1, channels=1),
        GREY,
        "fashion_mnist",
        "resnet8_fashion.safetensors",
        "He et al. 2016, arXiv:1512.03385, section 4.2 with n = 1",
    ),
    Network("resnet20", partial(CifarResNet, 3), CIFAR, "cifar10", None, "He et al. 2016, arXiv:1512.03385"),
    Network("resnet56", partial(CifarResNet, 9), CIFAR, "cifar10", None, "He et al. 2016, arXiv:1512.03385"),
    Network("vgg16_cifar", vgg16_cifar, CIFAR, "cifar10", None, "Liu, Deng 2015, after arXiv:1409.1556"),
    Network("vgg16", vgg16, IMAGENET, None, None, "Simonyan, Zisserman 2015, arXiv:1409.1556"),
    Network("vgg16_bn", partial(vgg16, normalise=True), IMAGENET, None, None, "vgg16 with batch normalisation"),
    Network("alexnet", AlexNet, (3, 227, 227), None, None, "Krizhevsky et al. 2012, with its grouped convolutions"),
    Network("resnet18", resnet18, IMAGENET, None, None, "He et al. 2016, arXiv:1512.03385"),
    Network("resnet50", resnet50, IMAGENET, None, None, "He et al. 2016, arXiv:1512.03385"),
    Network("mobilenet_v2", MobileNetV2, IMAGENET, None, None, "Sandler et al. 2018, arXiv:1801.04381"),
)

NETWORKS: dict[str, Network] = {network.name: network for network in _NETWORKS}
"""Every built-in network, by name."""
