"""Run-length coding of feature maps: there and back, its size, and what it gains on real maps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nn

from dovetail.data import load_dataset
from dovetail.errors import FormatError
from dovetail.hardware import run_length
from dovetail.networks import load_model

LEVELS = st.one_of(st.just(0), st.integers(-(2**15), 2**15 - 1))


@given(npst.arrays(np.int64, st.integers(0, 400), elements=LEVELS))
def test_there_and_back(levels: np.ndarray) -> None:
    words = run_length.encode(levels)
    assert words.dtype == np.uint64
    assert np.array_equal(run_length.decode(words, levels.size), levels)


def test_words_as_in_the_paper() -> None:
    """Three pairs of 5 and 16 bits, and a mark in the last word."""
    levels = np.zeros(80, np.int16)
    levels[[2, 3, 79]] = 12, 53, 22
    first, last = (int(word) for word in run_length.encode(levels))
    pairs = [(2, 12), (0, 53), (31, 0), (31, 0), (11, 22)]
    packed = [run << 16 | level for run, level in pairs]
    assert first == packed[0] | packed[1] << 21 | packed[2] << 42
    assert last == packed[3] | packed[4] << 21 | 1 << 63


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.4, 1.0])
def test_expected_bits_are_those_of_random_zeros(density: float) -> None:
    random = np.random.default_rng(0)
    levels = random.integers(1, 2**15, 200_000) * (random.random(200_000) < density)
    bits = run_length.encode(levels).size * run_length.WORD_BITS / levels.size
    # a map of zeros alone takes no words at all
    assert bits == pytest.approx(run_length.expected_bits(np.count_nonzero(levels) / levels.size), rel=0.02, abs=0.7)


def test_maps_of_a_trained_network_shrink() -> None:
    """By 1.6 to 3.5 times, and that is what the closed form says of their densities: few runs are longer than 31."""
    images, _ = next(load_dataset("fashion_mnist_sample").batches("test", 8))
    model, maps = load_model("resnet8_fashion").module.eval(), []
    for convolution in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        convolution.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        model(images)
    rectified = [values for values in maps if values.min() == 0]
    assert len(rectified) > 3
    for values in rectified:
        levels = (values / values.max() * (2**15 - 1)).round().to(torch.int64).numpy()
        density, words = np.count_nonzero(levels) / levels.size, run_length.encode(levels)
        assert np.array_equal(run_length.decode(words, levels.size), levels.ravel())
        bits = words.size * 64 / levels.size
        assert 1.5 < 16 / bits < 4
        assert bits == pytest.approx(run_length.expected_bits(density), rel=0.03)


@pytest.mark.parametrize("levels", [np.array([0.5]), np.array([2**15]), np.array([-(2**15) - 1])])
def test_levels_of_other_widths(levels: np.ndarray) -> None:
    with pytest.raises(FormatError, match="16 bits"):
        run_length.encode(levels)


def test_words_of_a_larger_map() -> None:
    with pytest.raises(FormatError, match="beyond the 5 of the map"):
        run_length.decode(run_length.encode(np.array([0, 0, 0, 0, 0, 7])), 5)
