"""Packed products of signs equal those of floats, for every length, padding, stride and mask."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dovetail.methods.quantize.packed import conv2d, dot, fold, masked_dot, pack
from dovetail.methods.quantize.quantizer import sign


def signs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(np.float32)


def test_products_of_every_length_are_exact() -> None:
    for length in range(1, 301):
        a, b = signs(3, length, seed=length), signs(3, length, seed=-length % 1009)
        mask = signs(3, length, seed=length + 1)
        expected = (a * b).sum(1)
        assert np.array_equal(dot(pack(a), pack(b), length), expected)
        assert np.array_equal(masked_dot(pack(a), pack(b), pack(mask)), (a * b * (mask > 0)).sum(1))


def test_zero_counts_as_positive_as_it_does_in_training() -> None:
    values = np.array([0.0, -0.0, -1e-9, 2.0], np.float32)
    assert pack(values)[0] == 0b1011
    assert np.array_equal(sign(torch.from_numpy(values)).numpy() > 0, [True, True, False, True])


def test_the_tail_of_a_word_is_zero() -> None:
    words = pack(np.ones((2, 70), np.float32))
    assert np.array_equal(words, np.array([[2**64 - 1, 2**6 - 1]] * 2, np.uint64))


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0), (3, 2)])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 2)), ((3, 2), (2, 1))])
@pytest.mark.parametrize("channels", [1, 63, 65])
def test_convolutions_are_exact(padding: tuple, stride: tuple, dilation: tuple, channels: int) -> None:
    """Padding is zeros in the float convolution, and masked in the packed one."""
    x, w = signs(2, channels, 8, 9), signs(4, channels, 3, 2, seed=1)
    expected = functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), None, stride, padding, dilation)
    assert np.array_equal(conv2d(x, w, stride, padding, dilation), expected.numpy())


class TestThresholds:
    def test_signs_of_normalised_products_are_those_of_the_thresholds(self) -> None:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(6).eval()
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -0.7, 0.0, 0.0, 1e-3, 2.0]))
            norm.bias.copy_(torch.tensor([0.3, 0.2, 0.5, -0.5, 9.0, 0.0]))
            norm.running_mean.copy_(torch.tensor([2.0, -3.0, 1.0, 1.0, 0.0, 5.0]))  # the last turns at an integer
            norm.running_var.uniform_(1, 20)
        length = 27
        products = np.random.default_rng(0).integers(-length, length + 1, (5, 6, 4, 4))
        with torch.no_grad():
            expected = sign(norm(torch.from_numpy(products).float())).numpy()
            folded = fold(lambda y: norm(torch.from_numpy(y)[:, :, None, None]).numpy()[:, :, 0, 0], length, 6)
        assert np.array_equal(folded(products), expected)
        assert folded.falling.tolist() == [False, True, False, False, False, False]

    def test_they_are_the_closed_form_s(self) -> None:
        """gamma > 0: y >= mean - beta deviation / gamma; gamma < 0: y <=; 0: the sign of beta."""
        gamma, beta = np.array([0.5, -0.5, 0.0, 0.0], np.float32), np.array([1.0, 1.0, 1.0, -1.0], np.float32)
        folded = fold(lambda y: gamma * (y - 3) / 2 + beta, 10, 4)  # mean 3, deviation 2
        assert folded.least.tolist() == [-1, 7, -10, 11]
        assert folded.falling.tolist() == [False, True, False, False]
