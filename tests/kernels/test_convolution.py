"""The engine's convolutions against the plain reference, at every level that this processor has."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.kernels.convolution import Convolution, Window, convolution
from dovetail.kernels.epilogue import ACTIVATIONS, LEAKY_RELU, Codes, Epilogue

from .kernel_cases import (
    INPUT,
    LEVELS,
    OUTPUT,
    POSITIVE,
    RESIDUAL,
    ROUNDING,
    check,
    random,
    random_epilogue,
    random_weights,
)

each_level = pytest.mark.parametrize("level", LEVELS)
each_type = pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])


@each_level
@each_type
@pytest.mark.parametrize(("groups", "outputs"), [(2, 9), (2, 12), (2, 17), (3, 7), (4, 5)])
def test_blocks_of_outputs_that_read_all_groups_beside_some_that_do_not(
    level: str, integers: bool, groups: int, outputs: int
) -> None:
    rng = np.random.default_rng(0)
    for size, inputs in (((1, 2), 8), ((3, 3), 16), ((3, 3), 7)):
        x = random(rng, (2, 7, 11, groups * inputs), integers)
        weights = random_weights(rng, (groups * outputs, inputs, *size), integers)
        for padding in ((0,) * 4, (1,) * 4):
            check(level, x, weights, Window(padding=padding, groups=groups), random_epilogue(rng, weights))


@each_level
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape(level: str, data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    rng, integers = np.random.default_rng(draw(0, 99)), data.draw(st.booleans())
    groups, size = data.draw(st.sampled_from([1, 1, 2, 3, 16, 24])), (draw(1, 4), draw(1, 3))
    inputs, outputs = (
        groups * draw(1, 40 if groups == 1 else 5),
        groups * draw(1, 40 if groups == 1 else 20 if groups < 4 else 3),
    )
    window = Window(
        stride=(draw(1, 3), draw(1, 2)),
        dilation=(draw(1, 2), draw(1, 3)),
        padding=(draw(0, 3), draw(0, 2), draw(0, 2), draw(0, 3)),
        groups=groups,
    )
    x = random(rng, (draw(1, 3), draw(7, 12), draw(7, 19), inputs), integers)
    weights = random_weights(rng, (outputs, inputs // groups, *size), integers)
    shape = (len(x), *window.output_size(x.shape[1:3], size), outputs)
    residual = data.draw(st.sampled_from([None, True, False]))
    activation = data.draw(st.sampled_from(sorted(ACTIVATIONS.keys() - {"square_root"})))  # of sums around zero
    epilogue = random_epilogue(
        rng,
        weights,
        residual=None if residual is None else random(rng, shape, residual),
        residual_codes=RESIDUAL if residual else None,
        residual_factors=data.draw(st.sampled_from([None, random(rng, (outputs,), False)])),
        rounding=data.draw(st.sampled_from([None, ROUNDING])) if integers else None,
        low=data.draw(st.sampled_from([-np.inf, -0.7, 0.1])),
        high=data.draw(st.sampled_from([np.inf, 0.9])),
        activation=activation,
        slopes=random(rng, (outputs,), False) if activation == LEAKY_RELU else None,
        output=data.draw(st.sampled_from([None, OUTPUT])),
    )
    check(level, x, weights, window, epilogue, threads=draw(1, 3))


@each_level
@each_type
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "stride"),
    [(3, 16, 3, 1), (16, 16, 3, 1), (16, 32, 3, 2), (64, 64, 3, 1), (513, 40, 1, 1), (600, 70, 3, 1), (3, 64, 7, 2)],
)
def test_layers_of_networks(level: str, integers: bool, channels: int, outputs: int, size: int, stride: int) -> None:
    rng = np.random.default_rng(channels)
    weights = random_weights(rng, (outputs, channels, size, size), integers)
    window = Window(stride=(stride, stride), padding=(size // 2,) * 4)
    epilogue = random_epilogue(rng, weights, activation="relu", output=OUTPUT if integers else None)
    check(level, random(rng, (1, 15, 17, channels), integers), weights, window, epilogue, threads=2)


@each_level
@each_type
@pytest.mark.parametrize("outputs", [5, 32, 80])
@pytest.mark.parametrize("columns", [1, 2, 3, 9, 16, 17, 23, 40])
def test_rows_of_any_length_with_overlapping_windows(level: str, integers: bool, outputs: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    weights = random_weights(rng, (outputs, 16, 3, 3), integers)
    x = random(rng, (2, 7, columns, 16), integers)
    check(level, x, weights, Window(padding=(1, 1, 1, 1)), random_epilogue(rng, weights), threads=2)


@each_level
@each_type
def test_images_of_a_batch_share_tiles(level: str, integers: bool) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, (48, 32, 3, 3), integers)
    x = random(rng, (130, 2, 2, 32), integers)
    check(level, x, weights, Window(padding=(1, 1, 1, 1)), random_epilogue(rng, weights), threads=2)


@each_level
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(level: str, activation: str) -> None:
    """Bit for bit, and close to what they are called."""
    values = np.concatenate([np.linspace(-12, 12, 4001), [-1e30, -100, -0.0, 0, 100, 1e30, np.nan]]).astype(np.float32)
    one = np.ones(1, np.float32)
    slopes = one / 4 if activation == LEAKY_RELU else None
    epilogue = Epilogue(scale=one, bias=0 * one, activation=activation, slopes=slopes)
    x, weights = values[:, None, None, None], np.ones((1, 1, 1, 1), np.float32)
    expected = convolution(x, weights, Window(), epilogue)
    found = Convolution(x.shape, weights, Window(), epilogue, level=level)(x)
    assert np.array_equal(expected, found, equal_nan=True)
    assert np.isnan(found[-1])
    v = values[:4001].astype(np.float64)
    logistic = 1 / (1 + np.exp(-v))
    exact = {
        "none": v,
        "relu": np.maximum(v, 0),
        "hard_swish": v * np.clip(v + 3, 0, 6) / 6,
        "sigmoid": logistic,
        "silu": v * logistic,
        "tanh": np.tanh(v),
        "gelu": v * (1 + np.array([math.erf(one / math.sqrt(2)) for one in v])) / 2,
        "erf": np.array([math.erf(one) for one in v]),
        "exponential": np.exp(v),
        "square_root": np.sqrt(np.where(v < 0, np.nan, v)),
        "absolute": np.abs(v),
        "elu": np.where(v > 0, v, np.expm1(v)),
        "leaky_relu": np.where(v > 0, v, v / 4),
    }
    np.testing.assert_allclose(expected[:4001, 0, 0, 0], exact[activation], rtol=1e-6, atol=1e-6)


@each_level
def test_codes_round_to_even_and_end_at_their_limits(level: str) -> None:
    values = np.array([-1e9, -1.5, -0.5, 0.5, 1.5, 2.5, 251.5, 1e9, np.inf, -np.inf, np.nan], np.float32)
    one = np.ones(1, np.float32)
    epilogue = Epilogue(scale=one, bias=0 * one, output=Codes(1.0, 3))
    x = values[:, None, None, None]
    found = Convolution(x.shape, np.ones((1, 1, 1, 1), np.float32), Window(), epilogue, level=level)(x)
    assert found[:, 0, 0, 0].tolist() == [0, 1, 3, 3, 5, 5, 255, 255, 255, 0, 0]


@each_level
@pytest.mark.parametrize(("activation", "low"), [("none", -np.inf), ("relu", -np.inf), ("none", 2.5)])
def test_codes_of_integers_round_to_even_and_end_at_their_limits(level: str, activation: str, low: float) -> None:
    """Of rows of five pixels, where four are finished at once; up to sums that no integer holds, and no number is."""
    x = np.arange(256, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 5, 1), np.uint8)
    scale = np.array([1, 0.5, -0.5, 3e7, 1e30, -1e30, np.inf], np.float32)
    epilogue = Epilogue(scale=scale, bias=0 * np.ones(7, np.float32), activation=activation, low=low, high=250.5,
                        output=Codes(1.0, 3))  # fmt: skip
    weights, inputs = np.ones((7, 1, 1, 1), np.int8), Codes(1.0, 128)
    found = Convolution(x.shape, weights, Window(), epilogue, inputs, level=level)(x)
    with np.errstate(invalid="ignore", over="ignore"):
        values = (x.astype(np.float32) - 128) * scale
    least = max(low, 0 if activation == "relu" else -np.inf)
    expected = np.clip(np.rint(np.clip(np.nan_to_num(values, nan=-np.inf), least, 250.5)), -3, 252) + 3
    assert np.array_equal(found, expected)
    assert np.array_equal(convolution(x, weights, Window(), epilogue, inputs), expected)


@each_level
def test_the_largest_sums_do_not_saturate(level: str) -> None:
    x, weights = np.full((1, 1, 1, 64), 255, np.uint8), np.full((2, 64, 1, 1), -128, np.int8)
    weights[1] = 127
    epilogue = Epilogue(scale=np.ones(2, np.float32), bias=np.zeros(2, np.float32))
    found = Convolution(x.shape, weights, Window(), epilogue, Codes(1.0, 0), level=level)(x)
    assert found[0, 0, 0].tolist() == [-255 * 128 * 64, 255 * 127 * 64]


@pytest.mark.parametrize(
    ("weights", "window", "scales", "message"),
    [
        (np.ones((4, 8, 3, 3), np.int8), Window(), 4, "weights for 8 x 1 channels, but the image has 9"),
        (np.ones((4, 9, 3, 3), np.float32), Window(), 4, "weights are int8 for such inputs, got float32"),
        (np.ones((4, 9, 9, 3), np.int8), Window(), 4, r"weights of \(9, 3\) do not fit into an image of \(6, 5\)"),
        (np.ones((4, 9, 3, 3), np.int8), Window(), 5, "weights for 4 outputs, but scales for 5"),
        (np.ones((4, 3, 3, 3), np.int8), Window(groups=3), 4, "cannot have 3 groups"),
    ],
)
def test_what_does_not_fit(weights: np.ndarray, window: Window, scales: int, message: str) -> None:
    epilogue = Epilogue(scale=np.ones(scales, np.float32), bias=np.ones(scales, np.float32))
    with pytest.raises(DovetailError, match=message):
        Convolution((1, 6, 5, 9), weights, window, epilogue, INPUT)


def test_sums_that_need_more_than_32_bits() -> None:
    epilogue = Epilogue(scale=np.ones(1, np.float32), bias=np.ones(1, np.float32))
    with pytest.raises(DovetailError, match="may not fit into 32 bits"):
        Convolution((1, 1, 1, 70000), np.ones((1, 70000, 1, 1), np.int8), Window(), epilogue, INPUT)


def test_images_too_large_for_offsets_of_32_bits() -> None:
    epilogue = Epilogue(scale=np.ones(1, np.float32), bias=np.ones(1, np.float32))
    with pytest.raises(DovetailError, match="too large for so few outputs"):
        Convolution((1, 1000, 700, 1), np.ones((1, 1, 1, 1), np.float32), Window(stride=(1000, 700)), epilogue)


def test_another_input_than_it_was_made_for() -> None:
    epilogue = Epilogue(scale=np.ones(1, np.float32), bias=np.ones(1, np.float32))
    layer = Convolution((1, 2, 2, 1), np.ones((1, 1, 1, 1), np.float32), Window(), epilogue)
    with pytest.raises(DovetailError, match=r"the input is float32 of \(1, 2, 2, 1\), got float64 of \(1, 2, 2, 1\)"):
        layer(np.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize("level", [*LEVELS, "vax"])
def test_the_environment_forces_a_level(level: str) -> None:
    """A level that this processor lacks is an error that says what it has."""
    source = (
        "import numpy as np; from dovetail.kernels.convolution import *; one = np.ones(1, np.float32);"
        "Convolution((1, 1, 1, 1), np.ones((1, 1, 1, 1), np.float32), Window(), Epilogue(scale=one, bias=one))"
    )
    environment = os.environ | {"DOVETAIL_ISA": level}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    if level in _native.levels():
        assert done.returncode == 0, done.stderr
    else:
        assert f"DOVETAIL_ISA is vax, but this processor runs {', '.join(LEVELS)}" in done.stderr


@each_level
@each_type
@pytest.mark.parametrize("channels", [5, 40, 96])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [
        *[((3, 3), (1, 1), 1), ((3, 3), (2, 2), 1), ((3, 3), (1, 3), 1), ((3, 3), (1, 1), 2), ((5, 5), (2, 1), 1)],
        *[((1, 3), (1, 1), 1), ((4, 3), (1, 2), 1), ((5, 3), (1, 1), 2), ((9, 2), (1, 1), 1), ((7, 7), (1, 1), 1)],
    ],
)
def test_depthwise_windows(
    level: str, integers: bool, channels: int, size: tuple[int, int], stride: tuple[int, int], dilation: int
) -> None:
    rng = np.random.default_rng(channels)
    weights = random_weights(rng, (channels, 1, *size), integers)
    window = Window(stride=stride, dilation=(dilation, dilation), padding=(1, 1, 1, 1), groups=channels)
    epilogue = random_epilogue(rng, weights, output=OUTPUT if integers else None)
    for columns in (7, 18, 31):
        check(level, random(rng, (2, 13, columns, channels), integers), weights, window, epilogue, threads=2)


@each_level
@each_type
@pytest.mark.parametrize("channels", [16, 176, 400])
@pytest.mark.parametrize("columns", [1, 2, 5, 8, 11])
@pytest.mark.parametrize(
    "window",
    [
        Window(padding=(1, 1, 1, 1)),
        Window(padding=(1, 0, 1, 2), stride=(2, 2)),
        Window(padding=(2, 1, 2, 1), dilation=(2, 1)),
        Window(padding=(4, 1, 4, 2)),
    ],
    ids=["around", "stride", "dilation", "far"],
)
def test_borders_that_add_nothing(level: str, integers: bool, channels: int, columns: int, window: Window) -> None:
    rng = np.random.default_rng(columns)
    weights = random_weights(rng, (70, channels, 3, 3), integers)
    x = random(rng, (9, 5, columns + 1, channels), integers)
    shape = (len(x), *window.output_size(x.shape[1:3], (3, 3)), 70)
    epilogue = random_epilogue(rng, weights, residual=random(rng, shape, False))
    check(level, x, weights, window, epilogue, threads=2, codes=POSITIVE)
