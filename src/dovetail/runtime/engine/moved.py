"""Values that no tensor holds as they are: their batch is not the first axis, or they have more axes than a picture.

Exporters make them between two moves, as of a recurrence's steps or of the heads of attention. What reads them reads
the value that they were moved from, where their numbers lie in steps along its axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import helper

from dovetail.runtime.engine.layers import Box, Copy, Loop, natural, unit
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.planner import Axis, Foreign, Lacking, Moved, Plan

Pieces = list[list[Axis]]
"""What each axis of a new shape consists of, the innermost first."""


@dataclass(frozen=True)
class Cut:
    """What is left of an axis: so many steps from a place on; `gone`: the axis itself is not."""

    start: int
    step: int
    count: int
    gone: bool = False


def plain(plan: Plan, value: str) -> bool:
    """Whether a tensor can hold it as it is."""
    return 1 <= len(plan.network.shapes.get(value, ())) <= 3


def strange(plan: Plan, node: Node) -> bool:
    """Whether a node that only moves values reads or makes what no tensor holds."""
    known = node.inputs[0] in plan.moved or plain(plan, node.inputs[0])
    return known and (node.inputs[0] in plan.moved or not plain(plan, node.outputs[0]))


def moved(plan: Plan, value: str) -> Moved:
    if value in plan.moved:
        return plan.moved[value]
    shape = plan.shape(value)
    axes = (Axis(side, unit(i, len(shape))) for i, side in enumerate(shape))
    return Moved(value, (0,) * len(shape), (None, *axes))


def turn(plan: Plan, node: Node, order: Sequence[int]) -> None:
    """Transpose."""
    value = moved(plan, node.inputs[0])
    keep(plan, node, replace(value, axes=tuple(value.axes[axis] for axis in order)))


def regroup(plan: Plan, node: Node) -> None:
    """Reshape, Squeeze and others that leave the order of numbers as it is."""
    value, target = moved(plan, node.inputs[0]), _whole(plan, node.outputs[0])
    place, batch = value.axes.index(None), target.index(None)
    parts = [
        _pieces([axis for axis in axes if axis], [side for side in sides if side])
        for axes, sides in ((value.axes[:place], target[:batch]), (value.axes[place + 1 :], target[batch + 1 :]))
    ]
    if plain(plan, node.outputs[0]):
        return _copy(plan, node.operator, value, node.outputs[0], [*parts[0], *parts[1]])
    rank = len(value.start)
    before, after = ([_merged(pieces, rank) for pieces in part] for part in parts)
    plan.moved[node.outputs[0]] = replace(value, axes=(*before, None, *after))
    return None


def cut(plan: Plan, node: Node, cuts: dict[int, Cut]) -> None:
    """Slice and others: what is left of some axes."""
    value = moved(plan, node.inputs[0])
    start, axes = value.start, list[Axis | Cut | None](value.axes)
    for place, part in cuts.items():
        axis = value.axes[place]
        if axis is None:
            raise Lacking("the batch is cut or put together")
        start = tuple(s + part.start * step for s, step in zip(start, axis.step, strict=True))
        axes[place] = part if part.gone else Axis(part.count, tuple(part.step * step for step in axis.step))
    left = tuple(axis for axis in axes if not isinstance(axis, Cut))
    keep(plan, node, Moved(value.source, start, left))


def keep(plan: Plan, node: Node, value: Moved) -> None:
    """Let a node's output be so: a tensor if one can hold it."""
    (output,) = node.outputs
    if not plain(plan, output):
        plan.moved[output] = value
        return
    own = moved(plan, value.source)
    if own == value and output not in plan.ends and plan.view(output, value.source):
        return
    _copy(plan, node.operator, value, output, [[axis] for axis in value.axes if axis])


def as_images(plan: Plan, value: str) -> str:
    """A value with its batch first, the order of its other axes kept."""
    place = moved(plan, value)
    turned = replace(place, axes=(None, *(axis for axis in place.axes if axis)))
    if turned == moved(plan, place.source):
        return place.source
    name = f"{value} as images"
    if name not in plan.network.shapes:
        plan.network.shapes[name] = tuple(axis.side for axis in turned.axes if axis)
        _copy(plan, "Transpose", turned, name, [[axis] for axis in turned.axes if axis])
    return name


def settle(plan: Plan, value: str) -> None:
    """Have a value made as it is, for what is not the engine's: its images here, their order elsewhere."""
    place = plan.moved[value]
    axes, images = [axis for axis in place.axes if axis], f"{value} as images"
    outer = max(len(axes) - 2, 1)
    plan.network.shapes[images] = (math.prod(a.side for a in axes[:outer]), *(axis.side for axis in axes[outer:]))
    assert plain(plan, images), images
    _copy(plan, "Transpose", place, images, [axes[:outer][::-1], *([axis] for axis in axes[outer:])])
    shape, sides = f"{images}, their shape", f"{images}, their sides"
    plan.network.constants[shape] = np.array([0, *(axis.side for axis in axes)], np.int64)
    order = list(range(1, len(axes) + 1))
    order.insert(place.axes.index(None), 0)
    protos = (
        helper.make_node("Reshape", [images, shape], [sides]),
        helper.make_node("Transpose", [sides], [value], perm=order),
    )
    node = Node("Transpose", (images,), (value,), {}, protos)
    plan.layers.append(Foreign(node, "the batch is not the first axis of what others read"))


def _whole(plan: Plan, value: str) -> tuple[int | None, ...]:
    if value not in plan.network.known.whole:
        raise Lacking("its output has no shape that only its batch leaves open")
    return plan.network.known.whole[value]


def _pieces(axes: Sequence[Axis], sides: Sequence[int]) -> Pieces:
    """Both cut into what is common to them, from the last to the first."""
    rest = [axis for axis in axes if axis.side > 1]
    result: Pieces = []
    for side in reversed(sides):
        pieces: list[Axis] = []
        while side > 1:
            count = math.gcd(rest[-1].side, side) if rest else 1
            if count == 1:
                raise Lacking(f"a reshape to {tuple(sides)} of what has no common sides")
            axis = rest.pop()
            if count < axis.side:
                rest.append(Axis(axis.side // count, tuple(count * step for step in axis.step)))
            pieces.append(Axis(count, axis.step))
            side //= count
        result.append(pieces)
    return result[::-1]


def _merged(pieces: list[Axis], rank: int) -> Axis:
    if not pieces:
        return Axis(1, (0,) * rank)
    first, *others = pieces
    for other in others:
        if other.step != tuple(first.side * step for step in first.step):
            raise Lacking("a reshape of what lies apart")
        first = Axis(first.side * other.side, first.step)
    return first


def _copy(plan: Plan, operator: str, value: Moved, output: str, pieces: Pieces) -> None:
    shape, source = plan.shape(output), plan.shape(value.source)
    loops = []
    for place, parts in enumerate(pieces):
        done = 1
        for part in parts:
            if part.side > 1:
                loops.append(Loop(part.side, part.step, unit(place, len(shape), done)))
            done *= part.side
    heads = (len(source), len(shape)) == (2, 3)  # of a sequence, say
    own = plan.layout(value.source)
    layout = own if heads or len(source) == len(shape) else natural(shape)
    box = Box(value.start, (0,) * len(shape), tuple(loops))
    plan.copy(Copy(operator, operator, [value.source], output, shape, layout, boxes=[[box]], shapes=[source]))
