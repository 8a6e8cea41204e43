"""The latency of a module: measured where asked, once a structure, and larger for a much larger module."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dovetail.errors import TargetError
from dovetail.hardware import Chip
from dovetail.runtime import freeze
from dovetail.targets import ChipTarget
from dovetail.targets.latency import TIMED, ModuleLatency, module_latency
from dovetail.targets.timing import Timing

ONCE = Timing(warm_up=1, runs=3, seconds=0)
EXAMPLE = torch.randn(1, 4, 9, 9)


@pytest.mark.parametrize("target", TIMED)
def test_any_module_is_timed(target: str) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    assert 0 < module_latency(nn.Sequential(layer, nn.ReLU()), EXAMPLE, target, ONCE) < 10


def test_a_chip_counts_what_it_says_of_an_artefact(tiny: Chip, tiny_text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(tiny_text)
    layer = nn.Conv2d(4, 6, 3)
    cost = ChipTarget(tiny).cost(freeze(layer, EXAMPLE), EXAMPLE.numpy())
    found = module_latency(layer, EXAMPLE, str(tmp_path / "mine.toml"))
    assert found == pytest.approx(cost.quantities["latency"].value / 1e3)


def test_another_target_is_refused() -> None:
    with pytest.raises(
        TargetError, match="latency is known on onnxruntime, cpu, openvino, torch and on chips, not on "
    ):
        module_latency(nn.ReLU(), EXAMPLE, "energy_45nm")


def test_layers_of_one_structure_are_measured_once() -> None:
    latency = ModuleLatency("torch", ONCE)
    first = latency(nn.Conv2d(4, 6, 3), EXAMPLE)
    assert latency(nn.Conv2d(4, 6, 3), EXAMPLE) == first
    latency(nn.Conv2d(4, 6, 3), torch.randn(1, 4, 20, 20))
    latency(nn.Conv2d(4, 6, 3, stride=2), EXAMPLE)
    assert len(latency._known) == 3


def test_modules_whose_text_hides_what_they_do_are_measured_every_time() -> None:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    latency = ModuleLatency("torch", ONCE)
    latency(Own(), EXAMPLE)
    assert not latency._known
