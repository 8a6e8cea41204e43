"""What every format must do. A new format is tested here by being listed in FORMATS, with an encoder in examples.py."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.examples import CASE_NAMES, CASES, ENCODERS, GRID, SHAPES, few, fitted, on_grid, tensors

from dovetail.errors import FormatError
from dovetail.formats import FORMATS, from_arrays


def reread(format):
    """`format` as a file would give it back."""
    arrays = {key: array.copy() for key, array in format.arrays().items()}
    return from_arrays(json.loads(json.dumps(format.header())), arrays)


def check(format, tensor):
    assert format.shape == tensor.shape
    decoded = format.decode()
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, tensor, strict=True)
    assert format.bits == 8 * sum(array.nbytes for array in format.arrays().values())
    assert set(format.bits_by_part) == {"values", "indices", "tables", "padding"}
    assert sum(format.bits_by_part.values()) == format.bits and min(format.bits_by_part.values()) >= 0
    assert format.density == (np.count_nonzero(tensor) / tensor.size if tensor.size else 1.0)


def test_every_listed_format_has_encoders():
    assert set(ENCODERS) == set(FORMATS)
    assert len({format.name for format in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize(("format", "encode"), CASES, ids=CASE_NAMES)
class TestEveryFormat:
    @pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
    def test_round_trip(self, format, encode, density):
        for shape in SHAPES:
            tensor = fitted(encode, on_grid(shape, density))
            stored = encode(tensor)
            assert isinstance(stored, format)
            check(stored, tensor)
            again = reread(stored)
            check(again, tensor)
            assert again.header() == stored.header() and again.describe() == stored.describe()
            assert again.bits_by_part == stored.bits_by_part

    @few
    @given(tensor=tensors())
    def test_round_trip_of_any_tensor(self, format, encode, tensor):
        tensor = fitted(encode, tensor)
        stored = encode(tensor)
        check(stored, tensor)
        check(reread(stored), tensor)

    def test_is_deterministic(self, format, encode):
        first, second = (encode(fitted(encode, on_grid((9, 31), 0.3))).arrays() for _ in range(2))
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)

    def test_huge_gap(self, format, encode):
        tensor = np.zeros((3, 50_001), np.float32)
        tensor[-1, -1] = GRID[1]
        tensor = fitted(encode, tensor)
        stored = encode(tensor)
        check(stored, tensor)
        check(reread(stored), tensor)

    def test_one_symbol(self, format, encode):
        for value in (0.0, 0.25):
            tensor = fitted(encode, np.full((11, 6), value, np.float32))
            check(reread(encode(tensor)), tensor)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_refuses_what_is_not_finite(self, format, encode, value):
        tensor = on_grid((4, 5), 1.0)
        tensor[2, 3] = value
        with pytest.raises(FormatError, match="NaN, infinity"):
            encode(tensor)

    def test_refuses_what_is_not_a_number(self, format, encode):
        with pytest.raises(FormatError, match="real numbers"):
            encode(np.array(["a"]))

    def test_takes_other_number_types(self, format, encode):
        for dtype in (np.float64, np.float16, np.int8):
            np.testing.assert_array_equal(encode(np.zeros((2, 3), dtype)).decode(), np.zeros((2, 3)))

    def test_takes_strided_tensors(self, format, encode):
        tensor = fitted(encode, on_grid((4, 9), 0.5))
        strided = np.repeat(tensor.T, 2, axis=1).T[::2]
        np.testing.assert_array_equal(encode(strided).decode(), tensor)

    def test_missing_and_foreign_arrays_are_refused(self, format, encode):
        stored = encode(fitted(encode, on_grid((5, 7), 0.5)))
        arrays = stored.arrays()
        for key in arrays:
            with pytest.raises(FormatError, match=key):
                from_arrays(stored.header(), {other: arrays[other] for other in arrays if other != key})
        with pytest.raises(FormatError, match="foreign"):
            from_arrays(stored.header(), arrays | {"foreign": np.zeros(1)})

    @few
    @given(data=st.data())
    def test_damage_is_a_format_error_or_a_tensor(self, format, encode, data):
        stored = encode(fitted(encode, on_grid((6, 11), 0.4)))
        header, arrays = damage_header(data, stored.header()), damage_arrays(data, stored.arrays())
        tracemalloc.start()
        try:
            again = from_arrays(header, arrays)
        except FormatError as error:
            assert str(error)
        else:
            elements = int(np.prod(again.shape, dtype=np.int64))
            if elements < 100_000:
                assert again.decode().shape == again.shape
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 200_000_000


def damage_header(data, header):
    """`header` with one entry, nested ones too, replaced or left out."""
    header = json.loads(json.dumps(header))
    place = header
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    replacements = st.sampled_from([None, -1, 0, 1, 3, 1 << 31, 1 << 70, 1.5, True, "ans", "dense", [], [1 << 31], {}])
    what = data.draw(st.sampled_from(["keep", "drop", "replace", "shape"]))
    if what == "drop":
        del place[key]
    elif what == "replace":
        place[key] = data.draw(replacements)
    elif what == "shape" and "shape" in place:
        place["shape"] = data.draw(st.lists(st.sampled_from([0, 1, 2, 6, 66, 1 << 20, 1 << 31, -1]), max_size=4))
    return header


def damage_arrays(data, arrays):
    """`arrays` with one of them flipped in a bit, cut, lengthened, retyped or left alone."""
    arrays = {key: array.copy() for key, array in arrays.items()}
    key = data.draw(st.sampled_from(sorted(arrays)))
    raw = bytearray(arrays[key].tobytes())
    what = data.draw(st.sampled_from(["keep", "flip", "cut", "lengthen", "retype"]))
    if what == "flip" and raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        arrays[key] = np.frombuffer(bytes(raw), arrays[key].dtype).reshape(arrays[key].shape)
    elif what == "cut":
        arrays[key] = arrays[key].reshape(-1)[: data.draw(st.integers(0, len(raw)))]
    elif what == "lengthen":
        arrays[key] = np.append(arrays[key].reshape(-1), arrays[key].dtype.type(1))
    elif what == "retype":
        arrays[key] = np.array([b"text"])
    return arrays
