"""One integer stream to bytes and back: as it is, Huffman coded or ANS coded, whichever is smallest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.errors import FormatError
from dovetail.formats.ans import Ans
from dovetail.formats.bitstream import BitReader, BitWriter, Integers
from dovetail.formats.coder import Model
from dovetail.formats.format import Stream
from dovetail.formats.huffman import Huffman
from dovetail.formats.packing import Bytes, UInts, pack, packed_bytes, symbol_type, unpack

MODELS: dict[str, type[Model]] = {"huffman": Huffman, "ans": Ans}
CODERS = ("raw", *MODELS)

ENTROPIES = {"huffman": ("huffman",), "ans": ("ans",), "smallest": tuple(MODELS)}
"""What each setting of a layout's `entropy` may use besides "raw"."""

WIDEST = 12
"""Widest symbol in bits that is coded whole; of a wider one the top bits are coded and the rest follows as it is."""

SPLITS = (6, 9, 12)
"""Top bits of a wide symbol that may be coded: a float16 has 6 of sign and exponent, a float32 or bfloat16 has 9."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A stream as stored; `table_bits` of its bytes are the coder's model."""

    coder: str
    data: Bytes
    table_bits: int


@dataclass(frozen=True)
class Plan:
    """How a stream will be coded; `bits` is the size it is expected to have, exact for "raw" and "huffman"."""

    coder: str
    bits: float
    model: Model | None = None
    top: int = 0


def histogram(stream: Stream) -> Integers:
    """How often each value of the top bits, `WIDEST` at most, occurs."""
    top = min(stream.bits, WIDEST)
    counts = np.zeros(1 << top, np.int64)
    for start in range(0, stream.symbols.size, 1 << 22):
        chunk = stream.symbols[start : start + (1 << 22)]
        counts += np.bincount(chunk >> (stream.bits - top), minlength=counts.size)
    return counts


def plans(counts: Integers, bits: int, coders: tuple[str, ...]) -> list[Plan]:
    """The ways to code a stream with this histogram (of its top bits) and symbols of `bits` bits, "raw" first."""
    total = int(counts.sum())
    ways = [Plan("raw", 8 * packed_bytes(total, bits))]
    if total == 0:
        return ways
    tops = (bits,) if bits <= WIDEST else tuple(split for split in SPLITS if split < bits)
    for coder in coders:
        ways.append(min((_plan(counts, bits, coder, top) for top in tops), key=lambda plan: plan.bits))
    return ways


def _plan(counts: Integers, bits: int, coder: str, top: int) -> Plan:
    own = counts.reshape(1 << top, -1).sum(1)
    model = MODELS[coder].fit(own)
    below = 8 + 8 * packed_bytes(int(own.sum()), bits - top) if top < bits else 0
    table = -(-model.table_bits(top) // 8) * 8
    payload = model.payload_bits(own)
    # An ANS coder's last state takes up to three bytes more than the entropy.
    ending = 24 if coder == "ans" and model.first < model.last else -payload % 8
    return Plan(coder, below + table + payload + ending, model, top)


def smallest_plan(counts: Integers, bits: int, entropy: str) -> Plan:
    """The plan of fewest bits; `entropy` is a key of `ENTROPIES`, or "none"."""
    return min(plans(counts, bits, ENTROPIES.get(entropy, ())), key=lambda plan: plan.bits)


def code(stream: Stream, plan: Plan) -> Coded:
    """The stream coded as planned."""
    if plan.model is None:
        return Coded("raw", pack(stream.symbols, stream.bits), 0)
    writer, below, symbols = BitWriter(), np.zeros(0, np.uint8), stream.symbols
    low = stream.bits - plan.top
    if low:
        writer.write(plan.top, 8)
        below = pack(symbols & symbols.dtype.type((1 << low) - 1), low)
        symbols = symbols >> symbols.dtype.type(low)
    plan.model.write(writer, plan.top)
    table = writer.to_bytes()
    return Coded(plan.coder, np.concatenate([table, below, plan.model.encode(symbols)]), 8 * table.size)


def decode(coder: str, data: Bytes, count: int, bits: int) -> tuple[UInts, Coded]:
    """The `count` symbols of `bits` bits, and what `code` made. Raises FormatError on damaged bytes."""
    if coder == "raw":
        return unpack(data, count, bits), Coded(coder, data, 0)
    reader = BitReader(data)
    top = reader.read(8) if bits > WIDEST else bits
    if bits > WIDEST and (top not in SPLITS or top >= bits):
        raise FormatError(f"a stream of {bits}-bit symbols cannot have {top} coded bits: the stored array is damaged")
    model = MODELS[coder].read(reader, top)
    table, low = reader.bytes_read, bits - top
    below = packed_bytes(count, low)
    if table + below > data.size:
        raise FormatError(f"a stream of {count} symbols does not fit {data.size} bytes: the stored array is damaged")
    symbols = model.decode(data[table + below :], count).astype(symbol_type(bits), copy=False)
    if low:
        symbols = (symbols << low) | unpack(data[table : table + below], count, low).astype(symbols.dtype)
    return symbols, Coded(coder, data, 8 * table)
