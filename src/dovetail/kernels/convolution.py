"""Convolutions, float32 or uint8 by int8: the plain reference, and the engine's kernel by itself.

Activations are (batch, rows, columns, channels), weights (outputs, inputs / groups, rows, columns).
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.kernels.epilogue import ACTIVATIONS, Array, Codes, Epilogue
from dovetail.kernels.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Window:
    """How the weights move over the image. `padding`: above, left, below, right."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    def __post_init__(self) -> None:
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            raise DovetailError(f"strides, dilations and groups are at least 1, padding at least 0, got {self}")

    def output_size(self, image: tuple[int, int], weights: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (
            (image[d] + self.padding[d] + self.padding[d + 2] - (weights[d] - 1) * self.dilation[d] - 1)
            // self.stride[d]
            + 1
            for d in (0, 1)
        )
        if min(rows, columns) < 1:
            raise DovetailError(f"weights of {weights} do not fit into an image of {image} with {self}")
        return rows, columns


def convolution(x: Array, weights: Array, window: Window, epilogue: Epilogue, codes: Codes | None = None) -> Array:
    """The reference. `codes` says what uint8 inputs stand for; sums of integers are exact, of floats in float64."""
    (top, left, bottom, right), groups = window.padding, window.groups
    values = x.astype(np.float64) - (codes.zero if codes else 0)  # no sum reaches 2 ** 53
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)))
    outputs, _, rows, columns = weights.shape
    extent = [(size - 1) * step + 1 for size, step in zip((rows, columns), window.dilation, strict=True)]
    patches = sliding_window_view(padded, extent, axis=(1, 2))
    patches = patches[:, :: window.stride[0], :: window.stride[1], :, :: window.dilation[0], :: window.dilation[1]]
    grouped = patches.reshape(*patches.shape[:3], groups, -1, rows, columns)
    by_group = weights.astype(np.float64).reshape(groups, outputs // groups, -1, rows, columns)
    sums = np.einsum("npqgcrs,gkcrs->npqgk", grouped, by_group, optimize=True)
    sums = sums.reshape(*sums.shape[:3], outputs)
    return epilogue(sums.astype(np.int32 if codes else np.float32))


class Convolution:
    """The engine's convolution for inputs of one shape. `level` is one of `levels()`, empty for the best."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        weights: Array | Stored,
        window: Window,
        epilogue: Epilogue,
        codes: Codes | None = None,
        *,
        level: str = "",
        threads: int = 1,
    ) -> None:
        batch, rows, columns, channels = shape
        outputs, inputs, *size = weights.shape
        if epilogue.scale.size != outputs:
            raise DovetailError(f"weights for {outputs} outputs, but scales for {epilogue.scale.size}")
        if inputs * window.groups != channels:
            raise DovetailError(f"weights for {inputs} x {window.groups} channels, but the image has {channels}")
        expected = np.dtype(np.int8 if codes else np.float32)
        if weights.dtype != expected:
            raise DovetailError(f"weights are {expected} for such inputs, got {weights.dtype}")
        scale = epilogue.scale * (weights.scale if isinstance(weights, Stored) else 1)
        out_rows, out_columns = window.output_size((rows, columns), (size[0], size[1]))
        tensors = [_tensor(rows, columns, channels, max(window.padding), codes)]
        if epilogue.residual is not None:
            tensors.append(_tensor(out_rows, out_columns, outputs, 0, epilogue.residual_codes))
        tensors.append(
            _tensor(out_rows, out_columns, outputs, 1, epilogue.output)
        )  # a border, as the next layer may ask
        try:
            if isinstance(weights, Stored):
                packed = weights.pack()
            else:
                packed = _native.pack(np.ascontiguousarray(weights), window.groups)
            self._trial = _native.convolution_trial(
                level,
                threads,
                batch,
                tensors,
                packed,
                [*size, *window.stride, *window.dilation, *window.padding[:2]],
                _native.Epilogue(
                    scale.astype(np.float32),
                    epilogue.bias.astype(np.float32),
                    _grid(epilogue.rounding),
                    epilogue.factors(),
                    list(ACTIVATIONS).index(epilogue.activation),
                    np.zeros(0, np.float32) if epilogue.slopes is None else epilogue.slopes.astype(np.float32),
                    epilogue.low,
                    epilogue.high,
                ),
            )
        except ValueError as error:
            raise DovetailError(str(error)) from error
        if epilogue.residual is not None:
            self._trial.set(1, np.ascontiguousarray(epilogue.residual))
        self._input = (tuple(shape), np.dtype(np.uint8 if codes else np.float32))
        self._shape = (batch, out_rows, out_columns, outputs)
        self._type = np.uint8 if epilogue.output else np.float32
        self.run = self._trial.run  # again, on the input that it was called with

    def __call__(self, x: Array) -> Array:
        if (x.shape, x.dtype) != self._input:
            raise DovetailError(f"the input is {self._input[1]} of {self._input[0]}, got {x.dtype} of {x.shape}")
        self._trial.set(0, np.ascontiguousarray(x))
        self.run()
        result = np.empty(self._shape, self._type)
        self._trial.get(result)
        return result


def _grid(codes: Codes | None) -> tuple[float, float, float]:
    return (codes.scale, -codes.zero, 255 - codes.zero) if codes else (0.0, 0.0, 0.0)


def _tensor(
    rows: int, columns: int, channels: int, border: int, codes: Codes | None
) -> tuple[bool, int, int, int, int, float, int]:
    scale, zero = (codes.scale, codes.zero) if codes else (1.0, 0)
    return codes is not None, rows, columns, channels, border, scale, zero
