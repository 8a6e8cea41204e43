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
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from dovetail import _native
from dovetail.errors import ArtefactError, DovetailError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.constants import OpenModel
from dovetail.runtime.engine.building import NativeStage
from dovetail.runtime.engine.functions import FUNCTIONS
from dovetail.runtime.engine.moved import settle
from dovetail.runtime.engine.moving import MOVING
from dovetail.runtime.engine.network import Network, read
from dovetail.runtime.engine.operators import COMPUTING
from dovetail.runtime.engine.planner import LACKING, Foreign, Plan, Translate, plan
from dovetail.runtime.engine.recurrent import RECURRENT
from dovetail.runtime.engine.shapes import batch_axes
from dovetail.runtime.engine.signs import multiply_signs
from dovetail.runtime.engine.stages import Stage, cut_stages
from dovetail.runtime.engine.transposed import TRANSPOSED
from dovetail.runtime.engine.weights import Packing
from dovetail.runtime.qdq import quantised
from dovetail.runtime.session import REFUSALS, Input, first_line, opened

OPERATORS = COMPUTING | FUNCTIONS | MOVING | RECURRENT | TRANSPOSED
"""The operators that the engine has, and Round: QuantizeLinear and DequantizeLinear in one."""

MOST_THREADS = 256
MOST_SHAPES = 8
"""Plans that a session keeps where sides of its inputs are open."""

UNPLANNED = "there is no plan for inputs that are empty, or change their shapes with every call"
Shapes = tuple[tuple[int | None, ...], ...]


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

    `inputs`: what it reads; `outputs`: the names of what it gives. A network of one each is called like a function, any
    other by `run`. An ONNX network that leaves sides of its inputs open is planned for the shapes it is given; the last
    plans are kept.
    """

    def __init__(self, artefact: Artefact, threads: int | None = None, choose: str = "measured") -> None:
        """Plan the artefact's network for `threads` threads (None: one per core).

        `choose`: how it is decided which kernel multiplies weights that are stored as codes or without their zeros.
        "measured": by trying, some 40 ms for each such layer and each large one that reads a vector behind a ReLU, and
        this machine remembers; "dense": decoded all; "stored": slots where nonzeros are few, else what reads the fewest
        bytes, with nothing measured.

        Raises ArtefactError if the graph and the tensors do not fit together.
        """
        threads = checked_threads(threads)
        model = quantised(artefact)[0] if artefact.activations else opened(artefact)
        self._prepare(model, threads, Packing(artefact.tensors, choose, threads))
        self.artefact: Artefact | None = artefact

    @classmethod
    def from_onnx(cls, model: str | Path | ModelProto, threads: int | None = None, choose: str = "measured") -> Self:
        """The same for any ONNX file, or model."""
        session = cls.__new__(cls)
        threads = checked_threads(threads)
        proto = model if isinstance(model, ModelProto) else read_onnx(Path(model))
        session._prepare(OpenModel.of(proto), threads, Packing({}, choose, threads))
        session.artefact = None
        return session

    def _prepare(
        self, model: OpenModel, threads: int, pack: Packing, operators: Mapping[str, Translate] = OPERATORS
    ) -> None:
        """Without `operators` one plan is for all shapes, and all of it ONNX Runtime's."""
        try:
            _native.level()
        except ValueError as error:  # else it would seem to be the network that the engine refuses
            raise DovetailError(f"{error}.") from None
        self.packing = pack
        self._model = OpenModel(model.proto, model.constants.joined({}))  # as it was: reading notes constants
        self._planned: dict[Shapes, EngineSession] = {}
        self._general: EngineSession | None = None
        self._recent: tuple[Shapes, EngineSession] | None = None
        network = read(model)
        axes = batch_axes(network.inputs)
        self.inputs = tuple(_input(value, axes.get(value.name)) for value in network.inputs)
        self.outputs = tuple(value.name for value in network.outputs)
        self._open = bool(operators) and any(None in entry.one for entry in self.inputs)
        self.threads = threads
        self.plan: Plan = plan(network, operators, settle, LACKING if operators else UNPLANNED)
        multiply_signs(self.plan)
        try:
            self.stages = _build(self.plan, threads, pack)
        except ValueError as error:
            self.plan = plan(network, {}, settle, f"the engine refuses the network: {error}")
            self.stages = _build(self.plan, threads, pack)
        self._bits = min((grid.bits for grid in self.plan.grids.values() if grid is not None), default=None)

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The output for a batch, of a network that has one input and one output; every batch from 1 up.

        Raises as `run` does, and where there are more of them.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            reads = ", ".join(entry.name for entry in self.inputs)
            raise DovetailError(
                f"The network reads {reads or 'nothing'} and gives {', '.join(self.outputs)}: call run with each by "
                "its name."
            )
        return self.run({self.inputs[0].name: x})[self.outputs[0]]

    def run(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by their names, for all inputs by theirs.

        Raises DovetailError on another name, shape or type, and on NaN where the network is computed in integers.
        """
        batches = self._checked(given)
        if self._open:
            return self._planned_for(given).run(given)
        if self._bits is not None and any(x.dtype.kind == "f" and np.isnan(x.min()) for x in given.values()):
            raise DovetailError("The input holds NaN, for which a network in integers has no code.")
        values: dict[str, NDArray[Any]] = dict(given)
        for stage in self.stages:
            try:
                values.update(zip(stage.outputs, stage(values), strict=True))
            except ValueError as error:
                raise DovetailError(f"The network cannot be run on this input: {error}.") from None
            except MemoryError:
                raise DovetailError(
                    f"There is not enough memory for a batch of {max(batches, default=1)}; give fewer at a time."
                ) from None
        fixed = self.plan.network.constants
        return {name: values[name] if name in values else fixed[name] for name in self.outputs}

    def _checked(self, given: Mapping[str, NDArray[Any]]) -> set[int]:
        """The size of the batch; none where no input has any."""
        if len(given) != len(self.inputs) or any(entry.name not in given for entry in self.inputs):
            wanted = ", ".join(entry.name for entry in self.inputs)
            raise DovetailError(f"The network reads {wanted}; got {', '.join(map(str, given)) or 'nothing'}.")
        for entry in self.inputs:
            several = len(self.inputs) > 1  # of several one may be empty, as a decoder's cache is at first
            entry.check(given[entry.name], f"Input {entry.name}" if several else "A session's input", several)
        batches = {given[entry.name].shape[entry.batch] for entry in self.inputs if entry.batch is not None}
        if len(batches) > 1:
            raise DovetailError(f"The inputs are of batches of {sorted(batches)}; give as many of each.")
        return batches

    def _planned_for(self, given: Mapping[str, NDArray[Any]]) -> EngineSession:
        """The same for the shapes of these inputs.

        Once there are MOST_SHAPES plans, another is made only for shapes that come twice in a row: a decoder's cache,
        which grows with every call, would be planned for ever.
        """
        shapes = {
            entry.name: tuple(
                None if axis == entry.batch else side for axis, side in enumerate(given[entry.name].shape)
            )
            for entry in self.inputs
        }
        key = tuple(shapes.values())
        session = self._planned.pop(key, None)
        again = self._recent is not None and self._recent[0] == key
        fits = session is not None or len(self._planned) < MOST_SHAPES or again
        if any(0 in shape for shape in key) or not fits:
            session = self._general = self._general or self._made(self._model.of_shapes({}), {})
        else:
            session = self._planned[key] = session or self._made(self._model.of_shapes(shapes), OPERATORS)
            for first in list(self._planned)[:-MOST_SHAPES]:
                self._planned.pop(first, None)
        self._recent = key, session
        return session

    def _made(self, model: OpenModel, operators: Mapping[str, Translate]) -> EngineSession:
        session = type(self).__new__(type(self))
        session._prepare(model, self.threads, self.packing, operators)
        session.artefact = None
        return session

    @property
    def bits(self) -> int | None:
        """The fewest bits of a value between layers, None if nothing is computed in integers; where sides of the
        inputs are open, for what was run last."""
        return self._bits if self._recent is None else self._recent[1].bits

    def describe(self) -> list[Operation]:
        """What is run, in order; where sides of the inputs are open, for what was run last."""
        if self._recent is not None:
            return self._recent[1].describe()
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

        Where sides of the inputs are open, that is for what was run last.
        """
        if self._recent is not None:
            return self._recent[1].memory(batch)
        sizes = [stage.program.memory(batch) for stage in self.stages if isinstance(stage, NativeStage)]
        return Memory(max((peak for peak, _ in sizes), default=0), max((bound for _, bound in sizes), default=0))


def _input(value: ValueInfoProto, batch: int | None) -> Input:
    """Raises ArtefactError where no array of numpy's holds what the network reads."""
    tensor = value.type.tensor_type
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    if kind is None or kind.kind not in "biuf":
        raise ArtefactError(f"The network's input {value.name} is no tensor of numbers, which a session reads.")
    shape = tuple(side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim)
    return Input(value.name, kind, shape, batch)


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
