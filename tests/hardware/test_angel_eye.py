"""Angel-Eye: VGG-16 as published on the ZC706, and its loops by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from dovetail.errors import TargetError
from dovetail.hardware import published
from dovetail.hardware.angel_eye import computing_cycles, layer_costs, layer_counts
from dovetail.hardware.arch import Chip
from dovetail.hardware.layer import Layer, layers
from dovetail.networks import NETWORKS
from dovetail.workload import trace

CHIP = Chip.load("angel_eye")


def vgg16(rank: int | None = None) -> tuple[Layer, ...]:
    """VGG-16; with a rank, its FC6 is two layers, as the paper runs it."""
    with torch.device("meta"):
        model = NETWORKS["vgg16"].build().eval()
        if rank is not None:
            model.classifier[0] = nn.Sequential(nn.Linear(25088, rank, bias=False), nn.Linear(rank, 4096))  # type: ignore[index, operator]
        return layers(trace(model, torch.empty(1, 3, 224, 224)), bits=16)


def gop(found: tuple[Layer, ...]) -> float:
    return 2e-9 * sum(layer.macs for layer in found)


def test_operations_are_the_published() -> None:
    assert round(gop(vgg16()), 2) == 30.94
    assert round(gop(vgg16(500)), 2) == 30.76


def test_the_published_rates_come_out_at_once() -> None:
    """One number is fitted, the bandwidth of DDR, and that to the fully connected layers alone."""
    costs = layer_costs(CHIP, vgg16(500))
    convolutions = [cost for cost in costs if cost.layer.extents["R"] == 3]
    assert len(convolutions) == 13
    seconds = sum(cost.cycles for cost in costs) / 150e6
    convolving = sum(cost.cycles for cost in convolutions) / 150e6
    assert 1 / seconds == pytest.approx(published.QIU_FPS, rel=0.15)
    rate = gop(tuple(cost.layer for cost in convolutions)) / convolving
    assert rate == pytest.approx(published.QIU_CONV_GOPS, rel=0.15)
    assert gop(vgg16(500)) / seconds == pytest.approx(published.QIU_GOPS, rel=0.15)
    assert sum(cost.picojoules for cost in costs) * 1e-12 == pytest.approx(published.QIU_WATTS * seconds)


def test_a_convolution_by_hand() -> None:
    """conv4_2 of VGG-16, and the same with a map of 29 x 29, which takes four tiles."""
    layer = Layer("conv", {"K": 512, "C": 512, "P": 28, "Q": 28, "R": 3, "S": 3})
    counts = layer_counts(CHIP, layer)
    assert counts.cycles.computing == 256 * 8 * 784
    assert counts.bits("DDR", "W") == 512 * 512 * 9 * 16
    assert counts.bits("DDR", "I") == 512 * 30 * 30 * 16
    assert counts.bits("DDR", "O") == 512 * 28 * 28 * 16
    assert counts.cycles.stalled["DDR"] == pytest.approx(512 * 512 * 9 * 16 / 61.7)
    larger = layer_counts(CHIP, dataclasses.replace(layer, extents=dict(layer.extents) | {"P": 29, "Q": 29}))
    assert larger.cycles.computing == 4 * counts.cycles.computing
    assert larger.bits("DDR", "W") == 4 * counts.bits("DDR", "W")
    assert larger.bits("DDR", "I") == 512 * 33 * 33 * 16  # 28 + 1 pixels, each tile with a border of two


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 1),
        ({"R": 1}, 1),
        ({"R": 5, "S": 5}, 4),
        ({"R": 7, "S": 7}, 9),
        ({"C": 65}, 2),
        ({"K": 3}, 2),
        ({"N": 3}, 3),
    ],
)
def test_passes(changes: dict[str, int], passes: int) -> None:
    extents = {"K": 2, "C": 64, "P": 28, "Q": 28, "R": 3, "S": 3} | changes
    assert computing_cycles(CHIP, Layer("conv", extents), 28) == passes * 784  # type: ignore[arg-type]


def test_strides_stream_all_pixels_and_dilated_windows_take_several_passes() -> None:
    extents = {"K": 2, "C": 64, "P": 14, "Q": 28, "R": 3, "S": 3}
    assert computing_cycles(CHIP, Layer("conv", extents, stride=(2, 2)), 28) == 2 * 784  # type: ignore[arg-type]
    assert computing_cycles(CHIP, Layer("conv", extents, dilation=(2, 1)), 28) == 2 * 784  # type: ignore[arg-type]


def test_a_fully_connected_layer_waits_for_its_weights() -> None:
    counts = layer_counts(CHIP, Layer("fc", {"K": 4096, "C": 4096}))
    assert counts.cycles.computing == 2048 * 8
    assert counts.cycles.total == pytest.approx(4096 * 4096 * 16 / 61.7, rel=0.01)


def test_what_the_model_needs_is_named() -> None:
    layer = Layer("fc", {"K": 4})
    with pytest.raises(TargetError, match=r"settings\.tile is missing; it is a whole number of at least 1"):
        layer_costs(dataclasses.replace(CHIP, settings={}), [layer])
    with pytest.raises(TargetError, match="dimensions are outputs, inputs, rows, columns, got outputs, inputs, rows"):
        layer_costs(dataclasses.replace(CHIP, dimension=CHIP.dimension[:3]), [layer])
    with pytest.raises(TargetError, match="multiplies 32 bits by 32"):
        layer_costs(CHIP, [dataclasses.replace(layer, bits={"I": 32, "W": 32})])
