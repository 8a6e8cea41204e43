"""Published examples, formulas and figures of the structures."""

from functools import partial

import numpy as np
import pytest
from tests.formats.examples import TABLE, on_grid

from dovetail.errors import FormatError
from dovetail.formats import Affine, Bitmap, BlockCSC, Codebook, Dense, Float, RelativeIndex
from dovetail.formats.packing import pack, packed_bytes, unpack

INTEGERS = partial(Codebook.encode, table=np.arange(16))


@pytest.mark.parametrize("bits", range(1, 33))
def test_packing(bits):
    rng = np.random.default_rng(bits)
    for count in (0, 1, 2, 7, 8, 9, 63, 64, 65, 1023):
        symbols = rng.integers(0, 1 << bits, count, np.uint64).astype(np.uint32)
        packed = pack(symbols, bits)
        assert packed.size == packed_bytes(count, bits)
        reference = sum(int(symbol) << (bits * i) for i, symbol in enumerate(symbols))
        assert int.from_bytes(packed.tobytes(), "little") == reference
        assert np.array_equal(unpack(packed, count, bits), symbols)


def test_packing_across_chunks():
    symbols = np.random.default_rng(0).integers(0, 32, (1 << 20) + 5).astype(np.uint8)
    for bits in (5, 11):
        assert np.array_equal(unpack(pack(symbols, bits), symbols.size, bits), symbols)


def test_two_codes_a_byte_low_nibble_first():
    """As in the decoder that was released with the Deep Compression paper."""
    assert Codebook.encode(np.array([1, 2, 3]), table=np.arange(16)).arrays()["codes"].tolist() == [0x21, 0x03]


@pytest.mark.parametrize("index_bits", [3, 4, 5, 8])
@pytest.mark.parametrize("code_bits", [4, 6])
def test_deep_compression_rate(index_bits, code_bits):
    """Deep Compression, section 3: r = 32 n / (nonzeros (b + w) + fillers (b + w) + 32 k), Huffman coding left out."""
    table = np.linspace(-1, 1, 1 << code_bits, dtype=np.float32)
    table[1 << (code_bits - 1)] = 0
    rng = np.random.default_rng(0)
    tensor = rng.choice(table[table != 0], (300, 784)) * (rng.random((300, 784)) < 0.08)
    stored = RelativeIndex.encode(tensor, partial(Codebook.encode, table=table), index_bits=index_bits)
    fillers, zeros = 0, 0
    for value in tensor.reshape(-1):
        if value:
            zeros = 0
            continue
        zeros += 1
        if zeros == 1 << index_bits:
            fillers, zeros = fillers + 1, 0
    positions = np.flatnonzero(tensor)
    fillers -= (tensor.size - 1 - positions[-1]) >> index_bits
    entries = np.count_nonzero(tensor) + fillers
    assert stored.bits - stored.bits_by_part["padding"] == entries * (code_bits + index_bits) + table.size * 32
    assert stored.bits_by_part["padding"] < 16


def test_figure_2_of_deep_compression():
    """Nonzeros 3 places apart, then 8 more, with a filler where the 3-bit difference overflows."""
    tensor = np.zeros(16)
    tensor[[1, 4, 15]] = 3.4, 0.9, 1.7
    stored = RelativeIndex.encode(tensor, Float.encode, index_bits=3)
    assert stored.gaps.tolist() == [1, 2, 7, 2]
    assert stored.values.decode().tolist() == np.array([3.4, 0.9, 0, 1.7], np.float32).tolist()


def test_eie_example():
    """EIE, section III-B: the column 0,0,1,2,0 x 18,3 is v = 1,2,0,3 and z = 2,0,15,2."""
    column = np.array([0, 0, 1, 2, *[0] * 18, 3]).reshape(-1, 1)
    stored = BlockCSC.encode(column, INTEGERS, processing_elements=1)
    assert stored.values.decode().tolist() == [1, 2, 0, 3]
    assert stored.zeros.tolist() == [2, 0, 15, 2]
    assert stored.pointers.tolist() == [0, 4]


def test_eie_interleaves_rows_and_restarts_at_columns():
    matrix = np.zeros((8, 3))
    matrix[[0, 4, 5], 0] = 1, 2, 3
    matrix[4, 2] = 4
    stored = BlockCSC.encode(matrix, INTEGERS, processing_elements=4)
    starts = stored.pointers.reshape(4, 4)
    assert starts.tolist() == [[0, 2, 2, 3], [0, 1, 1, 1], [0] * 4, [0] * 4]
    assert stored.values.decode().tolist() == [1, 2, 4, 3] and stored.zeros.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("density", "overhead"), [(0.09, 0.20), (0.04, 0.55)])
def test_eie_filler_overhead(density, overhead):
    """A uniformly random 4096 x 9216 matrix over 64 elements; 1024 of its columns tell as much as all."""
    matrix = (np.random.default_rng(0).random((4096, 1024)) < density).astype(np.float32)
    stored = BlockCSC.encode(matrix, INTEGERS)
    assert stored.zeros.size / np.count_nonzero(matrix) - 1 == pytest.approx(overhead, abs=0.02)
    pointers = 64 * (1024 + 1) * 16
    assert stored.bits_by_part == {
        "values": 4 * stored.zeros.size,
        "indices": 4 * stored.zeros.size + pointers,
        "tables": 16 * 16,
        "padding": stored.bits_by_part["padding"],
    }
    assert np.array_equal(stored.decode(), matrix)


def test_eie_pointers_widen():
    dense = np.ones((2, 40_000), np.float32)
    assert BlockCSC.encode(dense, INTEGERS, processing_elements=2).pointer_bits == 16
    wide = BlockCSC.encode(dense, INTEGERS, processing_elements=1)
    assert wide.pointer_bits == 32 and np.array_equal(wide.decode(), dense)


@pytest.mark.parametrize("structure", [partial(RelativeIndex.encode, index_bits=4), BlockCSC.encode])
@pytest.mark.parametrize("table", [[1.0, 2.0], [-0.1, 1e-9, 0.1]])
def test_values_that_cannot_hold_zero_are_refused(structure, table):
    with pytest.raises(FormatError, match="add 0 to the codebook"):
        structure(on_grid((4, 4), 0.5), partial(Codebook.encode, table=np.array(table)))


def test_bitmap_needs_no_zero_in_the_table():
    tensor = np.array([0, 0, 1, 2, 0], np.float32)
    stored = Bitmap.encode(tensor, partial(Codebook.encode, table=np.array([1, 2])))
    assert np.array_equal(stored.decode(), tensor) and stored.bits == 8 + 8 + 32


def test_a_scale_for_each_channel_needs_the_dense_structure():
    values = partial(Affine.encode, bits=4, axis=1)
    assert Dense.encode(on_grid((4, 4), 0.5), values).shape == (4, 4)
    with pytest.raises(FormatError, match="sparse structure holds its values in one row"):
        Bitmap.encode(on_grid((4, 4), 0.5), values)


@pytest.mark.parametrize("index_bits", [0, 17])
def test_bad_index_widths_are_refused(index_bits):
    with pytest.raises(FormatError, match=r"1\.\.16"):
        RelativeIndex.encode(np.zeros(3), TABLE, index_bits=index_bits)
    with pytest.raises(FormatError, match=r"1\.\.16"):
        BlockCSC.encode(np.zeros(3), TABLE, index_bits=index_bits)


def test_trailing_zeros_take_no_entry():
    tensor = np.zeros(10_000, np.float32)
    tensor[0] = 0.25
    assert RelativeIndex.encode(tensor, TABLE, index_bits=1).gaps.size == 1
