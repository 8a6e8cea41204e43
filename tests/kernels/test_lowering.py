"""A convolution as a matrix product equals the convolution, and its gradients are the gradients."""

import tracemalloc

import numpy as np
import pytest
import torch

from dovetail.errors import DovetailError
from dovetail.hardware.systolic_array import Dataflow
from dovetail.hardware.systolic_steps import run
from dovetail.kernels.convolution import Window
from dovetail.kernels.lowering import lowered_convolution, lowered_gradients

PLENTY = 1 << 24


def random_case(seed: int, dtype: type) -> tuple[np.ndarray, np.ndarray, Window]:
    generator = np.random.default_rng(seed)
    groups = int(generator.choice([1, 1, 2, 3]))
    rows, columns = (int(n) for n in generator.integers(1, 5, 2))
    window = Window(
        stride=tuple(int(n) for n in generator.integers(1, 4, 2)),
        dilation=tuple(int(n) for n in generator.integers(1, 3, 2)),
        padding=tuple(int(n) for n in generator.integers(0, 3, 4)),
        groups=groups,
    )
    image = (int(generator.integers(8, 14)), int(generator.integers(8, 14)))
    channels, filters = groups * int(generator.integers(1, 4)), groups * int(generator.integers(1, 4))
    x = generator.integers(-9, 10, (int(generator.integers(1, 4)), *image, channels)).astype(dtype)
    weights = generator.integers(-9, 10, (filters, channels // groups, rows, columns)).astype(dtype)
    if dtype is np.float32:
        x, weights = x / 7, weights / 7
    return x, weights, window


def by_torch(x: torch.Tensor, weights: torch.Tensor, window: Window) -> torch.Tensor:
    top, left, bottom, right = window.padding
    padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, weights, None, window.stride, 0, window.dilation, window.groups)
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize("seed", range(200))
def test_integers_exactly_and_floats_within_rounding(seed: int) -> None:
    for dtype, tolerance in ((np.int64, 0.0), (np.float32, 1e-5)):
        x, weights, window = random_case(seed, dtype)
        expected = by_torch(torch.from_numpy(x).double(), torch.from_numpy(weights).double(), window).numpy()
        found = lowered_convolution(x, weights, window, scratch_bytes=PLENTY)
        assert found.dtype == dtype
        assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("seed", range(60))
def test_gradients_are_those_of_autograd(seed: int) -> None:
    x, weights, window = random_case(seed, np.float64)
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, weights)]
    y = by_torch(leaves[0], leaves[1], window)
    gradient = np.random.default_rng(seed).integers(-9, 10, y.shape).astype(np.float64)
    y.backward(torch.from_numpy(gradient))
    for found, leaf in zip(lowered_gradients(x, weights, window, gradient, scratch_bytes=PLENTY), leaves, strict=True):
        assert leaf.grad is not None
        np.testing.assert_array_equal(found, leaf.grad.numpy())


def test_gradients_by_finite_differences() -> None:
    x, weights, window = random_case(3, np.float64)
    size = lowered_convolution(x, weights, window, scratch_bytes=PLENTY).shape
    gradient = np.random.default_rng(0).normal(size=size)
    by_input, by_weight = lowered_gradients(x, weights, window, gradient, scratch_bytes=PLENTY)
    for array, found in ((x, by_input), (weights, by_weight)):
        for place in list(np.ndindex(array.shape))[::7]:
            step = np.zeros_like(array)
            step[place] = 0.5  # the product is linear in each: no step is too large
            ends = [
                lowered_convolution(
                    x + sign * step if array is x else x,
                    weights + sign * step if array is weights else weights,
                    window,
                    scratch_bytes=PLENTY,
                )
                for sign in (-1, 1)
            ]
            assert np.isclose(found[place], np.sum(gradient * (ends[1] - ends[0])), atol=1e-9)


def test_scratch_memory_is_kept_to() -> None:
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=(1, 64, 64, 16)), generator.normal(size=(4, 16, 3, 3))
    window, cap = Window(padding=(1, 1, 1, 1)), 1 << 17
    whole = 64 * 64 * 16 * 9 * 8
    lowered_convolution(x, weights, window, scratch_bytes=cap)  # once, for what libraries allocate the first time
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = lowered_convolution(x, weights, window, scratch_bytes=cap)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    padded = 66 * 66 * 16 * 8
    assert peak - padded - y.nbytes <= 1.1 * cap < whole  # and some small objects
    np.testing.assert_allclose(y, lowered_convolution(x, weights, window, scratch_bytes=PLENTY), atol=1e-12)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
@pytest.mark.parametrize("seed", range(6))
def test_a_systolic_array_convolves(seed: int, dataflow: Dataflow) -> None:
    x, weights, window = random_case(seed, np.int64)
    x, weights = x[:1, :8, :8], weights[..., :2, :2]

    def by_array(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return run(a, b, 5, 3, dataflow, overlap=True).output

    expected = lowered_convolution(x, weights, window, scratch_bytes=PLENTY)
    found = lowered_convolution(x, weights, window, scratch_bytes=PLENTY, multiply=by_array)
    np.testing.assert_array_equal(found, expected)


def test_scratch_too_small_for_one_row() -> None:
    x, weights, window = random_case(0, np.int64)
    with pytest.raises(DovetailError, match="one row of the lowered input takes"):
        lowered_convolution(x, weights, window, scratch_bytes=1)
