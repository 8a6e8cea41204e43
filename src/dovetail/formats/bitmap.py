"""One bit an element to say where the nonzeros are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Floats, Format, Source, Stream, Structure, ValueEncoder, finite_floats
from dovetail.formats.header import Header, Json, read_header, read_shape
from dovetail.formats.values import read_values

FEWEST_COLUMNS = 8
"""With fewer, a row is too short for its density to be told."""


@dataclass(frozen=True, eq=False)
class Bitmap(Structure):
    """One mask bit per element, then the nonzeros, in C order.

    bits = 8 * ceil(n / 8) + bits of the nonzeros' values
    """

    name: ClassVar[str] = "bitmap"
    shape: tuple[int, ...]
    mask: NDArray[np.uint8]
    """0 or 1 per element, flat."""
    values: Format

    @classmethod
    def encode(cls, tensor: NDArray[Any], values: ValueEncoder) -> Self:
        """Raises FormatError on NaN and infinity."""
        floats = finite_floats(tensor)
        flat = floats.reshape(-1)
        mask = (flat != 0).view(np.uint8)
        return cls(floats.shape, mask, values(flat[mask.view(np.bool_)]))

    def decode(self) -> Floats:
        tensor = np.zeros(math.prod(self.shape), np.float32)
        tensor[self.mask.astype(np.bool_)] = self.values.decode()
        return tensor.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"mask": Stream(self.mask, 1, "indices", mask_columns(self.shape))} | self.values.streams()

    def header(self) -> dict[str, Json]:
        return {"format": self.name, "shape": list(self.shape), "values": self.values.header()}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape = read_shape(header)
        values = read_values(read_header(header, "values"), source)
        mask = source.stream("mask", math.prod(shape), 1, mask_columns(shape)).astype(np.uint8, copy=False)
        if values.shape != (int(np.count_nonzero(mask)),):
            raise FormatError(f"a mask of {np.count_nonzero(mask)} nonzeros cannot have values of shape {values.shape}")
        return cls(shape, mask, values)

    def describe(self) -> str:
        return f"bitmap > {self.values.describe()}"


def mask_columns(shape: tuple[int, ...]) -> int:
    """Elements for each index of the first dimension, or 0 where they are too few."""
    columns = math.prod(shape[1:])
    return columns if columns >= FEWEST_COLUMNS and 0 not in shape else 0
