"""The command line: that each command does its work, and that bad input gets one sentence and exit code 2."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import dovetail
from dovetail import cli

NETWORK, DATA = "resnet8_fashion", "fashion_mnist_sample"
RECIPE = """
name = "small"
remaining = "float16"

[[step]]
method = "magnitude"
sparsity = 0.3
rounds = 1
allocation = "uniform"
training = { epochs = 1, images = 256, optimizer = "adamw", learning_rate = 1e-4 }

[[step]]
method = "weight_sharing"
bits = 5

[[step]]
method = "entropy_coding"
"""
ODD_NETWORK = """
<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
odd (float[N, 1, 28, 28] x) => (float[N, 1] y) { y = com.example.Frobnicate(x) }
"""
COMMAND = [sys.executable, "-m", "dovetail"]


def run(*arguments: object) -> int:
    """The exit code of one command, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["dovetail", *map(str, arguments)])
        cli.main()
    code = end.value.code
    return code if isinstance(code, int) else 0


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that must fail says: one sentence, and nothing else."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dovetail: "), lines
    return lines[0]


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """The folder of a finished compression."""
    folder = tmp_path_factory.mktemp("out")
    assert run("compress", NETWORK, "--recipe", recipe, "--data", DATA, "--out", folder, "--target", "onnxruntime") == 0
    return folder


class TestCommands:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out.strip() == dovetail.__version__

    @pytest.mark.parametrize(
        ("what", "expected"),
        [
            ("methods", "weight_sharing"),
            ("formats", "relative_index"),
            ("networks", "mobilenet_v2"),
            ("datasets", "fashion_mnist_sample"),
            ("targets", "onnxruntime"),
            ("recipes", "deep_compression"),
        ],
    )
    def test_list_names_and_explains(self, what: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("list", what) == 0
        rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
        assert expected in [row[1].strip() for row in rows]
        assert all(row[2].strip() for row in rows)

    def test_compress_writes_artefact_record_and_report(self, out: Path) -> None:
        record = dovetail.Record.from_json((out / "record.json").read_text())
        assert record.file_bytes == (out / "model.dvt").stat().st_size
        assert record.ratio > 4
        assert record.original_accuracy is not None and record.accuracy > record.original_accuracy - 0.03
        assert (out / "report.html").stat().st_size > 10_000
        assert list(out.glob("*.png"))

    def test_compress_again_finds_the_run_done_and_writes_the_same_file(
        self, out: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (out / "model.dvt").read_bytes()
        shutil.copytree(out / "run", tmp_path / "run")
        assert (
            run("compress", NETWORK, "--recipe", recipe, "--data", DATA, "--out", tmp_path, "--target", "onnxruntime")
            == 0
        )
        assert (tmp_path / "model.dvt").read_bytes() == before
        assert "times smaller" in capsys.readouterr().out

    def test_compress_shows_what_it_would_do(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "out"
        assert run("compress", NETWORK, "--recipe", recipe, "--data", DATA, "--out", folder, "--dry-run") == 0
        shown = capsys.readouterr().out
        assert "step 1: magnitude" in shown and "conv1.weight" in shown and "The file shrinks" in shown
        assert sorted(file.name for file in folder.iterdir()) == ["plan.html", "plan.png"]

    def test_evaluate_writes_a_record_that_report_shows(self, out: Path, tmp_path: Path) -> None:
        record = tmp_path / "again.json"
        assert run("evaluate", out / "model.dvt", "--data", DATA, "--target", "onnxruntime", "--limit", 100,
                   "--original", NETWORK, "--out", record) == 0  # fmt: skip
        assert dovetail.Record.from_json(record.read_text()).images == 100
        assert run("report", out / "record.json", record, "--out", tmp_path / "page") == 0
        assert (tmp_path / "page" / "report.html").exists()

    def test_inspect_shows_formats_and_checksum(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("inspect", out / "model.dvt") == 0
        shown = capsys.readouterr().out
        assert "conv1.weight" in shown and "codebook" in shown and "sha256" in shown and "[[step]]" in shown

    def test_export_gives_the_answers_of_the_session(self, out: Path, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        assert run("export", out / "model.dvt", "--to", "onnx", "--out", path) == 0
        onnx.checker.check_model(path)
        x = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)
        exported = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (y,) = exported.run(None, {exported.get_inputs()[0].name: x})
        np.testing.assert_allclose(y, dovetail.load(out / "model.dvt")(x), rtol=1e-5, atol=1e-5)

    def test_profile_adds_up(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("profile", "resnet20", "--csv") == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert sum(int(row["macs"]) for row in rows) == pytest.approx(40.8e6, rel=0.01)  # arXiv:1512.03385: 41M
        assert sum(int(row["parameters"]) for row in rows) == pytest.approx(0.27e6, rel=0.01)
        assert run("profile", NETWORK, "--data", DATA) == 0
        shown = capsys.readouterr().out
        assert "By layer" in shown and "Where the zeros are" in shown

    def test_train_writes_weights_that_load(self, tmp_path: Path) -> None:
        weights = tmp_path / "w.safetensors"
        assert (
            run("train", "lenet_300_100", "--data", DATA, "--out", weights, "--epochs", 1, "--learning-rate", 0.05) == 0
        )
        model = dovetail.load_model("lenet_300_100", weights)
        assert dovetail.score(model.module, dovetail.load_dataset(DATA), limit=500) > 0.5
        assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


class TestBadInput:
    """Each message names the thing that is wrong."""

    def test_unknown_network(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean lenet5" in complaint(capsys, "profile", "lenet55")

    @pytest.mark.parametrize("model", ["absent.onnx", "absent.py:build"])
    def test_missing_model_file(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert model.split(":")[0] in complaint(capsys, "profile", model)

    def test_wrong_extension(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.h5").write_bytes(b"not a model")
        said = complaint(capsys, "profile", tmp_path / "model.h5")
        assert "model.h5" in said and ".onnx" in said

    def test_file_that_is_no_onnx(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.onnx").write_bytes(b"not a model")
        assert "model.onnx" in complaint(capsys, "profile", tmp_path / "model.onnx")

    def test_unsupported_operator_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "odd.onnx"
        onnx.save(onnx.parser.parse_model(ODD_NETWORK), path)
        assert "Frobnicate" in complaint(capsys, "compress", path, "--data", DATA, "--out", tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (('"magnitude"', '"magnitud"'), ["line 6", "magnitud", "did you mean"]),
            (("rounds = 1", "round = 1"), ["line 8", "'round'", "did you mean 'rounds'"]),
            (("sparsity = 0.3", "sparsity = 1.5"), ["line 7", "sparsity", "1.5"]),
            (("sparsity = 0.3", 'sparsity = "half"'), ["line 7", "sparsity"]),
            (("images = 256", "images = 0"), ["line 10", "images"]),
            (('"float16"', '"float8"'), ["line 3", "remaining", "float8"]),
            (("bits = 5", "bits = 5\nbits = 4"), ["small.toml", "line 15"]),
        ],
    )
    def test_recipe_errors_name_line_and_key(
        self, change: tuple[str, str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "small.toml"
        path.write_text(RECIPE.replace(*change))
        said = complaint(capsys, "compress", NETWORK, "--recipe", path, "--data", DATA, "--out", tmp_path / "out")
        assert all(part in said for part in expected), said

    def test_unknown_recipe(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "deep_compression" in complaint(capsys, "compress", NETWORK, "--recipe", "deep", "--out", tmp_path)

    def test_network_without_trained_weights(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--weights" in complaint(capsys, "compress", "resnet20", "--out", tmp_path)

    def test_missing_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "nowhere" in complaint(capsys, "profile", NETWORK, "--data", "nowhere")

    def test_data_of_the_wrong_shape(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = complaint(capsys, "profile", "resnet20", "--data", DATA)
        assert "(3, 32, 32)" in said and "(1, 28, 28)" in said

    def test_data_that_a_network_of_unknown_shape_cannot_take(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "own.py").write_text("from torch import nn\n\ndef build():\n    return nn.Conv2d(3, 8, 3)\n")
        assert "(1, 1, 28, 28)" in complaint(capsys, "profile", f"{tmp_path / 'own.py'}:build", "--data", DATA)

    def test_weights_that_do_not_fit(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "missing" in complaint(capsys, "profile", "lenet5", "--weights", out / "run" / "state.safetensors")

    def test_unknown_target(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = complaint(capsys, "evaluate", out / "model.dvt", "--target", "abacus")
        assert "abacus" in said and "onnxruntime" in said

    def test_artefact_that_is_missing_foreign_or_damaged(
        self, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "absent.dvt" in complaint(capsys, "inspect", "absent.dvt")
        content = bytearray((out / "model.dvt").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "damaged.dvt").write_bytes(content)
        assert "damaged.dvt" in complaint(capsys, "inspect", tmp_path / "damaged.dvt")
        assert "record.json" in complaint(capsys, "inspect", out / "record.json")

    def test_record_that_is_none(self, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert complaint(capsys, "report", "absent.json", "--out", tmp_path)
        (tmp_path / "other.json").write_text(json.dumps({"version": 1}))
        assert "record" in complaint(capsys, "report", tmp_path / "other.json", "--out", tmp_path)

    def test_folder_of_another_run_is_refused_until_it_is_discarded(
        self, out: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(out / "run", tmp_path / "run")
        command = ("compress", NETWORK, "--recipe", recipe, "--data", DATA, "--out", tmp_path, "--seed", 1)
        said = complaint(capsys, *command)
        assert "seed" in said and "discard" in said
        assert run(*command, "--fresh", "--target", "onnxruntime") == 0

    def test_folder_that_cannot_be_written(
        self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        said = complaint(capsys, "compress", NETWORK, "--recipe", recipe, "--data", DATA, "--out", tmp_path / "file")
        assert "file" in said

    def test_usage_error_has_the_same_exit_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("export", "model.dvt", "--to", "tflite") == 2
        assert "Traceback" not in capsys.readouterr().err


class TestAnotherProcess:
    """What only shows from outside."""

    def test_full_disk(self, recipe: Path, tmp_path: Path) -> None:
        """A file system of 64 KB, in name spaces that end with the command."""
        small = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
        space = ["unshare", "--map-root-user", "--mount"]
        if shutil.which("unshare") is None or subprocess.run([*space, "true"], check=False).returncode:
            pytest.skip("this system lets nobody mount a file system of his own")
        command = [
            *space,
            "sh",
            "-c",
            small,
            tmp_path,
            *COMMAND,
            "compress",
            NETWORK,
            "--recipe",
            recipe,
            "--data",
            DATA,
        ]
        outcome = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, check=False)
        assert outcome.returncode == 2
        assert outcome.stderr.count("\n") == 1 and "No space left on device" in outcome.stderr

    def test_file_larger_than_allowed(self, out: Path, tmp_path: Path) -> None:
        command = [*COMMAND, "export", out / "model.dvt", "--out", tmp_path / "model.onnx"]
        limited = ["sh", "-c", 'ulimit -f 8 && exec "$0" "$@"', *command]
        outcome = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert outcome.returncode == 2
        assert outcome.stderr.count("\n") == 1 and "File too large" in outcome.stderr
        assert not list(tmp_path.iterdir())

    def test_interrupt(self, tmp_path: Path) -> None:
        # A shell has what it starts in the background ignore interrupts, and the tests may have been started so.
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [
            sys.executable,
            "-c",
            f"{heeding}; from dovetail.cli import main; main()",
            "train",
            "lenet_300_100",
            "--data",
            DATA,
            "--epochs",
            "10000",
            "--out",
            tmp_path / "w.safetensors",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 300
            while not (tmp_path / "w.unfinished").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=300)
        assert process.returncode == 130
        assert said.strip() == "interrupted; run the same command again to resume"

    def test_reader_that_goes_away(self) -> None:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen([*COMMAND, "list", "formats"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=environment) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1
