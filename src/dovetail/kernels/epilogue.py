"""What happens to the sums of a product or convolution before they are written, as the engine does it, in numpy.

    v = scale * sum + bias             per output channel
    v = the value of the code that is nearest to v, where the sum is on a grid of its own
    v = v + residual * factor          per output channel
    v = min(max(activation(v), low), high)     that of a leaky_relu has a slope per output channel
    q = round(v * (1 / output.scale)) + output.zero, in 0 .. 255, where the output is codes

All in float32 and in this order, so that the engine and this reference give the same codes. round() goes to even. NaN
stays NaN; it has the lowest code. Sums of integers that become codes, with no activation but relu and nothing added
but codes, are counted in steps of the output's codes all along, each product and its sum rounded once (`_in_steps`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import DovetailError

Floats = NDArray[np.float32]
Array = NDArray[Any]
_f = np.float32


@dataclass(frozen=True)
class Codes:
    """A code q of 8 bits stands for scale * (q - zero)."""

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (self.scale > 0 and np.isfinite(self.scale) and 0 <= self.zero <= 255):
            raise DovetailError(f"Codes have a positive scale and a zero in 0 .. 255, got {self.scale}, {self.zero}")

    def values(self, codes: NDArray[np.uint8]) -> Floats:
        values: Floats = (codes.astype(_f) - _f(self.zero)) * _f(self.scale)
        return values

    def codes(self, values: Floats) -> NDArray[np.uint8]:
        zero = _f(self.zero)
        scaled = np.minimum(np.fmax(values * (_f(1) / _f(self.scale)), -zero), _f(255) - zero)
        codes: NDArray[np.uint8] = (np.rint(scaled).astype(np.int32) + self.zero).astype(np.uint8)
        return codes


@dataclass(frozen=True, kw_only=True, eq=False)
class Epilogue:
    """`residual` has the shape of the output; its codes are `residual_codes`, or it is float32 if that is None.

    `rounding` are the codes to which the sum is rounded before the residual is added, times its factors: ones if None.
    `slopes` are those of the activation leaky_relu.
    """

    scale: Floats
    bias: Floats
    rounding: Codes | None = None
    residual: Array | None = None
    residual_codes: Codes | None = None
    residual_factors: Floats | None = None
    activation: str = "none"
    slopes: Floats | None = None
    low: float = -np.inf
    high: float = np.inf
    output: Codes | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise DovetailError(f"Epilogue.activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.scale.ndim != 1 or self.scale.shape != self.bias.shape:
            raise DovetailError(f"Epilogue: one scale and bias per channel, got {self.scale.shape}, {self.bias.shape}")
        expected = self.scale.shape if self.activation == LEAKY_RELU else None
        if (None if self.slopes is None else self.slopes.shape) != expected:
            raise DovetailError(f"Epilogue: one slope per channel for {LEAKY_RELU}, and for nothing else")

    def factors(self) -> Floats:
        """Of the residual; none where nothing is added."""
        if self.residual is None:
            return np.zeros(0, _f)
        return np.ones_like(self.scale, _f) if self.residual_factors is None else self.residual_factors.astype(_f)

    def __call__(self, sums: Array) -> Array:
        """What is written for these sums, whose last axis is the output channel."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.output and sums.dtype.kind == "i" and self._only_limits():
                return self._in_steps(sums, self.output)
            v = sums.astype(_f) * self.scale.astype(_f) + self.bias.astype(_f)
            if self.rounding is not None:
                v = self.rounding.values(self.rounding.codes(v))
            if self.residual is not None:
                zero, unit = (0, 1) if (codes := self.residual_codes) is None else (codes.zero, codes.scale)
                counts: Floats = self.residual.astype(_f) - _f(zero)
                v = v + counts * (self.factors() * _f(unit))
            v = ACTIVATIONS[self.activation](v, *([] if self.slopes is None else [self.slopes.astype(_f)]))
            v = np.minimum(np.maximum(v, _f(self.low)), _f(self.high))
            return self.output.codes(v) if self.output else v

    def _only_limits(self) -> bool:
        alone = self.rounding is None if self.residual is None else self.residual_codes is not None
        return alone and self.activation in ("none", "relu")

    def _in_steps(self, sums: Array, output: Codes) -> NDArray[np.uint8]:
        """Counts of steps are numbers over the scale of codes: here those of the output, or of the sum's own grid."""
        inverse = _f(1) / _f(output.scale)
        unit = inverse if self.rounding is None else _f(1) / _f(self.rounding.scale)
        v, scale, bias = sums.astype(_f), self.scale.astype(_f) * unit, self.bias.astype(_f) * unit
        if self.residual is None or self.residual_codes is None:
            v = fused(v, scale, bias)
        else:
            factor = self.factors() * _f(self.residual_codes.scale) * inverse
            offset = factor * -_f(self.residual_codes.zero)
            added = fused(self.residual.astype(_f), factor, offset if self.rounding else offset + bias)
            if self.rounding is None:
                v = fused(v, scale, added)
            else:
                zero = _f(self.rounding.zero)
                rounded = np.rint(np.minimum(np.fmax(fused(v, scale, bias), -zero), _f(255) - zero))
                v = fused(rounded, _f(self.rounding.scale) * inverse, added)
        low = max(_f(self.low), _f(0)) if self.activation == "relu" else _f(self.low)
        return Codes(1.0, output.zero).codes(np.minimum(np.fmax(v, low * inverse), _f(self.high) * inverse))


def fused(a: Floats, b: Floats | np.float32, c: Floats) -> Floats:
    """a * b + c, rounded once to float32 (the product is exact in float64)."""
    result: Floats = (a.astype(np.float64) * b + c).astype(_f)
    return result


def exponential(x: Floats) -> Floats:
    """e ** x as the engine computes it: the whole part of x / ln 2 into the exponent, the rest by a polynomial."""
    x = np.minimum(np.maximum(x, _f(-87)), _f(88))
    whole = np.rint(x * _f(1.44269504))
    r = (x - whole * _f(0.693145752)) - whole * _f(1.42860677e-6)
    p = r * _f(0.00138888889) + _f(0.00833333333)
    for term in (0.0416666667, 0.166666667, 0.5, 1, 1):
        p = p * r + _f(term)
    power: Floats = ((whole.astype(np.int32) + 127) << 23).view(_f)
    result: Floats = p * power
    return result


def sigmoid(x: Floats) -> Floats:
    return _f(1) / (_f(1) + exponential(-x))


def erf_tail(z: Floats) -> Floats:
    """1 - erf(z) for z from 0 on, by Abramowitz and Stegun's approximation 7.1.26."""
    t = _f(1) / (_f(1) + z * _f(0.3275911))
    p = t * _f(1.061405429) - _f(1.453152027)
    for term in (1.421413741, -0.284496736, 0.254829592):
        p = p * t + _f(term)
    return p * t * exponential(-(z * z))


def erf(x: Floats) -> Floats:
    side = _f(1) - erf_tail(np.abs(x))
    return np.where(x > 0, side, -side)


def gelu(x: Floats) -> Floats:
    """x * (1 + erf(x / sqrt 2)) / 2"""
    tail = erf_tail(np.abs(x) * _f(0.707106781)) * _f(0.5)
    return x * np.where(x > 0, _f(1) - tail, tail)


def whole_exponential(x: Floats) -> Floats:
    """e ** x by e ** (x / 2), so that what float32 cannot hold becomes infinity or zero."""
    half = exponential(x * _f(0.5))
    return half * half


LEAKY_RELU = "leaky_relu"

ACTIVATIONS: dict[str, Callable[..., Floats]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, _f(0)),
    "hard_swish": lambda x: x * np.minimum(np.maximum(x + _f(3), _f(0)), _f(6)) * _f(0.166666667),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": lambda x: _f(2) * sigmoid(_f(2) * x) - _f(1),
    "gelu": gelu,
    "erf": erf,
    "exponential": whole_exponential,
    "square_root": np.sqrt,
    "absolute": np.abs,
    "elu": lambda x: np.where(x > 0, x, exponential(x) - _f(1)),
    LEAKY_RELU: lambda x, slopes: np.where(x > 0, x, x * slopes),
}
"""In the order of the engine's enumeration."""
