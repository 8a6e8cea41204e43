"""Values that are zero or a power of two, so that a product with one is a shift.

Chen et al. SmartDeal: Re-Modeling Deep Network Weights for Efficient Inference and Training. TNNLS 2022.
arXiv:2101.01163 (coefficients); Zhou et al. Incremental Network Quantization. ICLR 2017. arXiv:1702.03044.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import Header, Json, read_int, read_shape
from dovetail.formats.packing import UInts, symbol_type

SMALLEST, LARGEST = -149, 127
"""Exponents of the smallest and the largest power of two that a float32 holds."""


@dataclass(frozen=True, eq=False)
class PowerOfTwo(Format):
    """Values 0 or +-2^p with `smallest` <= p <= `largest`: a sign bit above the code of the exponent.

    Exponent codes count up from `smallest`; with `zero`, code 0 (sign 0) is the value 0 and they start at 1.

    bits = n * (1 + ceil(log2(largest - smallest + 1 + zero)))
    """

    name: ClassVar[str] = "power_of_two"
    shape: tuple[int, ...]
    codes: UInts
    smallest: int
    largest: int
    zero: bool

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, exponents: tuple[int, int] | None = None, bits: int | None = None) -> Self:
        """`exponents` are the smallest and the largest, zero then always having a code; by default they are the
        tightest, and zero has a code if it occurs. `bits` is the most that an exponent's code may take.

        Raises FormatError on NaN, infinity, values that are neither 0 nor a power of two, and exponents outside the
        range or more than the bits number: this format does not round, the method that made the values does.
        """
        floats = finite_floats(tensor)
        flat = floats.reshape(-1)
        # |x| = mantissa * 2^exponent with the mantissa in [1/2, 1); of a power of two it is 1/2.
        mantissa, power = np.frexp(np.abs(flat))
        kept = flat != 0
        wrong = kept & (mantissa != 0.5)
        if wrong.any():
            raise FormatError(
                f"power_of_two holds 0 and +-2^p, found {float(flat[wrong.argmax()]):g}; round the values to powers of "
                "two before"
            )
        found = power[kept].astype(np.int64) - 1
        if exponents is None:
            smallest, largest = (int(found.min()), int(found.max())) if found.size else (0, 0)
        else:
            smallest, largest = exponents
        zero = exponents is not None or not kept.all()
        _check(smallest, largest, zero, bits)
        if found.size and (found.min() < smallest or found.max() > largest):
            raise FormatError(
                f"PowerOfTwo.exponents should hold {found.min()}..{found.max()}, which occur, got {smallest}..{largest}"
            )
        width = _exponent_bits(smallest, largest, zero)
        codes = np.zeros(flat.size, symbol_type(1 + width))
        codes[kept] = found - smallest + zero
        codes |= (flat < 0).astype(codes.dtype) << width
        return cls(floats.shape, codes, smallest, largest, zero)

    def decode(self) -> Floats:
        width = _exponent_bits(self.smallest, self.largest, self.zero)
        # Codes beyond the largest exponent do not occur.
        exponents = np.minimum(np.arange(1 << width) + self.smallest - self.zero, self.largest)
        powers = np.ldexp(np.ones(1 << width), exponents)
        if self.zero:
            powers[0] = 0.0
        return np.concatenate([powers, 0.0 - powers]).astype(np.float32)[self.codes].reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return {"codes": Stream(self.codes, 1 + _exponent_bits(self.smallest, self.largest, self.zero))}

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "smallest": self.smallest,
            "largest": self.largest,
            "zero": self.zero,
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape, smallest = read_shape(header), read_int(header, "smallest", SMALLEST, LARGEST)
        largest, zero = read_int(header, "largest", smallest, LARGEST), header.get("zero")
        if not isinstance(zero, bool):
            raise FormatError(f"the header's zero should be true or false, found {zero!r}")
        width = _exponent_bits(smallest, largest, zero)
        codes = source.stream("codes", math.prod(shape), 1 + width)
        if codes.size and int((codes & ((1 << width) - 1)).max()) - zero > largest - smallest:
            raise FormatError(f"a stored exponent is beyond {largest}: the stored array is damaged")
        return cls(shape, codes, smallest, largest, zero)

    def describe(self) -> str:
        return f"power_of_two({self.smallest}..{self.largest})"


def _exponent_bits(smallest: int, largest: int, zero: bool) -> int:
    return (largest - smallest + zero).bit_length()


def _check(smallest: int, largest: int, zero: bool, bits: int | None) -> None:
    if not SMALLEST <= smallest <= largest <= LARGEST:
        raise FormatError(
            f"PowerOfTwo.exponents should be the smallest and the largest in {SMALLEST}..{LARGEST}, "
            f"got {smallest}..{largest}"
        )
    needed = _exponent_bits(smallest, largest, zero)
    if bits is not None and needed > bits:
        raise FormatError(
            f"PowerOfTwo.bits should number the exponents {smallest}..{largest}{' and zero' if zero else ''}, which "
            f"take {needed}, got {bits}"
        )
