"""Whole networks at every level of instructions that this processor has, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.planned_networks import planned
from tests.runtime.quantised_networks import chain, frozen, quantise, residual
from tests.runtime.test_engine_operators import model

from dovetail import _native
from dovetail.networks.mobilenet import MobileNetV2
from dovetail.runtime import Artefact, Session, freeze

FLOATS = {"mobilenet.dvt": (3, 32, 32)}
CODES = {"chain-8.dvt": (2, 12, 12), "chain-4.dvt": (2, 12, 12), "residual-8.dvt": (2, 12, 12),
         "signs.dvt": (3, 8, 8), "nan.onnx": (6,)}  # fmt: skip
BATCHES = {"mobilenet.dvt": (1, 3)}
"""Of the others (1, 33, 70): one image, and more than the threads share out evenly."""

NAN_INSIDE = (
    "N,6",
    "a = Sub(x, x) b = Div(a, a) c = QuantizeLinear(b, s, z) y = DequantizeLinear(c, s, z)",
    {"s": np.float32(0.1), "z": np.uint8(3)},
)
"""Zero by zero, rounded to a code."""

RUN = """
import json, sys
import numpy as np
from dovetail.runtime import load
answers = {}
for path, batches in json.loads(sys.argv[2]).items():
    session = load(f"{sys.argv[1]}/{path}", threads=2)
    for count in batches:
        x = np.random.default_rng(count).standard_normal((count, *session.inputs[0].one)).astype(np.float32)
        answers[f"{path} {count}"] = session(x)
np.savez(sys.argv[3], **answers)
"""
Answers = dict[str, NDArray[np.float32]]


def batches(name: str) -> tuple[int, ...]:
    return BATCHES.get(name, (1, 33, 70))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a file for each network."""
    path = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    freeze(MobileNetV2().eval(), torch.randn(1, 3, 32, 32)).save(path / "mobilenet.dvt")
    for bits in (4, 8):
        frozen(quantise(chain(), bits)).save(path / f"chain-{bits}.dvt")
    frozen(quantise(residual(), outputs=("0",))).save(path / "residual-8.dvt")
    planned("signs").save(path / "signs.dvt")
    onnx.save(model(*NAN_INSIDE), path / "nan.onnx")
    return path


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Answers]:
    """Of each level."""
    found = {}
    wanted = {name: batches(name) for name in (*FLOATS, *CODES)}
    for level in _native.levels():
        result = folder / f"{level}.npz"
        command = [sys.executable, "-c", RUN, str(folder), json.dumps(wanted), str(result)]
        subprocess.run(command, check=True, env=os.environ | {"DOVETAIL_ISA": level})
        found[level] = dict(np.load(result))
    return found


@pytest.mark.parametrize("level", _native.levels())
def test_codes_are_the_same_at_every_level(answers: dict[str, Answers], level: str) -> None:
    for name in CODES:
        for count in batches(name):
            np.testing.assert_array_equal(answers[level][f"{name} {count}"], answers["plain"][f"{name} {count}"])


@pytest.mark.parametrize("level", _native.levels())
def test_floats_are_those_of_onnx_runtime(folder: Path, answers: dict[str, Answers], level: str) -> None:
    for name, shape in FLOATS.items():
        session = Session(Artefact.load(folder / name), 1)
        for count in batches(name):
            x = np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)
            expected = session(x)
            found = answers[level][f"{name} {count}"]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("level", _native.levels())
def test_nan_that_arises_inside_gets_a_code(answers: dict[str, Answers], level: str) -> None:
    """The lowest; only at a network's input is it refused."""
    np.testing.assert_allclose(answers[level]["nan.onnx 33"], np.full((33, 6), -0.3, np.float32))


def test_a_level_that_the_processor_lacks_is_not_the_network_s_fault(folder: Path) -> None:
    command = [sys.executable, "-m", "dovetail", "run", str(folder / "mobilenet.dvt")]
    done = subprocess.run(command, env=os.environ | {"DOVETAIL_ISA": "vax"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"dovetail: DOVETAIL_ISA is vax, but this processor runs {', '.join(_native.levels())}.\n"
