"""Signs times a scale.

Rastegari, Ordonez, Redmon, Farhadi. XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks.
ECCV 2016. arXiv:1603.05279, section 3.1: of all alpha and B in {-1, +1}^n, alpha = mean |W| and B = sign(W) are nearest
to W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_int, read_shape


@dataclass(frozen=True, eq=False)
class Binary(Format):
    """Values +-scale, a bit each: 1 for +. The scale is of the tensor or, with `axis` 0, of each index along it.

    Zeros are held where the scale is 0, so where there is nothing else; among other values they become +scale.

    bits = 8 * ceil(n / 8) + scales * 32
    """

    name: ClassVar[str] = "binary"
    shape: tuple[int, ...]
    codes: NDArray[np.uint8]
    scale: Floats
    axis: int | None = None

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, axis: int | None = None) -> Self:
        """The nearest such tensor: its scales are the means of the magnitudes.

        Raises FormatError on NaN, infinity and an axis that is neither 0 nor None.
        """
        floats = finite_floats(tensor)
        rows = in_rows(floats, axis)
        # Exact for up to 2^29 values of one magnitude: every partial sum of theirs fits a double.
        scale = np.abs(rows).sum(1, dtype=np.float64) / max(rows.shape[1], 1)
        return cls(floats.shape, (floats.reshape(-1) >= 0).view(np.uint8), scale.astype(np.float32), axis)

    def decode(self) -> Floats:
        signs = in_rows(self.codes.reshape(self.shape), self.axis)
        scale = self.scale[:, None]
        # Subtracted rather than negated: the scale 0 has no negative zero.
        return np.where(signs == 1, scale, 0 - scale).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"codes": Stream(self.codes, 1)}

    def tables(self) -> dict[str, Array]:
        return {"scale": self.scale}

    def header(self) -> dict[str, Json]:
        return {"format": self.name, "shape": list(self.shape), "axis": self.axis}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, axis = read_shape(header), read_axis(header)
        scale = read_scales(source, (scale_count(shape, axis),))
        return cls(shape, source.stream("codes", math.prod(shape), 1).astype(np.uint8, copy=False), scale, axis)

    def describe(self) -> str:
        return "binary" if self.axis is None else f"binary(axis {self.axis})"


def in_rows(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """The elements (scales, elements of each), in C order."""
    scales = scale_count(array.shape, axis)
    return array.reshape(scales, array.size // max(scales, 1))


def scale_count(shape: tuple[int, ...], axis: int | None) -> int:
    """How many scales values of this shape have. Raises FormatError on an axis that is neither 0 nor None."""
    if axis is None:
        return 1
    if axis != 0 or not shape:
        raise FormatError(
            f"the scales' axis should be 0 or None, and of values of shape {shape} one that they have; got {axis}"
        )
    return shape[0]


def read_axis(header: Header) -> int | None:
    """The header's "axis", checked."""
    return None if header.get("axis") is None else read_int(header, "axis", 0, 0)


def read_scales(source: Source, shape: tuple[int, ...]) -> Floats:
    """The array stored as "scale", checked."""
    scale = source.array("scale", "float32", shape)
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise FormatError("a stored scale is negative, NaN or infinite: the stored array is damaged")
    return scale
