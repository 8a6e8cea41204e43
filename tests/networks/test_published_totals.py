"""The totals in Sze, Chen, Yang, Emer, Efficient Processing of Deep Neural Networks, Proc. IEEE 2017, Table II.

Those of LeNet-5 count LeCun's network of 1998: what it calls connections, biases and subsampling included, not MACs.
"""

import pytest
import torch
from torch import nn

from dovetail.networks import NETWORKS
from dovetail.workload import Summary, trace


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name].build().eval()


def totals(name: str, model: nn.Module | None = None) -> Summary:
    return trace(model or built(name), torch.empty(1, *NETWORKS[name].input_shape, device="meta")).totals


@pytest.mark.parametrize(("name", "weights", "macs"), [("alexnet", 61e6, 724e6), ("vgg16", 138e6, 15.5e9)])
def test_weights_and_macs(name: str, weights: float, macs: float) -> None:
    found = totals(name)
    assert found.parameters == pytest.approx(weights, rel=0.01)
    assert found.macs == pytest.approx(macs, rel=0.01)


def test_resnet50_with_the_strides_of_the_paper() -> None:
    """He et al. put the stride of a block into its first layer, which has 3.86G MACs; the network in common use, and
    ours, into the second, which has 4.09G. The survey rounds the former to 3.9G."""
    model = built("resnet50")
    for block in model.modules():
        if hasattr(block, "conv3") and isinstance(block.conv2, nn.Conv2d) and block.conv2.stride == (2, 2):
            assert isinstance(block.conv1, nn.Conv2d)
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    found = totals("resnet50", model)
    assert found.parameters == pytest.approx(25.5e6, rel=0.01)
    assert found.macs == pytest.approx(3.86e9, rel=0.01) and round(found.macs / 1e9, 1) == 3.9


def test_lenet5_of_1998() -> None:
    """Layer by layer: maps of outputs, and what each of them has of inputs and of a bias."""
    seen = 6 * 3 + 9 * 4 + 6  # of C3's 16 maps six see 3 of the 6 before, nine see 4 and one sees all
    layers = {  # outputs, connections of all maps at one pixel, trainable parameters
        "C1": (28 * 28, 6 * (25 + 1), 6 * (25 + 1)),
        "S2": (14 * 14, 6 * (4 + 1), 6 * 2),
        "C3": (10 * 10, seen * 25 + 16, seen * 25 + 16),
        "S4": (5 * 5, 16 * (4 + 1), 16 * 2),
        "C5": (1, 120 * (16 * 25 + 1), 120 * (16 * 25 + 1)),
        "F6": (1, 84 * (120 + 1), 84 * (120 + 1)),
        "output": (1, 10 * 84, 0),
    }
    assert sum(outputs * connections for outputs, connections, _ in layers.values()) == pytest.approx(341e3, rel=0.01)
    assert sum(parameters for _, _, parameters in layers.values()) == 60_000


def test_lenet5_of_caffe() -> None:
    assert totals("lenet5").parameters == pytest.approx(431e3, rel=0.01)
