"""Running an artefact. Needs no PyTorch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors  # type: ignore[import-untyped]

from dovetail.errors import ArtefactError, DovetailError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.graph import LARGEST_MODEL, complete

_REFUSALS = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NoModel,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
    UnicodeDecodeError,
)
"""What ONNX Runtime raises at a model or an input that it does not take; they share no base but Exception."""

INPUT_TYPES = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}
"""What a network may read, as ONNX Runtime calls it: numbers, or indices into a table."""


def assemble(artefact: Artefact) -> ModelProto:
    """The artefact as a standard ONNX model: its graph, with every tensor decoded to a float32 initialiser.

    Raises ArtefactError if the graph and the tensors do not fit together, or are too large for one ONNX model.
    """
    size = sum(4 * math.prod(tensor.shape) for tensor in artefact.tensors.values())
    if size > LARGEST_MODEL:
        raise ArtefactError(f"An ONNX model may have {LARGEST_MODEL} bytes of weights, this artefact has {size}.")
    return complete(artefact.graph, {name: tensor.decode() for name, tensor in artefact.tensors.items()})


class Session:
    """Runs an artefact in ONNX Runtime on the CPU. One session may be used by many threads at a time."""

    def __init__(self, artefact: Artefact, threads: int | None = None) -> None:
        """Decode the weights and prepare to run, each run on `threads` threads (None: one per core).

        Raises ArtefactError if the graph and the tensors do not fit together.
        """
        if threads is not None and threads < 1:
            raise DovetailError(f"A session runs on at least one thread, got threads={threads}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # What goes wrong is raised; printing it as well helps nobody.
        model = assemble(artefact).SerializeToString(deterministic=True)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            (entry,) = self._session.get_inputs()
            self._input_name, sides = entry.name, entry.shape
        except _REFUSALS as error:
            raise ArtefactError(f"ONNX Runtime does not take the artefact's graph: {_first_line(error)}.") from None
        if entry.type not in INPUT_TYPES:
            raise ArtefactError(f"The artefact's network should read {' or '.join(INPUT_TYPES)}, not {entry.type}.")
        self.artefact = artefact
        self.input_type = INPUT_TYPES[entry.type]
        self.input_shape: tuple[int | None, ...] = tuple(side if isinstance(side, int) else None for side in sides[1:])
        """Shape of one input, without the batch; None where any size will do."""

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The network's output for a batch of inputs (N, *input_shape) of `input_type`; every N from 1 up.

        Raises DovetailError on another shape or type.
        """
        self._check(x)
        try:
            (output,) = self._session.run(None, {self._input_name: np.ascontiguousarray(x)})
        except _REFUSALS as error:
            raise DovetailError(f"The network cannot be run on an input of {x.shape}: {_first_line(error)}.") from None
        assert isinstance(output, np.ndarray)
        return output

    def _check(self, x: NDArray[Any]) -> None:
        sides = ", ".join(["N", *(str(side or "any") for side in self.input_shape)])
        expected = f"{self.input_type} of shape ({sides}), N at least 1"
        if not isinstance(x, np.ndarray):
            raise DovetailError(f"A session's input should be a numpy array, {expected}; got {type(x).__name__}.")
        fits = x.ndim == 1 + len(self.input_shape) and all(
            side in (None, given) for side, given in zip(self.input_shape, x.shape[1:], strict=True)
        )
        if not fits or x.dtype != self.input_type or not len(x):
            raise DovetailError(f"A session's input should be {expected}; got {x.dtype} of shape {x.shape}.")


def load(path: str | Path) -> Session:
    """A session for the artefact at `path`. Raises ArtefactError if the file is missing, damaged, foreign or newer."""
    return Session(Artefact.load(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
