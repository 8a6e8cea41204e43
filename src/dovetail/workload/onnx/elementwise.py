"""Elementwise ONNX operators: arithmetic, comparisons, logic, activations. Parameters are named as in ONNX."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.workload.onnx.types import torch_type

Number = Tensor | float | int


def divide(A: Number, B: Number) -> Tensor:
    """Integers are divided towards zero, as ONNX has it."""
    tensors = [value for value in (A, B) if isinstance(value, Tensor)]
    if all(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        return A / B  # type: ignore[return-value]
    left = A if isinstance(A, Tensor) else torch.as_tensor(A, device=tensors[0].device)
    return torch.div(left, B, rounding_mode="trunc")


def modulo(A: Tensor, B: Tensor, fmod: int = 0) -> Tensor:
    return torch.fmod(A, B) if fmod else torch.remainder(A, B)


def power(X: Tensor, Y: Number) -> Tensor:
    """The result has the type of the base."""
    return torch.pow(X, Y).to(X.dtype)


def bit_shift(X: Tensor, Y: Tensor, direction: str) -> Tensor:
    return torch.bitwise_left_shift(X, Y) if direction == "LEFT" else torch.bitwise_right_shift(X, Y)


def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs from one of two."""

    def operator(*data_0: Tensor) -> Tensor:
        return functools.reduce(function, data_0)

    operator.__name__ = operator.__qualname__ = f"variadic_{function.__name__}"
    return operator


def mean(*data_0: Tensor) -> Tensor:
    return functools.reduce(torch.add, data_0) / len(data_0)


def clip(input: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    return input if min is None and max is None else torch.clamp(input, min, max)  # type: ignore[arg-type]


def where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    return torch.where(condition, X, Y)


def cast(input: Tensor, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return input.to(torch_type(to))


def cast_like(input: Tensor, target_type: Tensor, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return input.to(target_type.dtype)


def is_infinite(X: Tensor, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    positive, negative = torch.isposinf(X), torch.isneginf(X)
    return (positive & bool(detect_positive)) | (negative & bool(detect_negative))


# Activations.


def leaky_relu(X: Tensor, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(X, alpha)


def prelu(X: Tensor, slope: Tensor) -> Tensor:
    channels = slope.reshape(slope.shape[1:]) if slope.ndim == X.ndim and slope.shape[0] == 1 else slope
    if slope.numel() == 1 or (channels.shape == X.shape[1:2] + (1,) * (X.ndim - 2)):
        return functional.prelu(X, slope.flatten())  # one operation, as it is mostly meant
    return torch.where(X >= 0, X, slope * X)


def elu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return functional.elu(X, alpha)


def celu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return functional.celu(X, alpha)


def selu(X: Tensor, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * torch.where(X > 0, X, alpha * torch.expm1(torch.clamp(X, max=0)))


def gelu(X: Tensor, approximate: str = "none") -> Tensor:
    return functional.gelu(X, approximate=approximate)


def hard_sigmoid(X: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * X + beta, 0.0, 1.0)


def swish(X: Tensor, alpha: float = 1.0) -> Tensor:
    return X * torch.sigmoid(alpha * X)


def thresholded_relu(X: Tensor, alpha: float = 1.0) -> Tensor:
    return functional.threshold(X, alpha, 0.0)


def shrink(input: Tensor, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    outside = torch.where(input < -lambd, input + bias, input - bias)
    return torch.where(input.abs() > lambd, outside, torch.zeros_like(input))


def softmax(input: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(input, axis)


def log_softmax(input: Tensor, axis: int = -1) -> Tensor:
    return torch.log_softmax(input, axis)


def hardmax(input: Tensor, axis: int = -1) -> Tensor:
    """One at the first largest element along the axis, zero elsewhere."""
    largest = torch.argmax(input, axis, keepdim=True)
    return torch.zeros_like(input).scatter(axis, largest, 1.0)


def over_flattened(function: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Softmax and its like before opset 13: over all axes from `axis` on."""

    def operator(input: Tensor, axis: int = 1) -> Tensor:
        rows = math.prod(input.shape[: axis % input.ndim])
        return function(input.reshape(rows, -1), -1).reshape(input.shape)

    operator.__name__ = operator.__qualname__ = f"{function.__name__}_over_flattened"
    return operator


flattened_softmax = over_flattened(softmax)
flattened_log_softmax = over_flattened(log_softmax)
flattened_hardmax = over_flattened(hardmax)


# Quantised values.


def _along(values: Tensor, axis: int, block_size: int, like: Tensor) -> Tensor:
    """Scales or zero points, shaped to broadcast against `like`: per tensor, per axis or per block."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, like.shape[axis])
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> Tensor:
    """Round half to even, add the zero point, saturate."""
    given = torch.uint8 if y_zero_point is None else y_zero_point.dtype
    kind = torch_type(output_dtype) if output_dtype else given
    if kind.is_floating_point:
        raise ModelError(f"QuantizeLinear to {kind} cannot be read; quantize to an integer type")
    steps = torch.round(x / _along(y_scale, axis, block_size, x))
    if y_zero_point is not None:
        steps = steps + _along(y_zero_point, axis, block_size, x).to(steps.dtype)
    limits = torch.iinfo(kind)
    return torch.clamp(steps, limits.min, limits.max).to(kind)


def dequantize_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    steps = x.to(x_scale.dtype)
    if x_zero_point is not None:
        steps = steps - _along(x_zero_point, axis, block_size, x).to(x_scale.dtype)
    result = steps * _along(x_scale, axis, block_size, x)
    return result.to(torch_type(output_dtype)) if output_dtype else result
