"""Weights that the engine multiplies as they are stored, for convolutions and products.

    codes   a code of 1 to 8 bits for each weight, looked up in registers (Codebook, Affine, FixedPoint, Ternary,
            Binary, PowerOfTwo)
    mask    a bit for each weight, then the nonzeros (best at a quarter to a half of nonzeros, as 2:4)
    slots   nonzeros, each with its place in a tile of inputs, 16 outputs side by side (best below a fifth)
    blocks  the blocks of 16 outputs and 4 inputs (1 of float32), at each place of a kernel, that are not all zero
    inputs  a row for each input, so that the rows of inputs that are zero are not read (for one vector)
    dense   decoded when it is packed: what all formats can

Activations are float32 or, with `integers`, codes of 8 bits: then the weights are whole multiples of one step for each
output, which goes into the epilogue's scale. Entropy coding is decoded first: its symbols have no fixed places.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Affine, Binary, Codebook, Dense, Entropy, FixedPoint, Format, PowerOfTwo, Ternary

Floats = NDArray[np.float32]
Array = NDArray[Any]
Sides = tuple[int, int, int, int]
KERNELS = ("codes", "mask", "slots", "blocks", "inputs", "dense")


INPUT_BITS = 4
"""Of codes in a row of inputs, where activations are integers; wider ones are decoded."""

OUTPUTS, INPUTS = 16, 4
"""Of a block, as the engine multiplies them at once; one input where activations are float32."""


class Packer(Protocol):
    """Who takes weights over: the engine, or what writes them down for it. `sides`: a layer's shape and its groups."""

    def pack(self, weights: Array, groups: int) -> _native.Weights: ...

    def pack_codes(
        self, codes: NDArray[np.uint8], bits: int, table: Array, sides: tuple[int, ...]
    ) -> _native.Weights: ...

    def pack_signs(
        self, signs: NDArray[np.uint8], bytes: bool, least: int, middle: float, sides: tuple[int, ...]
    ) -> _native.Weights: ...

    def pack_mask(self, places: NDArray[np.int64], values: Array, sides: tuple[int, ...]) -> _native.Weights: ...

    def pack_slots(self, places: NDArray[np.int64], values: Array, sides: tuple[int, ...]) -> _native.Weights: ...

    def pack_blocks(self, places: NDArray[np.int64], values: Array, sides: tuple[int, ...]) -> _native.Weights: ...

    def pack_coded_slots(
        self, places: NDArray[np.int64], codes: NDArray[np.uint8], table: Floats, sides: tuple[int, ...]
    ) -> _native.Weights: ...

    def pack_inputs(self, weights: Array, sides: tuple[int, ...]) -> _native.Weights: ...

    def pack_coded_inputs(self, codes: NDArray[np.uint8], table: Array, sides: tuple[int, ...]) -> _native.Weights: ...


@dataclass(frozen=True, eq=False)
class Stored:
    """Weights for one kernel. `scale` belongs to each output; `values` are the weights over it."""

    kernel: str
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    scale: Floats
    values: Callable[[], Array]
    """For the reference: float32 or, for codes as activations, int8, of `shape`."""
    packed: Callable[[Packer], _native.Weights]

    def pack(self, packer: Packer = _native) -> _native.Weights:
        """As the engine's kernels read them; each operation needs weights of its own."""
        return self.packed(packer)


@dataclass(frozen=True, eq=False)
class _Table:
    """Weights as scale[output] * table[code]."""

    codes: NDArray[np.uint8]
    table: Array
    scale: Array
    bits: int


def stored(
    format: Format, kernel: str, *, integers: bool, groups: int = 1, shape: tuple[int, ...] | None = None
) -> Stored:
    """`format`'s weights (outputs, inputs / groups, and rows and columns of a convolution) for `kernel`.

    `shape`: the layer's, if it reads them as another one, as a window over a picture that was to be flattened.
    Raises DovetailError where it cannot hold them: `kernels` says which can.
    """
    if kernel not in KERNELS:
        raise DovetailError(f"kernel is one of {', '.join(KERNELS)}, got {kernel!r}")
    inner = _unwrapped(format)
    given = inner.shape if shape is None else shape
    if len(given) not in (2, 4):
        raise DovetailError(f"weights have two or four dimensions, got a shape of {given}")
    if given[0] != inner.shape[0] or math.prod(given) != math.prod(inner.shape):
        raise DovetailError(f"weights of {inner.shape} cannot be read as {given}")
    outputs, inputs, *window = given
    rows, columns = window or (1, 1)
    shape = (outputs, inputs, rows, columns)
    if groups > 1 and kernel != "dense" and groups == outputs and inputs == 1:
        raise DovetailError("depthwise weights are few: there is no kernel for them as stored")
    if kernel in ("codes", "inputs") and groups > 1:
        raise DovetailError(f"the kernel for {kernel} takes no groups, whose outputs read no channels but their own")
    if kernel == "codes":
        return _codes(inner, shape, integers)
    if kernel == "inputs" and integers and (coded := _coded(inner, integers)) and coded.bits <= INPUT_BITS:
        return _coded_inputs(coded, shape)
    if not integers:
        return _packed(kernel, np.float32, inner.decode, np.ones(shape[0], np.float32), (*shape, groups))
    values, scale = _whole(inner, shape)
    return _packed(kernel, np.int8, lambda: values, scale, (*shape, groups))


def plain(weights: Array, kernel: str) -> Stored:
    """Weights of four dimensions as they are, float32 or int8, of one group, for the kernel "inputs" or "dense"."""
    sides = (*weights.shape, 1)
    return _packed(kernel, weights.dtype.type, lambda: weights, np.ones(len(weights), np.float32), sides)


def signs(format: Format, *, integers: bool, least: int = 0, middle: float = 0.0) -> Stored:
    """Binary weights that are multiplied with the signs of activations, which are + from 0 (or the code `least`) on.

    A sign s stands for `middle` + s, so that two numbers a < b are half of b - a times what their signs stand for, with
    (a + b) / (b - a) as the middle. The padding of an image counts nothing.
    """
    inner = _unwrapped(format)
    if not isinstance(inner, Binary) or len(inner.shape) not in (2, 4):
        raise DovetailError(f"signs are those of binary weights for a layer, got {format.describe()} of {format.shape}")
    shape = (*inner.shape, 1, 1)[:4]
    return Stored(
        "signs",
        (shape[0], shape[1], shape[2], shape[3]),
        np.dtype(np.int8 if integers else np.float32),
        np.broadcast_to(inner.scale, shape[:1]),
        lambda: (2 * inner.codes.astype(np.int8) - 1).reshape(shape),
        lambda packer: packer.pack_signs(inner.codes, integers, least, middle, (*shape, 1)),
    )


def kernels(
    format: Format, *, integers: bool, groups: int = 1, shape: tuple[int, ...] | None = None
) -> tuple[str, ...]:
    """The kernels that can hold the format's weights; none if they are not multiples of a step and must be."""
    found = []
    for kernel in KERNELS:
        try:
            stored(format, kernel, integers=integers, groups=groups, shape=shape)
        except DovetailError:
            continue
        found.append(kernel)
    return tuple(found)


def block_density(weights: Array, *, integers: bool) -> float:
    """The share of the blocks of weights (outputs, inputs, ...) that are not all zero."""
    used = weights != 0
    for axis, size in enumerate((OUTPUTS, INPUTS if integers else 1)):
        used = np.logical_or.reduceat(used, np.arange(0, used.shape[axis], size), axis)
    return float(used.mean())


def _packed(kernel: str, kind: type, decode: Callable[[], Array], scale: Floats, sides: tuple[int, ...]) -> Stored:
    shape, groups = (sides[0], sides[1], sides[2], sides[3]), sides[4]

    def pack(packer: Packer) -> _native.Weights:
        values = decode().reshape(-1)
        if kernel == "dense":
            return packer.pack(values.reshape(shape), groups)
        if kernel == "inputs":
            return packer.pack_inputs(values, sides)
        places = np.flatnonzero(values)
        kept = values[places]
        if kernel == "mask":
            return packer.pack_mask(places, kept, sides)
        if kernel == "blocks":
            return packer.pack_blocks(places, kept, sides)
        few = np.unique(kept) if kept.dtype == np.float32 else kept[:0]
        if kept.dtype == np.int8 or few.size > 255:
            return packer.pack_slots(places, kept, sides)
        codes = (np.searchsorted(few, kept) + 1).astype(np.uint8)
        return packer.pack_coded_slots(places, codes, np.append(np.float32(0), few), sides)

    return Stored(kernel, shape, np.dtype(kind), scale, lambda: decode().reshape(shape), pack)


def _codes(format: Format, shape: Sides, integers: bool) -> Stored:
    coded = _coded(format, integers)
    if coded is None:
        raise DovetailError(f"{format.describe()} has no one table of 8 bits with a scale for each output")
    if integers and shape[1] % 4 and not (coded.table == 0).any():
        # Channels that fill up a group of four are multiplied by zero.
        bits = max(coded.bits, int(coded.table.size).bit_length())
        coded = replace(coded, table=np.append(coded.table, 0), bits=bits)
    if coded.bits > 8:
        raise DovetailError("of 256 codes none is zero, with which channels are filled up to a multiple of four")
    codes, bits = coded.codes, coded.bits

    def pack(packer: Packer, table: Array) -> _native.Weights:
        return packer.pack_codes(codes, bits, table, (*shape, 1))

    return _looked_up("codes", coded, 256, shape, integers, pack)


def _coded_inputs(coded: _Table, shape: Sides) -> Stored:
    def pack(packer: Packer, table: Array) -> _native.Weights:
        return packer.pack_coded_inputs(coded.codes, table, (*shape, 1))

    return _looked_up("inputs", coded, 1 << INPUT_BITS, shape, True, pack)


def _looked_up(
    kernel: str,
    coded: _Table,
    entries: int,
    shape: Sides,
    integers: bool,
    pack: Callable[[Packer, Array], _native.Weights],
) -> Stored:
    """`pack` is given the table, with zeros up to so many entries."""
    table: Array = np.zeros(entries, np.int8 if integers else np.float32)
    table[: coded.table.size] = coded.table
    scale = np.broadcast_to(coded.scale, shape[:1]).astype(np.float32)
    return Stored(
        kernel, shape, table.dtype, scale, lambda: table[coded.codes].reshape(shape), lambda packer: pack(packer, table)
    )


def _coded(format: Format, integers: bool) -> _Table | None:
    """As `_table`; for integers of whole multiples of a step. Raises DovetailError where they are none."""
    found = _table(format)
    if found is None or not integers:
        return found
    whole, step = _whole_multiples(found.table)
    return replace(found, table=whole, scale=found.scale * step)


def _unwrapped(format: Format) -> Format:
    while isinstance(format, Entropy | Dense):
        format = format.inner if isinstance(format, Entropy) else format.values
    return format


def _table(format: Format) -> _Table | None:
    """The codes of a format of values; None if it has none, or several tables."""
    one = np.ones(1)
    match format:
        case Codebook():
            return _Table(format.codes, format.table.astype(np.float64), one, format.code_bits)
        case Ternary() if len(format.scale) == 1 or np.array_equal(*format.scale):
            return _Table(format.codes, np.array([0.0, 1, -1]), format.scale[0].astype(np.float64), 2)
        case Ternary(axis=None):
            return _Table(format.codes, np.array([0, format.scale[0, 0], -format.scale[-1, 0]], np.float64), one, 2)
        case Binary():
            return _Table(format.codes, np.array([-1.0, 1]), format.scale.astype(np.float64), 1)
        case Affine(group=None, axis=None | 0):
            zeros = [1 << (format.code_bits - 1)] if format.zero_point is None else np.unique(format.zero_point)
            if len(zeros) == 1:
                table = np.arange(1 << format.code_bits) - float(zeros[0])
                return _Table(format.codes.astype(np.uint8), table, format.scale.astype(np.float64), format.code_bits)
        case FixedPoint(integer_bits=bits) if bits <= 8:
            table = (np.arange(1 << bits) ^ (1 << (bits - 1))) - float(1 << (bits - 1))
            return _Table(format.codes.astype(np.uint8), table, np.array([2.0**-format.fraction]), bits)
        case PowerOfTwo():
            bits = format.streams()["codes"].bits
            if bits <= 8:
                every = np.arange(1 << bits).astype(format.codes.dtype)
                table = replace(format, shape=every.shape, codes=every).decode().astype(np.float64)
                return _Table(format.codes.astype(np.uint8), table, one, bits)
    return None


def _whole(format: Format, shape: tuple[int, ...]) -> tuple[Array, Floats]:
    """The weights as whole multiples of a step, and the step of each output."""
    table = _table(format)
    if table is not None:
        whole, step = _whole_multiples(table.table)
        values, scale = whole[table.codes].astype(np.int8), table.scale * step
    else:
        distinct, codes = np.unique(format.decode().reshape(-1), return_inverse=True)
        whole, step = _whole_multiples(distinct.astype(np.float64))
        values, scale = whole[codes].astype(np.int8), np.array([step])
    return values, np.broadcast_to(scale, shape[:1]).astype(np.float32)


def _whole_multiples(values: Array) -> tuple[Array, float]:
    """Integers of 8 bits and a step, the largest there is, that give `values` within 1e-6 of the largest of them."""
    largest = float(np.abs(values).max(initial=0))
    if largest == 0:
        return values, 1.0
    if largest <= 128 and np.array_equal(values, np.rint(values)):  # soon found
        step = float(np.gcd.reduce(values.astype(np.int64)))
        if values.max() <= 127 * step:
            return values / step, step
    for most in range(1, 129) if values.size <= 256 else ():
        whole = values * (most / largest)
        rounded = np.rint(whole)
        if np.abs(whole - rounded).max() <= 1e-6 * most + 1e-12 and rounded.max() <= 127:
            return rounded, largest / most
    raise DovetailError(
        f"{values.size} different weights up to {largest:g} are no whole multiples, from -128 to 127, of one step: "
        "as integers they must be quantised to a grid first"
    )
