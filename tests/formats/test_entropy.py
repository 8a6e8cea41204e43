"""The coders against their references and against the entropy."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.examples import TABLE, few, on_grid

from dovetail import _native
from dovetail.errors import FormatError
from dovetail.formats import Codebook, Dense, Entropy, Float, Layout, RelativeIndex, Stream, adaptive
from dovetail.formats.bitstream import BitReader, BitWriter, read_smooth, smooth_bits, write_smooth
from dovetail.formats.coders import MODELS, code, decode, histogram, plans
from dovetail.formats.huffman import LONGEST_CODE, Huffman, code_lengths, decode_reference

HISTOGRAMS = st.lists(st.integers(0, 60), min_size=1, max_size=64).filter(any)


def drawn_from(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)


def entropy_bits(counts):
    counts = np.asarray(counts)[np.asarray(counts) > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


@few
@given(HISTOGRAMS)
def test_native_huffman_decoding_equals_the_reference(counts):
    symbols = drawn_from(counts)
    model = Huffman.fit(np.array(counts))
    payload = model.encode(symbols)
    if model.first < model.last:
        native = np.empty(symbols.size, np.uint32)
        _native.huffman_decode(payload, model.lengths.astype(np.uint8), native)
        reference = decode_reference(payload, model.lengths, symbols.size)
        assert np.array_equal(native, reference)
        assert np.array_equal(reference + model.first, symbols)
    assert np.array_equal(model.decode(payload, symbols.size), symbols)


@few
@given(HISTOGRAMS)
def test_huffman_is_within_a_bit_of_the_entropy(counts):
    counts = np.array(counts)
    bits = Huffman.fit(counts).payload_bits(counts)
    assert entropy_bits(counts) - 1e-6 <= bits <= entropy_bits(counts) + counts.sum()


def test_huffman_code_lengths_are_limited():
    fibonacci = [1, 1]
    while len(fibonacci) < 45:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(np.array(fibonacci))
    assert LONGEST_CODE - 2 <= lengths.max() <= LONGEST_CODE and sum(2.0**-length for length in lengths) == 1.0
    assert code_lengths(np.array([7])).tolist() == [1]


@pytest.mark.parametrize("coder", MODELS)
@few
@given(counts=HISTOGRAMS, shift=st.sampled_from([0, 10, 24]))
def test_coders_round_trip_and_keep_their_promise(coder, counts, shift):
    symbols = drawn_from(counts).astype(np.uint32) << np.uint32(shift)
    symbols |= np.arange(symbols.size, dtype=np.uint32) & np.uint32((1 << shift) - 1)
    stream = Stream(symbols, 6 + shift)
    raw, plan = plans(histogram(stream), stream.bits, (coder,))
    coded = code(stream, plan)
    assert 8 * code(stream, raw).data.size == raw.bits
    assert abs(8 * coded.data.size - plan.bits) <= (32 if coder == "ans" else 0)
    again, same = decode(coder, coded.data, symbols.size, stream.bits)
    assert np.array_equal(again, symbols) and same.table_bits == coded.table_bits


@few
@given(st.lists(st.integers(0, 511), min_size=1, max_size=50))
def test_smooth_lists_round_trip(values):
    writer = BitWriter()
    write_smooth(writer, np.array(values), 9)
    data = writer.to_bytes()
    assert data.size == -(-smooth_bits(np.array(values), 9) // 8)
    assert read_smooth(BitReader(data), len(values), 9).tolist() == values
    if len(values) > 1:
        with pytest.raises(FormatError, match="damaged"):
            read_smooth(BitReader(data[:1]), len(values), 9)


def pruned_layer(shape, density, code_bits, seed=0):
    """A pruned layer of bell-shaped shared weights, its table, and the bits that its positions and codes carry."""
    rng = np.random.default_rng(seed)
    table = np.linspace(-1, 1, (1 << code_bits) - 1, dtype=np.float32).astype(np.float16)
    kept = rng.choice(
        table, shape, p=np.exp(-4 * table.astype(float) ** 2) / np.exp(-4 * table.astype(float) ** 2).sum()
    )
    tensor = np.where(rng.random(shape) < density, kept, 0).astype(np.float32)
    nonzeros = tensor[tensor != 0]
    ideal = entropy_bits([nonzeros.size, tensor.size - nonzeros.size]) + entropy_bits(
        np.unique(nonzeros, return_counts=True)[1]
    )
    return tensor, table, ideal


@pytest.mark.parametrize(
    ("shape", "density", "code_bits"),
    [
        ((300, 784), 0.08, 6),
        ((100, 300), 0.09, 6),
        ((500, 800), 0.05, 5),
        ((50, 20, 5, 5), 0.1, 8),
        ((2000, 1000), 0.1, 4),
    ],
)
def test_size_is_near_the_entropy(shape, density, code_bits):
    tensor, table, ideal = pruned_layer(shape, density, code_bits)
    values = partial(Codebook.encode, table=table)
    for structure in ("dense", "relative_index", "smallest"):
        stored = Layout(structure, values, entropy="smallest").encode(tensor)
        assert stored.bits - 16 * table.size <= 1.015 * ideal + 8 * 20
        assert np.array_equal(stored.decode(), tensor)


def test_a_small_layer_does_not_drown_in_tables():
    tensor, table, ideal = pruned_layer((20, 1, 5, 5), 0.66, 5)
    stored = Layout("smallest", partial(Codebook.encode, table=table), entropy="smallest").encode(tensor)
    assert stored.bits - 16 * table.size <= ideal + 8 * 30


def test_candidates_state_every_coder():
    stored = Entropy.encode(RelativeIndex.encode(on_grid((60, 70), 0.1), TABLE, index_bits=5))
    assert stored.candidates.keys() == {"gaps", "codes"}
    for key, sizes in stored.candidates.items():
        assert sizes.keys() == {"raw", "huffman", "ans"}
        assert 8 * stored.arrays()[key].nbytes == min(sizes.values())


@few
@given(st.integers(0, 40), st.integers(0, 5))
def test_entropy_coding_is_never_larger(size, seed):
    floats = np.random.default_rng(seed).standard_normal(size)
    for inner in (
        Float.encode(floats),
        Float.encode(floats, dtype="float16"),
        Dense.encode(on_grid((size,), 0.5), TABLE),
    ):
        for coder in ("huffman", "ans", "smallest"):
            assert Entropy.encode(inner, coder).bits <= inner.bits


def uneven_mask(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    odds = np.exp(rng.normal(size=(rows, 1)) + rng.normal(size=columns) - 3)
    return (rng.random((rows, columns)) < odds / (1 + odds)).astype(np.float32) * np.float32(0.25)


@pytest.mark.parametrize("shape", [(300, 784), (40, 8), (1, 200), (500, 10)])
def test_adaptive_mask_round_trips_and_is_near_what_is_expected(shape):
    mask = (uneven_mask(*shape) != 0).astype(np.uint8)
    table, payload = adaptive.encode(mask.reshape(-1), shape[1])
    decoded, table_bytes = adaptive.decode(np.concatenate([table, payload]), mask.size, shape[1])
    assert np.array_equal(decoded, mask.reshape(-1)) and table_bytes == table.size
    bits = 8 * (table.size + payload.size)
    assert adaptive.expected_bits(mask.sum(1), mask.sum(0)) == pytest.approx(bits, rel=0.05, abs=256)


def test_uneven_rows_and_columns_are_made_use_of():
    tensor = uneven_mask(300, 784)
    stored = Layout("smallest", TABLE, entropy="ans").encode(tensor)
    assert stored.describe() == "bitmap > codebook(3) > adaptive+ans"
    assert stored.bits < 0.9 * Layout("dense", TABLE, entropy="ans").encode(tensor).bits
    assert np.array_equal(stored.decode(), tensor)


def test_floats_gain_by_their_exponents():
    floats = np.random.default_rng(0).standard_normal(20_000)
    assert Entropy.encode(Float.encode(floats)).bits < 0.9 * Float.encode(floats).bits
    assert Entropy.encode(Float.encode(floats, dtype="bfloat16")).bits < 0.75 * 16 * 20_000


def test_a_stream_cannot_claim_memory():
    for coder in MODELS:
        coded = code(Stream(np.array([0, 0, 0, 1], np.uint8), 1), plans(np.array([3, 1]), 1, (coder,))[1])
        with pytest.raises(FormatError, match="cannot hold"):
            decode(coder, coded.data, 1 << 30, 1)


def test_a_repeated_symbol_is_free_however_often_it_comes():
    tensor = np.zeros((1000, 1000), np.float32)
    assert Layout("dense", TABLE, entropy="ans").encode(tensor).bits_by_part["values"] == 0


def test_bad_coders_are_refused():
    with pytest.raises(FormatError, match="got 'zip'"):
        Entropy.encode(Float.encode(np.zeros(3)), "zip")
    with pytest.raises(FormatError, match="already"):
        Entropy.encode(Entropy.encode(Float.encode(np.zeros(3))))
