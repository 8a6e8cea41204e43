"""The reference networks: sizes, names, weights."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dovetail.networks import NETWORKS, load_model
from dovetail.networks.load import WEIGHTS

PARAMETERS = {
    "lenet_300_100": 266_610,
    "lenet5": 431_080,
    "resnet8_fashion": 75_002,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "vgg16_cifar": 14_728_266,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "alexnet": 60_965_224,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
}
DATA = Path(os.environ.get("DOVETAIL_DATA", Path.home() / ".cache" / "dovetail"))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_output(name: str) -> None:
    network = NETWORKS[name]
    with torch.device("meta"):
        module = network.build().eval()
        scores = module(torch.empty(2, *network.input_shape))
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[name]
    assert scores.shape == (2, 10 if network.input_shape[-1] < 64 else 1000)
    assert network.name == name and network.source


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet20", ["conv1.weight", "layer3.2.bn2.running_var", "linear.bias"]),
        ("vgg16", ["features.0.weight", "features.28.bias", "classifier.6.weight"]),
        ("vgg16_bn", ["features.1.running_mean", "features.40.weight"]),
        ("resnet18", ["layer4.1.bn2.weight", "layer2.0.downsample.0.weight", "fc.bias"]),
        ("resnet50", ["layer1.0.conv3.weight", "layer1.0.downsample.1.running_mean"]),
        (
            "mobilenet_v2",
            ["features.0.0.weight", "features.1.conv.1.weight", "features.2.conv.2.weight", "classifier.1.bias"],
        ),
    ],
)
def test_names_are_the_ones_in_common_use(name: str, keys: list[str]) -> None:
    with torch.device("meta"):
        assert set(keys) <= NETWORKS[name].build().state_dict().keys()


def test_public_weights_of_the_cifar_family_fit_where_they_are_at_hand() -> None:
    for path in (DATA / "weights").glob("*_cifar10.safetensors"):
        loaded = load_model(path.stem.removesuffix("_cifar10"), path)
        assert loaded.dataset == "cifar10" and loaded.input_shape == (3, 32, 32)


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.weights])
def test_shipped_weights_are_loaded_as_float32(name: str) -> None:
    loaded = load_model(name)
    assert not loaded.module.training and loaded.dataset == NETWORKS[name].dataset
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    torch.manual_seed(0)
    fresh = NETWORKS[name].build().state_dict()
    assert not all(torch.equal(value, fresh[key]) for key, value in loaded.module.state_dict().items())


def test_shipped_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.safetensors")) < 2_000_000


def test_option_a_shortcut_subsamples_and_pads_with_zero() -> None:
    block = NETWORKS["resnet20"].build().get_submodule("layer2.0")
    x = torch.rand(1, 16, 5, 5)
    shortcut = block.shortcut(x)  # type: ignore[operator]
    assert shortcut.shape == (1, 32, 3, 3)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert shortcut[:, :8].count_nonzero() == shortcut[:, 24:].count_nonzero() == 0


def test_every_layer_of_alexnet_as_published() -> None:
    with torch.device("meta"):
        convolutions = [module for module in NETWORKS["alexnet"].build().modules() if isinstance(module, nn.Conv2d)]
    weights = [convolution.weight.numel() for convolution in convolutions]
    # Han et al. 2015, Table 4: 35K, 307K, 885K, 663K, 442K.
    assert [round(weight / 1000) for weight in weights] == [35, 307, 885, 664, 442]
