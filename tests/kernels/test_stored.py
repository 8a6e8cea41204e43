"""Weights multiplied as they are stored, against the plain reference on what they stand for; integers exact."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.errors import DovetailError
from dovetail.formats import (
    NM,
    Affine,
    Binary,
    Bitmap,
    BlockCSC,
    Codebook,
    Dense,
    Entropy,
    FixedPoint,
    Float,
    Format,
    KernelPatterns,
    PowerOfTwo,
    RelativeIndex,
    Ternary,
)
from dovetail.kernels.convolution import Convolution, Window, convolution
from dovetail.kernels.epilogue import Epilogue
from dovetail.kernels.product import Product, product
from dovetail.kernels.stored import KERNELS, Stored, kernels, signs, stored

from .kernel_cases import INPUT, LEVELS, OUTPUT, agree, random, random_epilogue

WHOLE = Window()
STORED = KERNELS[:-1]
each_level = pytest.mark.parametrize("level", LEVELS)
SIXTEEN = np.array([-128, -90, -77, -60, -41, -20, -9, 0, 1, 13, 30, 44, 68, 90, 101, 127], np.float32) / 128
FLOATS = np.sort(np.random.default_rng(5).standard_normal(16)).astype(np.float32)
bytes_of_values = partial(Affine.encode, bits=8)


def sparse(tensor: NDArray[Any], zeros: float) -> NDArray[Any]:
    return np.where(np.random.default_rng(tensor.size).random(tensor.shape) < zeros, 0, tensor).astype(np.float32)


def in_blocks(tensor: NDArray[Any], zeros: float) -> NDArray[Any]:
    """Zero are blocks of 16 x 4."""
    keep = np.random.default_rng(tensor.size).random((len(tensor) // 16 + 1, tensor.shape[1] // 4 + 1)) >= zeros
    keep = keep.repeat(16, 0).repeat(4, 1)[: tensor.shape[0], : tensor.shape[1]]
    return (tensor * keep.reshape(keep.shape + (1,) * (tensor.ndim - 2))).astype(np.float32)


def two_of_four(tensor: NDArray[Any]) -> NDArray[Any]:
    keep = np.arange(tensor[0].size).reshape(tensor.shape[1:]) % 4 % 3 == 0
    return np.where(keep, tensor, 0).astype(np.float32)


FORMATS: dict[str, Any] = {
    **{f"codebook{bits}": partial(Codebook.encode, table=np.linspace(-1, 1, (1 << bits) - 1)) for bits in range(2, 9)},
    "codebook4_bytes": partial(Codebook.encode, table=SIXTEEN),
    "codebook4_floats": partial(Codebook.encode, table=FLOATS),
    "affine4": partial(Affine.encode, bits=4, axis=0),
    "affine8": partial(Affine.encode, bits=8, axis=0),
    "affine5_unsigned": lambda t: Affine.encode(np.abs(t), bits=5, symmetric=False),
    "fixed_point6": partial(FixedPoint.encode, bits=6, fraction=4),
    "ternary": lambda t: Ternary.encode(sparse(t, 0.5), axis=0, symmetric=True),
    "ternary_two_scales": lambda t: Ternary.encode(sparse(t, 0.5)),
    "binary": partial(Binary.encode, axis=0),
    "power_of_two": lambda t: PowerOfTwo.encode(np.exp2(np.rint(np.clip(3 * t, -5, 1))) * np.sign(t)),
    "bitmap": lambda t: Bitmap.encode(sparse(t, 0.7), bytes_of_values),
    "bitmap_floats": lambda t: Bitmap.encode(sparse(t, 0.7), Float.encode),
    "relative_index": lambda t: RelativeIndex.encode(sparse(t, 0.9), bytes_of_values),
    "relative_index_floats": lambda t: RelativeIndex.encode(sparse(t, 0.9), Float.encode),
    "deep_compression": lambda t: Entropy.encode(
        RelativeIndex.encode(sparse(t, 0.9), partial(Codebook.encode, table=FLOATS - FLOATS[7]))
    ),
    "eie": lambda t: BlockCSC.encode(sparse(t, 0.9), partial(Codebook.encode, table=SIXTEEN), processing_elements=4),
    "blocks": lambda t: Bitmap.encode(in_blocks(t, 0.6), bytes_of_values),
    "two_of_four": lambda t: NM.encode(two_of_four(t), bytes_of_values, n=2, m=4),
    "entropy": lambda t: Entropy.encode(Dense.encode(t, partial(Codebook.encode, table=SIXTEEN))),
}
NO_STEP = ("codebook4_floats", "ternary_two_scales", "bitmap_floats", "relative_index_floats", "deep_compression")
SPARSE = (*NO_STEP[2:], "bitmap", "relative_index", "eie", "blocks", "two_of_four")


def reference(weights: Stored, epilogue: Epilogue, **given: Any) -> Epilogue:
    return Epilogue(scale=epilogue.scale * weights.scale, bias=epilogue.bias, **given)


def check_product(level: str, weights: Stored, rows: int, threads: int = 1, **given: Any) -> None:
    rng, integers = np.random.default_rng(rows), weights.dtype == np.int8
    outputs, inputs = weights.shape[:2]
    matrix, codes = weights.values()[:, :, 0, 0], INPUT if integers else None
    epilogue = random_epilogue(rng, matrix, **given)
    x = random(rng, (rows, inputs), integers)
    found = Product(rows, weights, epilogue, codes, level=level, threads=threads)(x)
    expected = product(x, matrix, reference(weights, epilogue, **given), codes)
    assert found.shape == (rows, outputs)
    assert agree(expected, found, exact=integers, columns=inputs)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])
def test_kernels_stand_for_the_decoded_weights(name: str, integers: bool) -> None:
    tensor = np.random.default_rng(3).standard_normal((7, 45)).astype(np.float32)
    format = FORMATS[name](tensor)
    found = kernels(format, integers=integers)
    expected = () if integers and name in NO_STEP else KERNELS[1:] if name in SPARSE else KERNELS
    assert found == expected
    for kernel in found:
        weights = stored(format, kernel, integers=integers)
        decoded = weights.values() * weights.scale[:, None, None, None]
        np.testing.assert_allclose(decoded[:, :, 0, 0], format.decode(), rtol=0, atol=2e-6 * np.abs(tensor).max())


@each_level
@pytest.mark.parametrize("name", FORMATS)
def test_every_format(level: str, name: str) -> None:
    rng = np.random.default_rng(1)
    for inputs, outputs, rows in [(1, 1, 1), (5, 17, 2), (64, 33, 1), (299, 20, 5), (130, 16, 17), (37, 70, 3)]:
        format = FORMATS[name](rng.standard_normal((outputs, inputs)).astype(np.float32))
        for integers in (True, False):
            for kernel in kernels(format, integers=integers):
                check_product(level, stored(format, kernel, integers=integers), rows)


@each_level
@pytest.mark.parametrize("kernel", STORED)
@pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])
def test_vectors_of_every_length(level: str, kernel: str, integers: bool) -> None:
    rng = np.random.default_rng(0)
    for length in range(1, 1024):
        tensor = sparse(rng.standard_normal((5, length)), 0.8)
        check_product(level, stored(Affine.encode(tensor, bits=4), kernel, integers=integers), 1)


@each_level
@pytest.mark.parametrize("kernel", STORED)
@pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_large(level: str, kernel: str, integers: bool, threads: int) -> None:
    tensor = sparse(np.random.default_rng(2).standard_normal((200, 1537)), 0.9)
    weights = stored(Affine.encode(tensor, bits=6), kernel, integers=integers)
    for rows in (1, 6, 40):
        check_product(level, weights, rows, threads, activation="relu", output=OUTPUT)


@each_level
@pytest.mark.parametrize("size", [64, 128, 256])
def test_all_sizes_of_tiles(level: str, size: int) -> None:
    """How many inputs a look-up covers depends on the density."""
    zeros = {64: 0.3, 128: 0.75, 256: 0.97}[size]
    tensor = sparse(np.random.default_rng(2).standard_normal((48, 1100)), zeros)
    for rows in (1, 4):
        check_product(level, stored(Affine.encode(tensor, bits=8), "slots", integers=True), rows)


@each_level
@pytest.mark.parametrize("threads", [1, 3])
def test_inputs_that_are_zero(level: str, threads: int) -> None:
    """None, all, or any share of them; more than a list of the others holds, farther apart than it counts."""
    rng = np.random.default_rng(3)
    for inputs, outputs, rows in [(7, 3, 2), (2500, 130, 1), (300, 2500, 4), (65_700, 5, 1), (130_000, 17, 1)]:
        tensor = rng.standard_normal((outputs, inputs)).astype(np.float32)
        for bits, share in [(4, 0.4), (8, 0.4), (8, 0.0), (4, 1.0), (0, 0.4), (0, 1e-5), (0, 0.0)]:
            integers = bits > 0
            if integers and inputs > 65_793:  # sums would not fit into 32 bits
                continue
            format = Affine.encode(tensor, bits=bits) if integers else Float.encode(tensor)
            weights = stored(format, "inputs", integers=integers)
            matrix, codes = weights.values()[:, :, 0, 0], INPUT if integers else None
            epilogue = random_epilogue(rng, matrix)
            x = random(rng, (rows, inputs), integers) * (rng.random((rows, inputs)) < share).astype(np.uint8)
            found = Product(rows, weights, epilogue, codes, level=level, threads=threads)(x)
            expected = product(x, matrix, reference(weights, epilogue), codes)
            assert agree(expected, found, exact=integers, columns=inputs)


@each_level
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_convolutions_of_any_shape(level: str, data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    rng, integers = np.random.default_rng(draw(0, 99)), data.draw(st.booleans())
    kernel = data.draw(st.sampled_from(STORED))
    groups = data.draw(st.sampled_from([1, 1, 2, 3])) if kernel not in ("codes", "inputs") else 1
    inputs, outputs, size = draw(1, 70), groups * draw(2, 40), (draw(1, 3), draw(1, 3))
    window = Window(stride=(draw(1, 2), draw(1, 2)), dilation=(draw(1, 2), 1), padding=(draw(0, 2),) * 4, groups=groups)
    zeros = data.draw(
        st.sampled_from([partial(sparse, zeros=0.3), partial(sparse, zeros=0.9), partial(in_blocks, zeros=0.5)])
    )
    tensor = zeros(rng.standard_normal((outputs, inputs, *size)))
    weights = stored(Affine.encode(tensor, bits=draw(2, 8), axis=0), kernel, integers=integers, groups=groups)
    x = random(rng, (draw(1, 2), draw(5, 9), draw(5, 17), inputs * groups), integers)
    epilogue = random_epilogue(rng, weights.values())
    codes = INPUT if integers else None
    expected = convolution(x, weights.values(), window, reference(weights, epilogue), codes)
    found = Convolution(x.shape, weights, window, epilogue, codes, level=level, threads=draw(1, 2))(x)
    assert agree(expected, found, exact=integers, columns=weights.values()[0].size)


@each_level
@pytest.mark.parametrize("integers", [True, False], ids=["uint8", "float32"])
def test_signs_by_signs(level: str, integers: bool) -> None:
    rng = np.random.default_rng(7)
    windows = [
        Window(padding=(1,) * 4),
        Window(stride=(2, 2), padding=(2, 3, 2, 3)),
        Window(dilation=(2, 1), padding=(4, 0, 4, 1)),
        Window(dilation=(1, 2), stride=(1, 3), padding=(0, 9, 1, 9)),
    ]

    def check(
        shape: tuple[int, ...], image: tuple[int, int, int], window: Window = WHOLE, threads: int = 1, **given: Any
    ) -> None:
        middle = rng.choice([0.0, 1.0, -2.5])
        binary = Binary.encode(rng.standard_normal(shape), axis=0)
        weights = signs(binary, integers=integers, least=INPUT.zero, middle=middle)
        x = random(rng, (*image, shape[1]), integers)
        read = np.where(x >= (INPUT.zero if integers else 0), middle + 1, middle - 1).astype(np.float32)
        epilogue = random_epilogue(rng, weights.values(), **given)
        codes = INPUT if integers else None
        expected = convolution(read, weights.values().astype(np.float32), window, reference(weights, epilogue, **given))
        found = Convolution(x.shape, weights, window, epilogue, codes, level=level, threads=threads)(x)
        assert agree(expected, found, exact=False, columns=weights.values()[0].size)

    for length in range(1, 1024, 1 if level == "avx512" else 7):
        check((3, length), (1, 1, 1))
    for channels in [(5, 17), (16, 80), (32, 16), (70, 40)]:
        for window in windows:
            check((*channels[::-1], 3, 2), (2, 9, 11), window, threads=2)
            check((*channels[::-1], 5, 5), (3, 11, 11), window, activation="relu", output=OUTPUT)


@each_level
def test_kernel_patterns(level: str) -> None:
    rng = np.random.default_rng(4)
    keep = np.stack([rng.permutation(9).reshape(3, 3) < 4 for _ in range(6)])[rng.integers(0, 6, (20, 33))]
    format = KernelPatterns.encode((rng.standard_normal((20, 33, 3, 3)) * keep).astype(np.float32), bytes_of_values)
    x = random(rng, (2, 6, 7, 33), True)
    for kernel in ("mask", "slots", "blocks"):
        weights = stored(format, kernel, integers=True)
        epilogue = random_epilogue(rng, weights.values())
        window = Window(padding=(1, 1, 1, 1))
        expected = convolution(x, weights.values(), window, reference(weights, epilogue), INPUT)
        assert np.array_equal(Convolution(x.shape, weights, window, epilogue, INPUT, level=level)(x), expected)


@each_level
@pytest.mark.parametrize("kernel", ["codes", "inputs"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_extreme_codes_do_not_saturate(level: str, kernel: str, bits: int) -> None:
    table = np.linspace(-128, 127, 1 << bits).round()
    format = Codebook.encode(np.resize([-128.0, 127.0], (16, 64)), table=table, code_bits=bits)
    weights = stored(format, kernel, integers=True)
    epilogue = Epilogue(scale=np.ones(16, np.float32), bias=np.zeros(16, np.float32))
    x = np.full((1, 64), 255, np.uint8)
    expected = product(x, weights.values()[:, :, 0, 0], reference(weights, epilogue), INPUT)
    assert np.array_equal(Product(1, weights, epilogue, INPUT, level=level)(x), expected)


def test_stored_weights_are_small() -> None:
    tensor = sparse(np.random.default_rng(6).standard_normal((512, 512)), 0.9)
    size = {
        "float32": stored(Float.encode(tensor), "dense", integers=False),
        "4-bit": stored(Affine.encode(tensor, bits=4), "codes", integers=True),
        "3-bit": stored(Affine.encode(tensor, bits=3), "codes", integers=False),
        "bitmap": stored(Bitmap.encode(tensor, bytes_of_values), "mask", integers=True),
        "slots": stored(Bitmap.encode(tensor, bytes_of_values), "slots", integers=True),
        "4-bit by input": stored(Affine.encode(tensor, bits=4), "inputs", integers=True),
        "8-bit by input": stored(Affine.encode(tensor, bits=5), "inputs", integers=True),
    }
    bits = {name: 8 * weights.pack().bytes / tensor.size for name, weights in size.items()}
    assert (bits["float32"], bits["4-bit"], bits["3-bit"]) == (32, 4, 3)
    assert (bits["4-bit by input"], bits["8-bit by input"]) == (4, 8)
    assert bits["bitmap"] < 2.0
    assert bits["slots"] < 3.0
    blocks = Bitmap.encode(in_blocks(tensor, 0.75), bytes_of_values)
    assert 8 * stored(blocks, "blocks", integers=True).pack().bytes / tensor.size < 0.3 * 8.5


@pytest.mark.parametrize(
    ("format", "kernel", "integers", "groups", "message"),
    [
        (Float.encode(np.ones((2, 3))), "codes", False, 1, "float32 has no one table"),
        (
            Float.encode(np.ones((2, 3))),
            "gather",
            False,
            1,
            "kernel is one of codes, mask, slots, blocks, inputs, dense, got 'gather'",
        ),
        (Float.encode(np.ones(3)), "mask", False, 1, r"two or four dimensions, got a shape of \(3,\)"),
        (
            Float.encode(np.array([[0.1, 1, np.pi]])),
            "mask",
            True,
            1,
            "no whole multiples, from -128 to 127, of",
        ),
        (Binary.encode(np.ones((4, 1, 3, 3))), "codes", False, 2, "kernel for codes takes no groups"),
        (Binary.encode(np.ones((4, 1, 3, 3))), "inputs", True, 2, "kernel for inputs takes no groups"),
        (Float.encode(np.ones((4, 1, 3, 3))), "slots", False, 4, "depthwise weights are few"),
    ],
)
def test_what_cannot_be_held(format: Format, kernel: str, integers: bool, groups: int, message: str) -> None:
    with pytest.raises(DovetailError, match=message):
        stored(format, kernel, integers=integers, groups=groups)
