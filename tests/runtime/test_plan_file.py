"""Plans: networks that run without Python, through the C interface, with the engine's answers; damage never crashes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from dovetail import _native
from dovetail.errors import ArtefactError
from dovetail.runtime import Artefact, EngineSession, export_plan
from dovetail.runtime.engine.plan_file import plan_bytes
from dovetail.runtime.engine.weights import CHOICES

from .planned_networks import NETWORKS, STORED, plan_by_input, planned

ROOT = Path(__file__).parents[2]
LIBRARY = Path(_native.__file__).parent
TIMES = 300
"""Damaged plans of each network; `make sanitize` tries more."""


@pytest.fixture(scope="module", params=NETWORKS)
def artefact(request: pytest.FixtureRequest) -> Artefact:
    return planned(request.param)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled."""
    path = tmp_path_factory.mktemp("example") / "run_plan"
    build("gcc", "-std=c99", ROOT / "examples" / "run_plan.c", path)
    return path


def build(compiler: str, standard: str, source: Path, path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    linked = ["-L", LIBRARY, "-ldovetail", f"-Wl,-rpath,{LIBRARY}"]
    warned = ["-Wall", "-Wextra", "-Werror", "-I", LIBRARY]
    subprocess.run([compiler, standard, *warned, source, "-o", path, *linked], check=True)


def answers(program: Path, plan: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    numbers = "\n".join(map(repr, x.ravel().tolist()))
    done = subprocess.run([program, plan, str(len(x))], input=numbers, capture_output=True, text=True, check=True)
    return np.array(done.stdout.split(), np.float32)


def test_c_gives_the_engines_answers(artefact: Artefact, program: Path, tmp_path: Path) -> None:
    export_plan(artefact, tmp_path / "model.plan")
    session = EngineSession(artefact, threads=1, choose="stored")
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 3, 8, 8), np.float32)
        np.testing.assert_array_equal(answers(program, tmp_path / "model.plan", x), session(x).ravel())


def test_the_same_network_gives_the_same_bytes(artefact: Artefact) -> None:
    one, two = (plan_bytes(EngineSession(artefact, threads, choose="stored")) for threads in (1, 2))
    assert one == two


@pytest.mark.parametrize("name", STORED)
def test_weights_are_as_they_are_stored(name: str, program: Path, tmp_path: Path) -> None:
    """Whatever kernels a session has, its plan has the same, and hardly more bytes than these read."""
    artefact, x = planned(name), np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)
    size = {}
    for choose in CHOICES:
        session = EngineSession(artefact, 1, choose=choose)
        (tmp_path / "model.plan").write_bytes(plan := plan_bytes(session))
        np.testing.assert_array_equal(answers(program, tmp_path / "model.plan", x), session(x).ravel())
        size[choose] = len(plan)
    rows = EngineSession(artefact, 1, choose="stored").describe()
    kernels = " ".join(row.kernel for row in rows)
    assert all(form in kernels for form in ("-bit codes", "bitmap of", "sparse"))
    assert size["stored"] - sum(row.weight_bytes for row in rows) < 4000 < size["dense"] - size["stored"]


@pytest.mark.parametrize("name", STORED)
def test_weights_lie_input_by_input(name: str, program: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)
    expected = EngineSession(planned(name), 1, choose="dense")(x).ravel()
    (tmp_path / "model.plan").write_bytes(plan_by_input(name))
    found = answers(program, tmp_path / "model.plan", x)
    tolerance = 1e-5 * np.abs(expected).max() if name == "stored floats" else 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_what_the_engine_lacks_is_named() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> f (float[N, 4] x) => (float[N, 4] y) { y = Atan (x) }'
    model = onnx.parser.parse_model(text)
    with pytest.raises(ArtefactError, match="Atan"):
        plan_bytes(EngineSession.from_onnx(model))


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda plan: plan[:-1], "length"),
            (lambda plan: plan[:10], "no plan"),
            (lambda plan: b"x" + plan[1:], "no plan"),
            (lambda plan: plan[:8] + b"\x09" + plan[9:], "version 9"),
            (lambda plan: plan[:60] + bytes([plan[60] ^ 1]) + plan[61:], "checksum"),
        ],
    )
    def test_is_said_in_a_sentence(
        self, change: "object", message: str, artefact: Artefact, program: Path, tmp_path: Path
    ) -> None:
        assert callable(change)
        (tmp_path / "bad.plan").write_bytes(change(plan_bytes(EngineSession(artefact, 1))))
        done = subprocess.run([program, tmp_path / "bad.plan"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and message in done.stderr

    def test_a_file_that_is_not_there(self, program: Path, tmp_path: Path) -> None:
        done = subprocess.run([program, tmp_path / "none.plan"], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "cannot be read" in done.stderr

    def test_never_crashes(self, artefact: Artefact, tmp_path: Path) -> None:
        export_plan(artefact, tmp_path / "model.plan")
        self.damage(tmp_path)

    @pytest.mark.parametrize("name", STORED)
    def test_never_crashes_input_by_input(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "model.plan").write_bytes(plan_by_input(name))
        self.damage(tmp_path)

    def damage(self, tmp_path: Path) -> None:
        """Most of the damaged plans have a checksum that fits, as a forger's would."""
        build("g++", "-std=c++20", ROOT / "tests" / "native" / "fuzz_plan.cpp", tmp_path / "fuzz_plan")
        command = [tmp_path / "fuzz_plan", str(TIMES), tmp_path / "model.plan"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"of {TIMES} damaged plans" in done.stdout


def test_the_header_lies_beside_the_library() -> None:
    assert (LIBRARY / "dovetail.h").read_bytes() == (ROOT / "csrc" / "dovetail.h").read_bytes()
