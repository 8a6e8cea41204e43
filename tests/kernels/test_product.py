"""The engine's matrix products against the plain reference: every length, every level."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.kernels.convolution import Window, convolution
from dovetail.kernels.epilogue import Epilogue
from dovetail.kernels.product import Product, product

from .kernel_cases import INPUT, LEVELS, OUTPUT, agree, random, random_epilogue, random_weights

each_level = pytest.mark.parametrize("level", LEVELS)
each_type = pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])


def check(level: str, x: NDArray[Any], weights: NDArray[Any], epilogue: Epilogue, threads: int = 1) -> None:
    codes = INPUT if x.dtype == np.uint8 else None
    found = Product(len(x), weights, epilogue, codes, level=level, threads=threads)(x)
    expected = product(x, weights, epilogue, codes)
    assert agree(expected, found, exact=codes is not None, columns=weights.shape[1])


@each_level
@each_type
def test_vectors_of_every_length(level: str, integers: bool) -> None:
    rng = np.random.default_rng(0)
    for length in range(1, 1024):
        weights = random_weights(rng, (7, length), integers)
        check(level, random(rng, (1, length), integers), weights, random_epilogue(rng, weights))


@each_level
@each_type
def test_every_number_of_outputs_and_rows(level: str, integers: bool) -> None:
    rng = np.random.default_rng(1)
    for outputs in [*range(1, 70), 127, 130, 1023]:
        weights = random_weights(rng, (outputs, 37), integers)
        for rows in (1, 2, 5, outputs % 31 + 1):
            check(level, random(rng, (rows, 37), integers), weights, random_epilogue(rng, weights, output=OUTPUT))


@each_level
@each_type
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large(level: str, integers: bool, threads: int) -> None:
    rng = np.random.default_rng(2)
    weights = random_weights(rng, (200, 2049), integers)
    check(level, random(rng, (197, 2049), integers), weights, random_epilogue(rng, weights), threads)


def test_is_a_convolution_by_one_pixel() -> None:
    rng = np.random.default_rng(3)
    x, weights = random(rng, (6, 21), True), random_weights(rng, (9, 21), True)
    epilogue = random_epilogue(rng, weights, activation="relu")
    as_image = convolution(x[:, None, None], weights[:, :, None, None], Window(), epilogue, INPUT)
    assert np.array_equal(product(x, weights, epilogue, INPUT), as_image[:, 0, 0])
