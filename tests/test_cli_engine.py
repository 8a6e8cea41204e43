"""Running networks in the native engine from the command line, and what is said where that cannot be."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from PIL import Image
from torch import nn

import dovetail
from dovetail import cli, optional
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import freeze
from dovetail.targets import peers

FOREIGN = """
<ir_version: 8, opset_import: ["" : 17]>
foreign (float[N, 4] x) => (float[N, 4] y) { half = Relu (x)  y = CumSum <exclusive = 0> (half, one) }
"""

SEVERAL = """
<ir_version: 8, opset_import: ["" : 17]>
several (float[N, 4] x, float[N, 4] y) => (float[N, 4] added, int64[N, 1] kind, bool[N, 4] file) {
    added = Add (x, y)  kind = ArgMax <axis = 1> (added)  file = Greater (x, y)
}
"""


def run(*arguments: object) -> int:
    """The exit code of one command, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["dovetail", *map(str, arguments)])
        cli.main()
    return end.value.code if isinstance(end.value.code, int) else 0


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for pictures."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 28 * 28, 10)).eval()
    path = tmp_path_factory.mktemp("floats") / "model.dvt"
    freeze(module, torch.zeros(1, 1, 28, 28), provenance={"dataset": "fashion_mnist_sample"}).save(path)
    return path


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    quantize_input(module, "1", Uniform(8, torch.tensor(0.02)))
    module[1].weight.data = (module[1].weight.data / 0.001).round() * 0.001
    path = tmp_path_factory.mktemp("integers") / "model.dvt"
    freeze(module, torch.zeros(1, 1, 28, 28)).save(path)
    return path


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A network of two inputs and two outputs."""
    onnx.save(onnx.parser.parse_model(SEVERAL), tmp_path / "several.onnx")
    return tmp_path / "several.onnx"


@pytest.fixture
def array(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.npy"
    np.save(path, np.random.default_rng(0).standard_normal((3, 1, 28, 28), np.float32))
    return path


class TestRun:
    def test_answers_as_the_reference_does(self, floats: Path, array: Path, tmp_path: Path) -> None:
        assert run("run", floats, "--input", array, "--batch", 2, "--out", tmp_path / "out.npy") == 0
        expected = dovetail.Session(dovetail.Artefact.load(floats))(np.load(array))
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)

    def test_pictures_are_named_with_their_class_and_its_probability(
        self, floats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for name in ("one.png", "two.png"):
            Image.new("L", (40, 30), 128).save(folder / name)
        assert run("run", floats, "--input", folder, "--data", "fashion_mnist_sample", "--kernels") == 0
        out = capsys.readouterr().out
        assert "one.png" in out and "two.png" in out and "%" in out
        assert any(name in out for name in dovetail.load_dataset("fashion_mnist_sample").classes)
        assert "convolution" in out and "float32" in out
        assert "latency" in out and "start" in out and "bytes of activations" in out

    def test_takes_the_test_images_of_the_networks_own_data(
        self, floats: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("run", floats, "--limit", 30, "--batch", 16) == 0
        assert "and 10 more" in capsys.readouterr().out

    def test_says_what_runs_elsewhere_and_why(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = onnx.parser.parse_model(FOREIGN)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(1), "one"))
        onnx.save(model, tmp_path / "foreign.onnx")
        np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
        out = ("--out", tmp_path / "y.npy")
        assert run("run", tmp_path / "foreign.onnx", "--input", tmp_path / "x.npy", "--kernels", *out) == 0
        assert "ONNX Runtime" in capsys.readouterr().out
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.arange(8).reshape(2, 4).cumsum(1))

    def test_several_inputs_come_from_one_file_and_several_outputs_go_to_one(
        self, several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        x, y = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
        np.savez(tmp_path / "given.npz", x=x, y=y)
        assert run("run", several, "--input", tmp_path / "given.npz", "--out", tmp_path / "out.npz") == 0
        shown = capsys.readouterr().out
        assert "added" in shown and "kind" in shown and "int64" in shown and "for 2, on 1 threads" in shown
        with np.load(tmp_path / "out.npz") as found:
            assert sorted(found.files) == ["added", "file", "kind"]
            np.testing.assert_array_equal(found["file"], x > y)
            np.testing.assert_array_equal(found["added"], x + y)
            np.testing.assert_array_equal(found["kind"], (x + y).argmax(1, keepdims=True))

    def test_a_cache_may_be_empty(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        body = "(float[N, 1, 4] x, float[N, old, 4] cache) => (float[N, all, 4] y) { y = Concat <axis = 1> (cache, x) }"
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {body}'), tmp_path / "g.onnx")
        command = ("run", tmp_path / "g.onnx", "--input", tmp_path / "given.npz", "--out", tmp_path / "y.npy")
        x, cache = np.ones((2, 1, 4), np.float32), np.zeros((2, 0, 4), np.float32)
        np.savez(tmp_path / "given.npz", x=x, cache=cache)
        assert run(*command, "--kernels") == 0 and "inputs that are empty" in " ".join(capsys.readouterr().out.split())
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x)
        np.savez(tmp_path / "given.npz", x=x[:0], cache=cache[:0])
        assert run(*command) == 2 and "N at least 1; got float32 of shape (0, 1, 4)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "body", ["int64[N, 1] y) { y = ArgMax <axis = 1> (x) }", "float y) { y = ReduceMax <keepdims = 0> (x) }"]
    )
    def test_one_output_that_is_no_scores(self, body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => ('
        onnx.save(onnx.parser.parse_model(head + body), tmp_path / "one.onnx")
        np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
        assert run("run", tmp_path / "one.onnx", "--input", tmp_path / "x.npy", "--batch", 2) == 0
        assert "Outputs" in capsys.readouterr().out


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--threads", 0), "threads"),
            (("--threads", 1000), "threads"),
            (("--batch", 0), "--batch is 1 to 65536"),
            (("--input", "nowhere"), "does not exist"),
            (("--data", "nothing"), "no data set"),
            (("--data", "cifar10"), "cifar"),
        ],
    )
    def test_is_one_sentence(
        self, floats: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("run", floats, *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("dovetail: ") and message in line

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (np.full((1, 1, 28, 28), np.nan, np.float32), "NaN"),
            (np.zeros((2, 1, 27, 28), np.float32), r"(N, 1, 28, 28)"),
            (np.zeros((2, 1, 28, 28)), "float32"),
            (np.zeros((0, 1, 28, 28), np.float32), "inputs"),
            (np.array([None]), "numpy.save"),
        ],
    )
    def test_arrays(
        self, integers: Path, wrong: np.ndarray, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.save(tmp_path / "wrong.npy", wrong, allow_pickle=True)
        assert run("run", integers, "--input", tmp_path / "wrong.npy") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line

    def test_a_file_that_is_no_array(self, floats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "x.npy").write_text("hello")
        assert run("run", floats, "--input", tmp_path / "x.npy") == 2
        assert "numpy.save" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "reads 2 inputs (x, y): give an .npz file"),
            ({"x": np.ones((2, 4), np.float32)}, "The network reads x, y; got x"),
            ({"x": np.ones((2, 4), np.float32), "y": np.ones((3, 4), np.float32)}, "batches of [2, 3]"),
            ({"x": np.ones((2, 4), np.float32), "y": np.full((2, 4), np.nan, np.float32)}, "y in"),
            ({"x": np.ones((2, 4), np.float32), "y": np.array([None])}, "numpy.savez"),
        ],
    )
    def test_several_inputs(
        self, several: Path, given: dict[str, np.ndarray], message: str, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        np.savez(tmp_path / "given.npz", **given)
        np.save(tmp_path / "given.npy", np.ones((2, 4), np.float32))
        assert run("run", several, "--input", tmp_path / ("given.npz" if given else "given.npy")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("dovetail: ") and message in line

    def test_a_file_of_arrays_that_is_none(self, several: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        np.save(tmp_path / "one.npy", np.ones(3))
        for content in (b"", b"hello", b"PK\x03\x04 and no more", (tmp_path / "one.npy").read_bytes()):
            (tmp_path / "given.npz").write_bytes(content)
            assert run("run", several, "--input", tmp_path / "given.npz") == 2
            assert "numpy.savez" in capsys.readouterr().err


class TestBench:
    @pytest.mark.parametrize("network", ["floats", "integers"])
    def test_stands_beside_other_runtimes(
        self, network: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = request.getfixturevalue(network)
        asked = ("--vs", "onnxruntime", "--vs", "openvino", "--batch", 1, "--batch", 2, "--seconds", 0)
        assert run("bench", model, *asked) == 0
        out = capsys.readouterr().out
        assert out.count("onnxruntime") == out.count("openvino") == 2 and "machine" in out

    def test_takes_an_onnx_file(self, floats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        dovetail.export_onnx(dovetail.Artefact.load(floats), tmp_path / "model.onnx")
        assert run("bench", tmp_path / "model.onnx", "--seconds", 0) == 0
        assert "onnxruntime" in capsys.readouterr().out

    def test_takes_several_inputs_and_outputs(
        self, several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.savez(tmp_path / "given.npz", x=np.ones((3, 4), np.float32), y=np.ones((3, 4), np.float32))
        for given in ((), ("--input", tmp_path / "given.npz")):
            assert run("bench", several, "--vs", "onnxruntime", "--vs", "openvino", "--seconds", 0, *given) == 0
            assert "openvino" in capsys.readouterr().out

    def test_an_unknown_peer_is_answered_with_the_known_ones(
        self, floats: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("bench", floats, "--vs", "abacus") == 2
        assert "choose from onnxruntime, openvino" in capsys.readouterr().err

    def test_a_peer_that_is_not_installed_is_named(
        self, floats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(peers, "openvino", optional.lazy("no_openvino"))
        assert run("bench", floats, "--vs", "openvino") == 2
        assert "pip install no_openvino" in capsys.readouterr().err

    def test_a_wrong_answer_is_not_timed(
        self, floats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def wrong(model: ModelProto, threads: int, shapes: Sequence[tuple[int, ...]]) -> peers.Run:
            return lambda inputs: [np.ones((len(inputs[0]), 10), np.float32)]

        monkeypatch.setitem(peers.PEERS, "onnxruntime", wrong)
        assert run("bench", floats) == 2
        assert "computes something else" in capsys.readouterr().err
