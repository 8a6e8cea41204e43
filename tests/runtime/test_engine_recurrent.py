"""LSTM and GRU beside ONNX Runtime: directions, states, sequences laid out either way, and what is left to it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper
from tests.runtime.test_engine_operators import in_onnxruntime, ints, model, normal
from torch import nn

from dovetail import _native
from dovetail.runtime import Session, export_plan, freeze
from dovetail.runtime.engine import EngineSession

GATES = {"LSTM": 4, "GRU": 3}


EVERY_STEP = "t = Transpose <perm=[0,2,1,3]> (Y) u = Reshape(t, flat) y = Transpose <perm=[1,0,2]> (u)"


def network(
    operator: str, steps: int, inputs: int, hidden: int, *, direction: str = "forward", states: bool = False,
    after: int = 0, body: str = EVERY_STEP,
) -> ModelProto:  # fmt: skip
    """Sequences (N, steps, inputs), as exporters have them; `body`: what is read of Y, h and c."""
    ways, gates = 1 + (direction == "bidirectional"), GATES[operator]
    constants: dict[str, NDArray[np.generic]] = {
        "W": normal(ways, gates * hidden, inputs),
        "R": normal(ways, gates * hidden, hidden) / np.float32(hidden**0.5),
        "B": normal(ways, 2 * gates * hidden),
        "flat": ints(steps, -1, ways * hidden),
        "h0": normal(ways, 1, hidden),
        "c0": normal(ways, 1, hidden),
        "ones": ints(1),
        "tail": ints(2),
    }
    extra = f", linear_before_reset={after}" if operator == "GRU" else ""
    begin = "i = Shape(x) n = Slice(i, zero, ones, zero) e = Concat <axis=0> (ways, n, width) "
    begin += "H = Expand(h0, e) C = Expand(c0, e) "
    given = ", , H" + (", C" if operator == "LSTM" else "") if states else ""
    constants |= {"zero": ints(0), "ways": ints(ways), "width": ints(hidden)}
    outputs = "Y, h, c" if operator == "LSTM" else "Y, h"
    text = (
        f"{begin if states else ''} s = Transpose <perm=[1,0,2]> (x) "
        f'{outputs} = {operator} <hidden_size={hidden}, direction="{direction}"{extra}> (s, W, R, B{given}) {body}'
    )
    return model(f"N,{steps},{inputs}", text, constants)


def check(proto: ModelProto, threads: int = 1, batches: tuple[int, ...] = (1, 9, 2)) -> EngineSession:
    session = EngineSession.from_onnx(proto, threads)
    sides = [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    for batch in batches:
        x = normal(batch, *sides)
        np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=0, atol=2e-5)
    return session


def kernels(session: EngineSession) -> set[str]:
    return {operation.kernel for operation in session.describe()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("operator", "after"), [("LSTM", 0), ("GRU", 0), ("GRU", 1)])
def test_directions_and_states(operator: str, after: int, direction: str, threads: int) -> None:
    for states in (False, True):
        proto = network(operator, 7, 12, 20, direction=direction, states=states, after=after)
        found = kernels(check(proto, threads))
        both = ", both directions" if direction == "bidirectional" else ""
        assert f"{operator}{both}, float32" in found
        assert "ONNX Runtime" not in found


@settings(max_examples=30, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 40)] * 3), batch=st.integers(1, 20), operator=st.sampled_from(["LSTM", "GRU"]))
def test_any_shape(sides: tuple[int, int, int], batch: int, operator: str) -> None:
    found = kernels(check(network(operator, *sides, direction="bidirectional", after=1), batches=(batch,)))
    assert "ONNX Runtime" not in found


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_the_last_state(direction: str) -> None:
    body = "t = Transpose <perm=[1,0,2]> (h) y = Relu(t)"
    assert "ONNX Runtime" not in kernels(check(network("LSTM", 5, 6, 20, direction=direction, body=body)))


def test_what_others_read_lies_as_they_read_it() -> None:
    body = "t = Atan(Y) u = Transpose <perm=[2,0,1,3]> (t) y = Relu(u)"
    found = check(network("LSTM", 5, 6, 20, direction="bidirectional", body=body)).describe()
    assert [o.layer for o in found if o.kernel == "ONNX Runtime"] == ["Transpose", "Atan", "Transpose"]
    assert any(o.kernel.startswith("LSTM") for o in found)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"clip": 0.5}, "a recurrence with limits or tied gates"),
        ({"input_forget": 1}, "a recurrence with limits or tied gates"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "a recurrence with other activations"),
    ],
)
def test_other_kinds_are_left_to_onnx_runtime(attributes: dict[str, float | list[str]], reason: str) -> None:
    proto = network("LSTM", 5, 6, 20)
    node = next(node for node in proto.graph.node if node.op_type == "LSTM")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    session = check(proto)
    assert f"ONNX Runtime, because {reason}" in {o.runner for o in session.describe() if o.layer == "LSTM"}


def test_the_last_state_of_cells_is_left_to_onnx_runtime() -> None:
    session = check(network("LSTM", 5, 6, 20, body="y = Transpose <perm=[1,0,2]> (c)"))
    reason = "ONNX Runtime, because the last state of its cells is read"
    assert reason in {o.runner for o in session.describe() if o.layer == "LSTM"}


class Tagger(nn.Module):
    """Two layers of recurrence over (N, L, C), then a linear one."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.read = kind(6, 20, num_layers=2, batch_first=True, bidirectional=True)
        self.write = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.write(self.read(x)[0])
        return y


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_network_of_torch(kind: type[nn.LSTM] | type[nn.GRU], tmp_path: Path) -> None:
    torch.manual_seed(0)
    artefact = freeze(Tagger(kind).eval(), torch.randn(2, 9, 6))
    session, x = EngineSession(artefact, 1), normal(3, 9, 6)
    assert "ONNX Runtime" not in kernels(session)
    np.testing.assert_allclose(session(x), Session(artefact, 1)(x), rtol=0, atol=1e-5)
    export_plan(artefact, tmp_path / "tagger.plan")
    assert (tmp_path / "tagger.plan").stat().st_size > 20_000


RUN = """
import sys
import numpy as np
from dovetail.runtime import load
np.save(sys.argv[3], load(sys.argv[1], threads=1)(np.load(sys.argv[2])))
"""


@pytest.mark.parametrize("level", _native.levels())
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_every_level(operator: str, level: str, tmp_path: Path) -> None:
    proto, x = network(operator, 5, 7, 35, direction="bidirectional", states=True), normal(11, 5, 7)
    files = [tmp_path / name for name in ("model.onnx", "x.npy", "y.npy")]
    onnx.save(proto, files[0])
    np.save(files[1], x)
    subprocess.run([sys.executable, "-c", RUN, *files], check=True, env=os.environ | {"DOVETAIL_ISA": level})
    np.testing.assert_allclose(np.load(files[2]), in_onnxruntime(proto, x), rtol=0, atol=2e-5)
