"""From a file to what runs it. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from dovetail.runtime.artefact import Artefact
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.engine.session import read_onnx
from dovetail.runtime.qdq import to_qdq


def load(path: str | Path, threads: int | None = None) -> EngineSession:
    """A session in the native engine for the artefact, or the .onnx file, at `path`.

    What the engine lacks runs in ONNX Runtime; `describe()` says what and why. `Session` is the reference to compare
    with: it computes as training did, the engine computes quantised layers in integers.

    Raises ArtefactError if the file is missing, damaged, foreign or newer.
    """
    if _is_onnx(path):
        return EngineSession.from_onnx(path, threads)
    return EngineSession(Artefact.load(path), threads)


def standard_model(path: str | Path) -> ModelProto:
    """The same file as a standard ONNX model, an artefact's quantised layers in integers: what other runtimes take."""
    return read_onnx(Path(path)) if _is_onnx(path) else to_qdq(Artefact.load(path))[0]


def _is_onnx(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".onnx"
