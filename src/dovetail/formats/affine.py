"""Uniformly spaced values: value = scale * (code - zero point).

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877, equation 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_choice, read_int, read_shape
from dovetail.formats.packing import UInts

SCALE_TYPES = ("float32", "float16")
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Affine(Format):
    """Codes of 2 to 8 bits with one scale for the tensor, for each index along `axis`, or for each `group` elements.

    Symmetric: the zero point is 2^(bits-1) and codes stay within 1..2^bits - 1, so that the values are symmetric too.
    Asymmetric: each scale has a zero point of its own, of the codes' width. Zero is exact in both.

    bits = n * code_bits + scales * (32 or 16, + code_bits if asymmetric)
    """

    name: ClassVar[str] = "affine"
    shape: tuple[int, ...]
    codes: UInts
    scale: NDArray[np.floating[Any]]
    zero_point: UInts | None
    code_bits: int
    axis: int | None = None
    group: int | None = None

    @classmethod
    def encode(
        cls,
        tensor: NDArray[Any],
        *,
        bits: int,
        axis: int | None = None,
        group: int | None = None,
        symmetric: bool = True,
        scale: NDArray[Any] | float | None = None,
        zero_point: NDArray[Any] | int | None = None,
        dtype: str = "float32",
    ) -> Self:
        """Rounds to the nearest code and saturates.

        `group` counts elements in C order, the last group may be short. `scale` and `zero_point` (with asymmetric
        only) fix the grid, by default the tightest that holds the extreme values and zero; `dtype` is the type the
        scales are stored in. Raises FormatError on NaN, infinity, and parameters that do not fit the tensor.
        """
        floats = finite_floats(tensor)
        _check(bits, axis, group, floats.shape, dtype)
        index = _scale_index(floats.shape, axis, group)
        scales = _scale_count(floats.shape, axis, group)
        flat = floats.reshape(-1)
        # Zero belongs to every grid.
        low, high = np.zeros(scales), np.zeros(scales)
        np.minimum.at(low, index, flat)
        np.maximum.at(high, index, flat)
        top = (1 << bits) - 1
        if scale is None:
            steps = np.maximum(-low, high) / (top // 2) if symmetric else (high - low) / top
        else:
            steps = np.broadcast_to(np.asarray(scale, np.float64).reshape(-1), (scales,))
        with np.errstate(over="ignore"):
            stored = steps.astype(dtype)
        if not np.isfinite(stored).all() or (stored < 0).any():
            raise FormatError(f"Affine.scale should be finite, not negative and fit {dtype}, got {steps.max():g}")
        inverse = np.divide(1.0, stored, out=np.zeros(scales), where=stored > 0, dtype=np.float64)
        zeros = np.full(scales, 1 << (bits - 1)) if symmetric else _zero_points(low * inverse, zero_point, top)
        codes = np.clip(np.rint(flat * inverse[index]) + zeros[index], 1 if symmetric else 0, top).astype(np.uint8)
        return cls(floats.shape, codes, stored, None if symmetric else zeros.astype(np.uint8), bits, axis, group)

    def decode(self) -> Floats:
        index = _scale_index(self.shape, self.axis, self.group)
        zero = 1 << (self.code_bits - 1) if self.zero_point is None else self.zero_point.astype(np.float64)[index]
        values = (self.codes.astype(np.float64) - zero) * self.scale.astype(np.float64)[index]
        return np.clip(values, -LARGEST, LARGEST).astype(np.float32).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        codes = {"codes": Stream(self.codes, self.code_bits)}
        if self.zero_point is None:
            return codes
        return codes | {"zero_points": Stream(self.zero_point, self.code_bits, "tables")}

    def tables(self) -> dict[str, Array]:
        return {"scale": self.scale}

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "bits": self.code_bits,
            "axis": self.axis,
            "group": self.group,
            "symmetric": self.zero_point is None,
            "dtype": str(self.scale.dtype),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, bits = read_shape(header), read_int(header, "bits", 2, 8)
        dtype = read_choice(header, "dtype", SCALE_TYPES)
        axis = None if header.get("axis") is None else read_int(header, "axis", 0, len(shape) - 1)
        group = None if header.get("group") is None else read_int(header, "group", 1, 1 << 31)
        _check(bits, axis, group, shape, dtype)
        scales = _scale_count(shape, axis, group)
        scale = source.array("scale", dtype, (scales,))
        if not np.isfinite(scale).all() or (scale < 0).any():
            raise FormatError("a stored scale is negative, NaN or infinite: the stored array is damaged")
        symmetric = header.get("symmetric")
        if not isinstance(symmetric, bool):
            raise FormatError(f"the header's symmetric should be true or false, found {symmetric!r}")
        zero_point = None if symmetric else source.stream("zero_points", scales, bits)
        return cls(shape, source.stream("codes", math.prod(shape), bits), scale, zero_point, bits, axis, group)

    def describe(self) -> str:
        per = f", axis {self.axis}" if self.axis is not None else f", group {self.group}" if self.group else ""
        return f"affine({self.code_bits}{per})"


def _check(bits: int, axis: int | None, group: int | None, shape: tuple[int, ...], dtype: str) -> None:
    if not 2 <= bits <= 8:
        raise FormatError(f"Affine.bits should be in 2..8, got {bits}")
    if axis is not None and (group is not None or not 0 <= axis < len(shape)):
        raise FormatError(
            f"Affine.axis should be an axis of the values, of shape {shape}, and go without group, got axis={axis}, "
            f"group={group}; a sparse structure holds its values in one row and takes group or neither"
        )
    if group is not None and group < 1:
        raise FormatError(f"Affine.group should be 1 or more, got {group}")
    if dtype not in SCALE_TYPES:
        raise FormatError(f"Affine.dtype should be one of {', '.join(SCALE_TYPES)}, got {dtype!r}")


def _scale_count(shape: tuple[int, ...], axis: int | None, group: int | None) -> int:
    if axis is not None:
        return shape[axis]
    return -(-math.prod(shape) // group) if group is not None else 1


def _scale_index(shape: tuple[int, ...], axis: int | None, group: int | None) -> NDArray[np.int64]:
    """Which scale each element, in C order, belongs to."""
    elements = math.prod(shape)
    if group is not None:
        return np.arange(elements) // group
    if axis is None:
        return np.broadcast_to(np.int64(0), (elements,))
    inner = math.prod(shape[axis + 1 :])
    return np.arange(elements) // max(inner, 1) % max(shape[axis], 1)


def _zero_points(lowest: NDArray[np.float64], given: NDArray[Any] | int | None, top: int) -> NDArray[np.int64]:
    if given is None:
        return np.clip(np.rint(-lowest), 0, top).astype(np.int64)
    zeros = np.broadcast_to(np.asarray(given).reshape(-1), lowest.shape)
    if (zeros < 0).any() or (zeros > top).any() or (zeros != np.rint(zeros)).any():
        raise FormatError(f"Affine.zero_point should be an integer in 0..{top} for each scale, got {zeros.tolist()}")
    return zeros.astype(np.int64)
