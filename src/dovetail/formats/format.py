"""What every storage format is: frozen, exact to the bit, written as named arrays and read back from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.header import MAX_ELEMENTS, Header, Json
from dovetail.formats.packing import Bytes, UInts, pack, unpack

Floats = NDArray[np.float32]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stream:
    """Integers of a fixed width: what an entropy coder may code.

    `part` is where their bits are counted. `columns` is not 0 where the symbols are bits in rows of so many, which a
    coder may make use of.
    """

    symbols: UInts
    bits: int
    part: str = "values"
    columns: int = 0


class Source(ABC):
    """Where a format being read gets its integers and arrays from, by key."""

    @abstractmethod
    def stream(self, key: str, count: int, bits: int, columns: int = 0) -> UInts:
        """The `count` integers of `bits` bits stored under `key`, or FormatError; `columns` as in `Stream`."""

    @abstractmethod
    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The array stored as it is under `key`, or FormatError if its type or shape differs."""


class Format(ABC):
    """How one tensor lies in memory. Every format is a frozen dataclass; what is stored is `arrays` and `header`."""

    name: ClassVar[str]
    shape: tuple[int, ...]
    """Shape of the decoded tensor."""

    @abstractmethod
    def decode(self) -> Floats:
        """The tensor, exactly."""

    @abstractmethod
    def header(self) -> dict[str, Json]:
        """What `from_arrays` needs besides the arrays; JSON-able; {"format": name, ...}, nested for inner formats."""

    @abstractmethod
    def streams(self) -> dict[str, Stream]:
        """The integers an entropy coder may code, by key."""

    def tables(self) -> dict[str, Array]:
        """The small arrays stored as they are (codebook, scales), by key."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, header: Header, source: Source) -> Self:
        """The inverse of `header` and `arrays`. Raises FormatError on anything inconsistent."""

    def arrays(self) -> dict[str, Array]:
        """What is written to the file, by key; keys differ between a structure and its values."""
        packed: dict[str, Array] = {key: pack(stream.symbols, stream.bits) for key, stream in self.streams().items()}
        return packed | self.tables()

    @property
    def bits(self) -> int:
        """Size in bits, exactly: eight times the bytes of `arrays`."""
        return sum(self.bits_by_part.values())

    @property
    def bits_by_part(self) -> dict[str, int]:
        """The bits split into "values", "indices", "tables" and "padding" (the bits that fill up last bytes)."""
        parts = dict.fromkeys(("values", "indices", "tables", "padding"), 0)
        for stream in self.streams().values():
            used = stream.symbols.size * stream.bits
            parts[stream.part] += used
            parts["padding"] += -used % 8
        parts["tables"] += 8 * sum(table.nbytes for table in self.tables().values())
        return parts

    @property
    def density(self) -> float:
        """Nonzeros over elements of the decoded tensor; 1.0 for an empty one."""
        elements = math.prod(self.shape)
        return np.count_nonzero(self.decode()) / elements if elements else 1.0

    def describe(self) -> str:
        """One line for people, as "relative_index(5) > codebook(4) > ans"."""
        return self.name


class Structure(Format):
    """A format that says where the elements are; what they are is in `values`, a format of its own."""

    values: Format

    def tables(self) -> dict[str, Array]:
        return self.values.tables()


ValueEncoder = Callable[[NDArray[Any]], Format]
"""Encodes the values of an array, element for element."""


class RawSource(Source):
    """Streams packed as they are."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays

    def stream(self, key: str, count: int, bits: int, columns: int = 0) -> UInts:
        return unpack(self.bytes(key), count, bits)

    def bytes(self, key: str) -> Bytes:
        """The bytes stored under `key`, whatever the type they are shown as."""
        return np.ascontiguousarray(self._stored(key)).reshape(-1).view(np.uint8)

    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        array = self._stored(key)
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise FormatError(
                f"stored array {key!r} should be {dtype} of shape {shape}, found {array.dtype} of shape {array.shape}"
            )
        return array

    def _stored(self, key: str) -> Array:
        if key not in self._arrays:
            raise FormatError(f"stored array {key!r} is missing; found {sorted(self._arrays)}")
        array = self._arrays[key]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fui":
            raise FormatError(f"stored array {key!r} is not an array of numbers")
        return array


def finite_floats(tensor: NDArray[Any]) -> Floats:
    """`tensor` as contiguous float32. Raises FormatError on NaN, infinity or a type that is not a real number."""
    array = np.asarray(tensor)
    if array.dtype.kind not in "fiu":
        raise FormatError(f"a tensor of real numbers is expected, got dtype {array.dtype}")
    if array.size > MAX_ELEMENTS:
        raise FormatError(f"a tensor may have at most {MAX_ELEMENTS} elements, got {array.size}")
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    flat = floats.reshape(-1)
    for start in range(0, flat.size, 1 << 22):
        if not np.isfinite(flat[start : start + (1 << 22)]).all():
            raise FormatError(
                f"a tensor of shape {array.shape} holds NaN, infinity or a value beyond float32, which no format "
                "stores; look for a diverged training run"
            )
    return floats
