"""Every value, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from dovetail.formats.format import Array, Floats, Format, Source, Stream, Structure, ValueEncoder, finite_floats
from dovetail.formats.header import Header, Json, read_header
from dovetail.formats.values import read_values


@dataclass(frozen=True, eq=False)
class Dense(Structure):
    """Every value, in C order.

    bits = bits of the values
    """

    name: ClassVar[str] = "dense"
    values: Format

    @classmethod
    def encode(cls, tensor: NDArray[Any], values: ValueEncoder) -> Self:
        """Raises FormatError on NaN and infinity."""
        return cls(values(finite_floats(tensor)))

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.values.shape

    def decode(self) -> Floats:
        return self.values.decode()

    def streams(self) -> dict[str, Stream]:
        return self.values.streams()

    def arrays(self) -> dict[str, Array]:
        return self.values.arrays()

    def header(self) -> dict[str, Json]:
        return {"format": self.name, "values": self.values.header()}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        return cls(read_values(read_header(header, "values"), source))

    def describe(self) -> str:
        return f"dense > {self.values.describe()}"
