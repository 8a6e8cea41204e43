"""What the command line says of chips, and of networks on them; what is wrong is one sentence."""

import sys
from pathlib import Path

import pytest
import torch

import dovetail
from dovetail import cli
from dovetail.hardware import Chip, ChipRecord

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
"""


def run(*arguments: object) -> int:
    """The exit code of one command, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["dovetail", *map(str, arguments)])
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else 0


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(*arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("dovetail: ")
    return said


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(NETWORK)
    return f"{tmp_path / 'own.py'}:build"


@pytest.fixture
def chip(tiny: Chip, tiny_text: str, tmp_path: Path) -> Path:
    """Its file; its model is known while the test runs."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_text)
    return path


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    model = dovetail.load_model("lenet_300_100").module
    dovetail.freeze(model, torch.zeros(2, 1, 28, 28), remaining="float16").save(tmp_path / "lenet.dvt")
    return tmp_path / "lenet.dvt"


class TestSimulate:
    def test_a_network_by_layer_and_in_total(
        self, network: str, chip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert run("simulate", network, "--on", chip, "--input-shape", "3x8x8", "--bits", 8, "--batch", 4,
                   "--objective", "latency", "--report", out) == 0  # fmt: skip
        shown = " ".join(capsys.readouterr().out.split())
        assert "batch 4, mapped for the least latency" in shown and "arithmetic in one's head" in shown
        assert "Accesses" in shown and "dram W" in shown and "Energy" in shown and "1 activation" in shown
        record = ChipRecord.from_json((out / "record.json").read_text())
        assert record.cost.batch == 4 and [layer.layer.name for layer in record.cost.layers] == ["0", "3"]
        assert record.command.startswith("dovetail simulate") and "--bits 8" in record.command
        assert {file.suffix for file in out.iterdir()} == {".html", ".json", ".png"}

    def test_a_built_in_network_without_weights_is_never_computed(
        self, chip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("simulate", "alexnet", "--on", chip, "--bits", 8) == 0
        assert "Without weights and data nothing is zero" in capsys.readouterr().out

    def test_data_give_the_zeros_of_activations(self, chip: Path, tmp_path: Path) -> None:
        for extra, dense in (([], True), (["--data", "fashion_mnist_sample"], False)):
            assert run("simulate", "resnet8_fashion", "--on", chip, "--bits", 8, "--report", tmp_path, *extra) == 0
            record = ChipRecord.from_json((tmp_path / "record.json").read_text())
            densities = [layer.layer.density["I"] for layer in record.cost.layers]
            assert all(density == 1 for density in densities) is dense

    def test_an_artefact(self, artefact: Path, chip: Path, tmp_path: Path) -> None:
        assert run("simulate", artefact, "--on", chip, "--bits", 8, "--report", tmp_path / "out") == 0
        record = ChipRecord.from_json((tmp_path / "out" / "record.json").read_text())
        assert record.network == "lenet" and len(record.cost.layers) == 3
        assert all(layer.layer.stored_bits["W"] == 8 * layer.layer.elements("W") for layer in record.cost.layers)

    def test_evaluate_takes_a_chip_for_a_target(
        self, artefact: Path, chip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("evaluate", artefact, "--data", "fashion_mnist_sample", "--limit", 50, "--target", chip) == 0
        shown = capsys.readouterr().out
        assert all(f"{name}, tiny" in shown for name in ("energy", "latency", "power")) and "modelled" in shown

    def test_a_limit_of_time(self, network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        on = "simulate", network, "--input-shape", "3x8x8", "--bits", 8, "--seconds", 0.05, "--on"
        assert run(*on, "micro_npu", "--report", tmp_path) == 0
        record = ChipRecord.from_json((tmp_path / "record.json").read_text())
        assert all((layer.value or 0) >= (layer.lower_bound or 0) > 0 for layer in record.cost.layers)
        assert "more than 0, and for chips of kind 'spatial'" in complaint(capsys, *on, "eyeriss")


class TestChips:
    def test_lists_what_there_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("chips") == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in dovetail.chip_names())
        assert run("list", "targets") == 0
        listed = capsys.readouterr().out
        assert all(name in listed for name in dovetail.chip_names())

    def test_check_shows_the_sources_and_small_layers(self, chip: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("chips", "check", chip) == 0
        shown = capsys.readouterr().out
        assert "another table" in shown and "dram: read_picojoules, write_picojoules" in shown
        assert "a convolution of 225,792 MACs: " in shown and "a matrix product of 8 by 8 bits of 6,400 MACs: " in shown


class TestBadInput:
    def test_floating_point_on_a_chip_of_integers(
        self, network: str, chip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = complaint(capsys, "simulate", network, "--on", chip, "--input-shape", "3x8x8")
        assert "Layer '0' multiplies 32 bits by 32" in said and "--bits" in said

    def test_a_network_that_does_not_say_what_it_takes(
        self, network: str, chip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "--input-shape" in complaint(capsys, "simulate", network, "--on", chip)

    def test_an_unknown_chip(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = complaint(capsys, "simulate", "alexnet", "--on", "abacus")
        assert "no chip 'abacus'" in said and all(name in said for name in dovetail.chip_names())

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            (
                "read_bandwidth = 32",
                "read_bandwith = 32",
                "memory[1].read_bandwith is unknown; did you mean 'read_bandwidth'?",
            ),
            ("bytes = 4096", "bytes = 1", "memory 'buffer': bytes is 1"),
            ('kind = "tiny"', 'kind = "spacial"', "kind 'spacial' is unknown"),
            ("\nread_picojoules = 2", "", "'tiny' has no energy for a read of memory 'buffer' (read_picojoules)"),
        ],
    )
    def test_a_chip_with_a_mistake(
        self, old: str, new: str, expected: str, chip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = chip.read_text()
        assert old in text
        chip.write_text(text.replace(old, new, 1))
        assert expected in complaint(capsys, "chips", "check", chip)

    def test_a_report_where_a_file_is(
        self, network: str, chip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        assert "cannot be made" in complaint(
            capsys,
            "simulate",
            network,
            "--on",
            chip,
            "--input-shape",
            "3x8x8",
            "--bits",
            8,
            "--report",
            tmp_path / "file",
        )
