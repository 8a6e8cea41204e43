"""Weight sharing: every value is a code into one small table.

Han, Mao, Dally. Deep Compression. ICLR 2016. arXiv:1510.00149, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_choice, read_int, read_shape
from dovetail.formats.packing import UInts

TABLE_TYPES = ("float32", "float16")


@dataclass(frozen=True, eq=False)
class Codebook(Format):
    """Codes of 1 to 8 bits into a table of at most 2^code_bits floats, in ascending order.

    bits = n * code_bits + len(table) * (32 or 16)
    """

    name: ClassVar[str] = "codebook"
    shape: tuple[int, ...]
    codes: NDArray[np.uint8]
    table: NDArray[np.floating[Any]]
    code_bits: int

    @classmethod
    def encode(
        cls, tensor: NDArray[Any], *, table: NDArray[Any], code_bits: int | None = None, dtype: str | None = None
    ) -> Self:
        """Every element becomes the nearest entry of `table`, the lower one of two equally near.

        `dtype` is the table's stored type, by default float16 if that holds every entry exactly and float32 if not;
        `code_bits` is by default the fewest that number the table. Raises FormatError on NaN and infinity, in the
        tensor or the table, and on a table that is empty or longer than 2^code_bits.
        """
        entries = _stored_table(table, dtype)
        bits = max(1, (entries.size - 1).bit_length()) if code_bits is None else code_bits
        if not 1 <= bits <= 8 or entries.size > 1 << bits:
            raise FormatError(
                f"Codebook.code_bits should be in 1..8 and number the table, got {bits} bits for {entries.size} entries"
            )
        floats = finite_floats(tensor)
        flat, exact = floats.reshape(-1), entries.astype(np.float64)
        middles = (exact[1:] + exact[:-1]) / 2
        codes = np.empty(flat.size, np.uint8)
        for start in range(0, flat.size, 1 << 20):
            codes[start : start + (1 << 20)] = np.searchsorted(middles, flat[start : start + (1 << 20)])
        return cls(floats.shape, codes, entries, bits)

    def decode(self) -> Floats:
        return self.table.astype(np.float32)[self.codes].reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"codes": Stream(self.codes, self.code_bits)}

    def tables(self) -> dict[str, Array]:
        return {"table": self.table}

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "bits": self.code_bits,
            "entries": int(self.table.size),
            "dtype": str(self.table.dtype),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, bits = read_shape(header), read_int(header, "bits", 1, 8)
        entries = read_int(header, "entries", 1, 1 << bits)
        table = source.array("table", read_choice(header, "dtype", TABLE_TYPES), (entries,))
        if not np.isfinite(table).all():
            raise FormatError("a stored codebook holds NaN or infinity: the stored array is damaged")
        codes: UInts = source.stream("codes", math.prod(shape), bits)
        if codes.size and int(codes.max()) >= entries:
            raise FormatError(f"a stored code is {int(codes.max())}, but the codebook has {entries} entries")
        return cls(shape, codes, table, bits)

    def describe(self) -> str:
        return f"codebook({self.code_bits})"


def _stored_table(table: NDArray[Any], dtype: str | None) -> NDArray[np.floating[Any]]:
    # Adding 0.0 turns -0.0, which a sparse structure could not tell from a zero, into 0.0.
    entries = np.unique(finite_floats(np.asarray(table)).reshape(-1) + np.float32(0.0))
    with np.errstate(over="ignore"):
        halves = entries.astype(np.float16)
    if dtype is None:
        dtype = "float16" if np.array_equal(halves, entries) else "float32"
    if dtype not in TABLE_TYPES:
        raise FormatError(f"Codebook.dtype should be float16 or float32, got {dtype!r}")
    if not np.isfinite(halves).all() and dtype == "float16":
        raise FormatError(f"float16 cannot hold a codebook entry as large as {float(np.abs(entries).max()):g}")
    if not entries.size:
        raise FormatError("a codebook needs at least one entry, got an empty table")
    return np.unique(halves) if dtype == "float16" else entries
