"""One integer stream to bytes and back: as it is, Huffman coded, or ANS coded with a fixed or an adaptive model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.errors import FormatError
from dovetail.formats import adaptive
from dovetail.formats.ans import Ans
from dovetail.formats.bitstream import BitReader, BitWriter, Integers
from dovetail.formats.coder import Model
from dovetail.formats.format import Stream
from dovetail.formats.huffman import Huffman
from dovetail.formats.packing import Bytes, UInts, pack, packed_bytes, symbol_type, unpack

MODELS: dict[str, type[Model]] = {"huffman": Huffman, "ans": Ans}
CODERS = ("raw", *MODELS, "adaptive")

ENTROPIES = {"huffman": ("huffman",), "ans": ("ans", "adaptive"), "smallest": ("huffman", "ans", "adaptive")}
"""What each setting of a layout's `entropy` may use besides "raw"."""

WIDEST = 12
"""Most bits of a symbol that are coded; where only the top bits are, the others follow as they are."""

TOPS = (6, 9, 12)
"""Top bits coded of a symbol wider than that: a float16 has 6 of sign and exponent, a float32 or bfloat16 has 9."""

LOW_BITS = 5
"""Width of the field that says how many low bits of a symbol are not coded."""


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
    for coder in (coder for coder in MODELS if coder in coders):
        ways.append(min((_plan(counts, bits, coder, top) for top in _tops(bits, coder)), key=lambda plan: plan.bits))
    return ways


def stream_plans(stream: Stream, coders: tuple[str, ...]) -> list[Plan]:
    """The ways to code `stream`, "raw" first; "adaptive" is for a mask in rows."""
    ways = plans(histogram(stream), stream.bits, coders)
    if "adaptive" in coders and stream.columns:
        matrix = stream.symbols.reshape(-1, stream.columns)
        expected = adaptive.expected_bits(matrix.sum(1, dtype=np.int64), matrix.sum(0, dtype=np.int64))
        ways.append(Plan("adaptive", expected))
    return ways


def _tops(bits: int, coder: str) -> tuple[int, ...]:
    if bits > WIDEST:
        return tuple(top for top in TOPS if top < bits)
    # Wide alphabets of few symbols have large Huffman tables; an ANS model interpolates instead.
    return tuple(range(bits, max(bits - 4, 0), -1)) if coder == "huffman" else (bits,)


def _plan(counts: Integers, bits: int, coder: str, top: int) -> Plan:
    own = counts.reshape(1 << top, -1).sum(1)
    model = MODELS[coder].fit(own)
    below = 8 * packed_bytes(int(own.sum()), bits - top)
    table = -(-(model.table_bits(top) + LOW_BITS) // 8) * 8
    payload = model.payload_bits(own)
    # An ANS coder's last state takes up to three bytes more than the entropy.
    ending = 24 if coder == "ans" and model.first < model.last else -payload % 8
    return Plan(coder, below + table + payload + ending, model, top)


def smallest_plan(counts: Integers, bits: int, entropy: str) -> Plan:
    """The plan of fewest bits; `entropy` is a key of `ENTROPIES`, or "none"."""
    return min(plans(counts, bits, ENTROPIES.get(entropy, ())), key=lambda plan: plan.bits)


def code(stream: Stream, plan: Plan) -> Coded:
    """The stream coded as planned."""
    if plan.coder == "adaptive":
        table, payload = adaptive.encode(stream.symbols.astype(np.uint8, copy=False), stream.columns)
        return Coded(plan.coder, np.concatenate([table, payload]), 8 * table.size)
    if plan.model is None:
        return Coded("raw", pack(stream.symbols, stream.bits), 0)
    writer, below, symbols = BitWriter(), np.zeros(0, np.uint8), stream.symbols
    low = stream.bits - plan.top
    writer.write(low, LOW_BITS)
    if low:
        below = pack(symbols & symbols.dtype.type((1 << low) - 1), low)
        symbols = symbols >> symbols.dtype.type(low)
    plan.model.write(writer, plan.top)
    table = writer.to_bytes()
    return Coded(plan.coder, np.concatenate([table, below, plan.model.encode(symbols)]), 8 * table.size)


def decode(coder: str, data: Bytes, count: int, bits: int, columns: int = 0) -> tuple[UInts, Coded]:
    """The `count` symbols of `bits` bits, and what `code` made. Raises FormatError on damaged bytes."""
    if coder == "raw":
        return unpack(data, count, bits), Coded(coder, data, 0)
    if coder == "adaptive":
        mask, table_bytes = adaptive.decode(data, count, columns)
        return mask, Coded(coder, data, 8 * table_bytes)
    reader = BitReader(data)
    low = reader.read(LOW_BITS)
    if not 1 <= bits - low <= WIDEST:
        raise FormatError(f"a stream of {bits}-bit symbols cannot have {low} uncoded bits: the array is damaged")
    model = MODELS[coder].read(reader, bits - low)
    table = reader.bytes_read
    below = packed_bytes(count, low)
    if table + below > data.size:
        raise FormatError(f"a stream of {count} symbols does not fit {data.size} bytes: the stored array is damaged")
    symbols = model.decode(data[table + below :], count).astype(symbol_type(bits), copy=False)
    if low:
        symbols = (symbols << low) | unpack(data[table : table + below], count, low).astype(symbols.dtype)
    return symbols, Coded(coder, data, 8 * table)
