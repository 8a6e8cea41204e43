"""What the command line does with a budget, without data, with a few images, and with what cannot be done."""

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

import dovetail
from dovetail import cli
from dovetail.hardware.arch import CHIPS

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 5),
    )
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(NETWORK)
    return f"{tmp_path / 'own.py'}:build"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.effect_noise((20, 20), 10 * number).save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> int:
    """The exit code of one command, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["dovetail", *map(str, arguments)])
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else 0


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence that a command which must fail ends with; notices may stand before it."""
    assert run(*arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("dovetail: ")
    return said


def record_of(out: Path) -> dovetail.Record:
    return dovetail.Record.from_json((out / "record.json").read_text())


def test_without_data_a_budget_is_met_and_noise_is_owned_up_to(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        run("compress", network, "--macs", 0.5, "--input-shape", "3x12x12", "--out", out, "--target", "onnxruntime")
        == 0
    )
    record = record_of(out)
    assert record.work is not None and record.original_work is not None
    assert 0.3 < record.work.macs / record.original_work.macs <= 0.5
    assert record.synthetic and record.metric == "fidelity" and record.accuracy > 0.5
    assert (
        record.commands[0].split()[3:]
        == "--recipe lowrank --macs 0.5 --no-training --data noise --seed 0 --out out".split()
    )
    said = capsys.readouterr()
    assert "No data were given" in said.err and "No data were given" in said.out and "Latency" in record.speed
    assert "No data were given" in (out / "report.html").read_text()


def test_a_few_images_repair_the_layers(network: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (
        "compress",
        network,
        "--recipe",
        "svd",
        "--params",
        0.6,
        "--images",
        pictures,
        "--input-shape",
        "3x12x12",
    )
    assert run(*command, "--out", out, "--target", "energy_45nm") == 0
    record = record_of(out)
    assert record.dataset == "pictures" and record.metric == "agreement" and not record.synthetic
    assert record.work is not None and record.original_work is not None
    assert record.work.parameters <= 0.65 * record.original_work.parameters
    assert "--no-training" in record.provenance["recipe_changes"]


@pytest.mark.parametrize("target", ["torch", "cpu"])
def test_latency_is_a_budget(target: str, network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compress", network, "--input-shape", "3x32x32", "--out", tmp_path, "--dry-run", "--target", target)
    assert run(*command, "--latency", 0.95) in (0, 2)  # so small a network may not become faster
    said = capsys.readouterr()
    assert f"on {target}" in said.out or "latency = 0.95 cannot be met" in said.err


def test_latency_on_a_chip_is_a_budget(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compress", network, "--input-shape", "3x32x32", "--out", tmp_path, "--dry-run", "--target", "edge_npu")
    assert run(*command, "--latency", 0.8) == 0
    (factor,) = re.findall(r"speed-up: ([\d.]+) on edge_npu", " ".join(capsys.readouterr().out.split()))
    assert float(factor) >= 1.25


def test_zeros_are_a_way_to_a_latency_where_they_are_skipped(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npu = (CHIPS / "edge_npu.toml").read_text("utf-8")
    chip = tmp_path / "skipper.toml"
    chip.write_text(npu.replace("[arithmetic]\n", '[arithmetic]\nskips = ["W"]\n'))
    command = ("compress", network, "--input-shape", "3x32x32", "--recipe", "magnitude", "--latency", 0.8, "--dry-run")
    assert run(*command, "--out", tmp_path, "--target", chip) == 0
    said = " ".join(capsys.readouterr().out.split())
    (factor,) = re.findall(r"Latency falls where zeros are left out \(speed-up: ([\d.]+) on", said)
    assert float(factor) >= 1.25
    assert "latency = 0.8 cannot be met" in complaint(capsys, *command, "--out", tmp_path, "--target", "edge_npu")


def test_latency_where_none_is_known_is_refused(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("compress", network, "--input-shape", "3x32x32", "--out", tmp_path, "--target", "energy_45nm")
    assert run(*command, "--latency", 0.8) == 2
    assert "name onnxruntime, cpu, openvino, torch or a chip" in " ".join(capsys.readouterr().err.split())


def test_bits_are_shared_out_among_the_layers(
    network: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("compress", network, "--bits", 4.5, "--images", pictures, "--input-shape", "3x12x12", "--dry-run")
    assert run(*command, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "step 1: ptq" in shown and len(re.findall(r"│ bits [2-8],", shown)) == 3


def test_the_plan_is_shown_before_anything_is_done(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("compress", network, "--recipe", "lowrank_pruned", "--input-shape", "3x12x12", "--out", out)
    assert run(*command, "--dry-run") == 0
    shown = capsys.readouterr().out
    for expected in (
        "step 1: tucker2",
        "step 2: magnitude",
        "rank_in",
        "loss rise",
        "Multiply-accumulates of one input",
    ):
        assert expected in shown
    assert sorted(file.name for file in out.iterdir()) == ["plan.html", "plan.png"]
    page = (out / "plan.html").read_text()
    assert "MACs by layer, step 1: tucker2" in page and "http-equiv" in page


def test_channels_that_go_together_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compress", "resnet8_fashion", "--data", "noise", "--recipe", "channels", "--macs", 0.5, "--dry-run")
    assert run(*command, "--out", tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "of 16 │" in shown and "counted above" in shown and "together" in shown and "of them)" not in shown
    assert "speed-up:" in shown


class TestBadInput:
    """Each is answered with one sentence before any work."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--macs", 0.5, "--params", 0.5), "one of --macs, --params, --sparsity, --latency, --bits"),
            (("--bits", 1.5), "--bits 1.5: ptq.mean_bits must be from 2, the least that can be reached, to 8"),
            (("--recipe", "magnitude", "--bits", 4), "takes a budget of bits; the methods that do are ptq"),
            (("--macs", 1.5), "budget.macs must be a fraction in (0, 1), got 1.5"),
            (("--macs", 0.001), "macs = 0.001 cannot be met by svd: 0."),
            (("--sparsity", 1.0), "sparsity must be a fraction in [0, 1), got 1.0"),
            (("--recipe", "weight_sharing", "--macs", 0.5), "takes a budget of macs; the methods that do are"),
            (("--recipe", "tucker"), "did you mean 'tucker2'"),
            (("--recipe", "backwards.toml"), "svd cannot follow magnitude"),
            (("--recipe", "nowhere.toml"), "cannot read the recipe nowhere.toml"),
            (("--recipe", "penni", "--params", 0.01), "params = 0.01 cannot be met by penni: 0."),
            (("--recipe", "encoder.toml"), "no layer matches ['encoder.*']"),
            (("--recipe", "ranks.toml"), "svd"),
        ],
    )
    def test_what_cannot_be_done(
        self,
        options: tuple[object, ...],
        expected: str,
        network: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name, steps in {
            "backwards": '[[step]]\nmethod = "magnitude"\n[[step]]\nmethod = "svd"\n',
            "encoder": '[[step]]\nmethod = "svd"\nlayers = ["encoder.*"]\n',
            "ranks": '[[step]]\nmethod = "svd"\nsettings = { "0" = { form = "channel", rank = 4000 } }\n',
        }.items():
            Path(f"{name}.toml").write_text(steps)
        assert expected in complaint(capsys, "compress", network, "--input-shape", "3x12x12", *options, "--out", "out")

    def test_a_network_that_says_nothing(self, network: str, capsys: pytest.CaptureFixture[str]) -> None:
        said = complaint(capsys, "compress", network, "--macs", 0.5)
        assert "--data" in said and "--images" in said and "--input-shape" in said

    @pytest.mark.parametrize("shape", ["3x", "3,4,5", "0x3x3", "wide"])
    def test_a_shape_that_is_none(self, shape: str, network: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "3x224x224" in complaint(capsys, "compress", network, "--input-shape", shape)

    def test_a_network_of_several_outputs(
        self, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "two.py").write_text(
            "from torch import nn\n\nclass Two(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.c = nn.Conv2d(3, 4, 3)\n\n    def forward(self, x):\n        return self.c(x), x\n"
        )
        command = ("compress", f"{tmp_path / 'two.py'}:Two", "--input-shape", "3x12x12", "--images", pictures)
        assert "gives 2 outputs" in complaint(capsys, *command)


def test_record_of_an_older_version_still_reads(network: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("compress", network, "--macs", 0.6, "--input-shape", "3x12x12", "--out", out, "--target", "energy_45nm")
    old = json.loads((out / "record.json").read_text())
    for field in ("work", "original_work", "speed", "synthetic"):
        del old[field]
    assert dovetail.Record.from_json(json.dumps(old)).work is None
