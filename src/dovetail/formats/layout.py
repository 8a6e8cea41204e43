"""A plan for storing a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from dovetail.formats.dense import Dense
from dovetail.formats.floats import Float
from dovetail.formats.format import Format, ValueEncoder
from dovetail.formats.relative_index import RelativeIndex

FLOAT32: ValueEncoder = partial(Float.encode, dtype="float32")


@dataclass(frozen=True)
class Layout:
    """How a tensor is to be stored; methods refine it, `encode` carries it out.

    `structure` is "dense", "bitmap", "relative_index", "block_csc" or "smallest" (tries all that apply and every index
    width, and keeps the smallest); `index_bits` None lets the best be chosen; `entropy` is "none", "huffman", "ans" or
    "smallest".
    """

    structure: str = "dense"
    values: ValueEncoder = FLOAT32
    index_bits: int | None = None
    entropy: str = "none"

    def encode(self, tensor: NDArray[Any]) -> Format:
        """The tensor in the format this layout stands for. Raises FormatError if it cannot hold the tensor."""
        dense = Dense.encode(tensor, self.values)
        if self.structure == "dense":
            return dense
        widths = range(1, 17) if self.index_bits is None else (self.index_bits,)
        sparse = (RelativeIndex.encode(tensor, self.values, index_bits=width) for width in widths)
        return min((dense, *sparse), key=lambda candidate: candidate.bits)
