"""ONNX Resize, Upsample and GridSample.

Interpolation is separable, so each axis is resized in turn, with ONNX's own coordinates; where torch's `interpolate`
computes the same it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.workload.onnx.types import Ints, ints

LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def resize(
    X: Tensor,
    roi: Tensor | None = None,
    scales: Ints | None = None,
    sizes: Ints | None = None,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Give `sizes`, or `scales` of which sizes are the floor. `axes` are those that these name (all by default)."""
    along = [axis % X.ndim for axis in axes] if axes is not None else list(range(X.ndim))
    targets, factors = _targets(X, along, scales, sizes, keep_aspect_ratio_policy)
    coordinates = coordinate_transformation_mode
    if coordinates == "tf_crop_and_resize":
        raise ModelError("Resize with tf_crop_and_resize cannot be read; use half_pixel, align_corners or asymmetric")
    exact = all(abs(targets[axis] - X.shape[axis] * factors[axis]) < 1e-4 for axis in targets)
    known = _interpolate(X, targets, mode, coordinates, nearest_mode) if exact and not antialias else None
    if known is not None:
        return known
    for axis, target in targets.items():
        where = _source(target, X.shape[axis], factors[axis], coordinates, X.device)
        if mode == "nearest":
            X = X.index_select(axis, _nearest(where, nearest_mode, factors[axis]).clamp(0, X.shape[axis] - 1))
        elif antialias and factors[axis] < 1:
            X = _blended(X, axis, where, factors[axis], mode, bool(exclude_outside))
        elif mode == "linear":
            X = _linear(X, axis, where)
        else:
            X = _cubic(X, axis, where, cubic_coeff_a, bool(exclude_outside))
    return X


def _targets(
    X: Tensor, along: list[int], scales: Ints | None, sizes: Ints | None, policy: str
) -> tuple[dict[int, int], dict[int, float]]:
    """The axes that change, with their new sizes and factors."""
    wanted = [] if sizes is None else ints(sizes)
    if wanted:
        factors = [size / X.shape[axis] for size, axis in zip(wanted, along, strict=True)]
        if policy != "stretch":
            common = min(factors) if policy == "not_larger" else max(factors)
            factors = [common] * len(along)
            wanted = [int(common * X.shape[axis] + 0.5) for axis in along]
    else:
        factors = [float(scale) for scale in ints(scales)]  # type: ignore[arg-type]
        wanted = [X.shape[a] if f == 1 else int(X.shape[a] * f) for a, f in zip(along, factors, strict=True)]
    changed = [(a, w, f) for a, w, f in zip(along, wanted, factors, strict=True) if f != 1]
    return {a: w for a, w, _ in changed}, {a: f for a, _, f in changed}


def _interpolate(X: Tensor, targets: dict[int, int], mode: str, coordinates: str, nearest_mode: str) -> Tensor | None:
    """torch's own interpolation, where it has the same coordinates."""
    if X.ndim not in LINEAR or not targets or min(targets) < 2 or not X.is_floating_point():
        return None
    size = [targets.get(axis, X.shape[axis]) for axis in range(2, X.ndim)]
    grows = all(target % X.shape[axis] == 0 for axis, target in targets.items())
    if mode == "nearest" and coordinates == "asymmetric" and nearest_mode in ("floor", "simple") and grows:
        return functional.interpolate(X, size, mode="nearest")
    halves = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and min(targets.values()) > 1)
    if mode == "linear" and (halves or coordinates == "align_corners"):
        corners = coordinates == "align_corners"
        return functional.interpolate(X, size, mode=LINEAR[X.ndim], align_corners=corners)
    return None


def _source(target: int, size: int, factor: float, mode: str, device: torch.device) -> Tensor:
    """Where in the input each output position lies."""
    x = torch.arange(target, dtype=torch.float32, device=device)
    if mode == "align_corners":
        return x * (size - 1) / (target - 1) if target > 1 else x * 0
    if mode == "asymmetric":
        return x / factor
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / factor
    if mode == "pytorch_half_pixel" and target == 1:
        return x * 0
    offset = 0.0
    if mode == "half_pixel_symmetric":
        offset = size / 2 * (1 - target / (factor * size))
    return offset + (x + 0.5) / factor - 0.5


def _nearest(where: Tensor, mode: str, factor: float) -> Tensor:
    """`simple` is what opset 10 and Upsample do."""
    if mode == "simple":
        mode = "ceil" if factor < 1 else "floor"
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(where - 0.5),
        "round_prefer_ceil": lambda: torch.floor(where + 0.5),
        "floor": lambda: torch.floor(where),
        "ceil": lambda: torch.ceil(where),
    }[mode]()
    return rounded.long()


def _column(weights: Tensor, axis: int, like: Tensor) -> Tensor:
    """A vector along `axis`, to broadcast against `like`."""
    return weights.to(like.dtype).reshape([-1] + [1] * (like.ndim - 1 - axis))


def _linear(X: Tensor, axis: int, where: Tensor) -> Tensor:
    last = X.shape[axis] - 1
    where = where.clamp(0, last)
    low = where.floor().long()
    weight = _column(where - low, axis, X)
    return X.index_select(axis, low) * (1 - weight) + X.index_select(axis, (low + 1).clamp(max=last)) * weight


def _near(s: Tensor, a: float) -> Tensor:
    return ((a + 2) * s - (a + 3)) * s * s + 1


def _far(s: Tensor, a: float) -> Tensor:
    return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a


def _blended(X: Tensor, axis: int, where: Tensor, factor: float, mode: str, exclude_outside: bool) -> Tensor:
    """Linear interpolation with antialiasing: a triangle as wide as the outputs lie apart, over all inputs under it."""
    if mode != "linear":
        raise ModelError(f"Resize with antialias can be read for the mode linear, got {mode}; resize without antialias")
    last = X.shape[axis] - 1
    reach = math.ceil(1 / factor)
    index = where.floor().long().unsqueeze(1) + torch.arange(-reach, reach + 2, device=X.device)
    weights = (1 - (index - where.unsqueeze(1)).abs() * factor).clamp(min=0)
    if exclude_outside:
        weights = weights * ((index >= 0) & (index <= last))
    weights = (weights / weights.sum(1, keepdim=True)).to(X.dtype)
    matrix = X.new_zeros(len(where), last + 1).scatter_add(1, index.clamp(0, last), weights)
    return torch.movedim(torch.movedim(X, axis, -1) @ matrix.T, -1, axis)


def _cubic(X: Tensor, axis: int, where: Tensor, a: float, exclude_outside: bool) -> Tensor:
    """Keys' four-tap kernel; the border is repeated, or left out and the weights brought back to one."""
    last = X.shape[axis] - 1
    low = where.floor()
    t = where - low
    weights = torch.stack([_far(t + 1, a), _near(t, a), _near(1 - t, a), _far(2 - t, a)])
    index = low.long() + torch.arange(-1, 3, device=X.device).unsqueeze(1)
    if exclude_outside:
        weights = weights * ((index >= 0) & (index <= last))
        weights = weights / weights.sum(0)
    taps = [
        X.index_select(axis, tap.clamp(0, last)) * _column(weight, axis, X)
        for tap, weight in zip(index, weights, strict=True)
    ]
    return taps[0] + taps[1] + taps[2] + taps[3]


def upsample(X: Tensor, scales: Ints, mode: str = "nearest") -> Tensor:
    """Upsample, and Resize of opset 10."""
    return resize(X, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="simple")


def grid_sample(
    X: Tensor, grid: Tensor, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    torch_mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(X, grid, torch_mode, padding_mode, bool(align_corners))
