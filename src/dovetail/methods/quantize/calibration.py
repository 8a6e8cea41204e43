"""Where the grid of a tensor's values begins and ends: five rules for what layers read, and scales for weights.

    min_max      what was seen
    percentile   all but one value in ten thousand, at either end
    mse          the clipping of least squared error
    kl           the clipping whose quantised histogram diverges least from the real one
                 (Migacz. 8-bit Inference with TensorRT. GTC 2017)

A clipping scales both ends of what was seen by one factor. Zero always lies on the grid. Departs from Migacz: his
grid is symmetric; ours starts at zero where nothing is negative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.errors import DataError

RULES = ("min_max", "percentile", "mse", "kl")
TAIL = 1e-4
BINS = 2048
A_BIN = 64
"""Values that a bin holds at least, on average: the differences between neighbouring bins are else mostly chance."""
FACTORS = torch.logspace(0, -1.5, 61, dtype=torch.float64).tolist()
"""Clippings that are tried, as fractions of the whole range."""

Range = tuple[float, float]


def clipped_range(values: Tensor, bits: int, rule: str, extremes: Range | None = None) -> Range:
    """The lowest and highest value that the grid should hold, by one of RULES.

    values: any shape, at least one; `extremes` are those of all values where these are a sample.
    Raises DataError if there are no values, or some are NaN or infinite.
    """
    flat = values.detach().flatten().double()
    if not len(flat) or not torch.isfinite(flat).all():
        raise DataError(f"a range needs finite values, got {len(flat)} of which some are NaN or infinite"
                        if len(flat) else "a range needs at least one value, got none")  # fmt: skip
    low, high = extremes or (float(flat.min()), float(flat.max()))
    low, high = min(low, 0.0), max(high, 0.0)
    if rule == "min_max" or low == high:
        return low, high
    if rule == "percentile":
        ends = torch.quantile(_few(flat), torch.tensor([TAIL, 1 - TAIL], dtype=flat.dtype))
        found = max(low, min(0.0, float(ends[0]))), min(high, max(0.0, float(ends[1])))
        return found if found[0] < found[1] else (low, high)
    error: Callable[[Range], float]
    if rule == "mse":
        error = lambda ends: float((quantized(flat, *grid(*ends, bits), bits) - flat).square().sum())  # noqa: E731
    else:
        others = flat[flat != 0]  # zero is exact on every grid
        histogram = torch.histc(others, min(BINS, max(1 << bits, len(others) // A_BIN)), low, high)
        error = lambda ends: _divergence(histogram, (low, high), ends, bits)  # noqa: E731
    return min(((factor * low, factor * high) for factor in FACTORS), key=error)


def grid(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point of 2^bits codes from 0 that reach from `low` (at most 0) to `high` (at least 0)."""
    top = (1 << bits) - 1
    scale = (high - low) / top
    return scale, (min(top, max(0, round(-low / scale))) if scale > 0 else 0)


def quantized(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """The values of the nearest codes; zeros for a scale of 0."""
    if scale <= 0:
        return torch.zeros_like(x)
    return (torch.round(x / scale + zero_point).clamp(0, (1 << bits) - 1) - zero_point) * scale


def weight_scales(weight: Tensor, bits: int, seen: Tensor | None = None, *, per_channel: bool = True) -> Tensor:
    """The scales (T), or the one (1), of symmetric codes, by which a layer's outputs lose least.

    weight: (T, ...). seen: rows (n, F) that the layer multiplies its weight.flatten(1) by; without any, the weight's
    own squared error. An output whose weights are all zero has scale 0.
    """
    rows = weight.detach().flatten(1)
    top = (1 << (bits - 1)) - 1
    largest = rows.abs().amax(1) if per_channel else rows.abs().max().view(1)
    best, chosen = torch.full_like(largest, torch.inf), largest / top
    for factor in FACTORS[:41]:  # of weights, down to a tenth
        scale = factor * largest / top
        safe = torch.where(scale > 0, scale, 1.0)[:, None]
        error = torch.round(rows / safe).clamp(-top, top) * safe - rows
        if seen is not None:
            error = error @ seen.T
        total = error.square().sum(1) if per_channel else error.square().sum().view(1)
        better = total < best
        best, chosen = torch.where(better, total, best), torch.where(better, scale, chosen)
    return chosen


def _few(flat: Tensor) -> Tensor:
    """torch.quantile takes up to 2^24 values."""
    return flat[:: -(-len(flat) // 2**24)]


def _divergence(histogram: Tensor, extremes: Range, ends: Range, bits: int) -> float:
    """Kullback-Leibler, of the values clipped to `ends` from the same quantised, in bins of the histogram."""
    low, high = extremes
    centres = low + (torch.arange(len(histogram), dtype=torch.float64) + 0.5) * (high - low) / len(histogram)
    inside = (centres >= ends[0]) & (centres <= ends[1])
    if not inside.any():
        return float("inf")
    kept = histogram[inside]
    reference = kept.clone()  # whatever is clipped lies in the outermost bins
    reference[0] += histogram[centres < ends[0]].sum()
    reference[-1] += histogram[centres > ends[1]].sum()
    scale, zero = grid(*ends, bits)
    codes = torch.round(centres[inside] / scale + zero).clamp(0, (1 << bits) - 1).long()
    filled = (kept > 0).double()
    mass, bins = (torch.zeros(1 << bits, dtype=torch.float64).index_add_(0, codes, w) for w in (kept, filled))
    spread = filled * (mass / bins.clamp_min(1))[codes]
    if not spread.sum() > 0:
        return float("inf")
    p, q = reference / reference.sum(), (spread / spread.sum()).clamp_min(1e-12)
    return float((p * (p.clamp_min(1e-300) / q).log()).sum())
