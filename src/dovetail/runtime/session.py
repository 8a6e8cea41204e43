"""Running an artefact. Needs no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors  # type: ignore[import-untyped]

from dovetail.errors import ArtefactError, DovetailError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.constants import Constants, OpenModel
from dovetail.runtime.graph import LARGEST_MODEL, open_graph

REFUSALS = (
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

INPUT_TYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}
"""What an artefact's network may read, as ONNX Runtime calls it: numbers, or indices into a table."""


@dataclass(frozen=True)
class Input:
    """What a network reads under a name: numbers of a type. None stands in its shape where any size will do.

    `batch`: the axis along which it grows with the batch, if it does.
    """

    name: str
    type: np.dtype[Any]
    shape: tuple[int | None, ...]
    batch: int | None = 0

    @property
    def one(self) -> tuple[int | None, ...]:
        """The shape for one input, without the batch."""
        return tuple(side for axis, side in enumerate(self.shape) if axis != self.batch)

    def check(self, x: object, whose: str = "A session's input", empty: bool = False) -> None:
        """Raises DovetailError unless `x` is such an array, of at least one number or, if it may be, `empty`."""
        if isinstance(x, np.ndarray) and x.dtype == self.type and self._fits(x.shape):
            if x.size or (empty and (self.batch is None or x.shape[self.batch])):
                return
        open_batch = self.batch is not None and self.shape[self.batch] is None
        sides = (str(side or ("N" if axis == self.batch else "any")) for axis, side in enumerate(self.shape))
        expected = f"{self.type} of shape ({', '.join(sides)})" + (", N at least 1" if open_batch else "")
        if not isinstance(x, np.ndarray):
            raise DovetailError(f"{whose} should be a numpy array, {expected}; got {type(x).__name__}.")
        raise DovetailError(f"{whose} should be {expected}; got {x.dtype} of shape {x.shape}.")

    def _fits(self, shape: tuple[int, ...]) -> bool:
        alike = len(shape) == len(self.shape)
        return alike and all(side is None or side == n for side, n in zip(self.shape, shape, strict=True))


def assemble(artefact: Artefact) -> ModelProto:
    """The artefact as a standard ONNX model: its graph, with every tensor decoded to a float32 initialiser.

    Raises as `opened` does.
    """
    return opened(artefact).whole()


def opened(artefact: Artefact) -> OpenModel:
    """The same beside its constants, of which each tensor is decoded when it is first read.

    Raises ArtefactError if the graph and the tensors do not fit together, or are too large for one ONNX model.
    """
    size = sum(4 * math.prod(tensor.shape) for tensor in artefact.tensors.values())
    if size > LARGEST_MODEL:
        raise ArtefactError(f"An ONNX model may have {LARGEST_MODEL} bytes of weights, this artefact has {size}.")
    weights = Constants()
    for name, tensor in artefact.tensors.items():
        weights.put_off(name, tensor.shape, tensor.decode)
    return open_graph(artefact.graph, weights)


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
            sides = entry.shape
        except REFUSALS as error:
            raise ArtefactError(f"ONNX Runtime does not take the artefact's graph: {first_line(error)}.") from None
        if entry.type not in INPUT_TYPES:
            raise ArtefactError(f"The artefact's network should read {' or '.join(INPUT_TYPES)}, not {entry.type}.")
        self.artefact = artefact
        sizes = (side if isinstance(side, int) else None for side in sides[1:])
        self.input = Input(entry.name, INPUT_TYPES[entry.type], (None, *sizes))

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The network's output for a batch, as `input` says; every N from 1 up.

        Raises DovetailError on another shape or type.
        """
        self.input.check(x)
        try:
            (output,) = self._session.run(None, {self.input.name: np.ascontiguousarray(x)})
        except REFUSALS as error:
            raise DovetailError(f"The network cannot be run on an input of {x.shape}: {first_line(error)}.") from None
        assert isinstance(output, np.ndarray)
        return output


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
