"""ANS coding of a mask whose rows and columns differ in density, as those of a pruned layer do.

The probability that an element is 1 has the odds of its column, learnt from the rows above, times the factor of its
row, which is stored. Pruning leaves some inputs and some outputs of a layer with far more weights than others, and that
makes the positions cheaper.
"""

from __future__ import annotations

import math
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.ans import finish, resume
from dovetail.formats.bitstream import BitReader, BitWriter, Integers, read_smooth, smooth_bits, write_smooth
from dovetail.formats.packing import Bytes

STRENGTH = 8
"""Rows of mean density that each column is taken to have had before the first."""

UNIT = 1 << 16
LEVEL_BITS = 5
MIDDLE = 1 << (LEVEL_BITS - 1)

# 2^(k/2 + 16) for k = -16..15, rounded down, by integers alone, so that every machine decodes with the same model.
_FACTORS = np.array([math.isqrt(1 << (32 + k)) for k in range(-MIDDLE, MIDDLE)], np.float64)


def expected_bits(row_counts: Integers, column_counts: Integers) -> float:
    """About how many bits `encode` takes for a mask with so many ones in each row and column."""
    rows, columns, ones = row_counts.size, column_counts.size, int(row_counts.sum())
    whole = _entropy(np.array([ones]), rows * columns)
    gain = 2 * whole - _entropy(row_counts, columns) - _entropy(column_counts, rows)
    learning = min(0.5 * math.log2(rows + 1), 4) * np.count_nonzero(column_counts)
    _, levels = _fit(row_counts, columns)
    return whole - gain + learning + 16 + smooth_bits(levels, LEVEL_BITS) + 32


def encode(mask: NDArray[np.uint8], columns: int) -> tuple[Bytes, Bytes]:
    """The table and the payload of a mask (flat, 0 or 1) of rows of `columns` elements, neither of them none."""
    matrix = mask.reshape(-1, columns)
    mean, levels = _fit(matrix.sum(1, dtype=np.int64), columns)
    writer = BitWriter()
    writer.write(mean, 16)
    write_smooth(writer, levels, LEVEL_BITS)
    coder, family = constriction.stream.stack.AnsCoder(), _family()
    above = matrix.sum(0, dtype=np.int64)
    for row in range(matrix.shape[0] - 1, -1, -1):
        above -= matrix[row]
        coder.encode_reverse(matrix[row].astype(np.int32), family, _probabilities(above, row, mean, int(levels[row])))
    return writer.to_bytes(), finish(coder, mask.size)


def decode(data: Bytes, count: int, columns: int) -> tuple[NDArray[np.uint8], int]:
    """The `count` mask elements from the table and payload in `data`, and the bytes of the table."""
    if columns < 1 or count < 1 or count // columns > 8 * data.size:
        raise FormatError(f"{data.size} stored bytes cannot hold a mask of {count} elements: the array is damaged")
    reader, rows = BitReader(data), count // columns
    mean = reader.read(16)
    if not mean:
        raise FormatError("a stored mask has a mean density of zero: the stored array is damaged")
    levels, family = read_smooth(reader, rows, LEVEL_BITS), _family()
    coder = resume(data[reader.bytes_read :], count)
    matrix, above = np.empty((rows, columns), np.uint8), np.zeros(columns, np.int64)
    for row in range(rows):
        matrix[row] = coder.decode(family, _probabilities(above, row, mean, int(levels[row])))
        above += matrix[row]
    if not coder.is_empty():
        raise FormatError("a stored mask holds more than its elements: the stored array is damaged")
    return matrix.reshape(-1), reader.bytes_read


def _family() -> Any:
    return constriction.stream.model.Bernoulli(perfect=False)


def _fit(row_counts: Integers, columns: int) -> tuple[int, Integers]:
    """The mean density in units of 2^-16, and each row's factor on the odds, in half octaves above 2^-8."""
    density = (row_counts + 0.3) / (columns + 0.6)
    mean = min(max(round(UNIT * float(row_counts.sum()) / (row_counts.size * columns)), 1), UNIT - 1)
    octaves = np.log2(density / (1 - density) * (UNIT - mean) / mean)
    return mean, np.clip(np.rint(2 * octaves) + MIDDLE, 0, 2 * MIDDLE - 1).astype(np.int64)


def _probabilities(above: Integers, row: int, mean: int, level: int) -> NDArray[np.float64]:
    # Sums and products of integers and one division: every machine rounds them alike.
    ones = (above * UNIT + STRENGTH * mean) * _FACTORS[level]
    zeros = ((row - above) * UNIT + STRENGTH * (UNIT - mean)) * float(UNIT)
    return np.asarray(ones / (ones + zeros))


def _entropy(counts: Integers, of: int) -> float:
    """Bits of masks of `of` elements each with these many ones."""
    ones = counts[(counts > 0) & (counts < of)]
    return float((of * np.log2(of) - ones * np.log2(ones) - (of - ones) * np.log2(of - ones)).sum())
