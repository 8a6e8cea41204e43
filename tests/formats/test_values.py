"""The rounding and the limits of the values formats."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.formats.examples import few

from dovetail.errors import FormatError
from dovetail.formats import (
    Affine,
    Binary,
    Bitmap,
    Codebook,
    FixedPoint,
    Float,
    Layout,
    RelativeIndex,
    Ternary,
    from_arrays,
)

ANY_FLOATS = hnp.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@few
@given(ANY_FLOATS)
def test_float32_is_the_identity_bit_for_bit(tensor):
    assert Float.encode(tensor).decode().tobytes() == tensor.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_width_floats_hold_all_their_finite_values(dtype):
    words = np.arange(1 << 16, dtype=np.uint16)
    if dtype == "float16":
        values = words.view(np.float16).astype(np.float32)
    else:
        values = (words.astype(np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    assert Float.encode(values, dtype=dtype).decode().tobytes() == values.tobytes()


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9], np.float32)
    assert Float.encode(values, dtype="bfloat16").decode().tolist() == [1, 1 + 2**-6, 1 + 2**-7, -1]


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_overflow_is_refused(dtype, value):
    with pytest.raises(FormatError, match="store this tensor as float32"):
        Float.encode(np.array([value]), dtype=dtype)


@few
@given(ANY_FLOATS, st.integers(1, 8), st.randoms(use_true_random=False))
def test_codebook_takes_the_nearest_entry(tensor, bits, random):
    table = np.array([random.uniform(-2, 2) for _ in range(1 << bits)], np.float32)
    decoded = Codebook.encode(tensor, table=table).decode()
    distances = np.abs(tensor[:, None].astype(np.float64) - table)
    assert np.array_equal(np.abs(tensor.astype(np.float64) - decoded), distances.min(1))


def test_codebook_stores_halves_only_if_they_are_exact():
    assert Codebook.encode(np.zeros(3), table=np.array([0, 0.5])).table.dtype == np.float16
    assert Codebook.encode(np.zeros(3), table=np.array([0, 1 / 3], np.float32)).table.dtype == np.float32


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"table": np.zeros(0)}, "empty"),
        ({"table": np.arange(257)}, "9 bits for 257 entries"),
        ({"table": np.arange(5), "code_bits": 2}, "2 bits for 5 entries"),
        ({"table": np.array([0, np.nan])}, "NaN"),
        ({"table": np.array([1e6]), "dtype": "float16"}, "float16 cannot hold"),
        ({"table": np.array([1.0]), "dtype": "int8"}, "int8"),
    ],
)
def test_bad_codebooks_are_refused(parameters, message):
    with pytest.raises(FormatError, match=message):
        Codebook.encode(np.zeros(3), **parameters)


@few
@given(ANY_FLOATS, st.integers(2, 8), st.booleans(), st.sampled_from([None, 1, 7]))
def test_affine_is_within_half_a_step_and_keeps_zero(tensor, bits, symmetric, group):
    stored = Affine.encode(tensor, bits=bits, symmetric=symmetric, group=group)
    step = np.repeat(stored.scale, group or max(tensor.size, 1))[: tensor.size].astype(np.float64)
    error = np.abs(stored.decode().astype(np.float64) - tensor)
    # An asymmetric grid is moved by up to half a step so that it holds zero.
    assert (error <= (0.5 if symmetric else 1.0) * step * (1 + 1e-6) + 1e-38).all()
    assert (stored.decode()[tensor == 0] == 0).all()


def test_affine_has_a_scale_for_each_channel():
    tensor = np.array([[1, -2, 0.5], [100, 200, -50]], np.float32)
    stored = Affine.encode(tensor, bits=8, axis=0)
    np.testing.assert_allclose(stored.scale, [2 / 127, 200 / 127], rtol=1e-6)
    assert stored.bits == 6 * 8 + 2 * 32
    columns = Affine.encode(tensor, bits=8, axis=1)
    np.testing.assert_allclose(columns.scale, [100 / 127, 200 / 127, 50 / 127], rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_affine_returns_to_its_own_grid(symmetric):
    tensor = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    first = Affine.encode(tensor, bits=4, axis=0, symmetric=symmetric)
    second = Affine.encode(
        first.decode(), bits=4, axis=0, symmetric=symmetric, scale=first.scale, zero_point=first.zero_point
    )
    assert np.array_equal(first.decode(), second.decode())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bits": 1}, "2..8"),
        ({"bits": 9}, "2..8"),
        ({"bits": 4, "axis": 2}, "axis=2"),
        ({"bits": 4, "axis": 0, "group": 2}, "group=2"),
        ({"bits": 4, "group": 0}, "1 or more"),
        ({"bits": 4, "scale": -1.0}, "not negative"),
        ({"bits": 4, "scale": 1e6, "dtype": "float16"}, "float16"),
        ({"bits": 4, "symmetric": False, "zero_point": 16}, "0..15"),
        ({"bits": 4, "dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_bad_affine_parameters_are_refused(parameters, message):
    with pytest.raises(FormatError, match=message):
        Affine.encode(np.zeros((2, 3)), **parameters)


def test_fixed_point_rounds_to_even_and_saturates():
    tensor = np.array([0.125, 0.375, 0.3, -0.3, 9, -9], np.float32)
    stored = FixedPoint.encode(tensor, bits=4, fraction=2)
    assert stored.decode().tolist() == [0, 0.5, 0.25, -0.25, 1.75, -2]
    assert stored.bits == 24 and stored.describe() == "fixed_point(4, 2)"


@pytest.mark.parametrize(("bits", "fraction"), [(1, 0), (25, 0), (8, 65)])
def test_bad_fixed_point_parameters_are_refused(bits, fraction):
    with pytest.raises(FormatError, match=r"2\.\.24"):
        FixedPoint.encode(np.zeros(2), bits=bits, fraction=fraction)


@few
@given(ANY_FLOATS)
def test_binary_is_nearest_to_the_tensor(tensor):
    """The paper's closed form: no other scale and no other signs are nearer."""
    stored = Binary.encode(tensor)
    exact = tensor.astype(np.float64)
    error = np.square(exact - stored.decode()).sum()
    for factor, flipped in ((0.9, None), (1.1, None), (1.0, 0), (1.0, -1)):
        other = np.where(exact >= 0, 1.0, -1.0) * stored.scale * factor
        if flipped is not None and tensor.size:
            other[flipped] *= -1
        assert error <= np.square(exact - other).sum() * (1 + 1e-6) + 1e-80


@pytest.mark.parametrize("encode", [Binary.encode, Ternary.encode, partial(Ternary.encode, symmetric=True)])
@pytest.mark.parametrize("axis", [None, 0])
def test_binary_and_ternary_return_to_their_own_grid(encode, axis):
    tensor = np.random.default_rng(0).standard_normal((4, 100_003)).astype(np.float32)
    tensor *= np.abs(tensor) > 0.5 * (encode != Binary.encode)
    first = encode(tensor, axis=axis)
    second = encode(first.decode(), axis=axis)
    assert np.array_equal(first.decode(), second.decode()) and np.array_equal(first.scale, second.scale)


def test_binary_and_ternary_have_the_bits_they_say():
    tensor = np.array([[1, -3, 2], [8, 0.0, -8], [0, 0, 0]], np.float32)
    by_row = Binary.encode(tensor, axis=0)
    assert by_row.scale.tolist() == [2, np.float32(16 / 3), 0] and by_row.codes.tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 1]
    assert by_row.bits == 16 + 3 * 32 and by_row.describe() == "binary(axis 0)"
    assert not np.signbit(by_row.decode()[2]).any()
    ternary = Ternary.encode(tensor)
    assert ternary.scale.tolist() == [[np.float32(11 / 3)], [5.5]]
    assert ternary.bits == 24 + 64 and ternary.describe() == "ternary"
    assert ternary.decode()[1].tolist() == [np.float32(11 / 3), 0, -5.5]
    one = Ternary.encode(tensor, axis=0, symmetric=True)
    assert one.scale.tolist() == [[2, 8, 0]] and one.bits == 24 + 3 * 32
    assert one.describe() == "ternary(one scale, axis 0)"


@pytest.mark.parametrize("values", [Binary, Ternary])
def test_binary_and_ternary_have_scales_along_the_first_axis_only(values):
    for tensor, axis in ((np.zeros((2, 3)), 1), (np.zeros(()), 0)):
        with pytest.raises(FormatError, match="axis should be 0"):
            values.encode(tensor, axis=axis)


def test_a_structure_that_leaves_zeros_out_refuses_binary():
    tensor = np.array([0.5, 0, 0, -0.5], np.float32)
    with pytest.raises(FormatError, match="must hold zero exactly"):
        RelativeIndex.encode(tensor, Binary.encode, index_bits=2)
    assert np.array_equal(Bitmap.encode(tensor, Binary.encode).decode(), tensor)
    assert Layout("smallest", Binary.encode).encode(np.sign(tensor - 0.1)).describe() == "dense > binary"


def test_a_fourth_ternary_code_is_damage():
    stored = Ternary.encode(np.ones(4))
    with pytest.raises(FormatError, match="stored code is 3"):
        from_arrays(stored.header(), stored.arrays() | {"codes": np.array([0b11], np.uint8)})
