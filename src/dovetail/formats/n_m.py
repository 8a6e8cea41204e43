"""N:M sparsity: at most n nonzeros in every m neighbours.

Mishra et al. Accelerating Sparse Deep Neural Networks. 2021. arXiv:2104.08378, section 3 (2:4, whose positions take two
bits each there).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.bitstream import Integers
from dovetail.formats.format import Floats, Format, Source, Stream, Structure, ValueEncoder, finite_floats
from dovetail.formats.header import Header, Json, read_header, read_int, read_shape
from dovetail.formats.packing import UInts, symbol_type
from dovetail.formats.values import read_values, require_zero

LARGEST_GROUP = 256


@dataclass(frozen=True, eq=False)
class NM(Structure):
    """Exactly n values for every group of m elements of a row, and where in the group they are.

    A row is one index of the first dimension, its other elements in C order, the last group filled up with zeros.
    `places` holds for each group one number of ceil(log2 C(m, n)) bits that stands for the combination of positions
    p_0 < p_1 < ... (C(p_0, 1) + C(p_1, 2) + ...), or, where that would take more than 32 bits, the n positions
    themselves in ceil(log2 m) bits each. A group of fewer nonzeros holds zeros at its first free positions.

    bits = groups * (bits of the places + n * bits of a value) + tables of the values; 2:4 takes 1.5 bits a value for
    its places.
    """

    name: ClassVar[str] = "n_m"
    shape: tuple[int, ...]
    places: UInts
    values: Format
    n: int
    m: int

    @classmethod
    def encode(cls, tensor: NDArray[Any], values: ValueEncoder, *, n: int, m: int) -> Self:
        """Raises FormatError on NaN, infinity, n and m other than 1 <= n <= m <= 256, a group of more than n
        nonzeros, and, where a group has fewer, values that do not hold 0 exactly."""
        check_group(n, m)
        floats = finite_floats(tensor)
        groups = _groups(floats, m)
        nonzero = groups != 0
        counts = np.count_nonzero(nonzero, axis=1)
        if counts.size and counts.max() > n:
            worst, (_, columns) = int(counts.argmax()), _matrix(floats.shape)
            row, start = divmod(worst, -(-columns // m))
            raise FormatError(
                f"{n}:{m} sparsity allows {n} nonzeros in every {m} elements, but a tensor of shape {floats.shape} has "
                f"{counts[worst]} in row {row} from element {start * m} on; prune it to {n}:{m}, or store it otherwise"
            )
        # Stable, so that nonzeros come first in their order, and then the first free positions.
        positions = np.sort(np.argsort(~nonzero, axis=1, kind="stable")[:, :n], axis=1)
        entries = np.take_along_axis(groups, positions, 1).reshape(-1)
        if not entries.all():
            require_zero(values, cls.name)
        return cls(floats.shape, _to_places(positions, n, m), values(entries), n, m)

    def decode(self) -> Floats:
        rows, columns = _matrix(self.shape)
        per_row = -(-columns // self.m)
        starts = np.tile(self.m * np.arange(per_row), rows)
        column = starts[:, None] + _to_positions(self.places, rows * per_row, self.n, self.m)
        row = np.repeat(np.arange(rows), per_row * self.n)
        # What lies beyond the end of a row only fills up its last group.
        kept = column.reshape(-1) < columns
        matrix = np.zeros((rows, columns), np.float32)
        matrix[row[kept], column.reshape(-1)[kept]] = self.values.decode()[kept]
        return matrix.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        bits = _place_bits(self.n, self.m)
        return ({"places": Stream(self.places, bits, "indices")} if bits else {}) | self.values.streams()

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "n": self.n,
            "m": self.m,
            "values": self.values.header(),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, m = read_shape(header), read_int(header, "m", 1, LARGEST_GROUP)
        n = read_int(header, "n", 1, m)
        values = read_values(read_header(header, "values"), source)
        rows, columns = _matrix(shape)
        groups, bits = rows * -(-columns // m), _place_bits(n, m)
        if values.shape != (groups * n,):
            raise FormatError(f"{groups} groups of {n}:{m} cannot have values of shape {values.shape}")
        if not bits:
            return cls(shape, np.zeros(0, np.uint8), values, n, m)
        places = source.stream("places", groups * (1 if _is_ranked(n, m) else n), bits)
        _check_places(places, n, m)
        return cls(shape, places, values, n, m)

    def describe(self) -> str:
        return f"n_m({self.n}:{self.m}) > {self.values.describe()}"


def check_group(n: int, m: int) -> None:
    """Raise FormatError unless there can be n nonzeros in m elements."""
    if not 1 <= n <= m <= LARGEST_GROUP:
        raise FormatError(f"n:m sparsity takes 1 <= n <= m <= {LARGEST_GROUP}, got {n}:{m}")


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _groups(floats: Floats, m: int) -> Floats:
    """The groups, one a row, the last of each row of the tensor filled up with zeros."""
    rows, columns = _matrix(floats.shape)
    matrix = floats.reshape(rows, columns)
    if columns % m:
        matrix = np.pad(matrix, ((0, 0), (0, -columns % m)))
    return matrix.reshape(-1, m)


def _is_ranked(n: int, m: int) -> bool:
    return math.comb(m, n) <= 1 << 32


def _place_bits(n: int, m: int) -> int:
    """Bits of one entry of `places`; none where a group is kept whole."""
    return (math.comb(m, n) - 1 if _is_ranked(n, m) else m - 1).bit_length()


def _binomials(n: int, m: int) -> list[Integers]:
    """For i = 0..n-1 the numbers C(p, i + 1) of p = 0..m-1."""
    return [np.array([math.comb(p, i + 1) for p in range(m)], np.int64) for i in range(n)]


def _to_places(positions: Integers, n: int, m: int) -> UInts:
    bits = _place_bits(n, m)
    if not bits:
        return np.zeros(0, np.uint8)
    if not _is_ranked(n, m):
        return np.asarray(positions.reshape(-1).astype(symbol_type(bits)))
    ranks = np.zeros(len(positions), np.int64)
    for i, binomials in enumerate(_binomials(n, m)):
        ranks += binomials[positions[:, i]]
    return np.asarray(ranks.astype(symbol_type(bits)))


def _to_positions(places: UInts, groups: int, n: int, m: int) -> Integers:
    """The positions in each group, ascending, of shape (groups, n)."""
    if n == m:
        return np.broadcast_to(np.arange(n), (groups, n))
    if not _is_ranked(n, m):
        return places.astype(np.int64).reshape(groups, n)
    positions, left = np.empty((groups, n), np.int64), places.astype(np.int64)
    for i, binomials in reversed(list(enumerate(_binomials(n, m)))):
        positions[:, i] = np.searchsorted(binomials, left, "right") - 1
        left -= binomials[positions[:, i]]
    return positions


def _check_places(places: UInts, n: int, m: int) -> None:
    if _is_ranked(n, m):
        damaged = int(places.max(initial=0)) >= math.comb(m, n)
    else:
        positions = places.astype(np.int64).reshape(-1, n)
        damaged = int(positions.max(initial=0)) >= m or bool((np.diff(positions) <= 0).any())
    if damaged:
        raise FormatError(f"stored places are no {n} of {m} positions: the stored array is damaged")
