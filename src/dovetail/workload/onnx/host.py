"""ONNX operators on host values: shapes computed in plain (or symbolic) integers, without tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from dovetail.workload.onnx.types import Host, ints

LIMIT = 64
"""A constant of more elements than this is a tensor, not a shape."""
FLOATS: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
}


def is_integral(values: Host) -> bool:
    """Whether it holds integers, symbolic ones included."""
    return values.dtype == object or np.issubdtype(values.dtype, np.integer)


def divide(A: Any, B: Any) -> Host:
    """Towards zero for integers; symbolic ones are sizes, hence not negative."""
    a, b = np.asarray(A), np.asarray(B)
    if not is_integral(a):
        return np.asarray(a / b)
    if object in (a.dtype, b.dtype):
        return np.asarray(a // b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def cast(input: Any, to: int, saturate: int = 1, round_mode: str = "up") -> Host:
    values = np.asarray(input)
    if to == TensorProto.BOOL:
        return values.astype(bool)
    if values.dtype == object:
        return np.asarray(np.frompyfunc(torch.sym_float, 1, 1)(values)) if to in FLOATS else values
    return values.astype(FLOATS[to] if to in FLOATS else np.int64)


def gather(data: Any, indices: Any, axis: int = 0) -> Host:
    return np.asarray(np.take(np.asarray(data), np.asarray(indices, np.int64), axis))


def slice_(data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Host:
    values = np.asarray(data)
    start, end = ints(starts)[0], ints(ends)[0]
    return values[start : end : 1 if steps is None else ints(steps)[0]]


def concat(*inputs: Any, axis: int) -> Host:
    arrays = [np.asarray(values) for values in inputs]
    symbolic = any(values.dtype == object for values in arrays)
    return np.concatenate([values.astype(object) if symbolic else values for values in arrays], axis)


def squeeze(data: Any, axes: Any = None) -> Host:
    return np.squeeze(np.asarray(data), None if axes is None else tuple(ints(axes)))


def unsqueeze(data: Any, axes: Any) -> Host:
    return np.asarray(np.expand_dims(np.asarray(data), tuple(ints(axes))))


def reshape(data: Any, shape: Any, allowzero: int = 0) -> Host:
    return np.asarray(np.reshape(np.asarray(data), ints(shape)))


def where(condition: Any, X: Any, Y: Any) -> Host:
    return np.asarray(np.where(np.asarray(condition, bool), X, Y))


def product(data: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Host:
    return np.asarray(np.prod(np.asarray(data), keepdims=bool(keepdims)))


def total(data: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Host:
    return np.asarray(np.sum(np.asarray(data), keepdims=bool(keepdims)))


def of_arrays(function: Callable[..., Any]) -> Callable[..., Host]:
    """A numpy function as an operator; numpy turns arrays of rank 0 into numbers, this turns them back."""

    def operator(*inputs: Any) -> Host:
        return np.asarray(function(*(np.asarray(values) for values in inputs)))

    operator.__name__ = operator.__qualname__ = function.__name__
    return operator


HOST: dict[str, Callable[..., Host]] = {
    "Add": of_arrays(np.add),
    "And": of_arrays(np.logical_and),
    "Cast": cast,
    "Ceil": of_arrays(np.ceil),
    "Concat": concat,
    "Div": divide,
    "Equal": of_arrays(np.equal),
    "Floor": of_arrays(np.floor),
    "Gather": gather,
    "Greater": of_arrays(np.greater),
    "GreaterOrEqual": of_arrays(np.greater_equal),
    "Identity": np.asarray,
    "Less": of_arrays(np.less),
    "LessOrEqual": of_arrays(np.less_equal),
    "Max": of_arrays(np.maximum),
    "Min": of_arrays(np.minimum),
    "Mod": lambda A, B, fmod=0: np.asarray((np.fmod if fmod else np.mod)(A, B)),
    "Mul": of_arrays(np.multiply),
    "Neg": of_arrays(np.negative),
    "Not": of_arrays(np.logical_not),
    "Or": of_arrays(np.logical_or),
    "ReduceProd": product,
    "ReduceSum": total,
    "Reshape": reshape,
    "Shape": lambda data, start=0, end=None: np.asarray(np.shape(data)[start:end]),
    "Size": lambda data: np.asarray(np.size(data)),
    "Slice": slice_,
    "Squeeze": squeeze,
    "Sub": of_arrays(np.subtract),
    "Unsqueeze": unsqueeze,
    "Where": where,
}
"""Operator -> function of host values and constant lists."""
