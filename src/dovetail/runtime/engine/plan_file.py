"""Writing a network as a plan, which the C interface runs without Python.

csrc/engine/plan.hpp says how it lies in the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from dovetail import _native
from dovetail.errors import ArtefactError
from dovetail.runtime.artefact import Artefact
from dovetail.runtime.engine.building import Builder, Float
from dovetail.runtime.engine.layers import Place
from dovetail.runtime.engine.plan_weights import Written, WrittenWeights
from dovetail.runtime.engine.planner import Foreign
from dovetail.runtime.engine.session import EngineSession
from dovetail.runtime.engine.stages import cut_stages
from dovetail.runtime.engine.weights import Packing
from dovetail.runtime.files import write_atomically

MAGIC, VERSION = b"DVTPLAN\0", 5


class Record(IntEnum):
    """As in csrc/engine/plan.hpp."""

    TENSOR, EXTERNAL, CONVOLUTION, ELEMENTWISE, POOL, NORMALISE, RESIZE, COPY, RECURRENT, PRODUCT = range(10)


def export_plan(artefact: Artefact, path: str | Path) -> None:
    """Write the artefact as a plan, at once or not at all. Weights lie in it as they are stored: it is the same plan on
    every machine.

    Raises ArtefactError if the engine lacks an operator of it, as nothing else runs a plan.
    """
    write_atomically(Path(path), plan_bytes(EngineSession(artefact, threads=1, choose="stored")))


def plan_bytes(session: EngineSession) -> bytes:
    """The network of a session as a plan, with the same kernels.

    Raises ArtefactError if the engine lacks an operator of it.
    """
    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise ArtefactError("A plan leads from one batch to another; run a network of several from Python.")
    lacking = [f"{f.node.operator} ({f.reason})" for f in session.plan.layers if isinstance(f, Foreign)]
    stages = cut_stages(session.plan)
    if lacking or len(stages) != 1:
        raise ArtefactError(
            f"A plan holds only what the engine runs itself, and it lacks {', '.join(dict.fromkeys(lacking))}: "
            "export to onnx, or run the artefact from Python, where ONNX Runtime does the rest."
        )
    (stage,) = stages
    recorder = Recorder()
    for name in (*stage.inputs, *stage.outputs):
        recorder.numbers(session.plan.network.shapes[name], "<i4")
    chosen = session.packing
    packing = Packing(chosen.tensors, chosen.choose, chosen.threads, WrittenWeights(), chosen.kernels)
    Builder(session.plan, cast(_native.Program, recorder), stage, [], packing).build()
    body = b"".join(recorder.parts)
    return MAGIC + struct.pack("<IIQ", VERSION, zlib.crc32(body), len(body)) + body


class Recorder:
    """Takes a native program's place, and writes down what it is told."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._tensors = 0

    def integers(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}i", *values))

    def floats(self, *values: float) -> None:
        self.parts.append(struct.pack(f"<{len(values)}f", *values))

    def numbers(self, values: ArrayLike, kind: str) -> None:
        """A list of any length."""
        array = np.ascontiguousarray(values, kind)
        self.parts += [struct.pack("<I", array.size), array.tobytes()]

    def begin(self, record: Record) -> None:
        self.parts.append(bytes([record]))

    def epilogue(self, epilogue: _native.Epilogue) -> None:
        self.numbers(epilogue.scale, "<f4")
        self.numbers(epilogue.bias, "<f4")
        self.numbers(epilogue.residual, "<f4")
        self.floats(*epilogue.rounding)
        self.integers(epilogue.activation)
        self.numbers(epilogue.slopes, "<f4")
        self.floats(epilogue.low, epilogue.high)

    def _tensor(self) -> int:
        self._tensors += 1
        return self._tensors - 1

    def tensor(self, bytes: bool, rows: int, columns: int, channels: int, border: int, scale: float, zero: int) -> int:
        self.begin(Record.TENSOR)
        self.integers(bytes, rows, columns, channels, border)
        self.floats(scale)
        self.integers(zero)
        return self._tensor()

    def external(self, values: int) -> int:
        self.begin(Record.EXTERNAL)
        self.integers(values)
        return self._tensor()

    def copy(
        self,
        reads: list[int],
        write: int,
        boxes: list[list[tuple[Place, Place, list[tuple[int, Place, Place]]]]],
        low: float,
        high: float,
    ) -> None:
        self.begin(Record.COPY)
        self.integers(write)
        self.numbers(reads, "<i4")
        for of_input in boxes:
            self.integers(len(of_input))
            for source, target, loops in of_input:
                self.integers(*source, *target, len(loops))
                for count, step, other_step in loops:
                    self.integers(count, *step, *other_step)
        self.floats(low, high)

    def convolution(
        self, reads: list[int], write: int, window: list[int], weights: Written, epilogue: _native.Epilogue
    ) -> None:
        self.begin(Record.CONVOLUTION)
        self.integers(reads[0], write, *window)
        self.parts.append(weights.content)
        self.epilogue(epilogue)
        self.integers(*reads[1:])

    def elementwise(self, reads: list[int], write: int, arithmetic: int, epilogue: _native.Epilogue) -> None:
        self.begin(Record.ELEMENTWISE)
        self.integers(reads[0], write, arithmetic, *reads[1:])
        self.epilogue(epilogue)

    def product(self, reads: list[int], write: int, epilogue: _native.Epilogue) -> None:
        self.begin(Record.PRODUCT)
        self.integers(*reads[:2], write)
        self.epilogue(epilogue)
        self.integers(*reads[2:])

    def pool(
        self, read: int, write: int, window: list[int], after: list[int], kind: int, epilogue: _native.Epilogue
    ) -> None:
        self.begin(Record.POOL)
        self.integers(read, write, *window, *after, kind)
        self.epilogue(epilogue)

    def normalise(
        self,
        read: int,
        write: int,
        kind: int,
        epsilon: float,
        beside: tuple[int, int],
        response: tuple[float, float, float],
        epilogue: _native.Epilogue,
    ) -> None:
        self.begin(Record.NORMALISE)
        self.integers(read, write, kind, *beside)
        self.floats(epsilon, *response)
        self.epilogue(epilogue)

    def recurrent(
        self, read: int, write: int, kind: int, directions: Sequence[tuple[Float, Float, Float, Float, bool]]
    ) -> None:
        self.begin(Record.RECURRENT)
        self.integers(read, write, kind, len(directions))
        for *arrays, backward in directions:
            for array in arrays:
                self.numbers(array, "<f4")
            self.integers(backward)

    def resize(
        self,
        read: int,
        write: int,
        rows: Sequence[tuple[int, int, float]],
        columns: Sequence[tuple[int, int, float]],
        epilogue: _native.Epilogue,
    ) -> None:
        self.begin(Record.RESIZE)
        self.integers(read, write)
        for side in (rows, columns):
            self.integers(len(side))
            self.parts += [struct.pack("<iif", *place) for place in side]
        self.epilogue(epilogue)
