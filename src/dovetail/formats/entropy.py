"""Entropy coding of the integers in another format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from dovetail.errors import FormatError
from dovetail.formats.coders import CODERS, ENTROPIES, Coded, code, decode, stream_plans
from dovetail.formats.composites import COMPOSITES
from dovetail.formats.format import Array, Floats, Format, RawSource, Source, Stream
from dovetail.formats.header import Header, Json, read_choice, read_header
from dovetail.formats.packing import UInts
from dovetail.formats.structures import STRUCTURES
from dovetail.formats.values import VALUES

_INNER = {format.name: format for format in (*VALUES, *STRUCTURES, *COMPOSITES)}


@dataclass(frozen=True, eq=False)
class Entropy(Format):
    """`inner` with each of its integer streams as it is or coded, whichever is smaller; never larger than `inner`.

    bits = sum over streams of (model + payload, in whole bytes) + tables of `inner`
    """

    name: ClassVar[str] = "entropy"
    inner: Format
    coded: Mapping[str, Coded]

    @classmethod
    def encode(cls, inner: Format, coder: str = "smallest") -> Self:
        """`coder` is "huffman", "ans" or "smallest"; a stream that it would enlarge stays "raw"."""
        if coder not in ENTROPIES:
            raise FormatError(f"Entropy.coder should be one of {', '.join(ENTROPIES)}, got {coder!r}")
        if isinstance(inner, cls):
            raise FormatError("Entropy cannot code what is entropy coded already")
        return cls(inner, {key: _smallest(stream, coder) for key, stream in inner.streams().items()})

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    @property
    def candidates(self) -> dict[str, dict[str, int]]:
        """Bits of each stream under every coder, by stream and coder."""
        return {
            key: {plan.coder: 8 * code(stream, plan).data.size for plan in stream_plans(stream, CODERS)}
            for key, stream in self.inner.streams().items()
        }

    def decode(self) -> Floats:
        return self.inner.decode()

    def streams(self) -> dict[str, Stream]:
        return self.inner.streams()

    def tables(self) -> dict[str, Array]:
        return self.inner.tables()

    def arrays(self) -> dict[str, Array]:
        """Every stream as bytes, a coded one's model before its payload, and the tables of `inner`."""
        return {key: coded.data for key, coded in self.coded.items()} | self.inner.tables()

    @property
    def bits_by_part(self) -> dict[str, int]:
        parts = self.inner.bits_by_part
        for key, stream in self.inner.streams().items():
            coded = self.coded[key]
            if coded.coder != "raw":
                used = stream.symbols.size * stream.bits
                parts["padding"] -= -used % 8
                parts[stream.part] += 8 * coded.data.size - coded.table_bits - used
                parts["tables"] += coded.table_bits
        return parts

    def header(self) -> dict[str, Json]:
        coders: dict[str, Json] = {key: coded.coder for key, coded in self.coded.items()}
        return {"format": self.name, "inner": self.inner.header(), "coders": coders}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        if not isinstance(source, RawSource):
            raise FormatError("an entropy coded format cannot stand inside another one: the header is damaged")
        inner, coders = read_header(header, "inner"), _CodedSource(source, read_header(header, "coders"))
        inner_type = _INNER[read_choice(inner, "format", tuple(_INNER))]
        format = inner_type.read(inner, coders)
        return cls(format, {key: coders.read[key] for key in format.streams()})

    def describe(self) -> str:
        used = dict.fromkeys(coded.coder for coded in self.coded.values() if coded.coder != "raw")
        return f"{self.inner.describe()} > {'+'.join(used) or 'raw'}"


def _smallest(stream: Stream, coder: str) -> Coded:
    # What a plan expects may be a few bytes off, more for an adaptive one, so every plan near the best is carried out.
    ways = stream_plans(stream, ENTROPIES[coder])
    limit = min(plan.bits for plan in ways) + 32
    near = (plan for plan in ways if plan.bits <= (1.05 * limit + 256 if plan.coder == "adaptive" else limit))
    return min((code(stream, plan) for plan in near), key=lambda coded: coded.data.size)


class _CodedSource(Source):
    def __init__(self, source: RawSource, coders: Header) -> None:
        self._source = source
        self._coders = coders
        self.read: dict[str, Coded] = {}

    def stream(self, key: str, count: int, bits: int, columns: int = 0) -> UInts:
        coder = read_choice(self._coders, key, CODERS)
        symbols, self.read[key] = decode(coder, self._source.bytes(key), count, bits, columns)
        return symbols

    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        return self._source.array(key, dtype, shape)
