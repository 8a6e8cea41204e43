"""Floating-point values, stored one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_choice, read_shape
from dovetail.formats.packing import UInts

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class Float(Format):
    """IEEE 754 binary32 or binary16, or bfloat16 (the upper half of a binary32), rounded to nearest even.

    bits = n * (32 or 16)
    """

    name: ClassVar[str] = "float"
    shape: tuple[int, ...]
    words: UInts
    """The bit patterns, flat: uint32 for float32, uint16 for the others."""
    dtype: str = "float32"

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, dtype: str = "float32") -> Self:
        """Raises FormatError on NaN, infinity, an unknown dtype, or a value that overflows `dtype`."""
        if dtype not in DTYPES:
            raise FormatError(f"Float.dtype should be one of {', '.join(DTYPES)}, got {dtype!r}")
        floats = finite_floats(tensor)
        words = _to_words(floats.reshape(-1), dtype)
        if dtype != "float32" and not np.isfinite(_to_floats(words, dtype)).all():
            largest = float(np.abs(floats).max())
            raise FormatError(f"{dtype} cannot hold a value as large as {largest:g}; store this tensor as float32")
        return cls(floats.shape, words, dtype)

    def decode(self) -> Floats:
        return _to_floats(self.words, self.dtype).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"values": Stream(self.words, 8 * self.words.itemsize)}

    def arrays(self) -> dict[str, Array]:
        """One array of the tensor's shape in its own type (bfloat16, which numpy lacks, as uint16)."""
        dtype = "uint16" if self.dtype == "bfloat16" else self.dtype
        return {"values": self.words.view(dtype).reshape(self.shape)}

    def header(self) -> dict[str, Json]:
        return {"format": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, dtype = read_shape(header), read_choice(header, "dtype", DTYPES)
        words = source.stream("values", math.prod(shape), 32 if dtype == "float32" else 16)
        if not np.isfinite(_to_floats(words, dtype)).all():
            raise FormatError("stored floating-point values hold NaN or infinity: the stored array is damaged")
        return cls(shape, words, dtype)

    def describe(self) -> str:
        return self.dtype


def _to_words(flat: Floats, dtype: str) -> UInts:
    if dtype == "float32":
        return flat.view(np.uint32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return flat.astype(np.float16).view(np.uint16)
    patterns = flat.view(np.uint32)
    return ((patterns + (0x7FFF + ((patterns >> 16) & 1))) >> 16).astype(np.uint16)


def _to_floats(words: UInts, dtype: str) -> Floats:
    if dtype == "float32":
        return words.view(np.float32)
    if dtype == "float16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)
