"""Integers of 1 to 32 bits packed without gaps, least significant bit first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError

UInts = NDArray[np.unsignedinteger]
Bytes = NDArray[np.uint8]

CHUNK = 1 << 20
"""Symbols handled at a time, a multiple of 8 so that chunks meet on whole bytes."""


def symbol_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned type that holds `bits` bits."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take, the last byte filled up."""
    return (count * bits + 7) // 8


def pack(symbols: UInts, bits: int) -> Bytes:
    """`symbols` (1-D, each below 2^bits, bits 1..32) as ceil(n * bits / 8) bytes; symbol i starts at bit i * bits."""
    if bits in (8, 16, 32):
        return symbols.astype(f"<u{bits // 8}").view(np.uint8)
    packed = np.empty(packed_bytes(symbols.size, bits), np.uint8)
    for start in range(0, symbols.size, CHUNK):
        chunk = _pack_chunk(symbols[start : start + CHUNK], bits)
        packed[start * bits // 8 :][: chunk.size] = chunk
    return packed


def unpack(packed: Bytes, count: int, bits: int) -> UInts:
    """The inverse of `pack`. Raises FormatError if `packed` is not exactly as long as `count` symbols need."""
    if packed.size != packed_bytes(count, bits):
        raise FormatError(
            f"{count} packed integers of {bits} bits take {packed_bytes(count, bits)} bytes, found {packed.size}: "
            "the stored array is damaged"
        )
    if bits in (8, 16, 32):
        return packed.view(f"<u{bits // 8}").astype(symbol_type(bits), copy=False)
    symbols = np.empty(count, symbol_type(bits))
    for start in range(0, count, CHUNK):
        part = symbols[start : start + CHUNK]
        first = start * bits // 8
        part[:] = _unpack_chunk(packed[first : first + packed_bytes(part.size, bits)], part.size, bits)
    return symbols


def _pack_chunk(symbols: UInts, bits: int) -> Bytes:
    if bits > 8:
        planes = (symbols[:, None] >> np.arange(bits, dtype=symbols.dtype)) & 1
        return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")
    # Eight symbols fill `bits` whole bytes of one 64-bit word.
    padded = np.zeros(-(-symbols.size // 8) * 8, np.uint64)
    padded[: symbols.size] = symbols
    words = np.zeros(padded.size // 8, "<u8")
    for i in range(8):
        words |= padded[i::8] << np.uint64(bits * i)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: packed_bytes(symbols.size, bits)]


def _unpack_chunk(packed: Bytes, count: int, bits: int) -> UInts:
    if bits > 8:
        planes = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
        return np.asarray(planes @ (np.uint32(1) << np.arange(bits, dtype=np.uint32)))
    groups = -(-count // 8)
    padded = np.zeros((groups, 8), np.uint8)
    whole = np.zeros(groups * bits, np.uint8)
    whole[: packed.size] = packed
    padded[:, :bits] = whole.reshape(groups, bits)
    words = padded.view("<u8").reshape(-1)
    symbols = np.empty((groups, 8), np.uint8)
    for i in range(8):
        symbols[:, i] = (words >> np.uint64(bits * i)) & np.uint64((1 << bits) - 1)
    return symbols.reshape(-1)[:count]
