"""A plan for storing a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.adaptive import expected_bits
from dovetail.formats.bitmap import Bitmap, mask_columns
from dovetail.formats.bitstream import Integers
from dovetail.formats.block_csc import BlockCSC
from dovetail.formats.coders import ENTROPIES, WIDEST, histogram, smallest_plan
from dovetail.formats.dense import Dense
from dovetail.formats.entropy import Entropy
from dovetail.formats.floats import Float
from dovetail.formats.format import Floats, Format, ValueEncoder, finite_floats
from dovetail.formats.relative_index import RelativeIndex
from dovetail.formats.values import require_zero

FLOAT32: ValueEncoder = partial(Float.encode, dtype="float32")

STRUCTURES = ("dense", "bitmap", "relative_index", "block_csc", "smallest")
INDEX_WIDTHS = range(1, 17)

SMALL = 1 << 18
"""Up to so many elements, candidates expected to be near the smallest are all carried out."""


@dataclass(frozen=True)
class Layout:
    """How a tensor is to be stored; methods refine it, `encode` carries it out.

    `structure` is "dense", "bitmap", "relative_index", "block_csc" or "smallest" (tries dense, bitmap and relative
    index at every index width, as far as they can hold the tensor, and keeps the smallest; block_csc is for the chip
    that reads it and is never smaller). `index_bits` None lets the best be chosen for relative_index and means EIE's
    4 for block_csc. `entropy` is "none", "huffman", "ans" or "smallest".
    """

    structure: str = "dense"
    values: ValueEncoder = FLOAT32
    index_bits: int | None = None
    entropy: str = "none"

    def __post_init__(self) -> None:
        if self.structure not in STRUCTURES:
            raise FormatError(f"Layout.structure should be one of {', '.join(STRUCTURES)}, got {self.structure!r}")
        if self.entropy != "none" and self.entropy not in ENTROPIES:
            raise FormatError(f"Layout.entropy should be one of none, {', '.join(ENTROPIES)}, got {self.entropy!r}")
        if self.index_bits is not None and self.index_bits not in INDEX_WIDTHS:
            raise FormatError(f"Layout.index_bits should be in 1..16 or None, got {self.index_bits!r}")

    def encode(self, tensor: NDArray[Any]) -> Format:
        """The tensor in the format this layout stands for. Raises FormatError if it cannot hold the tensor."""
        floats = finite_floats(tensor)
        if self.structure == "dense":
            return self._wrap(Dense.encode(floats, self.values))
        if self.structure == "bitmap":
            return self._wrap(Bitmap.encode(floats, self.values))
        if self.structure == "block_csc":
            return self._wrap(BlockCSC.encode(floats, self.values, index_bits=self.index_bits or 4))
        if self.structure == "relative_index" and self.index_bits is not None:
            return self._wrap(RelativeIndex.encode(floats, self.values, index_bits=self.index_bits))
        return self._smallest(floats)

    def _wrap(self, format: Format) -> Format:
        """`format`, entropy coded if that is asked for and gains anything."""
        if self.entropy == "none":
            return format
        coded = Entropy.encode(format, self.entropy)
        return coded if coded.bits < format.bits else format

    def _smallest(self, floats: Floats) -> Format:
        candidates = list(self._candidates(floats))
        best = min(bits for bits, _ in candidates)
        margin = 64 + 0.02 * best if floats.size <= SMALL else 0
        chosen = (self._wrap(encode()) for bits, encode in candidates if bits <= best + margin)
        return min(chosen, key=lambda format: format.bits)

    def _candidates(self, floats: Floats) -> Iterator[tuple[float, Callable[[], Format]]]:
        """The expected bits of each structure and index width, and what would encode it."""
        flat = floats.reshape(-1)
        positions = np.flatnonzero(flat)
        nonzeros = flat[positions]
        if self.structure == "smallest":
            dense = Dense.encode(floats, self.values)
            yield self._expected(_histograms(dense), dense), lambda: dense
            try:
                require_zero(self.values, "a sparse structure")
                self.values(nonzeros[:1])
            except FormatError:
                return
        else:
            require_zero(self.values, RelativeIndex.name)
        values = self.values(nonzeros)
        counts = _histograms(values)
        if self.structure == "smallest":
            mask = self._expected_mask(positions, floats.shape)
            yield mask + self._expected(counts, values), partial(Bitmap.encode, floats, self.values)
        zero = _histograms(self.values(np.zeros(1, np.float32)))
        gaps, times = np.unique(np.diff(positions, prepend=-1) - 1, return_counts=True)
        for width in INDEX_WIDTHS if self.index_bits is None else (self.index_bits,):
            fillers = int((gaps >> width) @ times)
            padded = {key: (own + fillers * zero[key][0], bits) for key, (own, bits) in counts.items()}
            expected = self._expected({"gaps": (_gap_histogram(gaps, times, width), width)} | padded, values)
            yield expected, partial(RelativeIndex.encode, floats, self.values, index_bits=width)
            if not fillers:
                return

    def _expected_mask(self, positions: Integers, shape: tuple[int, ...]) -> float:
        elements, columns = math.prod(shape), mask_columns(shape)
        counts = np.array([elements - positions.size, positions.size])
        expected = smallest_plan(counts, 1, self.entropy).bits
        if columns and "adaptive" in ENTROPIES.get(self.entropy, ()):
            rows = np.bincount(positions // columns, minlength=elements // columns)
            return min(expected, expected_bits(rows, np.bincount(positions % columns, minlength=columns)))
        return expected

    def _expected(self, counts: Mapping[str, tuple[Integers, int]], values: Format) -> float:
        streams = sum(smallest_plan(own, bits, self.entropy).bits for own, bits in counts.values())
        return streams + 8 * sum(table.nbytes for table in values.tables().values())


def _histograms(format: Format) -> dict[str, tuple[Integers, int]]:
    return {key: (histogram(stream), stream.bits) for key, stream in format.streams().items()}


def _gap_histogram(gaps: Integers, times: Integers, width: int) -> Integers:
    """The histogram of the gap fields, fillers among them, without making them."""
    counts = np.bincount(gaps & ((1 << width) - 1), times, 1 << width).astype(np.int64)
    counts[-1] += (gaps >> width) @ times
    top = min(width, WIDEST)
    return np.asarray(counts.reshape(1 << top, -1).sum(1))
