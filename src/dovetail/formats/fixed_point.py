"""Signed fixed-point values: Qm.f."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_int, read_shape
from dovetail.formats.packing import UInts, symbol_type


@dataclass(frozen=True, eq=False)
class FixedPoint(Format):
    """Two's complement integers q of `integer_bits` bits, for the values q * 2^-fraction.

    bits = n * integer_bits. Up to 24 bits, which a float32 holds exactly.
    """

    name: ClassVar[str] = "fixed_point"
    shape: tuple[int, ...]
    codes: UInts
    """The integers modulo 2^integer_bits, flat."""
    integer_bits: int
    fraction: int

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, bits: int, fraction: int) -> Self:
        """Rounds to nearest even and saturates. Raises FormatError on NaN, infinity, bits outside 2..24 and a
        fraction outside -64..64."""
        if not 2 <= bits <= 24 or not -64 <= fraction <= 64:
            raise FormatError(
                f"FixedPoint takes 2..24 bits and a fractional length in -64..64, got bits={bits}, fraction={fraction}"
            )
        floats = finite_floats(tensor)
        limit = 1 << (bits - 1)
        integers = np.clip(np.rint(np.ldexp(floats.reshape(-1).astype(np.float64), fraction)), -limit, limit - 1)
        codes = (integers.astype(np.int64) & ((1 << bits) - 1)).astype(symbol_type(bits))
        return cls(floats.shape, codes, bits, fraction)

    def decode(self) -> Floats:
        sign = 1 << (self.integer_bits - 1)
        integers = (self.codes.astype(np.int32) ^ sign) - sign
        return np.ldexp(integers.astype(np.float32), -self.fraction).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"codes": Stream(self.codes, self.integer_bits)}

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "bits": self.integer_bits,
            "fraction": self.fraction,
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, bits = read_shape(header), read_int(header, "bits", 2, 24)
        codes = source.stream("codes", math.prod(shape), bits)
        return cls(shape, codes, bits, read_int(header, "fraction", -64, 64))

    def describe(self) -> str:
        return f"fixed_point({self.integer_bits}, {self.fraction})"
