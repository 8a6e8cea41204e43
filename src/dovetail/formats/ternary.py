"""Zero, and one positive and one negative value.

Zhu, Han, Mao, Dally. Trained Ternary Quantization. ICLR 2017. arXiv:1612.01064; with one scale Li, Zhang, Liu. Ternary
Weight Networks. 2016. arXiv:1605.04711.

A code takes 2 bits and not the log2(3) = 1.58 that base 3 would come near (5 codes in a byte, 1.6): kernels take 2 bits
apart by shifts, and an entropy coder of three symbols needs next to no table and gets below 1.58, as zeros are many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.binary import in_rows, read_axis, read_scales, scale_count
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_shape

PLUS, MINUS = 1, 2
"""Codes; 0 is zero, and 3 does not occur."""


@dataclass(frozen=True, eq=False)
class Ternary(Format):
    """Values 0, +scale[0] or -scale[-1], in codes of 2 bits. The scales are of the tensor or, with `axis` 0, of each
    index along it: (2, scales), or (1, scales) where both values have the same magnitude (`symmetric`).

    bits = 8 * ceil(n / 4) + scales * (64, or 32 if symmetric)
    """

    name: ClassVar[str] = "ternary"
    shape: tuple[int, ...]
    codes: NDArray[np.uint8]
    scale: Floats
    axis: int | None = None

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, axis: int | None = None, symmetric: bool = False) -> Self:
        """Every positive value becomes the mean of those, every negative one likewise; if `symmetric`, the mean of
        the magnitudes of both. No value is rounded to zero: what is small, the method that made the values decides.

        Raises FormatError on NaN, infinity and an axis that is neither 0 nor None.
        """
        floats = finite_floats(tensor)
        rows = in_rows(floats, axis)
        plus, minus = rows > 0, rows < 0
        sides = [plus | minus] if symmetric else [plus, minus]
        scale = np.stack([_means(np.abs(rows), side) for side in sides])
        codes = np.where(plus, PLUS, np.where(minus, MINUS, 0)).astype(np.uint8)
        return cls(floats.shape, codes.reshape(-1), scale, axis)

    def decode(self) -> Floats:
        codes = in_rows(self.codes.reshape(self.shape), self.axis)
        plus, minus = self.scale[0][:, None], self.scale[-1][:, None]
        values: Floats = np.select([codes == PLUS, codes == MINUS], [plus, 0 - minus], np.float32(0))
        return values.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"codes": Stream(self.codes, 2)}

    def tables(self) -> dict[str, Array]:
        return {"scale": self.scale}

    def header(self) -> dict[str, Json]:
        symmetric = len(self.scale) == 1
        return {"format": self.name, "shape": list(self.shape), "axis": self.axis, "symmetric": symmetric}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, axis, symmetric = read_shape(header), read_axis(header), header.get("symmetric")
        if not isinstance(symmetric, bool):
            raise FormatError(f"the header's symmetric should be true or false, found {symmetric!r}")
        scale = read_scales(source, (1 if symmetric else 2, scale_count(shape, axis)))
        codes = source.stream("codes", math.prod(shape), 2).astype(np.uint8, copy=False)
        if codes.size and codes.max() > MINUS:
            raise FormatError(f"a stored code is {codes.max()}, and a ternary one is at most {MINUS}: it is damaged")
        return cls(shape, codes, scale, axis)

    def describe(self) -> str:
        scales = ("one scale",) if len(self.scale) == 1 else ()
        axis = (f"axis {self.axis}",) if self.axis is not None else ()
        return f"ternary({', '.join(scales + axis)})" if scales or axis else "ternary"


def _means(magnitudes: Floats, which: NDArray[np.bool_]) -> Floats:
    """Of each row the mean of what is marked; 0 where nothing is. Exact if that is all the same, as in `Binary`."""
    sums = magnitudes.sum(1, dtype=np.float64, where=which)
    return np.asarray(sums / np.maximum(which.sum(1), 1), np.float32)
