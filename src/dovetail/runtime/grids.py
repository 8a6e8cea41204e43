"""Where a network's values lie on an evenly spaced grid: activations by the graph, weights by how they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from dovetail.formats import Affine, Dense, FixedPoint, Format
from dovetail.runtime.editing import Editor

LEVELS = 256
"""Codes that a byte has."""

OFF = 1e-3
"""By how much of the larger of two numbers they may differ from those on a grid."""


@dataclass(frozen=True)
class Grid:
    """The values scale * k for the integers k from `lowest`, at most 0, to `highest`."""

    scale: np.float32
    lowest: int
    highest: int

    def above_zero(self) -> Grid:
        """What values that a ReLU gave can reach."""
        return Grid(self.scale, 0, self.highest)


@dataclass(frozen=True)
class Rounding:
    """Nodes of a graph, from `first` on, that put its first input on a grid, as the value `result`."""

    first: NodeProto
    result: str
    grid: Grid


@dataclass(frozen=True)
class Choice:
    """A Where node that chooses one of two numbers, which a factor and a shift may make others: the value `result`.

    Times the grid's scale, `codes` are what comes of it.
    """

    node: NodeProto
    result: str
    codes: tuple[int, int]
    grid: Grid


def find_choices(editor: Editor) -> list[Choice]:
    """Every place where one of two numbers is chosen, as signs are, that lie on a grid of bytes."""
    found = (_choice(editor, node) for node in editor.nodes if node.op_type == "Where")
    return [choice for choice in found if choice is not None]


def _choice(editor: Editor, node: NodeProto) -> Choice | None:
    numbers = [editor.scalar(name) for name in node.input[1:]]
    if None in numbers:
        return None
    values, result = np.array(numbers, np.float64), node.output[0]
    while (reader := editor.only_reader(result)) is not None and reader.op_type in ("Mul", "Add"):
        other = editor.scalar(reader.input[1] if reader.input[0] == result else reader.input[0])
        if other is None:
            break
        values, result = values * other if reader.op_type == "Mul" else values + other, reader.output[0]
    scale, codes = _nearest_codes(values)
    if not scale > 0 or np.abs(codes * float(scale) - values).max() > OFF * np.abs(values).max():
        return None
    yes, no = (int(code) for code in codes)
    return Choice(node, result, (yes, no), Grid(scale, min(yes, no, 0), max(yes, no, 0)))


def _nearest_codes(values: NDArray[np.float64]) -> tuple[np.float32, NDArray[np.float64]]:
    """Scale and codes up to 127 that come closest to the values; of equals the smallest codes."""
    tops = np.arange(1, LEVELS // 2)
    scales = np.abs(values).max() / tops
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.abs(np.rint(values[:, None] / scales) * scales - values[:, None]).max(0)
    best = int(np.argmax(errors <= errors.min() + 1e-6 * np.abs(values).max()))
    return np.float32(scales[best]), np.rint(values / max(float(scales[best]), 1e-300))


def find_roundings(editor: Editor) -> list[Rounding]:
    """Every place where a value is divided by a number, rounded, clipped and multiplied by the same number."""
    found = (_rounding(editor, node) for node in editor.nodes if node.op_type == "Round")
    return [rounding for rounding in found if rounding is not None]


def _rounding(editor: Editor, middle: NodeProto) -> Rounding | None:
    """The one around a Round node. Integers may be added before and taken away after the clipping, or clipped first."""
    node, lowest, highest = editor.producer(middle.input[0]), -np.inf, np.inf
    if node is not None and node.op_type == "Clip" and editor.only_reader(node.output[0]):
        lowest, highest = _bounds(editor, node)
        node = editor.producer(node.input[0])
    step = None if node is None or editor.only_reader(node.output[0]) is None else _factor(editor, node)
    if node is None or not step:
        return None
    scale, offset, value = np.float32(1 / step), 0.0, middle.output[0]
    while (reader := editor.only_reader(value)) is not None:
        factor = _factor(editor, reader)
        if factor is not None:
            span = highest - lowest
            whole = float(lowest).is_integer() and float(highest).is_integer()  # infinity is no integer
            if offset or not whole or not 0 < span < LEVELS or not lowest <= 0 <= highest:
                return None
            if not scale > 0 or not np.isclose(factor, scale, 1e-6, 0):
                return None
            return Rounding(node, reader.output[0], Grid(np.float32(factor), int(lowest), int(highest)))
        if reader.op_type == "Clip":
            low, high = _bounds(editor, reader)
            lowest, highest = max(lowest, low - offset), min(highest, high - offset)
        elif (shift := _shift(editor, reader, value)) is not None and shift.is_integer():
            offset += shift
        else:
            return None
        value = reader.output[0]
    return None


def _factor(editor: Editor, node: NodeProto) -> float | None:
    """What a node multiplies its first input by."""
    constant = editor.scalar(node.input[1]) if node.op_type in ("Mul", "Div") else None
    if not constant or constant is None:
        return None
    return constant if node.op_type == "Mul" else 1 / constant


def _shift(editor: Editor, node: NodeProto, value: str) -> float | None:
    """What a node adds to `value`, its first input."""
    constant = editor.scalar(node.input[1]) if node.op_type in ("Add", "Sub") and node.input[0] == value else None
    return None if constant is None else constant if node.op_type == "Add" else -constant


def _bounds(editor: Editor, node: NodeProto) -> tuple[float, float]:
    names = [*node.input[1:], "", ""]
    low, high = (editor.scalar(name) for name in names[:2])
    return -np.inf if low is None else low, np.inf if high is None else high


def weight_codes(weight: Format) -> tuple[NDArray[np.int16], NDArray[np.float64]] | None:
    """Integers from -128 to 127 and, for each index along the first axis, the number to multiply them by.

    None if the weight is not so: it may be of codes of any width, binary, ternary, or a codebook of multiples of
    its smallest magnitude.
    """
    if len(weight.shape) < 2 or not math.prod(weight.shape):
        return None
    if (stored := _stored_codes(weight)) is not None:
        return stored
    values = weight.decode()
    rows = values.reshape(len(values), -1).astype(np.float64)
    for scale in _candidates(weight, rows):
        with np.errstate(over="ignore"):
            codes = np.rint(rows / scale[:, None])
        if codes.min() >= -128 and codes.max() <= 127 and np.allclose(codes * scale[:, None], rows, 1e-6, 0):
            return codes.astype(np.int16).reshape(values.shape), scale
    return None


def _stored_codes(weight: Format) -> tuple[NDArray[np.int16], NDArray[np.float64]] | None:
    """Those of a format that stores just that; None of others, and where floats are too coarse for its values."""
    affine = weight.values if isinstance(weight, Dense) else weight
    if not isinstance(affine, Affine) or affine.group is not None or affine.axis not in (None, 0):
        return None
    scale = affine.scale.astype(np.float64)
    live = scale > 0
    if scale[live].min(initial=1) < np.finfo(np.float32).tiny or scale.max() * LEVELS > np.finfo(np.float32).max:
        return None
    zeros = np.int16(1 << (affine.code_bits - 1)) if affine.zero_point is None else affine.zero_point.astype(np.int16)
    codes = np.subtract(affine.codes.reshape(affine.shape[0], -1), np.reshape(zeros, (-1, 1)), dtype=np.int16)
    if not live.all():
        codes *= live[:, None]
    if codes.min() < -128 or codes.max() > 127:
        return None
    return codes.reshape(affine.shape), np.broadcast_to(np.where(live, scale, 1.0), (affine.shape[0],))


def _candidates(weight: Format, rows: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Steps for the rows: those that are stored; the smallest magnitudes of the rows; the smallest of all."""
    leaf = _leaf(weight)
    if isinstance(leaf, FixedPoint):
        yield np.full(len(rows), 2.0**-leaf.fraction)
    if isinstance(leaf, Affine) and (len(leaf.scale) == 1 or (leaf.axis == 0 and len(leaf.scale) == len(rows))):
        yield np.broadcast_to(np.where(leaf.scale > 0, leaf.scale.astype(np.float64), 1.0), (len(rows),))
    magnitudes = np.where(rows, np.abs(rows), np.inf)
    smallest = magnitudes.min(1)
    yield np.where(np.isfinite(smallest), smallest, 1.0)
    if np.isfinite(smallest.min()):
        yield np.full(len(rows), smallest.min())


def _leaf(weight: Format) -> Format:
    """The format of the values inside structures and entropy coders."""
    inner = next(
        (part for name in ("inner", "values", "block") if isinstance(part := getattr(weight, name, None), Format)), None
    )
    return weight if inner is None else _leaf(inner)
