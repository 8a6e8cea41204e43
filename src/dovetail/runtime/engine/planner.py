"""From a network's nodes to layers: each node becomes a layer, or part of the one before it, or is left to others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dovetail.runtime.engine.layers import (
    Activation,
    Arithmetic,
    Array,
    Convolution,
    Copy,
    Elementwise,
    Epilogue,
    Layer,
    Layout,
    Pool,
    after,
    axis_steps,
    natural,
    whole,
)
from dovetail.runtime.engine.network import Network
from dovetail.runtime.engine.node import Grid, Node

SEVERAL = {"GRU", "LSTM", "Split"}
"""Operators of which other outputs than the first are known."""

LACKING = "the engine has no such operator"

LARGEST = 2**28
"""Numbers that an image's value may have: offsets in it are 32-bit integers."""


class Lacking(Exception):  # noqa: N818 - not an error: something else runs the node
    """What the engine lacks for a node."""


@dataclass(eq=False)
class Foreign:
    """A node that is not the engine's, and why."""

    node: Node
    reason: str

    @property
    def reads(self) -> list[str]:
        return [name for name in (*self.node.inputs, *self.node.captured) if name]

    @property
    def outputs(self) -> list[str]:
        return [name for name in self.node.outputs if name]


@dataclass(frozen=True)
class View:
    """A value that is another one in memory: it lies as `layout` says if `source` lies as `source_layout` says."""

    source: str
    source_layout: Layout
    layout: Layout


@dataclass(frozen=True)
class Axis:
    """`side` values, each a `step` along the axes of another value from the one before."""

    side: int
    step: tuple[int, ...]


@dataclass(frozen=True)
class Moved:
    """A value whose numbers are some of `source`, from `start` on; its axes, with None for the batch. See moved.py."""

    source: str
    start: tuple[int, ...]
    axes: tuple[Axis | None, ...]


@dataclass
class Plan:
    """Layers in an order in which they can run."""

    network: Network
    layers: list[Layer | Foreign] = field(default_factory=list)
    makers: dict[str, Layer] = field(default_factory=dict)
    grids: dict[str, Grid | None] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    moved: dict[str, Moved] = field(default_factory=dict)

    @property
    def ends(self) -> set[str]:
        """The network's outputs."""
        return {value.name for value in self.network.outputs}

    def shape(self, value: str) -> tuple[int, ...]:
        """Of one image. Values of more than three dimensions are not the engine's."""
        if not value or value not in self.network.shapes:
            raise Lacking("an input is a constant, or has no shape that only its batch leaves open")
        if len(shape := self.network.shapes[value]) > 3:
            raise Lacking("a value has more than three dimensions beside the batch")
        if math.prod(shape) > LARGEST:
            raise Lacking(f"a value of {math.prod(shape)} numbers for each image")
        return shape

    def layout(self, value: str) -> Layout:
        """How a value lies, or should if it does not yet."""
        if value in self.views:
            return self.views[value].layout
        return self.makers[value].layout if value in self.makers else natural(self.shape(value))

    def root(self, value: str) -> str:
        return self.views[value].source if value in self.views else value

    def grid(self, value: str) -> Grid | None:
        return self.grids.get(self.root(value))

    def often_zero(self, value: str) -> bool:
        """Whether many of its numbers may be expected to be zero: what a ReLU has passed, or the largest of such."""
        maker = self.makers.get(self.root(value))
        if maker is None:
            return False
        if isinstance(maker, Copy) or (isinstance(maker, Pool) and maker.kind == 0):
            return all(self.often_zero(name) for name in maker.inputs)
        end = maker.epilogue
        return end.activation is Activation.RELU or (end.activation is Activation.NONE and end.limits()[0] == 0)

    def add(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.note(layer)

    def copy(self, layer: Copy) -> None:
        """The same for a copy; of what another copy chose it takes its part from where that had it."""
        before = self.only_reading(layer.inputs[0]) if len(layer.inputs) == 1 else None
        if not isinstance(before, Copy) or not before.chooses:
            return self.add(layer)
        ((chosen,),) = before.boxes
        before.boxes = [[after(chosen, box) for box in layer.boxes[0]]]
        before.operator = before.name = f"{before.operator}, {layer.operator}"
        before.shape, before.layout = layer.shape, layer.layout
        self.extend(before, layer.output)
        return None

    def note(self, layer: Layer) -> None:
        """That a layer makes what it makes, on which grid."""
        self.makers[layer.output] = layer
        self.grids[layer.output] = layer.output_grid([self.grid(name) for name in layer.inputs])

    def between(self, node: Node) -> str:
        """A new value of the shape of a node's output, which one layer makes for another of the same node."""
        (output,) = node.outputs
        name = f"{output} in between"
        self.network.shapes[name], self.network.readers[name] = self.shape(output), 1
        return name

    def growing(self, value: str) -> Layer | None:
        """The layer that makes a value, if what the value's only reader does can become part of it."""
        return self.makers.get(value) if self.network.readers.get(value) == 1 else None

    def only_reading(self, value: str) -> Layer | None:
        """The same where `value` may be a view in which everything lies as it did."""
        root = self.root(value)
        views = {name: view for name, view in self.views.items() if view.source == root}
        for name, view in views.items():
            alike = view.layout is view.source_layout and self.shape(name) == self.shape(root)
            if not alike or self.network.readers.get(name) != 1:
                return None
        elsewhere = (name for name, moved in self.moved.items() if moved.source == root)
        return None if any(self.network.readers.get(name) != 1 for name in elsewhere) else self.growing(root)

    def extend(self, layer: Layer, output: str) -> None:
        """Let a layer make `output`, having taken in what comes between. It runs when all it reads is there."""
        del self.makers[layer.output], self.grids[layer.output]
        self.layers.remove(layer)
        layer.output = output
        self.add(layer)

    def view(self, output: str, source: str) -> bool:
        """Let `output` be `source` in memory, if every value of theirs can lie in the same place."""
        root = self.root(source)
        if root not in self.makers:
            return False
        shape, own = self.shape(source), self.layout(source)
        if self.root(source) != source and self.views[source].layout is not own:
            return False
        steps = self._steps(shape, own)
        new = self.shape(output)
        for layout in (own, Layout.FIRST, Layout.LAST) if len(new) > 1 else (Layout.LAST,):
            if self._steps(new, layout) == steps:
                self.views[output] = View(root, self.layout(root), layout)
                return True
        return False

    @staticmethod
    def _steps(shape: tuple[int, ...], layout: Layout) -> list[tuple[int, tuple[int, int, int]]]:
        return [(side, step) for side, step in zip(shape, axis_steps(shape, layout), strict=True) if side > 1]

    def transposed_view(self, output: str, source: str, order: tuple[int, ...]) -> bool:
        """The same for a transposition that makes the first axis the last, or the other way round."""
        rank, own = len(order), self.layout(source)
        turned = {Layout.FIRST: (*range(1, rank), 0), Layout.LAST: (rank - 1, *range(rank - 1))}
        if rank < 2 or self.root(source) not in self.makers or order != turned[own]:
            return False
        other = Layout.LAST if own is Layout.FIRST else Layout.FIRST
        self.views[output] = View(self.root(source), self.layout(self.root(source)), other)
        return True


Translate = Callable[[Plan, Node], None]


def plan(
    network: Network,
    operators: Mapping[str, Translate],
    settle: Callable[[Plan, str], None],
    otherwise: str = LACKING,
) -> Plan:
    """With the operators given; `otherwise` is why others are not the engine's; `settle` makes what these read."""
    result = Plan(network)
    for node in network.nodes:
        translate = operators.get(node.operator)
        try:
            if translate is None or any(proto.domain not in ("", "ai.onnx") for proto in node.protos):
                raise Lacking(otherwise)
            read = [name for name in node.outputs if name in network.readers]
            if any(name not in network.known.whole for name in read):
                raise Lacking("its output has no shape that only its batch leaves open")
            if node.operator not in SEVERAL and read != [*node.outputs[:1]]:
                raise Lacking("it has more than one output")
            translate(result, node)
        except (
            Lacking,
            ValueError,
            KeyError,
            IndexError,
        ) as reason:  # what ONNX's checker lets through may be anything
            foreign = Foreign(node, str(reason))
            _settle(result, foreign.reads, settle)
            result.layers.append(foreign)
    _settle(result, [value.name for value in network.outputs], settle)
    result.layers = _needed(result)
    return result


def _settle(plan: Plan, values: Iterable[str], settle: Callable[[Plan, str], None]) -> None:
    made = {name for member in plan.layers if isinstance(member, Foreign) for name in member.outputs}
    for value in dict.fromkeys(values):
        if value in plan.moved and value not in made:
            settle(plan, value)


def _needed(plan: Plan) -> list[Layer | Foreign]:
    """All layers, and of the nodes that are not the engine's those that something still depends on."""
    needed = {value.name for value in plan.network.outputs}
    kept: list[Layer | Foreign] = []
    for member in reversed(plan.layers):
        if isinstance(member, Layer) or needed.intersection(member.outputs):
            kept.append(member)
            needed.update(member.reads)
    return kept[::-1]


def round_value(plan: Plan, node: Node) -> None:
    """Put a value on a grid of codes: where it is made, if nothing else reads it as it is."""
    if node.grid is None:
        raise Lacking("a rounding to whole numbers")
    (value,), (output,) = node.inputs, node.outputs
    shape, own = plan.shape(value), plan.grid(value)
    if own is not None and node.grid.holds(own) and plan.view(output, value):
        return
    maker = plan.growing(value)
    if maker is not None and maker.epilogue.grid is None and not (isinstance(maker, Pool) and maker.kind == 0):
        maker.epilogue.grid = node.grid
        plan.extend(maker, output)
        return
    name = f"rounding of {value}"
    if plan.root(value) in plan.makers:
        layer: Layer = Elementwise(name, "Round", [value], output, shape, plan.layout(value))
    else:
        layer = Copy(name, "Round", [value], output, shape, natural(shape), boxes=[[whole(shape)]], shapes=[shape])
    layer.epilogue.grid = node.grid
    plan.add(layer)


def activate(plan: Plan, node: Node, activation: Activation, **settings: Any) -> None:
    """An activation, at the end of the layer that makes its input if it can be; `settings`: of the epilogue, too."""
    value, output = node.inputs[0], node.outputs[0]
    layer = _with_epilogue(plan, value)
    if layer is None:
        shape = plan.shape(value)
        layer = Elementwise(node.operator, node.operator, [value], output, shape, plan.layout(value))
        layer.epilogue = Epilogue(activation=activation, **settings)
        return plan.add(layer)
    layer.epilogue = replace(layer.epilogue, activation=activation, **settings)
    return plan.extend(layer, output)


def choose(plan: Plan, node: Node) -> None:
    """One of two numbers by the sign of a value, at the end of the layer that makes it if that can be."""
    if "low" not in node.attributes:
        raise Lacking("a choice by something else than a sign, or of other than two numbers")
    activate(plan, node, Activation.STEP, **{name: node.attributes[name] for name in ("low", "high", "grid")})


def limit(plan: Plan, node: Node, low: float, high: float) -> None:
    """Cut off what is below or above, at the end of the layer before if it can be."""
    value, output = node.inputs[0], node.outputs[0]
    maker = plan.growing(value)
    if maker is None or isinstance(maker, Copy | Pool) or not maker.epilogue.unlimited:
        maker = Elementwise(node.operator, node.operator, [value], output, plan.shape(value), plan.layout(value))
        maker.epilogue = replace(maker.epilogue, low=low, high=high)
        plan.add(maker)
        return
    maker.epilogue.low, maker.epilogue.high = low, high
    plan.extend(maker, output)


def affine(plan: Plan, node: Node, value: str, scale: Array, bias: Array, layout: Layout | None) -> None:
    """value * scale + bias, of one number for each channel or for all; `layout`: where the channels must be, if so."""
    output, shape = node.outputs[0], plan.shape(value)
    if (chooser := _choosing(plan, value)) is not None and scale.size == bias.size == 1 and 0 < scale.item() < math.inf:
        low, high = (number * scale.item() + bias.item() for number in (chooser.epilogue.low, chooser.epilogue.high))
        chooser.epilogue = replace(chooser.epilogue, low=low, high=high)
        return plan.extend(chooser, output)
    layer = _with_epilogue(plan, value)
    if layer is None or not layer.linear or layout not in (None, layer.layout):
        own = plan.layout(value) if layout is None else layout
        layer = Elementwise(node.operator, node.operator, [value], output, shape, own)
        _scale(layer, scale, bias)
        return plan.add(layer)
    _scale(layer, scale, bias)
    return plan.extend(layer, output)


def _choosing(plan: Plan, value: str) -> Layer | None:
    """The layer that makes a value, if all that is left to do to it is to make two numbers others."""
    maker = plan.growing(value)
    chooses = maker is not None and maker.epilogue.activation is Activation.STEP and maker.epilogue.grid is None
    return maker if chooses else None


def _scale(layer: Layer, scale: Array, bias: Array) -> None:
    channels = layer.shape[layer.layout]
    old = layer.epilogue
    factor = old.scale if len(old.scale) else np.ones(channels)
    shift = old.bias if len(old.bias) else np.zeros(channels)
    old.scale, old.bias = (
        np.broadcast_to(factor * scale, (channels,)),
        np.broadcast_to(shift * scale + bias, (channels,)),
    )
    if old.residual is not None:
        old.residual_factors = old.residual_factors * scale


def _with_epilogue(plan: Plan, value: str) -> Layer | None:
    """The layer that makes a value, if it can still have an activation."""
    maker = plan.growing(value)
    bare = maker is None or isinstance(maker, Copy) or (isinstance(maker, Pool) and maker.kind == 0)
    return None if maker is None or bare or not maker.epilogue.open else maker


def add_values(plan: Plan, node: Node) -> bool:
    """The sum of two values of one shape, in the convolution that makes one of them; whether there is one."""
    first, second = node.inputs
    if plan.shape(first) != plan.shape(second) or first == second:
        return False
    order = {layer.output: i for i, layer in enumerate(plan.layers) if isinstance(layer, Layer)}
    for value, other in sorted(((first, second), (second, first)), key=lambda pair: -order.get(pair[0], -1)):
        maker = plan.growing(value)
        if isinstance(maker, Convolution) and maker.epilogue.adds_on and maker.layout is plan.layout(other):
            ends, ones = maker.epilogue, np.ones(maker.shape[maker.layout])
            maker.epilogue = replace(ends, rounding=ends.grid, residual=other, residual_factors=ones, grid=None)
            _take_factors(plan, maker.epilogue, maker.layout)
            plan.extend(maker, node.outputs[0])
            return True
    return False


def _take_factors(plan: Plan, ends: Epilogue, layout: Layout) -> None:
    """Let what is added be multiplied by its factors at last, where another layer does only that, and for it alone."""
    assert ends.residual is not None
    maker = plan.growing(ends.residual)
    if not isinstance(maker, Elementwise) or maker.arithmetic is not Arithmetic.NONE or not maker.linear:
        return
    scale, bias = maker.epilogue.scale, maker.epilogue.bias
    if maker.layout is not layout or not len(scale) or np.any(bias):
        return
    ends.residual, ends.residual_factors = maker.inputs[0], ends.residual_factors * scale
    plan.layers.remove(maker)
    del plan.makers[maker.output], plan.grids[maker.output]
