"""Building a native program from layers: which tensors there are, where they lie, and in which form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.runtime.engine.layers import (
    Box,
    Convolution,
    Copy,
    Elementwise,
    Epilogue,
    Layer,
    Layout,
    Normalise,
    Place,
    Pool,
    Product,
    Recurrent,
    Resize,
    axis_steps,
    sides,
    whole,
)
from dovetail.runtime.engine.planner import Plan
from dovetail.runtime.engine.stages import Stage
from dovetail.runtime.engine.weights import Pack

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """What is known of one operation of a program."""

    layer: str
    why: str
    shape: tuple[int, ...]
    weight_bytes: int


class NativeStage:
    """A native program and what it is fed."""

    def __init__(self, plan: Plan, stage: Stage, threads: int, pack: Pack) -> None:
        """Raises ValueError where the engine refuses a layer."""
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self.rows: list[Row] = []
        self._shapes = [plan.network.shapes[name] for name in stage.outputs]
        self.program = _native.Program(threads)
        Builder(plan, self.program, stage, self.rows, pack).build()

    def __call__(self, values: Mapping[str, NDArray[np.float32]]) -> list[Float]:
        """Raises ValueError on NaN where codes are wanted."""
        given = [np.ascontiguousarray(values[name]) for name in self.inputs]
        made = [np.empty((len(given[0]), *shape), np.float32) for shape in self._shapes]
        self.program.run(len(given[0]), given, made)
        return made


class Builder:
    """Tells a program what it consists of."""

    def __init__(self, plan: Plan, program: _native.Program, stage: Stage, rows: list[Row], pack: Pack) -> None:
        self.plan, self.program, self.stage, self.rows, self.pack = plan, program, stage, rows, pack
        self.ids: dict[tuple[str, Layout, bool], int] = {}
        self.external: dict[str, int] = {}
        self.borders: dict[str, int] = {}

    def build(self) -> None:
        for name in self.stage.inputs:
            self.external[name] = self.program.external(math.prod(self.plan.network.shapes[name]))
        layers = [member for member in self.stage.members if isinstance(member, Layer)]
        for layer in layers:
            root = self.plan.root(layer.inputs[0])
            self.borders[root] = max(self.borders.get(root, 0), layer.border)
        for layer in layers:
            self.emit(layer)
        for name in self.stage.outputs:
            self.export(name)

    def emit(self, layer: Layer) -> None:
        grids = [self.plan.grid(name) for name in layer.inputs]
        if isinstance(layer, Copy):
            sources = [self.source(name) for name in layer.inputs]
            steps = [
                axis_steps(shape, layout) if layout is not None else _dense_steps(shape)
                for shape, (_, layout) in zip(layer.shapes, sources, strict=True)
            ]
            self.copy(layer, [tensor for tensor, _ in sources], steps, self.make(layer.output, layer.layout))
            return
        codes = layer.takes_codes(grids)
        reads = [self.tensor(name, layer.reading_layout, codes) for name in layer.inputs]
        if layer.epilogue.residual is not None:
            reads.append(self.tensor(layer.epilogue.residual, layer.layout))
        write = self.make(layer.output, layer.layout)
        if isinstance(layer, Convolution):
            self.convolve(layer, reads, write)
            return
        epilogue = layer.epilogue.native()
        match layer:
            case Elementwise():
                self.program.elementwise(reads, write, layer.arithmetic, epilogue)
            case Pool():
                after = list(layer.padding_after)
                self.program.pool(reads[0], write, list(layer.window), after, layer.kind, epilogue)
            case Product():
                self.program.product(reads, write, epilogue)
            case Normalise():
                self.program.normalise(
                    reads[0], write, layer.kind, layer.epsilon, layer.beside, layer.response, epilogue
                )
            case Recurrent():
                directions = [(d.weights.reshape(-1), d.h, d.c, d.bias, d.backward) for d in layer.directions]
                self.program.recurrent(reads[0], write, layer.kind, directions)
            case Resize():
                self.program.resize(reads[0], write, layer.rows, layer.columns, epilogue)
            case _:
                raise AssertionError(layer)
        weights = layer.directions if isinstance(layer, Recurrent) else []
        self.rows.append(Row(layer.name, layer.operator, layer.shape, sum(one.weights.nbytes for one in weights)))

    def convolve(self, layer: Convolution, reads: list[int], write: int) -> None:
        rows, columns, _ = sides(self.plan.shape(layer.inputs[0]), layer.reading_layout)
        packed = self.pack(layer, (rows, columns), self.plan.often_zero(layer.inputs[0]))
        why = f"{layer.operator}: {packed.why}" if packed.why else layer.operator
        self.rows.append(Row(layer.name, why, layer.shape, packed.weights.bytes))  # the program takes the weights over
        epilogue = layer.epilogue.native(packed.scale)
        self.program.convolution(reads, write, list(layer.window), packed.weights, epilogue)

    def make(self, value: str, layout: Layout, codes: bool = True) -> int:
        """A new tensor for a value."""
        grid = self.plan.grid(value) if codes else None
        rows, columns, channels = sides(self.plan.shape(value), layout)
        border = self.borders.get(value, 0)
        scale, zero = (1.0, 0) if grid is None else (grid.scale, grid.zero)
        tensor: int = self.program.tensor(grid is not None, rows, columns, channels, border, scale, zero)
        self.ids[value, layout, codes] = tensor
        return tensor

    def source(self, value: str) -> tuple[int, Layout | None]:
        """A value as it lies already, or an array from outside, which has no layout of its own."""
        layout = self.plan.layout(value)
        if value in self.external and not any(key[:2] == (value, layout) for key in self.ids):
            return self.external[value], None
        return self.tensor(value, layout), layout

    def tensor(self, value: str, layout: Layout, codes: bool = True) -> int:
        """A value that lies as told, in codes if it has a grid and `codes`; made from how it lies if it must be."""
        codes = codes or self.plan.grid(value) is None
        root, own = self.plan.root(value), self.plan.layout(value)
        if root != value and layout is own:
            return self.tensor(root, self.plan.views[value].source_layout, codes)
        if (value, layout, codes) in self.ids:
            return self.ids[value, layout, codes]
        shape = self.plan.shape(value)
        source, lies = self.source(value)
        steps = _dense_steps(shape) if lies is None else axis_steps(shape, lies)
        layer = Copy(f"layout of {value}", "", [value], value, shape, layout, boxes=[[whole(shape)]], shapes=[shape])
        self.copy(layer, [source], [steps], self.make(value, layout, codes))
        return self.ids[value, layout, codes]

    def copy(self, layer: Copy, reads: list[int], steps: list[list[Place]], write: int) -> None:
        self._copy(layer, reads, steps, write, axis_steps(layer.shape, layer.layout))

    def _copy(self, layer: Copy, reads: list[int], steps: list[list[Place]], write: int, to: list[Place]) -> None:
        boxes = [[_native_box(box, way, to) for box in part] for part, way in zip(layer.boxes, steps, strict=True)]
        limits = Epilogue(grid=layer.epilogue.grid).limits()
        self.program.copy(reads, write, boxes, *limits)
        self.rows.append(Row(layer.name, layer.operator, layer.shape, 0))

    def export(self, value: str) -> None:
        shape = self.plan.shape(value)
        layout = self.plan.layout(value)
        layer = Copy(f"output {value}", "", [value], value, shape, layout, boxes=[[whole(shape)]], shapes=[shape])
        write = self.program.external(math.prod(shape))
        source = self.tensor(value, layout)
        self._copy(layer, [source], [axis_steps(shape, layout)], write, _dense_steps(shape))


def _dense_steps(shape: tuple[int, ...]) -> list[Place]:
    """Of an array in C order, taken as one vector."""
    return [(0, 0, math.prod(shape[axis + 1 :])) for axis in range(len(shape))]


def _native_box(
    box: Box, source: list[Place], target: list[Place]
) -> tuple[Place, Place, list[tuple[int, Place, Place]]]:
    loops = [(loop.count, _place(loop.source, source), _place(loop.target, target)) for loop in box.loops]
    return _place(box.source, source), _place(box.target, target), loops


def _place(way: tuple[int, ...], steps: list[Place]) -> Place:
    """A way along a value's axes as rows, columns and channels."""
    row, column, channel = (sum(n * step[k] for n, step in zip(way, steps, strict=True)) for k in range(3))
    return row, column, channel
