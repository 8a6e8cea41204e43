"""Two's complement fixed point: value = code * 2^-fraction."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from dovetail.formats import FixedPoint, ValueEncoder
from dovetail.methods.quantize.uniform import Uniform

ROUNDINGS = ("nearest", "floor")

LONGEST = 64
"""The largest fractional length, and the least one negated, that `FixedPoint` stores."""


class FixedPointGrid(Uniform):
    """Codes from -2^(bits-1) to 2^(bits-1) - 1 times 2^-fraction; `fraction` may be negative or exceed `bits`.

    "floor" drops the places below, as a plain shift does, instead of rounding to nearest even.
    """

    def __init__(self, bits: int, fraction: int, rounding: str = "nearest") -> None:
        super().__init__(bits, torch.tensor(2.0**-fraction))
        self.rounding = rounding

    @property
    def fraction(self) -> int:
        return 1 - math.frexp(float(self.scale))[1]

    @property
    def lowest(self) -> int:
        return -(1 << (self.code_bits - 1))

    def _unclipped(self, x: Tensor) -> Tensor:
        return super()._unclipped(x) if self.rounding == "nearest" else torch.floor(x / self.scale)

    def encoder(self) -> ValueEncoder:
        return partial(FixedPoint.encode, bits=self.code_bits, fraction=self.fraction)
