"""The weights of a layer in a plan, as they are stored; csrc/engine/plan_weights.hpp says how they lie there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.formats.packing import pack
from dovetail.kernels.stored import INPUT_BITS

Array = NDArray[Any]
Sides = tuple[int, ...]

WIDE = 255
"""So many zeros, and no nonzero after them."""


class Form(IntEnum):
    """As in csrc/engine/plan_weights.hpp."""

    DENSE, CODES, MASK, SLOTS, CODED_SLOTS, SIGNS, BLOCKS, INPUTS, CODED_INPUTS = range(9)


@dataclass(frozen=True)
class Written:
    """Takes packed weights' place."""

    content: bytes

    @property
    def bytes(self) -> int:
        return len(self.content)


class WrittenWeights:
    """Takes the engine's place as a Packer, and writes down what it is told."""

    def pack(self, weights: Array, groups: int) -> _native.Weights:
        return _written(Form.DENSE, 0, weights, (*weights.shape, groups), weights)

    def pack_codes(self, codes: NDArray[np.uint8], bits: int, table: Array, sides: Sides) -> _native.Weights:
        return _written(Form.CODES, bits, table, sides, table[: 1 << bits], pack(codes, bits))

    def pack_signs(
        self, signs: NDArray[np.uint8], bytes: bool, least: int, middle: float, sides: Sides
    ) -> _native.Weights:
        like = np.zeros(0, np.int8 if bytes else np.float32)
        return _written(Form.SIGNS, 0, like, sides, np.array([middle], np.float32), pack(signs, 1), least=least)

    def pack_mask(self, places: NDArray[np.int64], values: Array, sides: Sides) -> _native.Weights:
        return _written(Form.MASK, 0, values, sides, _mask(places, sides), values)

    def pack_blocks(self, places: NDArray[np.int64], values: Array, sides: Sides) -> _native.Weights:
        return _written(Form.BLOCKS, 0, values, sides, _mask(places, sides), values)

    def pack_slots(self, places: NDArray[np.int64], values: Array, sides: Sides) -> _native.Weights:
        return _written(Form.SLOTS, 0, values, sides, _gaps(places), values)

    def pack_coded_slots(
        self, places: NDArray[np.int64], codes: NDArray[np.uint8], table: NDArray[np.float32], sides: Sides
    ) -> _native.Weights:
        return _written(Form.CODED_SLOTS, 0, table, sides, table, _gaps(places), codes)

    def pack_inputs(self, weights: Array, sides: Sides) -> _native.Weights:
        return _written(Form.INPUTS, 0, weights, sides, weights)

    def pack_coded_inputs(self, codes: NDArray[np.uint8], table: Array, sides: Sides) -> _native.Weights:
        return _written(Form.CODED_INPUTS, INPUT_BITS, table, sides, table, pack(codes, INPUT_BITS))


def _written(form: Form, bits: int, like: Array, sides: Sides, *lists: Array, least: int = 0) -> _native.Weights:
    """`like`: what the weights are, float32 or int8."""
    parts = [struct.pack("<4B3i", form, like.dtype == np.int8, bits, least, sides[0], sides[1] * sides[4], sides[4])]
    for values in lists:
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        parts += [struct.pack("<I", values.size), little.tobytes()]
    return cast(_native.Weights, Written(b"".join(parts)))


def _mask(places: NDArray[np.int64], sides: Sides) -> NDArray[np.uint8]:
    mask = np.zeros(np.prod(sides[:4]), np.uint8)
    mask[places] = 1
    return pack(mask, 1)


def _gaps(places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """For each nonzero the zeros before it, after as many WIDE as they need."""
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // WIDE + 1)
    written = np.full(ends[-1] if len(ends) else 0, WIDE, np.uint8)
    written[ends - 1] = gaps % WIDE
    return written
