"""One block, over and over.

Li, Hanson, Li, Chen. PENNI: Pruned Kernel Sharing for Efficient CNN Inference. ICML 2020: the basis kernels that a
depthwise convolution applies to every input channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, ValueEncoder, finite_floats
from dovetail.formats.header import MAX_ELEMENTS, Header, Json, read_header, read_int
from dovetail.formats.structures import read_structure


@dataclass(frozen=True, eq=False)
class Repeated(Format):
    """A tensor whose first dimension is `times` copies, one after the other, of one block in a format of its own.

    bits = bits of the block
    """

    name: ClassVar[str] = "repeated"
    block: Format
    times: int

    @classmethod
    def encode(cls, tensor: NDArray[Any], block: ValueEncoder, *, period: int | None = None) -> Self:
        """`block` encodes one copy in a structure, as `partial(Dense.encode, values=...)` or a layout's `encode`
        without entropy coding; `period` is its length along the first dimension, by default the smallest there is.

        Raises FormatError on NaN, infinity, and a period that the tensor has not.
        """
        floats = finite_floats(tensor)
        if not floats.ndim or not floats.size:
            return cls(block(floats), 1)
        length = len(floats)
        if period is None:
            period = next(p for p in range(1, length + 1) if length % p == 0 and _has_period(floats, p))
        elif not (1 <= period <= length and length % period == 0 and _has_period(floats, period)):
            raise FormatError(
                f"Repeated.period should be a period of the first dimension of {floats.shape}, got {period}"
            )
        return cls(block(floats[:period]), length // period)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        first, rest = self.block.shape[:1], self.block.shape[1:]
        return (*(self.times * size for size in first), *rest)

    def decode(self) -> Floats:
        block = self.block.decode()
        return np.broadcast_to(block, (self.times, *block.shape)).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return self.block.streams()

    def tables(self) -> dict[str, Array]:
        return self.block.tables()

    def arrays(self) -> dict[str, Array]:
        return self.block.arrays()

    def header(self) -> dict[str, Json]:
        return {"format": self.name, "times": self.times, "block": self.block.header()}

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        block, times = read_structure(read_header(header, "block"), source), read_int(header, "times", 1, MAX_ELEMENTS)
        elements = math.prod(block.shape)
        if times > 1 and (not block.shape or not 1 <= times * elements <= MAX_ELEMENTS):
            raise FormatError(f"a block of shape {block.shape} cannot be repeated {times} times: the header is damaged")
        return cls(block, times)

    def describe(self) -> str:
        return f"repeated({self.times}) > {self.block.describe()}"


def _has_period(floats: Floats, period: int) -> bool:
    # A tensor has the period if it equals itself moved by as much.
    return bool((floats[period:] == floats[:-period]).all())
