"""Asymmetric numeral systems: within a few bytes of the entropy of the stored histogram.

Duda. Asymmetric numeral systems. arXiv:1311.2540. The coder is that of the `constriction` package; ours is the compact
model: logarithms of the frequencies, quantised, some of them interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.bitstream import BitReader, BitWriter, Integers, read_smooth, smooth_bits, write_smooth
from dovetail.formats.coder import Model, constant
from dovetail.formats.packing import Bytes, UInts, symbol_type

LEVEL_BITS = 9
STEPS = (1, 2, 4, 8, 16)
"""Levels to an octave. Rounding to 1/s of an octave costs about 0.03 / s^2 bits a symbol."""

SPACINGS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Distances of the symbols whose level is stored; the levels between are interpolated."""

CHUNK = 1 << 22

SYMBOLS_PER_BYTE = 1 << 16
"""A payload holds no more symbols than so many for each byte, and as many again, so that damage cannot claim memory."""

# 2^(40 - j/16) rounded down, by integers alone, so that every machine decodes with the same model.
_ROOTS = np.array([math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << (640 - j))))) for j in range(16)], np.int64)


@dataclass(frozen=True, eq=False)
class Ans(Model):
    """Frequencies of symbols `first`..`last` as levels: a symbol of level m has the weight 2^(-m / steps).

    The symbol `alone` has a level of its own: a filler under a relative index, or the zero of a dense layer, breaks
    the line that the others follow. `levels` are that one, then every `spacing`-th of the others and the last of them.
    """

    name: ClassVar[str] = "ans"
    first: int
    last: int
    alone: int
    levels: Integers
    steps: int = 1
    spacing: int = 1

    @classmethod
    def fit(cls, counts: Integers) -> Self:
        occurring = np.flatnonzero(counts)
        first, last = int(occurring[0]), int(occurring[-1])
        if first == last:
            return cls(first, last, first, np.zeros(1, np.int64))
        own = counts[first : last + 1]
        candidates = []
        for alone in {int(np.argmax(own)), own.size - 1}:
            for spacing in SPACINGS:
                if spacing == 1 or 8 * spacing <= own.size:
                    octaves = _octaves_below_largest(own, alone, spacing)
                    for steps in STEPS:
                        levels = np.minimum(np.rint(octaves * steps).astype(np.int64), (1 << LEVEL_BITS) - 1)
                        candidates.append(cls(first, last, first + alone, levels, steps, spacing))
        return min(candidates, key=lambda model: model.payload_bits(counts) + model.table_bits(0))

    def payload_bits(self, counts: Integers) -> float:
        if self.first == self.last:
            return 0.0
        weights = self._weights()
        own = counts[self.first : self.last + 1]
        return float(own.sum() * np.log2(weights.sum()) - own @ np.log2(weights))

    def table_bits(self, symbol_bits: int) -> int:
        if self.first == self.last:
            return 2 * symbol_bits
        return 3 * symbol_bits + 6 + LEVEL_BITS + smooth_bits(self.levels[1:], LEVEL_BITS)

    def write(self, writer: BitWriter, symbol_bits: int) -> None:
        writer.write(self.first, symbol_bits)
        writer.write(self.last, symbol_bits)
        if self.first < self.last:
            writer.write(self.alone, symbol_bits)
            writer.write(STEPS.index(self.steps), 3)
            writer.write(SPACINGS.index(self.spacing), 3)
            writer.write(int(self.levels[0]), LEVEL_BITS)
            write_smooth(writer, self.levels[1:], LEVEL_BITS)

    @classmethod
    def read(cls, reader: BitReader, symbol_bits: int) -> Self:
        first, last = reader.read(symbol_bits), reader.read(symbol_bits)
        if first == last:
            return cls(first, last, first, np.zeros(1, np.int64))
        alone, steps, spacing = reader.read(symbol_bits), reader.read(3), reader.read(3)
        if not first <= alone <= last or steps >= len(STEPS):
            raise FormatError("a stored ANS model has a step or a range that does not exist: the array is damaged")
        level = reader.read(LEVEL_BITS)
        levels = read_smooth(reader, _knots(last - first, SPACINGS[spacing]).size, LEVEL_BITS)
        return cls(first, last, alone, np.append(level, levels), STEPS[steps], SPACINGS[spacing])

    def encode(self, symbols: UInts) -> Bytes:
        if self.first == self.last:
            return np.zeros(0, np.uint8)
        coder, model = constriction.stream.stack.AnsCoder(), self._categorical()
        for start in reversed(range(0, symbols.size, CHUNK)):
            coder.encode_reverse(symbols[start : start + CHUNK].astype(np.int32) - np.int32(self.first), model)
        return finish(coder, symbols.size)

    def decode(self, payload: Bytes, count: int) -> UInts:
        if self.first == self.last:
            return constant(self.first, payload, count)
        coder, model = resume(payload, count), self._categorical()
        symbols = np.empty(count, symbol_type(self.last.bit_length()))
        for start in range(0, count, CHUNK):
            part = symbols[start : start + CHUNK]
            part[:] = coder.decode(model, part.size) + self.first
        if not coder.is_empty():
            raise FormatError("an ANS stream holds more than its symbols: the stored array is damaged")
        return symbols

    def _weights(self) -> Integers:
        levels, others = self.levels[1:], self.last - self.first
        if self.spacing > 1:
            knots, symbols = _knots(others, self.spacing), np.arange(others)
            right = np.maximum(np.searchsorted(knots, symbols), 1)
            left = right - 1
            span, offset = knots[right] - knots[left], symbols - knots[left]
            levels = (levels[left] * (span - offset) + levels[right] * offset + span // 2) // span
        octaves, fraction = np.divmod(np.insert(levels, self.alone - self.first, self.levels[0]), self.steps)
        return np.asarray(np.maximum(_ROOTS[fraction * (16 // self.steps)] >> octaves, 1))

    def _categorical(self) -> Any:
        # Integers below 2^53 in sum, so that every machine rounds to the same model.
        return constriction.stream.model.Categorical(self._weights().astype(np.float64), perfect=False, lazy=False)


def finish(coder: Any, count: int) -> Bytes:
    """The payload of `count` symbols from constriction's coder, in whole bytes instead of 32-bit words."""
    stored = np.asarray(np.trim_zeros(coder.get_compressed().astype("<u4").view(np.uint8), "b"))
    # Zero bytes at the end, which `resume` drops again, lift a payload over the limit that damage is told by.
    return np.pad(stored, (0, max(0, -(-count // SYMBOLS_PER_BYTE) - 1 - stored.size)))


def resume(payload: Bytes, count: int) -> Any:
    """The inverse of `finish`. Raises FormatError if `payload` cannot hold `count` symbols."""
    if count > SYMBOLS_PER_BYTE * (payload.size + 1):
        raise FormatError(f"{payload.size} stored bytes cannot hold {count} ANS symbols: the array is damaged")
    stored = np.trim_zeros(payload, "b")
    words = np.zeros(-(-stored.size // 4) * 4, np.uint8)
    words[: stored.size] = stored
    return constriction.stream.stack.AnsCoder(words.view("<u4").astype(np.uint32))


def _knots(size: int, spacing: int) -> Integers:
    """Those of `size` symbols whose level is stored: every `spacing`-th and the last."""
    return np.unique(np.append(np.arange(0, size, spacing), size - 1))


def _octaves_below_largest(counts: Integers, alone: int, spacing: int) -> NDArray[np.float64]:
    """By how many octaves the frequency of `alone`, and of each knot's neighbourhood, lies below the largest."""
    others = np.delete(counts, alone)
    knots = _knots(others.size, spacing)
    sums = np.concatenate([[0], np.cumsum(others)])
    low, high = np.maximum(knots - spacing // 2, 0), np.minimum(knots + spacing // 2 + 1, others.size)
    frequencies = np.concatenate([counts[[alone]], (sums[high] - sums[low]) / (high - low)])
    # A symbol that does not occur is half a time there: that wastes less than a list of which symbols occur.
    frequencies = np.maximum(frequencies, 0.5)
    return np.asarray(np.log2(frequencies.max() / frequencies))
