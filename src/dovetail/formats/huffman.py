"""Canonical Huffman coding, of which only the lengths of the codes are stored.

Huffman. A Method for the Construction of Minimum-Redundancy Codes. Proc. IRE, 1952.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from dovetail import _native
from dovetail.errors import FormatError
from dovetail.formats.bitstream import BitReader, BitWriter, Integers, read_smooth, smooth_bits, write_smooth
from dovetail.formats.coder import Model, constant
from dovetail.formats.packing import Bytes, UInts, symbol_type

LONGEST_CODE = 24
"""Longest code in bits; it needs a symbol of one occurrence in 10^5 or more to be reached at all."""

CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class Huffman(Model):
    """Code lengths in bits of symbols `first`..`last`, 0 for one that does not occur."""

    name: ClassVar[str] = "huffman"
    first: int
    last: int
    lengths: Integers

    @classmethod
    def fit(cls, counts: Integers) -> Self:
        occurring = np.flatnonzero(counts)
        first, last = int(occurring[0]), int(occurring[-1])
        lengths = np.zeros(last - first + 1, np.int64)
        lengths[occurring - first] = code_lengths(counts[occurring])
        return cls(first, last, lengths)

    def payload_bits(self, counts: Integers) -> float:
        return float(counts[self.first : self.last + 1] @ self.lengths) if self.first < self.last else 0.0

    def table_bits(self, symbol_bits: int) -> int:
        own = 5 + smooth_bits(self._filled_lengths(), 5) if self.first < self.last else 0
        return 2 * symbol_bits + own

    def write(self, writer: BitWriter, symbol_bits: int) -> None:
        writer.write(self.first, symbol_bits)
        writer.write(self.last, symbol_bits)
        if self.first < self.last:
            writer.write(int(self.lengths.max()), 5)
            write_smooth(writer, self._filled_lengths(), 5)

    @classmethod
    def read(cls, reader: BitReader, symbol_bits: int) -> Self:
        first, last = reader.read(symbol_bits), reader.read(symbol_bits)
        if first >= last:
            if first > last:
                raise FormatError("a stored Huffman table ends before it starts: the stored array is damaged")
            return cls(first, last, np.zeros(1, np.int64))
        longest = reader.read(5)
        lengths = read_smooth(reader, last - first + 1, 5)
        lengths[lengths == longest + 1] = 0
        used = lengths[lengths > 0]
        if longest > LONGEST_CODE or (lengths > longest).any() or int((1 << (LONGEST_CODE - used)).sum()) != 1 << 24:
            raise FormatError("a stored Huffman table is no complete code: the stored array is damaged")
        return cls(first, last, lengths)

    def encode(self, symbols: UInts) -> Bytes:
        if self.first == self.last:
            return np.zeros(0, np.uint8)
        codes = canonical_codes(self.lengths)
        pieces, carried = [], np.zeros(0, np.uint8)
        for start in range(0, symbols.size, CHUNK):
            own = symbols[start : start + CHUNK].astype(np.int64) - self.first
            lengths = self.lengths[own]
            # Bit j of a code of n bits, counted from its front, is bit n - 1 - j of the number.
            ends = np.cumsum(lengths)
            shifts = np.repeat(ends, lengths) - 1 - np.arange(ends[-1])
            bits = np.concatenate([carried, (np.repeat(codes[own], lengths) >> shifts & 1).astype(np.uint8)])
            whole = bits.size // 8 * 8
            pieces.append(np.packbits(bits[:whole]))
            carried = bits[whole:]
        return np.concatenate([*pieces, np.packbits(carried)])

    def decode(self, payload: Bytes, count: int) -> UInts:
        if self.first == self.last:
            return constant(self.first, payload, count)
        if count > 8 * payload.size:
            raise FormatError(f"{payload.size} stored bytes cannot hold {count} Huffman codes: the array is damaged")
        symbols = np.empty(count, np.uint32)
        try:
            _native.huffman_decode(np.ascontiguousarray(payload), self.lengths.astype(np.uint8), symbols)
        except ValueError as error:
            raise FormatError(f"a stored {error}: the stored array is damaged") from error
        used = int(self.lengths[symbols].sum())
        if (used + 7) // 8 != payload.size:
            raise FormatError(f"a Huffman stream of {payload.size} bytes should take {used} bits: the array is damaged")
        return (symbols + np.uint32(self.first)).astype(symbol_type(self.last.bit_length()))

    def _filled_lengths(self) -> Integers:
        """The lengths with an absent symbol one longer than the longest, where it disturbs the list least."""
        return np.where(self.lengths > 0, self.lengths, self.lengths.max() + 1)


def code_lengths(counts: Integers) -> Integers:
    """Code length in bits of each of the symbols (all counts > 0), at most `LONGEST_CODE`; 1 for a single symbol."""
    lengths = _unlimited_lengths(counts)
    while lengths.max() > LONGEST_CODE:
        counts = (counts + 1) >> 1
        lengths = _unlimited_lengths(counts)
    return lengths


def _unlimited_lengths(counts: Integers) -> Integers:
    if counts.size == 1:
        return np.ones(1, np.int64)
    # Nodes are numbered as they are made, leaves first, so that ties are broken the same way everywhere.
    heap = [(count, node) for node, count in enumerate(counts.tolist())]
    heapq.heapify(heap)
    parents = [0] * (2 * counts.size - 1)
    for node in range(counts.size, 2 * counts.size - 1):
        (light, left), (heavy, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = node
        heapq.heappush(heap, (light + heavy, node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return np.array(depths[: counts.size], np.int64)


def canonical_codes(lengths: Integers) -> Integers:
    """The code of each symbol as a number: codes are ordered by length, then by symbol."""
    codes = np.zeros(lengths.size, np.int64)
    code, previous = 0, 0
    for symbol in np.lexsort((np.arange(lengths.size), lengths)).tolist():
        length = int(lengths[symbol])
        if length == 0:
            continue
        code <<= length - previous
        codes[symbol] = code
        code, previous = code + 1, length
    return codes


def decode_reference(payload: Bytes, lengths: Integers, count: int) -> Integers:
    """The plain decoder that the native one is tested against; slow."""
    symbol_of = {
        (int(length), int(code)): symbol
        for symbol, (length, code) in enumerate(zip(lengths, canonical_codes(lengths), strict=True))
        if length
    }
    bits = iter(np.unpackbits(payload).tolist())
    symbols = []
    for _ in range(count):
        length, code = 0, 0
        while (length, code) not in symbol_of:
            length, code = length + 1, code << 1 | next(bits)
        symbols.append(symbol_of[length, code])
    return np.array(symbols, np.int64)
