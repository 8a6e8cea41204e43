"""Running a network in the native engine, and in ONNX Runtime what the engine lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dovetail.errors import ArtefactError, DovetailError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.constants import OpenModel
from dovetail.runtime.engine.building import NativeStage
from dovetail.runtime.engine.functions import FUNCTIONS
from dovetail.runtime.engine.moved import settle
from dovetail.runtime.engine.moving import MOVING
from dovetail.runtime.engine.network import Network, read
from dovetail.runtime.engine.operators import COMPUTING
from dovetail.runtime.engine.planner import Foreign, Plan, plan
from dovetail.runtime.engine.recurrent import RECURRENT
from dovetail.runtime.engine.stages import Stage, cut_stages
from dovetail.runtime.engine.transposed import TRANSPOSED
from dovetail.runtime.engine.weights import Packing
from dovetail.runtime.qdq import quantised
from dovetail.runtime.session import INPUT_TYPES, REFUSALS, check_input, first_line, opened

OPERATORS = COMPUTING | FUNCTIONS | MOVING | RECURRENT | TRANSPOSED
"""The operators that the engine has, and Round: QuantizeLinear and DequantizeLinear in one."""

MOST_THREADS = 256
MOST_SHAPES = 8
"""Plans that a session keeps where its input's sides are open."""


@dataclass(frozen=True)
class Operation:
    """One operation of a session: its layer, what runs it and why, the shape of an image's output, bytes of weights."""

    layer: str
    kernel: str
    why: str
    shape: tuple[int, ...]
    weight_bytes: int

    @property
    def runner(self) -> str:
        """ "native", or "ONNX Runtime, because ..."."""
        return f"ONNX Runtime, because {self.why}" if self.kernel == "ONNX Runtime" else "native"


@dataclass(frozen=True)
class Memory:
    """Bytes for activations, and fewer than which no order of the same operations could do with."""

    peak: int
    bound: int


class ForeignStage:
    """Nodes that the engine lacks, in ONNX Runtime."""

    def __init__(self, network: Network, stage: Stage, threads: int) -> None:
        """Raises ArtefactError where ONNX Runtime does not take them either."""
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self.members = [member for member in stage.members if isinstance(member, Foreign)]
        protos = {id(proto): proto for member in self.members for proto in member.node.protos}
        needed = {name for member in self.members for name in member.reads}
        needed.update(name for proto in protos.values() for name in proto.input)
        model = ModelProto(ir_version=min(network.proto.ir_version or 8, 10), opset_import=network.proto.opset_import)
        model.graph.name = "rest"
        model.graph.node.extend(protos.values())
        for name in needed.intersection(network.constants):
            model.graph.initializer.append(
                numpy_helper.from_array(np.asarray(network.constants[name], order="C"), name)
            )
        for names, values in ((self.inputs, model.graph.input), (self.outputs, model.graph.output)):
            for name in names:
                kind = network.known.types.get(name, TensorProto.FLOAT)
                values.append(helper.make_tensor_value_info(name, kind, None))
        self._session = _onnxruntime_session(model, threads)

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            made: list[NDArray[Any]] = self._session.run(self.outputs, {name: values[name] for name in self.inputs})
        except REFUSALS as error:
            raise DovetailError(f"The network cannot be run on this input: {first_line(error)}.") from None
        return made


def _onnxruntime_session(model: ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except REFUSALS as error:
        raise ArtefactError(f"Neither the engine nor ONNX Runtime takes the network: {first_line(error)}.") from None


class EngineSession:
    """Runs a network on the CPU. One session may be used by many threads at a time; they take turns.

    An ONNX network that leaves sides of its input open is planned anew for every shape it is given; the last plans are
    kept.
    """

    def __init__(self, artefact: Artefact, threads: int | None = None, choose: str = "measured") -> None:
        """Plan the artefact's network for `threads` threads (None: one per core).

        `choose`: how it is decided which kernel multiplies weights that are stored as codes or without their zeros.
        "measured": by trying, some 40 ms for each such layer, and this machine remembers; "dense": decoded all;
        "stored": slots where nonzeros are few, else what reads the fewest bytes, with nothing measured.

        Raises ArtefactError if the graph and the tensors do not fit together.
        """
        threads = checked_threads(threads)
        model = quantised(artefact)[0] if artefact.activations else opened(artefact)
        self._prepare(model, threads, Packing(artefact.tensors, choose, threads))
        self.artefact: Artefact | None = artefact

    @classmethod
    def from_onnx(cls, model: str | Path | ModelProto, threads: int | None = None, choose: str = "measured") -> Self:
        """The same for any ONNX file, or model, from one batch to another."""
        session = cls.__new__(cls)
        threads = checked_threads(threads)
        proto = model if isinstance(model, ModelProto) else read_onnx(Path(model))
        session._prepare(OpenModel.of(proto), threads, Packing({}, choose, threads))
        session.artefact = None
        return session

    def _prepare(self, model: OpenModel, threads: int, pack: Packing) -> None:
        self.packing = pack
        self._model = OpenModel(model.proto, model.constants.joined({}))  # as it was: reading notes constants
        self._planned: dict[tuple[int, ...], EngineSession] = {}
        network = read(model)
        if len(network.inputs) != 1 or len(network.outputs) != 1:
            found = f"{len(network.inputs)} inputs and {len(network.outputs)} outputs"
            raise ArtefactError(f"A session's network should lead from one batch to another; this one has {found}.")
        (entry,) = network.inputs
        kind = entry.type.tensor_type.elem_type
        types: dict[int, np.dtype[Any]] = {1: np.dtype(np.float32), 7: np.dtype(np.int64)}
        if kind not in types or not entry.type.tensor_type.shape.dim:
            raise ArtefactError(f"The network should read {' or '.join(INPUT_TYPES)}, in a batch.")
        sides = [side.dim_value if side.dim_value > 0 else None for side in entry.type.tensor_type.shape.dim]
        self.threads = threads
        self.input_type: np.dtype[Any] = types[kind]
        self.input_shape: tuple[int | None, ...] = tuple(sides[1:])
        self._input, self._output, self._batch = entry.name, network.outputs[0].name, sides[0]
        self.plan: Plan = plan(network, OPERATORS, settle)
        try:
            self.stages = _build(self.plan, threads, pack)
        except ValueError as error:
            self.plan = plan(network, {}, settle, f"the engine refuses the network: {error}")
            self.stages = _build(self.plan, threads, pack)
        self.integers = any(grid is not None for grid in self.plan.grids.values())
        """Whether any of it is computed in integers."""
        self._refuses_nan = self.integers and self.input_type == np.float32

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The network's output for a batch of inputs (N, *input_shape) of `input_type`; every N from 1 up.

        Raises DovetailError on another shape or type, and on NaN where the network is computed in integers.
        """
        check_input(x, self.input_type, self.input_shape, self._batch)
        if None in self.input_shape:
            return self._planned_for(x.shape[1:])(x)
        if self._refuses_nan and np.isnan(x.min()):
            raise DovetailError("The input holds NaN, for which a network in integers has no code.")
        values: dict[str, NDArray[Any]] = {self._input: x}
        for stage in self.stages:
            try:
                values.update(zip(stage.outputs, stage(values), strict=True))
            except ValueError as error:
                raise DovetailError(f"The network cannot be run on this input: {error}.") from None
            except MemoryError:
                raise DovetailError(
                    f"There is not enough memory for a batch of {len(x)}; give fewer at a time."
                ) from None
        return values[self._output]

    def _planned_for(self, shape: tuple[int, ...]) -> EngineSession:
        """The same for one shape; the latest is the last."""
        session = self._planned.pop(shape, None)
        if session is None:
            session = type(self).__new__(type(self))
            session._prepare(self._model.of_shape(self._input, shape), self.threads, self.packing)
            session.artefact = None
        self._planned[shape] = session
        for first in list(self._planned)[:-MOST_SHAPES]:
            self._planned.pop(first, None)
        return session

    def _latest(self) -> EngineSession:
        return list(self._planned.values())[-1]

    def describe(self) -> list[Operation]:
        """What is run, in order; where sides of the input are open, for the shape that was run last."""
        if self._planned:
            return self._latest().describe()
        rows = []
        for stage in self.stages:
            if isinstance(stage, ForeignStage):
                shapes = self.plan.network.shapes
                rows += [
                    Operation(f.node.operator, "ONNX Runtime", f.reason, shapes.get(f.node.outputs[0], ()), 0)
                    for f in stage.members
                ]
                continue
            for row, kernel in zip(stage.rows, stage.program.kernels(), strict=True):
                rows.append(Operation(row.layer, kernel, row.why, row.shape, row.weight_bytes))
        return rows

    def memory(self, batch: int = 1) -> Memory:
        """What the activations of a batch need in the engine, its stages one after the other.

        Where sides of the input are open, that is for the shape that was run last.
        """
        if self._planned:
            return self._latest().memory(batch)
        sizes = [stage.program.memory(batch) for stage in self.stages if isinstance(stage, NativeStage)]
        return Memory(max((peak for peak, _ in sizes), default=0), max((bound for _, bound in sizes), default=0))


def checked_threads(threads: int | None) -> int:
    """How many threads to run on. Raises DovetailError unless there are 1 to MOST_THREADS."""
    if threads is None:
        return min(os.cpu_count() or 1, MOST_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise DovetailError(f"A session runs on 1 to {MOST_THREADS} threads, got threads={threads!r}.")
    return threads


def _build(plan: Plan, threads: int, pack: Packing) -> list[NativeStage | ForeignStage]:
    return [
        NativeStage(plan, stage, threads, pack) if stage.native else ForeignStage(plan.network, stage, threads)
        for stage in cut_stages(plan)
    ]


def read_onnx(path: Path) -> ModelProto:
    """The model in a file. Raises ArtefactError if there is none."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist.") from None
    except (OSError, DecodeError) as error:
        raise ArtefactError(f"{path} cannot be read as an ONNX model: {error}.") from None
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        raise ArtefactError(f"{path} refers to another file for its weights, which is never followed.")
    return model
