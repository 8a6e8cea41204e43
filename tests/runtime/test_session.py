"""Running: the answers, who may ask, what is refused; and the standard ONNX file, which answers the same."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest

from dovetail.errors import ArtefactError, DovetailError
from dovetail.formats import Codebook, Dense
from dovetail.runtime import Artefact, Session, assemble, export_onnx, load, session


def by_hand(artefact: Artefact, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    first, bias, second = (tensor.decode() for tensor in artefact.tensors.values())
    return np.asarray(np.maximum(x.reshape(len(x), -1) @ first.T + bias, 0) @ second.T)


def pictures(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, 1, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_computes_the_network(count: int, threads: int | None, artefact: Artefact) -> None:
    found = Session(artefact, threads)(pictures(count))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(artefact, pictures(count)), rtol=1e-4, atol=1e-4)


def test_takes_what_is_not_contiguous(artefact: Artefact) -> None:
    flipped = pictures(2)[:, :, ::-1, ::-1]
    np.testing.assert_array_equal(Session(artefact)(flipped), Session(artefact)(flipped.copy()))


def test_many_threads_may_share_one(artefact: Artefact) -> None:
    runs, x = Session(artefact, threads=1), pictures(5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: runs(x), range(40)):
            np.testing.assert_array_equal(found, runs(x))


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.zeros((1, 1, 12, 12)), r"got float64 of shape \(1, 1, 12, 12\)"),
        (np.zeros((1, 1, 12, 13), np.float32), r"got float32 of shape \(1, 1, 12, 13\)"),
        (np.zeros((1, 12, 12), np.float32), r"got float32 of shape \(1, 12, 12\)"),
        (np.zeros((0, 1, 12, 12), np.float32), r"got float32 of shape \(0, 1, 12, 12\)"),
        (np.zeros((), np.float32), r"got float32 of shape \(\)"),
        ([[1.0]], "got list"),
    ],
)
def test_says_what_input_it_takes(x: Any, found: str, artefact: Artefact) -> None:
    with pytest.raises(DovetailError, match=rf"float32 of shape \(N, 1, 12, 12\).*{found}"):
        Session(artefact)(x)


def test_has_at_least_one_thread(artefact: Artefact) -> None:
    with pytest.raises(DovetailError, match="at least one thread, got threads=0"):
        Session(artefact, threads=0)


def test_input_shape_is_known(artefact: Artefact) -> None:
    assert Session(artefact).input.one == (1, 12, 12)


@pytest.mark.parametrize("count", [1, 7])
def test_exported_file_answers_bit_for_bit_the_same(count: int, artefact: Artefact, tmp_path: Path) -> None:
    export_onnx(artefact, tmp_path / "a.onnx")
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    peer = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (found,) = peer.run(None, {"input": pictures(count)})
    assert found.tobytes() == Session(artefact)(pictures(count)).tobytes()
    assert [value.name for value in peer.get_outputs()] == ["output"]


def test_exported_file_holds_every_tensor_by_name(artefact: Artefact) -> None:
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in assemble(artefact).graph.initializer}
    for name, tensor in artefact.tensors.items():
        np.testing.assert_array_equal(stored[name], tensor.decode())


def test_a_model_beyond_onnx_is_refused(artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = Dense(Codebook((1 << 31,), np.zeros(0, np.uint8), np.zeros(1, np.float32), 1))
    with pytest.raises(ArtefactError, match="may have 2130706432 bytes of weights, this artefact has 8589934592"):
        export_onnx(dataclasses.replace(artefact, tensors={"fc1.weight": huge}), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_is_missing_is_named(artefact: Artefact, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"a\.onnx cannot be written"):
        export_onnx(artefact, tmp_path / "none" / "a.onnx")


def test_needs_no_torch(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.dvt")
    program = (
        "import sys, numpy, dovetail.runtime\n"
        "run = dovetail.runtime.load(sys.argv[1])\n"
        "print(run(numpy.ones((1, 1, 12, 12), numpy.float32)).shape, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "a.dvt")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("(1, 10) False\n", "")


def test_load_is_what_the_package_gives(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.dvt")
    found, expected = load(tmp_path / "a.dvt")(pictures(3)), session.Session(artefact)(pictures(3))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # each may time its kernels, and choose others


def test_freeze_is_the_function_though_its_file_was_imported_first() -> None:
    program = "import dovetail.runtime.freezing; from dovetail.runtime import freeze, to_torch; assert callable(freeze)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
