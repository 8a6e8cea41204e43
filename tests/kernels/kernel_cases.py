"""Layers with random weights, and what the engine may differ by: nothing in integers, little in floats."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.kernels.convolution import Convolution, Window, convolution
from dovetail.kernels.epilogue import Codes, Epilogue

LEVELS = _native.levels()
INPUT, RESIDUAL, OUTPUT, ROUNDING = Codes(0.02, 7), Codes(0.03, 100), Codes(0.05, 30), Codes(0.04, 90)
POSITIVE = Codes(0.02, 0)  # as after ReLU: a border adds nothing to sums


def random(rng: np.random.Generator, shape: tuple[int, ...], integers: bool) -> NDArray[Any]:
    """Codes or floats."""
    return rng.integers(0, 256, shape).astype(np.uint8) if integers else rng.standard_normal(shape).astype(np.float32)


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], integers: bool) -> NDArray[Any]:
    drawn: NDArray[Any] = rng.integers(-128, 128, shape).astype(np.int8) if integers else random(rng, shape, False)
    return drawn


def random_epilogue(rng: np.random.Generator, weights: NDArray[Any], **given: Any) -> Epilogue:
    """With scales so that most sums are within some units of zero."""
    columns = weights[0].size * (255 * 128 if weights.dtype == np.int8 else 1)
    scale = (0.5 + rng.random(len(weights))) * 4 / np.sqrt(columns * (0.1 * 255 * 128 if columns > 3e4 else 1))
    return Epilogue(scale=scale.astype(np.float32), bias=rng.standard_normal(len(weights)).astype(np.float32), **given)


def agree(expected: NDArray[Any], found: NDArray[Any], *, exact: bool, columns: int) -> bool:
    """Sums of floats in another order differ by roundings; where they become codes, by one code."""
    if exact:
        return np.array_equal(expected, found)
    if expected.dtype == np.uint8:
        return int(np.abs(expected.astype(int) - found.astype(int)).max()) <= 1
    tolerance = 1e-5 * np.sqrt(columns)
    return np.allclose(found, expected, rtol=tolerance, atol=tolerance)


def check(
    level: str,
    x: NDArray[Any],
    weights: NDArray[Any],
    window: Window,
    epilogue: Epilogue,
    threads: int = 1,
    codes: Codes | None = INPUT,
) -> None:
    codes = codes if x.dtype == np.uint8 else None
    expected = convolution(x, weights, window, epilogue, codes)
    layer = Convolution(x.shape, weights, window, epilogue, codes, level=level, threads=threads)
    found = layer(x)
    assert expected.dtype == found.dtype
    assert agree(expected, found, exact=codes is not None, columns=weights[0].size)
    assert np.array_equal(layer(x), found)
