"""Run-length coding of feature maps as on Eyeriss: how maps full of zeros travel to and from DRAM.

A pair is a run of up to 31 zeros (5 bits) and the 16-bit level after it; a 64-bit word holds three pairs and one bit
that marks the last word. A longer run spends pairs of level zero, each 32 elements. Zeros after the last level are not
stored, so a decoder is told how many elements there are. Chen et al., JSSC 2017, section V.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.relative_index import insert_fillers

RUN_BITS, LEVEL_BITS, PAIRS, WORD_BITS = 5, 16, 3, 64
PLACES = np.arange(PAIRS, dtype=np.uint64) * (RUN_BITS + LEVEL_BITS)
"""Where the pairs of a word begin."""


def encode(levels: NDArray[Any]) -> NDArray[np.uint64]:
    """The words of a map of 16-bit integers, in C order.

    Raises:
        FormatError: the levels are no integers of 16 bits.
    """
    flat = np.asarray(levels).reshape(-1)
    if not np.issubdtype(flat.dtype, np.integer) or np.any((flat < -(2**15)) | (flat >= 2**15)):
        raise FormatError(f"run-length coding takes integers of 16 bits, got {flat.dtype} beyond that")
    positions = np.flatnonzero(flat)
    runs, values = insert_fillers(np.diff(positions, prepend=-1) - 1, flat[positions].astype(np.float32), RUN_BITS)
    pairs = np.zeros((-(-len(runs) // PAIRS), PAIRS), np.uint64)  # a pair that is left over is zero, a level of zero
    pairs.reshape(-1)[: len(runs)] = runs.astype(np.uint64) << LEVEL_BITS | values.astype(np.int16).view(np.uint16)
    words: NDArray[np.uint64] = np.bitwise_or.reduce(pairs << PLACES, axis=1)
    words[-1:] |= np.uint64(1 << (WORD_BITS - 1))
    return words


def decode(words: NDArray[np.uint64], size: int) -> NDArray[np.int16]:
    """The `size` levels that `encode` was given.

    Raises:
        FormatError: the words have levels beyond `size`.
    """
    pairs = (words[:, None] >> PLACES).reshape(-1)
    runs = (pairs >> LEVEL_BITS & np.uint64((1 << RUN_BITS) - 1)).astype(np.int64)
    values = (pairs & np.uint64((1 << LEVEL_BITS) - 1)).astype(np.uint16).view(np.int16)
    positions = np.cumsum(runs + 1) - 1
    held = values != 0
    if held.any() and positions[held][-1] >= size:
        raise FormatError(f"run-length words reach element {positions[held][-1]}, beyond the {size} of the map")
    levels = np.zeros(size, np.int16)
    levels[positions[held]] = values[held]
    return levels


def expected_bits(density: float) -> float:
    """Bits an element of a long map takes whose zeros fall independently.

    A pair ends at a level or after 32 zeros, so it covers (1 - (1 - density)^32) / density elements on average.
    """
    longest = 1 << RUN_BITS
    covered = (1 - (1 - density) ** longest) / density if density else float(longest)
    return WORD_BITS / PAIRS / covered


def stored_bits(levels: NDArray[Any]) -> int:
    """Bits of a map as it is coded."""
    return encode(levels).size * WORD_BITS
