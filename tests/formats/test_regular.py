"""Structures for regular sparsity, powers of two, and tensors made of smaller ones: what is their own."""

import math
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.examples import HALF, TABLE, few, n_of_m, on_grid

from dovetail.errors import FormatError
from dovetail.formats import (
    NM,
    Bitmap,
    Codebook,
    Dense,
    Entropy,
    FixedPoint,
    Format,
    KernelPatterns,
    Layout,
    PowerOfTwo,
    Product,
    RelativeIndex,
    Repeated,
    from_arrays,
    ordered_product,
)


def exact(format: Format) -> int:
    return format.bits - format.bits_by_part["padding"]


def reread(format: Format) -> Format:
    return from_arrays(format.header(), format.arrays())


class TestNM:
    def test_two_of_four_takes_three_bits_a_group(self):
        tensor = n_of_m(HALF, 2, 4).fit(on_grid((64, 64), 1.0))
        stored = NM.encode(tensor, HALF, n=2, m=4)
        assert stored.bits == 64 * 16 * (3 + 2 * 16) and stored.describe() == "n_m(2:4) > float16"
        # The position fields of the hardware take four bits; one in four takes the two that a position takes.
        assert NM.encode(n_of_m(HALF, 1, 4).fit(tensor), HALF, n=1, m=4).bits == 64 * 16 * (2 + 16)

    @pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 5), (4, 8), (5, 5)])
    def test_every_combination_has_a_place_of_its_own(self, n, m):
        tensor = np.zeros((math.comb(m, n), m), np.float32)
        for row, places in zip(tensor, combinations(range(m), n), strict=True):
            row[list(places)] = 0.25
        stored = NM.encode(tensor, TABLE, n=n, m=m)
        assert np.array_equal(reread(stored).decode(), tensor)
        if n < m:
            assert sorted(stored.places.tolist()) == list(range(len(tensor)))
        else:
            assert "places" not in stored.streams()

    def test_where_combinations_are_too_many_positions_are_stored(self):
        tensor = n_of_m(TABLE, 20, 100).fit(on_grid((7, 130), 0.3))
        stored = NM.encode(tensor, TABLE, n=20, m=100)
        assert stored.streams()["places"].bits == 7 and stored.places.size == 14 * 20
        assert np.array_equal(reread(stored).decode(), tensor)

    def test_a_group_too_full_is_named(self):
        tensor = np.zeros((3, 10), np.float32)
        tensor[1, 4:7] = 1
        with pytest.raises(FormatError, match="has 3 in row 1 from element 4 on"):
            NM.encode(tensor, TABLE, n=2, m=4)

    def test_only_full_groups_need_no_zero(self):
        ones = partial(Codebook.encode, table=np.array([1.0]))
        full = np.tile(np.array([1, 0, 1, 0], np.float32), (3, 5))
        assert np.array_equal(NM.encode(full, ones, n=2, m=4).decode(), full)
        full[0, 0] = 0
        with pytest.raises(FormatError, match="add 0 to the codebook"):
            NM.encode(full, ones, n=2, m=4)

    @pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (2, 257)])
    def test_impossible_groups_are_refused(self, n, m):
        with pytest.raises(FormatError, match="1 <= n <= m <= 256"):
            NM.encode(np.zeros((4, 4)), TABLE, n=n, m=m)

    def test_damaged_places_are_refused(self):
        stored = NM.encode(np.zeros((1, 4), np.float32), TABLE, n=2, m=4)
        with pytest.raises(FormatError, match="no 2 of 4 positions"):
            from_arrays(stored.header(), stored.arrays() | {"places": np.array([6], np.uint8)})
        many = NM.encode(np.zeros((1, 100), np.float32), TABLE, n=20, m=100)
        with pytest.raises(FormatError, match="no 20 of 100 positions"):
            from_arrays(many.header(), many.arrays() | {"places": np.zeros(18, np.uint8)})


def patterned(shape: tuple[int, ...], library: np.ndarray, pruned: float, seed: int = 0) -> np.ndarray:
    """A conv weight whose kernels follow random patterns of `library`, some of them pruned."""
    rng = np.random.default_rng(seed)
    masks = library[rng.integers(0, len(library), math.prod(shape[:2]))].reshape(shape)
    kept = rng.random(shape[:2])[..., None, None] >= pruned
    return np.asarray(on_grid(shape, 1.0, seed) * masks * kept, np.float32)


def four_entry_patterns(count: int) -> np.ndarray:
    """Masks of 3 x 3 with the centre and three of its neighbours."""
    around = [place for place in range(9) if place != 4]
    masks = np.zeros((count, 9), np.float32)
    for mask, places in zip(masks, list(combinations(around, 3))[:: 56 // count], strict=False):
        mask[[4, *places]] = 1
    return masks


class TestKernelPatterns:
    def test_the_size_is_the_equation(self):
        library = four_entry_patterns(7)
        tensor = patterned((32, 16, 3, 3), library, pruned=0.5)
        stored = KernelPatterns.encode(tensor, HALF)
        kept = int(tensor.any((2, 3)).sum())
        assert len(stored.patterns) == 7 and exact(stored) == 32 * 16 * 3 + 7 * 9 + kept * 4 * 16
        assert stored.bits_by_part["tables"] == 7 * 9 and np.array_equal(reread(stored).decode(), tensor)
        assert stored.bits < Bitmap.encode(tensor, HALF).bits

    def test_kernels_with_fewer_nonzeros_use_a_pattern_that_covers_them(self):
        tensor = patterned((16, 16, 3, 3), four_entry_patterns(3), pruned=0.2)
        tensor[0, 0, 1, 1] = tensor[3, 5, 1, 1] = 0
        stored = KernelPatterns.encode(tensor, HALF)
        # A fourth pattern would make the codes of all 256 kernels wider to spare one value.
        assert len(stored.patterns) == 3 and np.array_equal(reread(stored).decode(), tensor)

    def test_one_whole_kernel_does_not_hide_the_patterns(self):
        tensor = patterned((16, 16, 3, 3), four_entry_patterns(7), pruned=0.2)
        tensor[0, 0] = 0.25
        stored = KernelPatterns.encode(tensor, HALF)
        assert len(stored.patterns) == 8 and stored.patterns.sum(1).tolist() == [9, *[4] * 7]

    def test_too_many_patterns_are_refused(self):
        tensor = patterned((32, 32, 3, 3), four_entry_patterns(9), pruned=0.2)
        assert len(KernelPatterns.encode(tensor, TABLE, most=9).patterns) == 9
        with pytest.raises(FormatError, match="at most 8 patterns"):
            KernelPatterns.encode(tensor, TABLE, most=8)
        with pytest.raises(FormatError, match=r"1\.\.255"):
            KernelPatterns.encode(tensor, TABLE, most=256)

    @few
    @given(st.integers(0, 2**32 - 1), st.integers(1, 255))
    def test_any_library_covers_its_kernels(self, seed, most):
        rng = np.random.default_rng(seed)
        tensor = on_grid((9, 5, 2, 2), float(rng.random()), seed)
        try:
            stored = KernelPatterns.encode(tensor, TABLE, most=most)
        except FormatError:
            # At least so many supports are covered by no other.
            assert len({tuple(kernel) for kernel in (tensor != 0).reshape(45, 4).tolist()}) > most
        else:
            assert len(stored.patterns) <= most and np.array_equal(reread(stored).decode(), tensor)

    def test_a_kernel_of_no_pattern_is_refused(self):
        stored = KernelPatterns.encode(patterned((4, 4, 3, 3), four_entry_patterns(2), 0.5), TABLE)
        with pytest.raises(FormatError, match="pattern 3 of 2"):
            from_arrays(stored.header(), stored.arrays() | {"kernels": np.full(4, 255, np.uint8)})


class TestPowerOfTwo:
    def test_a_sign_and_an_exponent(self):
        tensor = np.array([0, 1, -0.5, 0.25, -2], np.float32)
        stored = PowerOfTwo.encode(tensor)
        # Exponents -2..1 and zero take three bits.
        assert (stored.smallest, stored.largest, stored.zero) == (-2, 1, True)
        assert exact(stored) == 5 * (1 + 3) and stored.codes.tolist() == [0, 3, 8 | 2, 1, 8 | 4]
        assert np.array_equal(stored.decode(), tensor)
        without = PowerOfTwo.encode(tensor[1:])
        assert exact(without) == 4 * (1 + 2) and np.array_equal(without.decode(), tensor[1:])

    def test_signs_alone_take_one_bit(self):
        tensor = np.array([0.125, -0.125, 0.125], np.float32)
        stored = PowerOfTwo.encode(tensor)
        assert exact(stored) == 3 and np.array_equal(reread(stored).decode(), tensor)

    def test_every_power_that_a_float32_holds(self):
        tensor = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
        tensor = np.concatenate([tensor, -tensor, [0]]).astype(np.float32)
        stored = PowerOfTwo.encode(tensor)
        assert stored.streams()["codes"].bits == 10 and np.array_equal(reread(stored).decode(), tensor)

    @few
    @given(st.lists(st.tuples(st.integers(-149, 127), st.sampled_from([-1, 0, 1]))))
    def test_any_powers(self, chosen):
        tensor = np.array([sign * math.ldexp(1, power) for power, sign in chosen], np.float32)
        assert np.array_equal(reread(PowerOfTwo.encode(tensor)).decode(), tensor)
        assert np.array_equal(PowerOfTwo.encode(tensor, exponents=(-149, 127), bits=9).decode(), tensor)

    @pytest.mark.parametrize(
        ("values", "parameters", "message"),
        [
            ([0.5, 0.75], {}, "found 0.75; round"),
            ([0.5, 2], {"exponents": (-3, 0)}, "hold -1..1"),
            ([0.5, 2], {"bits": 1}, "take 2, got 1"),
            ([0.5, 2, 0, 1], {"exponents": (-2, 1), "bits": 2}, "and zero, which take 3, got 2"),
            ([1], {"exponents": (1, 0)}, "smallest and the largest"),
            ([1], {"exponents": (0, 128)}, "smallest and the largest"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, values, parameters, message):
        with pytest.raises(FormatError, match=message):
            PowerOfTwo.encode(np.array(values), **parameters)

    def test_every_structure_takes_them_with_and_without_a_range(self):
        tensor = on_grid((30, 20), 0.1)
        tensor[np.abs(tensor) == 0.75] = 0
        for values in (PowerOfTwo.encode, partial(PowerOfTwo.encode, exponents=(-4, 0))):
            for structure in ("dense", "bitmap", "relative_index", "block_csc", "smallest"):
                for entropy in ("none", "smallest"):
                    stored = Layout(structure, values, entropy=entropy).encode(tensor)
                    assert np.array_equal(reread(stored).decode(), tensor)


def smart_deal(shape: tuple[int, int], slices: int, rows: int) -> tuple[np.ndarray, Format, Format]:
    """A tensor, and the sparse powers of two and 8-bit bases that it is the product of."""
    rng = np.random.default_rng(0)
    coefficients = np.ldexp(rng.choice([-1.0, 1.0], (slices, rows, 3)), rng.integers(-6, 1, (slices, rows, 3)))
    coefficients *= rng.random((slices, rows, 3)) < 0.4
    basis = rng.integers(-127, 128, (slices, 3, 3)) / 64
    left = Bitmap.encode(coefficients, partial(PowerOfTwo.encode, exponents=(-6, 0)))
    right = Dense.encode(basis, partial(FixedPoint.encode, bits=8, fraction=6))
    product = ordered_product(left.decode(), right.decode()).reshape(shape[0], -1)[:, : shape[1]]
    return product.reshape(shape), left, right


class TestProduct:
    def test_a_basis_for_each_slice(self):
        tensor, left, right = smart_deal((8, 48), 8, 16)
        stored = Product.encode(tensor, coefficients=left, basis=right)
        nonzeros = np.count_nonzero(left.decode())
        # One bit a coefficient to say which are kept, sign and exponent of those, and 8 bits a basis entry.
        assert exact(stored) == 8 * 48 + nonzeros * 4 + 8 * 9 * 8
        assert stored.bits == left.bits + right.bits and np.array_equal(reread(stored).decode(), tensor)
        assert stored.describe() == "product(bitmap > power_of_two(-6..0), dense > fixed_point(8, 6))"

    def test_rows_are_cropped(self):
        tensor, left, right = smart_deal((4, 47), 8, 8)
        assert np.array_equal(reread(Product.encode(tensor, coefficients=left, basis=right)).decode(), tensor)

    def test_one_basis_for_all(self):
        left = RelativeIndex.encode(on_grid((60, 40, 5), 0.2), TABLE)
        right = Dense.encode(np.random.default_rng(1).standard_normal((5, 9)), HALF)
        tensor = ordered_product(left.decode(), right.decode()).reshape(60, 40, 3, 3)
        stored = Product.encode(tensor, coefficients=left, basis=right)
        coded = Entropy.encode(stored, "ans")
        assert coded.bits < stored.bits == left.bits + right.bits
        for format in (stored, coded):
            assert np.array_equal(reread(format).decode(), tensor)
        np.testing.assert_allclose(tensor.reshape(60, 40, 9), left.decode() @ right.decode(), rtol=1e-5, atol=1e-6)

    def test_torch_and_numpy_multiply_to_the_same_bits(self):
        rng = np.random.default_rng(2)
        left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 33, 5), (7, 5, 9)))
        both = ordered_product(torch.from_numpy(left), torch.from_numpy(right)).numpy()
        assert both.tobytes() == ordered_product(left, right).tobytes()

    def test_what_is_not_the_product_is_refused(self):
        tensor, left, right = smart_deal((8, 48), 8, 16)
        tensor[3, 5] += 1
        with pytest.raises(FormatError, match="1 of 384 elements"):
            Product.encode(tensor, coefficients=left, basis=right)

    @pytest.mark.parametrize(
        ("left", "right", "message"),
        [
            ((4, 3), (2, 5), "k at least 1"),
            ((2, 4, 3), (3, 3, 5), "k at least 1"),
            ((4, 0), (0, 5), "k at least 1"),
            ((4, 3), (3,), "k at least 1"),
            ((4, 3), (3, 5), "20 elements, which do not fill the 6 rows"),
            ((6, 3), (3, 1), "6 elements, which do not fill the 6 rows"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(self, left, right, message):
        left, right = (Dense.encode(np.zeros(shape), HALF) for shape in (left, right))
        with pytest.raises(FormatError, match=message):
            Product((6, 2), left, right)

    def test_parts_are_structures(self):
        coded = Entropy.encode(Dense.encode(np.zeros((2, 2)), HALF), "ans")
        with pytest.raises(FormatError, match="not entropy coded"):
            Product((2, 2), coded, coded)

    def test_a_layout_carries_it_out(self):
        tensor, left, right = smart_deal((64, 288), 64, 96)
        given = partial(Product.encode, coefficients=left, basis=right)
        assert isinstance(Layout(given).encode(tensor), Product)
        coded = Layout(given, entropy="ans").encode(tensor)
        assert isinstance(coded, Entropy) and coded.bits < left.bits + right.bits


class TestRepeated:
    def test_finds_the_smallest_period(self):
        block = on_grid((5, 1, 3, 3), 1.0)
        tensor = np.tile(block, (12, 1, 1, 1))
        stored = Layout("repeated", TABLE).encode(tensor)
        assert isinstance(stored, Repeated) and stored.times == 12
        assert stored.bits == Dense.encode(block, TABLE).bits and np.array_equal(reread(stored).decode(), tensor)

    def test_takes_a_period_that_is_given(self):
        tensor = np.tile(on_grid((5, 7), 1.0), (12, 1))
        dense = partial(Dense.encode, values=TABLE)
        assert Repeated.encode(tensor, dense, period=20).times == 3
        for period in (0, 7, 6, 61):
            with pytest.raises(FormatError, match=f"got {period}"):
                Repeated.encode(tensor, dense, period=period)


class TestLayout:
    def test_smallest_finds_patterns(self):
        tensor = patterned((32, 32, 3, 3), four_entry_patterns(7), pruned=0.5)
        for entropy in ("none", "smallest"):
            stored = Layout("smallest", TABLE, entropy=entropy).encode(tensor)
            assert stored.describe().startswith("kernel_patterns(7)")

    def test_smallest_tries_the_group_that_is_given(self):
        tensor = n_of_m(TABLE, 2, 4).fit(on_grid((64, 64), 1.0))
        assert Layout("smallest", TABLE).encode(tensor).describe().startswith("bitmap")
        assert isinstance(Layout("smallest", TABLE, group=(2, 4)).encode(tensor), NM)
        assert isinstance(Layout("smallest", TABLE, group=(1, 4)).encode(tensor), Bitmap)
        assert isinstance(Layout("n_m", TABLE, group=(2, 4)).encode(tensor), NM)

    def test_a_group_is_needed_and_checked(self):
        with pytest.raises(FormatError, match=r"as \(2, 4\)"):
            Layout("n_m")
        with pytest.raises(FormatError, match="1 <= n <= m"):
            Layout("smallest", group=(4, 2))
