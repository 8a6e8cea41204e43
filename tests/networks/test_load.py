"""Loading a network by name, from a user's file and from weights: what works, and the sentence when it does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from dovetail.errors import ModelError
from dovetail.networks import NETWORKS, load_model

USER_FILE = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
import beside

@dataclass
class Widths:
    hidden: int = beside.HIDDEN

def network():
    return nn.Sequential(nn.Linear(4, Widths().hidden), nn.ReLU())

def needs(width):
    return nn.Linear(width, width)

def number():
    return 3

def failing():
    return 1 / 0

constant = 5
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("HIDDEN = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


def test_a_factory_in_a_users_file(user_file: Path) -> None:
    loaded = load_model(f"{user_file}:network")
    assert loaded.name == "network" and loaded.input_shape is None and not loaded.module.training
    assert loaded.module(torch.ones(2, 4)).shape == (2, 7)


def onnx_file(path: Path, batch: str | int, side: str | int) -> Path:
    """y = ReLU(Conv(x, w)) with w of shape (2, 1, 3, 3)."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "conv.weight")
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("batch", "side", "shape"), [(1, 5, (1, 5, 5)), ("batch", 5, (1, 5, 5)), ("batch", "side", None)]
)
def test_an_onnx_file(tmp_path: Path, batch: str | int, side: str | int, shape: tuple[int, ...] | None) -> None:
    loaded = load_model(str(onnx_file(tmp_path / "small.onnx", batch, side)))
    assert loaded.name == "small" and loaded.input_shape == shape and not loaded.module.training
    assert torch.equal(loaded.module(torch.ones(1, 1, 5, 5)), torch.full((1, 2, 3, 3), 9.0))


def test_weights_for_an_onnx_file(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(2, 1, 3, 3)}, tmp_path / "w.safetensors")
    loaded = load_model(str(onnx_file(tmp_path / "small.onnx", 1, 5)), str(tmp_path / "w.safetensors"))
    assert loaded.module(torch.ones(1, 1, 5, 5)).count_nonzero() == 0


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_either_kind(user_file: Path, tmp_path: Path, suffix: str) -> None:
    state = {"0.weight": torch.full((7, 4), 0.5, dtype=torch.float16), "0.bias": torch.ones(7)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    module = load_model(f"{user_file}:network", path).module
    assert torch.equal(module.state_dict()["0.weight"], torch.full((7, 4), 0.5))


def test_weights_may_lack_the_counters_of_batches(tmp_path: Path) -> None:
    state = NETWORKS["resnet8_fashion"].build().state_dict()
    save_file({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "w.safetensors")
    load_model("resnet8_fashion", tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet21", "no network 'resnet21'.*did you mean resnet20"),
        ("ResNet-20", "did you mean resnet20"),
        ("xyzzy", "the built-in ones are lenet_300_100, "),
        ("model.pth", "looks like a file of weights.*give this file as its weights"),
        ("model.h5", "'model.h5' is no network: expected a built-in name, file.onnx or file.py:factory"),
        ("mine.py", "write mine.py:factory"),
        ("nowhere.py:network", "There is no file nowhere.py"),
        ("nowhere.onnx", "nowhere.onnx"),
    ],
)
def test_a_name_that_means_nothing(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing", "has no function 'missing'"),
        ("constant", "has no function 'constant'"),
        ("needs", "must be callable without arguments, but it has a missing a required argument: 'width'"),
        ("number", r"number\(\) in .* must return a torch.nn.Module, but returned int"),
        ("failing", r"failing\(\) in .* failed: ZeroDivisionError: .* \(.*\.py, line \d+\)"),
    ],
)
def test_a_factory_that_is_none(user_file: Path, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(f"{user_file}:{factory}")


@pytest.mark.parametrize("source", ["def broken(:", "import no_such_package_anywhere", "1 / 0"])
def test_a_file_that_cannot_be_run(tmp_path: Path, source: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ModelError, match=r"bad.py cannot be run: "):
        load_model(f"{tmp_path / 'bad.py'}:network")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc3.bias": None}, "missing fc3.bias"),
        ({"fc4.bias": torch.ones(1)}, "unexpected fc4.bias"),
        ({"fc3.bias": torch.ones(9)}, r"of another shape: fc3.bias is \(9,\), not \(10,\)"),
        (dict.fromkeys(("fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight", "fc3.bias")), "and 2 more"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    state = {**NETWORKS["lenet_300_100"].build().state_dict(), **change}
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=f"do not fit the network: .*{message}"):
        load_model("lenet_300_100", tmp_path / "w.safetensors")


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no weights file"):
        load_model("lenet5", tmp_path / "w.safetensors")
    for name in ("w.safetensors", "w.pt", "empty.pt"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"this is no file of weights at all")
        with pytest.raises(ModelError, match="is n"):
            load_model("lenet5", tmp_path / name)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"neither .safetensors nor a state_dict"):
        load_model("lenet5", tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"must hold a state_dict .* but holds a list"):
        load_model("lenet5", tmp_path / "list.pt")
