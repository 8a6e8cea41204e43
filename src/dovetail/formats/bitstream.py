"""Single fields of any width, for the small tables that entropy coders store before their payload."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.packing import Bytes

Integers = NDArray[np.int64]

LONGEST_TABLE = 1 << 16
"""Bytes that no stored table exceeds, so that reading one looks at no more."""


class BitWriter:
    """Fields appended least significant bit first."""

    def __init__(self) -> None:
        self._value = 0
        self._length = 0

    def write(self, value: int, bits: int) -> None:
        """Append `value`, which fits `bits` bits."""
        self._value |= value << self._length
        self._length += bits

    def to_bytes(self) -> Bytes:
        """Everything written, the last byte filled up with zeros."""
        return np.frombuffer(self._value.to_bytes((self._length + 7) // 8, "little"), np.uint8)


class BitReader:
    """The inverse of `BitWriter`; raises FormatError where the bits run out."""

    def __init__(self, data: Bytes) -> None:
        head = data[:LONGEST_TABLE]
        self._value = int.from_bytes(head.tobytes(), "little")
        self._available = 8 * head.size
        self._position = 0

    def read(self, bits: int) -> int:
        """The next field of `bits` bits."""
        self._position += bits
        if self._position > self._available:
            raise FormatError("an entropy coder's table runs beyond its stored bytes: the stored array is damaged")
        return self._value >> (self._position - bits) & ((1 << bits) - 1)

    def read_unary(self) -> int:
        """The number of ones before the next zero."""
        rest = self._value >> self._position
        ones = (~rest & (rest + 1)).bit_length() - 1
        self.read(ones + 1)
        return ones

    @property
    def bytes_read(self) -> int:
        """Whole bytes that what was read takes."""
        return (self._position + 7) // 8


# A smooth list is stored as its first value and then either its differences (order 0) or the differences of those
# (order 1), each a Rice code of the parameter that makes the list shortest. Histograms of weights and of gaps are
# close to straight lines once logarithms are taken, so that most of these numbers are 0 or 1.


def smooth_bits(values: Integers, value_bits: int) -> int:
    """Bits that `write_smooth` takes."""
    return _best_smooth(values)[0] + value_bits + 5 if values.size > 1 else value_bits


def write_smooth(writer: BitWriter, values: Integers, value_bits: int) -> None:
    """Append a list (not empty) of integers of 0..2^value_bits - 1 whose length the reader knows."""
    writer.write(int(values[0]), value_bits)
    if values.size == 1:
        return
    _, order, parameter = _best_smooth(values)
    writer.write(order, 1)
    writer.write(parameter, 4)
    for number in _zigzag(values, order).tolist():
        quotient = number >> parameter
        writer.write((1 << quotient) - 1, quotient + 1)
        writer.write(number & ((1 << parameter) - 1), parameter)


def read_smooth(reader: BitReader, count: int, value_bits: int) -> Integers:
    """The inverse of `write_smooth`. Raises FormatError on values outside 0..2^value_bits - 1."""
    values = [reader.read(value_bits)]
    if count > 1:
        order, parameter = reader.read(1), reader.read(4)
        slope = 0
        for _ in range(count - 1):
            number = reader.read_unary() << parameter | reader.read(parameter)
            step = (number >> 1) ^ -(number & 1)
            slope = slope * order + step
            values.append(values[-1] + slope)
            if not 0 <= values[-1] < 1 << value_bits:
                raise FormatError("an entropy coder's table holds a value out of range: the stored array is damaged")
    return np.array(values, np.int64)


def _zigzag(values: Integers, order: int) -> Integers:
    steps = np.diff(values)
    if order:
        steps = np.diff(steps, prepend=0)
    return np.asarray((steps << 1) ^ (steps >> 63), np.int64)


def _best_smooth(values: Integers) -> tuple[int, int, int]:
    """The fewest bits of the Rice codes, and the order and parameter that give them."""
    parameters = np.arange(12)
    best: list[tuple[int, int, int]] = []
    for order in (0, 1):
        sizes = (_zigzag(values, order)[:, None] >> parameters).sum(0) + (values.size - 1) * (1 + parameters)
        parameter = int(np.argmin(sizes))
        best.append((int(sizes[parameter]), order, parameter))
    return min(best)
