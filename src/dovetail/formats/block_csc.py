"""Compressed sparse columns, dealt out to processing elements.

Han, Liu, Mao, Pu, Pedram, Horowitz, Dally. EIE: Efficient Inference Engine on Compressed Deep Neural Network. ISCA
2016. arXiv:1602.01528, section III.
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
from dovetail.formats.relative_index import insert_fillers
from dovetail.formats.values import read_values, require_zero


@dataclass(frozen=True, eq=False)
class BlockCSC(Structure):
    """Processing element k of N owns the rows k, k + N, k + 2N, ... and stores them column by column.

    An entry is a value and the number of zeros since the entry before it (`index_bits`, 4 in EIE), counted in the
    element's own rows and from zero again in each column; more zeros than that holds take fillers, as in
    `RelativeIndex`. `pointers` say where in an element's entries each column starts and, last, how many there are:
    16 bits each as in EIE, or 32 where an element has more than 65,535 entries. A tensor of other than two dimensions
    is taken as its first dimension (rows) by all others (columns).

    bits = entries * (index_bits + bits of a value) + N * (columns + 1) * pointer_bits + tables of the values
    """

    name: ClassVar[str] = "block_csc"
    shape: tuple[int, ...]
    zeros: UInts
    values: Format
    pointers: UInts
    """Element by element, columns + 1 each."""
    processing_elements: int
    index_bits: int
    pointer_bits: int

    @classmethod
    def encode(
        cls, tensor: NDArray[Any], values: ValueEncoder, *, processing_elements: int = 64, index_bits: int = 4
    ) -> Self:
        """Raises FormatError on NaN, infinity, parameters out of range, and values that do not hold 0 exactly."""
        if not 1 <= index_bits <= 16 or not 1 <= processing_elements <= 1 << 16:
            raise FormatError(
                "BlockCSC takes index_bits in 1..16 and processing_elements in 1..65536, "
                f"got index_bits={index_bits}, processing_elements={processing_elements}"
            )
        require_zero(values, cls.name)
        floats = finite_floats(tensor)
        rows, columns = _matrix(floats.shape)
        matrix = floats.reshape(rows, columns)
        zeros, entries, pointers = [], [], []
        for element in range(processing_elements):
            # Transposed, so that C order walks down the columns.
            own = np.ascontiguousarray(matrix[element::processing_elements].T)
            fitting, padded, starts = _encode_columns(own, index_bits)
            zeros.append(fitting)
            entries.append(padded)
            pointers.append(starts)
        pointer_bits = 16 if max(int(starts[-1]) for starts in pointers) < 1 << 16 else 32
        packed: UInts = np.concatenate(pointers).astype(symbol_type(pointer_bits))
        stored = values(np.concatenate(entries))
        return cls(floats.shape, np.concatenate(zeros), stored, packed, processing_elements, index_bits, pointer_bits)

    def decode(self) -> Floats:
        matrix = np.zeros(_matrix(self.shape), np.float32)
        values, start = self.values.decode(), 0
        for element, starts in enumerate(self._starts()):
            own = matrix[element :: self.processing_elements]
            stop = start + int(starts[-1])
            rows, columns = _places(self.zeros[start:stop], starts)
            own[rows, columns] = values[start:stop]
            start = stop
        return matrix.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {
            "zeros": Stream(self.zeros, self.index_bits, "indices"),
            "pointers": Stream(self.pointers, self.pointer_bits, "indices"),
        } | self.values.streams()

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "processing_elements": self.processing_elements,
            "index_bits": self.index_bits,
            "pointer_bits": self.pointer_bits,
            "values": self.values.header(),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape = read_shape(header)
        elements = read_int(header, "processing_elements", 1, 1 << 16)
        index_bits, pointer_bits = read_int(header, "index_bits", 1, 16), read_int(header, "pointer_bits", 16, 32)
        if pointer_bits not in (16, 32):
            raise FormatError(f"the header's pointer_bits should be 16 or 32, found {pointer_bits}")
        values = read_values(read_header(header, "values"), source)
        if len(values.shape) != 1 or values.shape[0] > math.prod(shape):
            raise FormatError(f"a tensor of shape {shape} cannot have entries of shape {values.shape}")
        zeros = source.stream("zeros", values.shape[0], index_bits)
        pointers = source.stream("pointers", elements * (_matrix(shape)[1] + 1), pointer_bits)
        stored = cls(shape, zeros, values, pointers, elements, index_bits, pointer_bits)
        stored._check_places()
        return stored

    def describe(self) -> str:
        return f"block_csc({self.processing_elements}, {self.index_bits}) > {self.values.describe()}"

    def _starts(self) -> NDArray[np.int64]:
        return self.pointers.astype(np.int64).reshape(self.processing_elements, -1)

    def _check_places(self) -> None:
        rows = _matrix(self.shape)[0]
        if not self.zeros.size and not self.pointers.any():
            return
        starts = self._starts()
        if (starts[:, 0] != 0).any() or (np.diff(starts) < 0).any() or int(starts[:, -1].sum()) != self.zeros.size:
            raise FormatError("stored column pointers do not add up to the entries: the stored array is damaged")
        start = 0
        for element, own in enumerate(starts):
            stop = start + int(own[-1])
            places, _ = _places(self.zeros[start:stop], own)
            if places.size and int(places.max()) * self.processing_elements + element >= rows:
                raise FormatError(f"a stored entry lies beyond the {rows} rows: the stored array is damaged")
            start = stop


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _encode_columns(own: Floats, index_bits: int) -> tuple[UInts, Floats, NDArray[np.int64]]:
    """Zero counts, values and column starts of one processing element's rows, given column by column."""
    columns, rows = own.shape
    positions = np.flatnonzero(own)
    column = positions // max(rows, 1)
    # The entry before, or the place just above the column where there is none.
    before = np.maximum(np.concatenate([[-1], positions[:-1]]), column * rows - 1)[: positions.size]
    gaps = positions - before - 1
    fitting, padded = insert_fillers(gaps, own.reshape(-1)[positions], index_bits)
    entries = np.bincount(column, (gaps >> index_bits) + 1, columns).astype(np.int64)
    return fitting, padded, np.concatenate([[0], np.cumsum(entries)])


def _places(zeros: UInts, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row (among the element's own) and column of each entry."""
    ends = np.concatenate([[0], np.cumsum(zeros.astype(np.int64) + 1)])
    sizes = np.diff(starts)
    columns = np.repeat(np.arange(sizes.size), sizes)
    return ends[1:] - 1 - ends[starts[:-1]][columns], columns
