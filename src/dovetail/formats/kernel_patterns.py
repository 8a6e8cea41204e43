"""Kernels that share a few patterns of nonzeros, and kernels that are pruned as a whole.

Niu et al. PatDNN: Achieving Real-Time DNN Execution on Mobile Devices with Pattern-based Weight Pruning. ASPLOS 2020.
arXiv:2001.00138, sections 4.1 and 5.2. Its filter-kernel-reordered storage also sorts the kernels, which costs the
order of the output channels; here they stay in their places and the pruned ones have a code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.bitstream import Integers
from dovetail.formats.coders import histogram
from dovetail.formats.format import Floats, Format, Source, Stream, Structure, ValueEncoder, finite_floats
from dovetail.formats.header import Header, Json, read_header, read_int, read_shape
from dovetail.formats.values import read_values, require_zero

MOST_PATTERNS = 255

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KernelPatterns(Structure):
    """A kernel is what is left of a tensor under one index of its first two dimensions (a conv weight's outputs and
    inputs). A code for each says which pattern of the library holds its nonzeros, 0 that it has none; then the values
    in the patterns' places, kernel by kernel.

    bits = kernels * ceil(log2(patterns + 1)) + patterns * kernel size + bits of the patterns' values
    """

    name: ClassVar[str] = "kernel_patterns"
    shape: tuple[int, ...]
    codes: NDArray[np.uint8]
    """One for each kernel, in C order."""
    patterns: Masks
    """The library, one pattern a row."""
    values: Format

    @classmethod
    def encode(cls, tensor: NDArray[Any], values: ValueEncoder, *, most: int = MOST_PATTERNS) -> Self:
        """Finds the library itself: the largest supports among the kernels, and of the smaller ones, which those
        cover, as many as save bits.

        Raises FormatError on NaN, infinity, a library of more than `most` patterns (1 to 255), and, where a kernel has
        fewer nonzeros than its pattern, values that do not hold 0 exactly.
        """
        if not 1 <= most <= MOST_PATTERNS:
            raise FormatError(f"KernelPatterns.most should be in 1..{MOST_PATTERNS}, got {most}")
        floats = finite_floats(tensor)
        kernels = floats.reshape(_kernels(floats.shape))
        supports, which = _supports(kernels)
        some = values(floats[floats != 0][:1000])
        value_bits = sum(stream.bits for stream in some.streams().values())
        patterns = _library(supports, np.bincount(which, minlength=len(supports)), most, value_bits)
        codes = _covering(supports, patterns)[which].astype(np.uint8)
        entries = kernels[_places(codes, patterns)]
        if not entries.all():
            require_zero(values, cls.name)
        return cls(floats.shape, codes, patterns, values(entries))

    def decode(self) -> Floats:
        kernels = np.zeros(_kernels(self.shape), np.float32)
        kernels[_places(self.codes, self.patterns)] = self.values.decode()
        return kernels.reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        library = Stream(self.patterns.reshape(-1).view(np.uint8), 1, "tables")
        kernels = {"kernels": Stream(self.codes, _code_bits(len(self.patterns)), "indices")}
        return (kernels | {"patterns": library} if len(self.patterns) else {}) | self.values.streams()

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "patterns": len(self.patterns),
            "values": self.values.header(),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, count = read_shape(header), read_int(header, "patterns", 0, MOST_PATTERNS)
        values = read_values(read_header(header, "values"), source)
        kernels, size = _kernels(shape)
        if not count:
            # Nothing is stored of a tensor of zeros.
            codes, patterns, used = np.broadcast_to(np.uint8(0), (kernels,)), np.zeros((0, size), np.bool_), 0
        else:
            codes = source.stream("kernels", kernels, _code_bits(count)).astype(np.uint8, copy=False)
            patterns = source.stream("patterns", count * size, 1).reshape(count, size).astype(np.bool_)
            if codes.size and int(codes.max()) > count:
                raise FormatError(f"a stored kernel has pattern {int(codes.max())} of {count}: the array is damaged")
            kept = histogram(Stream(codes, _code_bits(count)))[1 : count + 1]
            used = int(kept @ patterns.sum(1, dtype=np.int64))
        if values.shape != (used,):
            raise FormatError(f"kernels of {used} places in all cannot have values of shape {values.shape}")
        return cls(shape, codes, patterns, values)

    def describe(self) -> str:
        return f"kernel_patterns({len(self.patterns)}) > {self.values.describe()}"


def _kernels(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many kernels there are and the elements of each."""
    return math.prod(shape[:2]), math.prod(shape[2:])


def _code_bits(patterns: int) -> int:
    return patterns.bit_length()


def _places(codes: NDArray[np.uint8], patterns: Masks) -> Masks:
    """Where in each kernel the values lie that are stored."""
    return np.concatenate([np.zeros((1, patterns.shape[1]), np.bool_), patterns])[codes]


def _supports(kernels: Floats) -> tuple[Masks, Integers]:
    """The different supports of the kernels, and which of them each kernel has."""
    if not kernels.size:
        return np.zeros((1, kernels.shape[1]), np.bool_), np.zeros(len(kernels), np.int64)
    packed, which = np.unique(np.packbits(kernels != 0, axis=1), axis=0, return_inverse=True)
    return np.unpackbits(packed, axis=1, count=kernels.shape[1]).astype(np.bool_), which.reshape(-1)


def _library(supports: Masks, counts: Integers, most: int, value_bits: int) -> Masks:
    """The patterns of about the fewest bits that cover the supports, largest first; `counts` kernels have each."""
    sizes = supports.sum(1, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    cover = np.full(len(supports), -1)
    needed: list[int] = []
    while (uncovered := order[(cover[order] < 0) & (sizes[order] > 0)]).size:
        if len(needed) == most:
            raise FormatError(
                f"kernel_patterns takes at most {most} patterns, but the kernels of this tensor have more; prune them "
                "by patterns, or store the tensor otherwise"
            )
        largest = int(uncovered[0])
        needed.append(largest)
        cover[~(supports & ~supports[largest]).any(1)] = largest
    saved = counts * (sizes[cover] - sizes) * value_bits - supports.shape[1]
    helpful = [int(own) for own in np.argsort(-saved, kind="stable") if saved[own] > 0 and sizes[own] > 0]
    gains = np.cumsum([0, *(int(saved[own]) for own in helpful[: most - len(needed)])])
    kernels = int(counts.sum())
    best = max(range(gains.size), key=lambda more: int(gains[more]) - kernels * _code_bits(len(needed) + more))
    return supports[sorted([*needed, *helpful[:best]], key=lambda own: -int(sizes[own]))]


def _covering(supports: Masks, patterns: Masks) -> Integers:
    """The code of the smallest pattern that covers each support; 0 for none."""
    codes = np.zeros(len(supports), np.int64)
    wanted = supports.any(1)
    for number, pattern in enumerate(patterns, start=1):
        codes[wanted & ~(supports & ~pattern).any(1)] = number
    return codes
