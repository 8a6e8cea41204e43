"""ONNX operators that only move values, and those that make pictures larger or smaller."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from dovetail.runtime.engine.layers import Box, Copy, Layout, Loop, Resize, natural, unit, whole
from dovetail.runtime.engine.moved import Cut, cut, moved, regroup, strange, turn
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.operators import constant_of, demand, optional_constant
from dovetail.runtime.engine.planner import Lacking, Plan, Translate


def reshape(plan: Plan, node: Node) -> None:
    """Any change of shape: nothing at all where memory stays as it is, else a copy."""
    if strange(plan, node):
        return regroup(plan, node)
    value, output = node.inputs[0], node.outputs[0]
    source, target = plan.shape(value), plan.shape(output)
    same = [side for side in source if side > 1] == [side for side in target if side > 1]
    if not (same and output not in plan.ends and plan.view(output, value)):
        _copy(plan, node, [value], [[_reshaped(source, target)]])
    return None


def _reshaped(source: tuple[int, ...], target: tuple[int, ...]) -> Box:
    """Both shapes cut into sides that are common to them, from the last to the first."""
    loops = []
    sides, steps = [list(source), list(target)], [[1] * len(source), [1] * len(target)]
    while sides[0] or sides[1]:
        for shape, step in zip(sides, steps, strict=True):
            while shape and shape[-1] == 1:
                shape.pop()
                step.pop()
        if not (sides[0] and sides[1]):
            break
        count = math.gcd(sides[0][-1], sides[1][-1])
        if count == 1:
            raise Lacking(f"a reshape from {source} to {target}, which have no common sides")
        ways = [unit(len(shape) - 1, rank, step[-1])
                for shape, step, rank in zip(sides, steps, (len(source), len(target)), strict=True)]  # fmt: skip
        loops.append(Loop(count, ways[0], ways[1]))
        for shape, step in zip(sides, steps, strict=True):
            shape[-1] //= count
            step[-1] *= count
    return Box((0,) * len(source), (0,) * len(target), tuple(loops))


def cast(plan: Plan, node: Node) -> None:
    """From float32 to float32."""
    types = plan.network.known.types
    demand(node.attributes["to"] == types.get(node.inputs[0]) == TensorProto.FLOAT, "another type of numbers")
    reshape(plan, node)


def transpose(plan: Plan, node: Node) -> None:
    value, output = node.inputs[0], node.outputs[0]
    if strange(plan, node):
        return turn(plan, node, node.attributes["perm"])
    shape = plan.shape(value)
    order = tuple(node.attributes.get("perm", range(len(shape) + 1)[::-1]))
    demand(order[0] == 0, "a transposition of the batch")
    demand(sorted(order) == list(range(len(shape) + 1)), "axes that do not fit its input")
    inner = tuple(axis - 1 for axis in order[1:])
    plan.shape(output)
    if output in plan.ends or not plan.transposed_view(output, value, inner):
        _copy(plan, node, [value], [[whole(shape, [inner.index(axis) for axis in range(len(shape))])]])
    return None


def concatenate(plan: Plan, node: Node) -> None:
    shapes = [plan.shape(name) for name in node.inputs]
    output = plan.shape(node.outputs[0])
    axis = _inner_axis(node.attributes["axis"], len(output))
    boxes, begin = [], 0
    for shape in shapes:
        boxes.append([whole(shape, target=unit(axis, len(shape), begin))])
        begin += shape[axis]
    demand(begin == output[axis], "parts that do not make up the whole")
    _copy(plan, node, list(node.inputs), boxes)


def slice_axes(plan: Plan, node: Node) -> None:
    """Slice."""
    numbers = [optional_constant(plan, node, place) for place in (1, 2, 3, 4)]
    starts, ends, axes, steps = ([] if array is None else [int(n) for n in array.reshape(-1)] for array in numbers)
    starts, ends = starts or node.attributes.get("starts", []), ends or node.attributes.get("ends", [])
    axes = list(axes or node.attributes.get("axes", range(len(starts))))
    sides = [axis.side if axis else None for axis in moved(plan, node.inputs[0]).axes]
    cuts = {}
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        side = sides[axis]
        if side is None and (start, step) == (0, 1) and end >= 2**31 - 1:
            continue  # the whole batch
        if side is None:
            raise Lacking("the batch is cut or put together")
        places = range(side)[start:end:step]
        if not places and start < -side:
            raise Lacking("a slice that begins before its axis")  # which ONNX begins with the first place
        cuts[axis % len(sides)] = Cut(places.start, places.step, len(places))
    cut(plan, node, cuts)


def gather(plan: Plan, node: Node) -> None:
    """By one constant index, or by some that lie equally far apart."""
    indices = constant_of(plan, node.inputs[1])
    axes = moved(plan, node.inputs[0]).axes
    place = node.attributes.get("axis", 0) % len(axes)
    axis = axes[place]
    demand(axis is not None and indices.ndim < 2 and indices.size > 0, "the batch is cut or put together")
    assert axis is not None
    places = (indices.reshape(-1) % axis.side).tolist()
    step = places[1] - places[0] if len(places) > 1 else 1
    even = places == [places[0] + i * step for i in range(len(places))]
    demand(even and bool((np.abs(indices) <= axis.side).all()), "indices that lie unequally far apart")
    cut(plan, node, {place: Cut(places[0], step, len(places), gone=indices.ndim == 0)})


def split(plan: Plan, node: Node) -> None:
    axes = moved(plan, node.inputs[0]).axes
    place, start = node.attributes.get("axis", 0) % len(axes), 0
    read = [output for output in node.outputs if output in plan.network.readers]
    plan.network.readers[node.inputs[0]] += len(read) - 1  # once for each part
    for output in node.outputs:
        side = plan.network.known.whole[output][place]
        if side is None:
            raise Lacking("the batch is cut or put together")
        if output in read:
            cut(plan, replace(node, outputs=(output,)), {place: Cut(start, 1, side)})
        start += side


def pad(plan: Plan, node: Node) -> None:
    """By zeros, or by what lies as far inside along one axis; below zero it cuts off."""
    value = node.inputs[0]
    shape, output = plan.shape(value), plan.shape(node.outputs[0])
    rank = len(shape) + 1
    given = node.attributes.get("pads") or constant_of(plan, node.inputs[1]).reshape(-1).tolist()
    axes = optional_constant(plan, node, 3)
    named = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    filler = optional_constant(plan, node, 2)
    number = float(node.attributes.get("value", 0.0)) if filler is None else float(filler.reshape(-1)[0])
    mode = node.attributes.get("mode", b"constant")
    demand(mode == b"reflect" or (mode == b"constant" and number == 0), "padding by the edge, or by other than zeros")
    before = dict(zip(named, given[: len(given) // 2], strict=True))
    demand(before.get(0, 0) == 0, "padding of the batch")
    begins = [int(before.get(axis, 0)) for axis in range(1, rank)]
    if mode == b"reflect":
        return _copy(plan, node, [value], [_reflected(shape, output, begins)])
    source, target = tuple(max(-b, 0) for b in begins), tuple(max(b, 0) for b in begins)
    counts = [min(s - a, o - b) for s, o, a, b in zip(shape, output, source, target, strict=True)]
    demand(min(counts) > 0, "padding that leaves nothing")
    loops = tuple(Loop(count, unit(i, len(shape)), unit(i, len(shape))) for i, count in enumerate(counts))
    return _copy(plan, node, [value], [[Box(source, target, loops)]])


def _reflected(shape: tuple[int, ...], output: tuple[int, ...], begins: list[int]) -> list[Box]:
    """What lies inside, and along each axis what is the other way round before and after it."""
    ways = []
    for side, whole_side, begin in zip(shape, output, begins, strict=True):
        end = whole_side - side - begin
        demand(0 <= begin < side and 0 <= end < side, "a reflection of more than there is")
        parts = [(0, begin, side, 1), (begin, 0, begin, -1), (side - 2, begin + side, end, -1)]
        ways.append([part for part in parts if part[2]])
    boxes = []
    for corner in itertools.product(*ways):
        loops = tuple(
            Loop(count, unit(i, len(shape), step), unit(i, len(shape))) for i, (_, _, count, step) in enumerate(corner)
        )
        boxes.append(Box(tuple(part[0] for part in corner), tuple(part[1] for part in corner), loops))
    return boxes


def depth_to_space(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    (channels, rows, columns), size = _picture(plan, value), int(node.attributes["blocksize"])
    outputs = channels // size**2
    last = node.attributes.get("mode", b"DCR") == b"CRD"
    across, down, kept = (1, size, size**2) if last else (outputs, outputs * size, 1)
    loops = (
        Loop(outputs, (kept, 0, 0), (1, 0, 0)),
        Loop(size, (down, 0, 0), (0, 1, 0)),
        Loop(size, (across, 0, 0), (0, 0, 1)),
        Loop(rows, (0, 1, 0), (0, size, 0)),
        Loop(columns, (0, 0, 1), (0, 0, size)),
    )
    _copy(plan, node, [value], [[Box((0, 0, 0), (0, 0, 0), loops)]])


def space_to_depth(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    demand(node.attributes.get("mode", b"DCR") == b"DCR", "depth in another order")
    (channels, rows, columns), size = _picture(plan, value), int(node.attributes["blocksize"])
    loops = (
        Loop(channels, (1, 0, 0), (1, 0, 0)),
        Loop(size, (0, 1, 0), (channels * size, 0, 0)),
        Loop(size, (0, 0, 1), (channels, 0, 0)),
        Loop(rows // size, (0, size, 0), (0, 1, 0)),
        Loop(columns // size, (0, 0, size), (0, 0, 1)),
    )
    _copy(plan, node, [value], [[Box((0, 0, 0), (0, 0, 0), loops)]])


def _picture(plan: Plan, value: str) -> tuple[int, int, int]:
    shape = plan.shape(value)
    demand(len(shape) == 3, "no picture")
    return shape[0], shape[1], shape[2]


def resize(plan: Plan, node: Node) -> None:
    """Nearest and linear, without antialiasing."""
    value = node.inputs[0]
    source, target = _picture(plan, value), _picture(plan, node.outputs[0])
    mode = node.attributes.get("mode", b"nearest").decode()
    coordinates = node.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = node.attributes.get("nearest_mode", b"round_prefer_floor").decode()
    demand(mode in ("nearest", "linear") and not node.attributes.get("antialias", 0), f"resizing: {mode}")
    demand(source[0] == target[0] and "axes" not in node.attributes, "resizing of channels")
    demand(node.attributes.get("keep_aspect_ratio_policy", b"stretch") == b"stretch", "resizing that keeps the ratio")
    scales = optional_constant(plan, node, 2)
    given = None if scales is None or scales.size != 4 else [float(scale) for scale in scales[2:]]
    places = []
    for axis in (0, 1):
        sides = source[axis + 1], target[axis + 1]
        scale = sides[1] / sides[0] if given is None else given[axis]
        where = [_coordinate(i, sides, scale, coordinates) for i in range(sides[1])]
        near = [(_nearest(x, rounding, sides[0]),) * 2 + (0.0,) for x in where]
        places.append(near if mode == "nearest" else [_between(x, sides[0]) for x in where])
    plan.add(
        Resize("Resize", "Resize", [value], node.outputs[0], target, Layout.FIRST, rows=places[0], columns=places[1])
    )


def _coordinate(i: int, sides: tuple[int, int], scale: float, mode: str) -> float:
    """In float32 as ONNX Runtime has it: 6 / 1.2 is a place, but not in float64 with the float32 nearest to 1.2.

    `align_corners` goes by the sides that there are, as PyTorch does too, where ONNX's reference has side * scale.
    """
    place, factor, half = np.float32(i), np.float32(scale), np.float32(0.5)
    match mode:
        case "half_pixel":
            return float((place + half) / factor - half)
        case "pytorch_half_pixel":
            return float((place + half) / factor - half) if sides[1] > 1 else 0.0
        case "asymmetric":
            return float(place / factor)
        case "align_corners":
            return float(place * np.float32(sides[0] - 1) / np.float32(sides[1] - 1)) if sides[1] > 1 else 0.0
    raise Lacking(f"resizing by coordinates {mode}")


def _nearest(x: float, mode: str, side: int) -> int:
    match mode:
        case "round_prefer_floor":
            place = math.ceil(x - 0.5)
        case "round_prefer_ceil":
            place = math.floor(x + 0.5)
        case "floor":
            place = math.floor(x)
        case _:
            place = math.ceil(x)
    return min(max(place, 0), side - 1)


def _between(x: float, side: int) -> tuple[int, int, float]:
    x = min(max(x, 0.0), side - 1.0)
    first = math.floor(x)
    return first, min(first + 1, side - 1), x - first


def _inner_axis(axis: int, rank: int) -> int:
    """An axis of a batch as one of an image."""
    inner = axis % (rank + 1) - 1
    if inner < 0:
        raise Lacking("the batch is cut or put together")
    return int(inner)


def _copy(plan: Plan, node: Node, inputs: list[str], boxes: Sequence[list[Box]]) -> None:
    output, first = plan.shape(node.outputs[0]), inputs[0]
    shapes = [plan.shape(name) for name in inputs]
    own = plan.layout(first)
    heads = (len(shapes[0]), len(output)) == (2, 3)  # of a sequence, say
    layout = own if heads or len(shapes[0]) == len(output) else natural(output)
    plan.copy(
        Copy(node.operator, node.operator, inputs, node.outputs[0], output, layout, boxes=list(boxes), shapes=shapes)
    )


MOVING: dict[str, Translate] = {
    "Cast": cast,
    "Concat": concatenate,
    "DepthToSpace": depth_to_space,
    "Flatten": reshape,
    "Gather": gather,
    "Identity": reshape,
    "Pad": pad,
    "Reshape": reshape,
    "Resize": resize,
    "Slice": slice_axes,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": reshape,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
