"""Nonzeros with the distance to the one before.

Han, Mao, Dally. Deep Compression. ICLR 2016. arXiv:1510.00149, section 2 and figure 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Floats, Format, Source, Stream, Structure, ValueEncoder, finite_floats
from dovetail.formats.header import Header, Json, read_header, read_int, read_shape
from dovetail.formats.packing import UInts, symbol_type
from dovetail.formats.values import read_values, require_zero


@dataclass(frozen=True, eq=False)
class RelativeIndex(Structure):
    """One entry per nonzero in C order: the zeros since the entry before (`gaps`, index_bits each) and the value.

    A gap field of w bits holds 0..2^w - 1. Where more zeros stand between two nonzeros, filler entries (gap 2^w - 1,
    value 0) stand for 2^w zeros each, the filler's own place among them. Zeros after the last nonzero take no entry.

    bits = (nonzeros + fillers) * (index_bits + bits of a value) + tables of the values
    """

    name: ClassVar[str] = "relative_index"
    shape: tuple[int, ...]
    gaps: UInts
    values: Format
    index_bits: int

    @classmethod
    def encode(cls, tensor: NDArray[Any], values: ValueEncoder, *, index_bits: int = 5) -> Self:
        """Raises FormatError on NaN, infinity, an index width outside 1..16, and values that do not hold 0 exactly."""
        if not 1 <= index_bits <= 16:
            raise FormatError(f"RelativeIndex.index_bits should be in 1..16, got {index_bits}")
        require_zero(values, cls.name)
        floats = finite_floats(tensor)
        flat = floats.reshape(-1)
        positions = np.flatnonzero(flat)
        gaps, entries = insert_fillers(np.diff(positions, prepend=-1) - 1, flat[positions], index_bits)
        return cls(floats.shape, gaps, values(entries), index_bits)

    def decode(self) -> Floats:
        tensor = np.zeros(math.prod(self.shape), np.float32)
        tensor[np.cumsum(self.gaps.astype(np.int64) + 1) - 1] = self.values.decode()
        return tensor.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"gaps": Stream(self.gaps, self.index_bits, "indices")} | self.values.streams()

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "index_bits": self.index_bits,
            "values": self.values.header(),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, index_bits = read_shape(header), read_int(header, "index_bits", 1, 16)
        values = read_values(read_header(header, "values"), source)
        entries, elements = values.shape, math.prod(shape)
        if len(entries) != 1 or entries[0] > elements:
            raise FormatError(f"a tensor of shape {shape} cannot have entries of shape {entries}")
        gaps = source.stream("gaps", entries[0], index_bits)
        reach = int(gaps.sum(dtype=np.int64)) + gaps.size
        if reach > elements:
            raise FormatError(f"the stored gaps reach position {reach}, beyond the {elements} elements of {shape}")
        return cls(shape, gaps, values, index_bits)

    def describe(self) -> str:
        return f"relative_index({self.index_bits}) > {self.values.describe()}"


def insert_fillers(gaps: NDArray[np.int64], values: Floats, index_bits: int) -> tuple[UInts, Floats]:
    """Entries whose gaps fit `index_bits`: a gap of g becomes g >> w fillers, then the entry with what is left."""
    fillers = gaps >> index_bits
    own_places = np.cumsum(fillers + 1) - 1
    entries = int(own_places[-1]) + 1 if own_places.size else 0
    fitting = np.full(entries, (1 << index_bits) - 1, symbol_type(index_bits))
    fitting[own_places] = gaps & ((1 << index_bits) - 1)
    padded = np.zeros(entries, np.float32)
    padded[own_places] = values
    return fitting, padded
