"""A plan for storing a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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
from dovetail.formats.kernel_patterns import KernelPatterns
from dovetail.formats.n_m import NM, check_group
from dovetail.formats.relative_index import RelativeIndex
from dovetail.formats.repeated import Repeated
from dovetail.formats.values import require_zero

FLOAT32: ValueEncoder = partial(Float.encode, dtype="float32")

STRUCTURES = ("dense", "bitmap", "relative_index", "block_csc", "n_m", "kernel_patterns", "repeated", "smallest")
INDEX_WIDTHS = range(1, 17)

SMALL = 1 << 18
"""Up to so many elements, candidates expected to be near the smallest are all carried out."""


@dataclass(frozen=True)
class Layout:
    """How a tensor is to be stored; methods refine it, `encode` carries it out.

    `structure` is "dense", "bitmap", "relative_index", "block_csc", "n_m", "kernel_patterns", "repeated" (its block
    dense) or "smallest" (tries dense, bitmap, relative index at every index width, kernel_patterns and, given a
    `group`, n_m, as far as they can hold the tensor, and keeps the smallest; block_csc is for the chip that reads it
    and is never smaller). Or it is a ready-made encoder, which `values` do not concern, as
    `partial(Product.encode, coefficients=..., basis=...)`, for what cannot be found again in the tensor.

    `index_bits` None lets the best be chosen for relative_index and means EIE's 4 for block_csc. `group` (n, m) is of
    n_m: at most n nonzeros in m neighbours. `entropy` is "none", "huffman", "ans" or "smallest".
    """

    structure: str | ValueEncoder = "dense"
    values: ValueEncoder = FLOAT32
    index_bits: int | None = None
    entropy: str = "none"
    group: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not callable(self.structure) and self.structure not in STRUCTURES:
            raise FormatError(f"Layout.structure should be one of {', '.join(STRUCTURES)}, got {self.structure!r}")
        if self.entropy != "none" and self.entropy not in ENTROPIES:
            raise FormatError(f"Layout.entropy should be one of none, {', '.join(ENTROPIES)}, got {self.entropy!r}")
        if self.index_bits is not None and self.index_bits not in INDEX_WIDTHS:
            raise FormatError(f"Layout.index_bits should be in 1..16 or None, got {self.index_bits!r}")
        if self.group is not None:
            check_group(*self.group)
        elif self.structure == "n_m":
            raise FormatError("Layout.group should be (n, m) for the structure n_m, as (2, 4), got None")

    def encode(self, tensor: NDArray[Any]) -> Format:
        """The tensor in the format this layout stands for. Raises FormatError if it cannot hold the tensor."""
        floats = finite_floats(tensor)
        if callable(self.structure):
            return self._wrap(self.structure(floats))
        encode = self._encoders().get(self.structure)
        return self._wrap(encode(floats)) if encode else self._smallest(floats)

    def _encoders(self) -> dict[str, ValueEncoder]:
        """The structures that leave nothing to choose, by name."""
        n, m = self.group or (1, 1)
        block = partial(Dense.encode, values=self.values)
        encoders: dict[str, ValueEncoder] = {
            "dense": block,
            "bitmap": partial(Bitmap.encode, values=self.values),
            "block_csc": partial(BlockCSC.encode, values=self.values, index_bits=self.index_bits or 4),
            "n_m": partial(NM.encode, values=self.values, n=n, m=m),
            "kernel_patterns": partial(KernelPatterns.encode, values=self.values),
            "repeated": partial(Repeated.encode, block=block),
        }
        if self.index_bits is not None:
            encoders["relative_index"] = partial(RelativeIndex.encode, values=self.values, index_bits=self.index_bits)
        return encoders

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
        without = _histograms(values)
        if self.structure == "smallest":
            for format in self._regular(floats):
                yield self._expected(_histograms(format), format), partial(_given, format)
            mask = self._expected_mask(positions, floats.shape)
            yield mask + self._expected(without, values), partial(Bitmap.encode, floats, self.values)
        with_one = self.values(np.append(nonzeros, np.float32(0)))
        one, more = _histograms(with_one), _last_symbols(with_one)
        gaps, times = np.unique(np.diff(positions, prepend=-1) - 1, return_counts=True)
        for width in INDEX_WIDTHS if self.index_bits is None else (self.index_bits,):
            fillers = int((gaps >> width) @ times)
            if fillers:
                counts = {key: (own + (fillers - 1) * more[key], bits) for key, (own, bits) in one.items()}
            else:
                counts = without
            gap_fields = _gap_histogram(gaps, times, width), width
            expected = self._expected({"gaps": gap_fields} | counts, values)
            yield expected, partial(RelativeIndex.encode, floats, self.values, index_bits=width)
            if not fillers:
                return

    def _regular(self, floats: Floats) -> Iterator[Format]:
        """The structures for regular sparsity that can hold the tensor."""
        names = ["n_m"] if self.group is not None else []
        if math.prod(floats.shape[2:]) > 1:
            names.append("kernel_patterns")
        for name in names:
            with suppress(FormatError):
                yield self._encoders()[name](floats)

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


def _given(format: Format) -> Format:
    return format


def _last_symbols(format: Format) -> dict[str, Integers]:
    """The histograms of the last symbol of each stream."""
    return {key: histogram(replace(s, symbols=s.symbols[-1:])) for key, s in format.streams().items()}


def _histograms(format: Format) -> dict[str, tuple[Integers, int]]:
    return {key: (histogram(stream), stream.bits) for key, stream in format.streams().items()}


def _gap_histogram(gaps: Integers, times: Integers, width: int) -> Integers:
    """The histogram of the gap fields, fillers among them, without making them."""
    counts = np.bincount(gaps & ((1 << width) - 1), times, 1 << width).astype(np.int64)
    counts[-1] += (gaps >> width) @ times
    top = min(width, WIDEST)
    return np.asarray(counts.reshape(1 << top, -1).sum(1))
