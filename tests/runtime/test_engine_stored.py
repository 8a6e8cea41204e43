"""Networks whose weights the engine multiplies as they are stored, beside the reference and beside dense weights."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.quantised_networks import X, chain, quantise
from torch import nn

from dovetail.errors import DovetailError
from dovetail.formats import Affine, Binary, Codebook, Layout, Ternary
from dovetail.kernels import choice
from dovetail.methods.constraint import layouts
from dovetail.methods.prune.sensitivity import kept_largest
from dovetail.networks import NETWORKS
from dovetail.runtime import Artefact, EngineSession, Session, freeze
from dovetail.runtime.engine.plan_file import plan_bytes

TOLERANCE = 1e-5
"""Of float32, as a share of the largest output."""

TABLE = np.array([-8, -5, -3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 9], np.float32) / 64


def pruned_and_shared(name: str, kept: float, structure: str = "relative_index", entropy: str = "huffman") -> Artefact:
    """By magnitude, then every weight the nearest of 16."""
    torch.manual_seed(0)
    model, layouts = NETWORKS[name].build().eval(), {}
    for path, weight in model.named_parameters():
        if weight.dim() > 1:
            values = weight.data * (0.05 / weight.data.std())
            values[values.abs() < values.abs().quantile(1 - kept)] = 0
            weight.data = torch.from_numpy(Codebook.encode(values.numpy(), table=TABLE).decode())
            layouts[path] = Layout(structure, partial(Codebook.encode, table=TABLE), entropy=entropy)
    return freeze(model, torch.randn(1, *NETWORKS[name].input_shape), layouts=layouts)


def weight_bytes(session: EngineSession) -> int:
    return sum(row.weight_bytes for row in session.describe())


def assert_same_answers(engine: EngineSession, artefact: Artefact) -> None:
    session = Session(artefact, threads=1)
    for count in (1, 5):
        shape = tuple(side or 1 for side in session.input.one)
        x = np.random.default_rng(count).standard_normal((count, *shape), np.float32)
        expected = session(x)
        np.testing.assert_allclose(engine(x), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5"])
@pytest.mark.parametrize(("structure", "kept"), [("relative_index", 0.1), ("bitmap", 0.3), ("dense", 1.0)])
def test_a_network_as_it_is_stored(name: str, structure: str, kept: float) -> None:
    artefact = pruned_and_shared(name, kept, structure)
    dense = EngineSession(artefact, 1, choose="dense")
    for threads in (1, 2):
        engine = EngineSession(artefact, threads, choose="stored")
        assert_same_answers(engine, artefact)
        assert weight_bytes(engine) < 0.5 * weight_bytes(dense)
    assert len(plan_bytes(engine)) < 0.5 * len(plan_bytes(dense))


def unlike(rng: np.random.Generator, form: str, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], Layout]:
    values = rng.standard_normal(shape).astype(np.float32)
    encode = {
        "ternary": lambda v: Ternary.encode(np.where(np.abs(v) > 0.7, v, 0), axis=0, symmetric=True),
        "binary": partial(Binary.encode, axis=0),
        "affine": partial(Affine.encode, bits=4, axis=0),
    }[form]
    decoded = encode(values).decode()
    return decoded, Layout(values=encode)


@pytest.mark.parametrize("form", ["ternary", "binary", "affine"])
def test_a_scale_for_each_output(form: str) -> None:
    """Also a picture that is read as a vector, a line, groups, and a square matrix that the graph transposes."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(24, 24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=4), nn.Flatten(2),
        nn.Conv1d(24, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 24), Square(), nn.Linear(24, 10),
    ).eval()  # fmt: skip
    chosen = {}
    for path, weight in model.named_parameters():
        if weight.dim() > 1:
            values, chosen[path] = unlike(np.random.default_rng(1), form, tuple(weight.shape))
            weight.data = torch.from_numpy(values)
    artefact = freeze(model, torch.randn(1, 3, 12, 12), layouts=chosen)
    engine = EngineSession(artefact, 1, choose="stored")
    assert_same_answers(engine, artefact)
    kernels = {row.layer: row.kernel for row in engine.describe()}
    assert all("codes" in kernels[layer] for layer in ("0", "4", "7", "9"))
    assert kernels["8"] == "direct convolution, float32"
    assert "-bit codes" not in kernels["2"]


@pytest.mark.parametrize("bits", [2, 4])
def test_integers_of_few_bits(bits: int) -> None:
    model = quantise(chain(), bits)
    artefact = freeze(model, X, layouts=layouts(model))
    dense, engine = (EngineSession(artefact, 1, choose=choose) for choose in ("dense", "stored"))
    assert sum("codes" in row.kernel for row in engine.describe()) >= 2
    assert weight_bytes(engine) < weight_bytes(dense)
    for x in (X.numpy()[:1], X.numpy()):
        np.testing.assert_allclose(engine(x), dense(x), rtol=0, atol=TOLERANCE * np.abs(dense(x)).max())


def test_blocks() -> None:
    """A network in integers whose zeros lie in blocks: fewer bytes, and what is between a half and all of them too."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 32, 3, stride=2), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(32 * 25, 16))
    for name, kept in (("2", 0.7), ("5", 0.4)):
        weight = model.get_submodule(name).weight
        weight.data *= kept_largest(weight, kept, (16, 4))
    quantised = quantise(model.eval(), 8)
    artefact = freeze(quantised, X, layouts=layouts(quantised))
    dense, engine = (EngineSession(artefact, 1, choose=choose) for choose in ("dense", "stored"))
    assert sum("block-sparse int8" in row.kernel for row in engine.describe()) == 2
    assert weight_bytes(engine) < 0.65 * weight_bytes(dense)
    assert np.array_equal(engine(X.numpy()), dense(X.numpy()))


@pytest.mark.parametrize("integers", [True, False], ids=["integers", "floats"])
def test_inputs_that_are_zero(integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of weights for each input is tried in large layers of one vector behind a ReLU, and nowhere else."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 36, 64), nn.Tanh(),
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 70), nn.ReLU(), nn.Linear(70, 5),
    ).eval()  # fmt: skip
    model = quantise(model, 8) if integers else model
    artefact = freeze(model, X, layouts=layouts(model))
    seconds = {"inputs": 1e-6, "dense": 2e-6}
    monkeypatch.setattr("dovetail.runtime.engine.weights.times_of_dense", lambda *_, **__: seconds)
    dense, engine = (EngineSession(artefact, 1, choose=choose) for choose in ("dense", "measured"))
    rows = {row.layer: row for row in engine.describe() if row.weight_bytes}
    by_input = {layer for layer, row in rows.items() if row.kernel.endswith("by input")}
    assert by_input == {layer for layer in rows if layer.partition("_")[0].partition(".")[0] in ("4", "8")}
    assert all(rows[layer].why.endswith("inputs 1.0, dense 2.0 us") for layer in by_input)
    x = X.numpy()
    for some in (x[:1], x):
        tolerance = 0 if integers else TOLERANCE * np.abs(dense(some)).max()
        np.testing.assert_allclose(engine(some), dense(some), rtol=0, atol=tolerance)
    assert len(plan_bytes(engine)) == len(plan_bytes(dense))


def test_the_fastest_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = pruned_and_shared("lenet_300_100", 0.08)
    engine = EngineSession(artefact, 1)
    assert_same_answers(engine, artefact)
    rows = [row for row in engine.describe() if row.weight_bytes]
    assert all("dense" in row.why and "slots" in row.why and row.why.endswith(" us") for row in rows)
    monkeypatch.setattr(choice, "_measure", lambda *_: pytest.fail("measured again"))
    assert engine.describe() == EngineSession(artefact, 1).describe()


def test_a_choice_that_there_is_not() -> None:
    with pytest.raises(DovetailError, match="measured, dense, stored, got 'fast'"):
        EngineSession(pruned_and_shared("lenet_300_100", 0.1), 1, choose="fast")
