"""Layout finds the smallest."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.examples import HALF, SHAPES, TABLE, few, on_grid, tensors

from dovetail.errors import FormatError
from dovetail.formats import Affine, Bitmap, BlockCSC, Codebook, Dense, Entropy, Float, Layout, RelativeIndex


def all_formats(tensor, values, entropy):
    """The bits of everything that "smallest" is to choose from."""
    sparse = [RelativeIndex.encode(tensor, values, index_bits=width) for width in range(1, 17)]
    for format in (Dense.encode(tensor, values), Bitmap.encode(tensor, values), *sparse):
        yield format.bits
        if entropy != "none":
            yield Entropy.encode(format, entropy).bits


@pytest.mark.parametrize(
    ("values", "entropy"),
    [(TABLE, "none"), (TABLE, "huffman"), (TABLE, "ans"), (TABLE, "smallest"), (HALF, "none"), (HALF, "huffman")],
)
def test_smallest_is_the_smallest(values, entropy):
    for shape in ((7, 9), (40, 50)):
        for density in (0.0, 0.05, 0.5, 1.0):
            tensor = on_grid(shape, density)
            best = min(all_formats(tensor, values, entropy))
            assert Layout("smallest", values, entropy=entropy).encode(tensor).bits <= best + 8


@few
@given(tensors(), st.sampled_from(["none", "smallest"]))
def test_every_structure_round_trips(tensor, entropy):
    for structure in ("dense", "bitmap", "relative_index", "block_csc", "smallest"):
        stored = Layout(structure, TABLE, entropy=entropy).encode(tensor)
        np.testing.assert_array_equal(stored.decode(), tensor, strict=True)


def test_the_plain_layout_stores_float32():
    for shape in SHAPES:
        stored = Layout().encode(on_grid(shape, 0.5))
        assert stored.describe() == "dense > float32" and stored.bits == 32 * math.prod(shape)


def test_a_structure_and_a_width_that_are_asked_for_are_taken():
    tensor = on_grid((60, 50), 0.2)
    assert isinstance(Layout("bitmap", TABLE).encode(tensor), Bitmap)
    assert isinstance(Layout("block_csc", TABLE).encode(tensor), BlockCSC)
    relative = Layout("relative_index", TABLE, index_bits=7).encode(tensor)
    assert relative.describe() == "relative_index(7) > codebook(3)"
    entropy = Layout("relative_index", TABLE, index_bits=7, entropy="ans").encode(tensor)
    assert entropy.describe() == "relative_index(7) > codebook(3) > ans"


def test_the_relative_index_width_is_the_best():
    tensor = on_grid((200, 300), 0.05)
    sizes = {width: RelativeIndex.encode(tensor, TABLE, index_bits=width).bits for width in range(1, 17)}
    assert Layout("relative_index", TABLE).encode(tensor).bits == min(sizes.values())


def test_smallest_falls_back_to_dense_where_nothing_else_applies():
    tensor = on_grid((8, 8), 0.3)
    for values in (partial(Affine.encode, bits=4, axis=1), partial(Codebook.encode, table=np.array([0.25, 0.5]))):
        assert isinstance(Layout("smallest", values).encode(tensor), Dense)


def test_entropy_coding_that_gains_nothing_is_left_out():
    tensor = np.random.default_rng(0).standard_normal(5)
    assert Layout(values=Float.encode, entropy="smallest").encode(tensor).describe() == "dense > float32"


@pytest.mark.parametrize(
    "parameters", [{"structure": "sparse"}, {"entropy": "zip"}, {"index_bits": 0}, {"index_bits": 17}]
)
def test_bad_layouts_are_refused(parameters):
    with pytest.raises(FormatError, match="Layout"):
        Layout(**parameters)
