"""Block terms: alternating least squares and what it starts from."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods import BlockTerm, Tucker2
from dovetail.methods.lowrank.btd_als import alternate, block_terms
from dovetail.methods.lowrank.hooi import hooi
from dovetail.networks import load_model

Array = NDArray[np.float64]


def synthetic(outputs: int, inputs: int, groups: int, rank_in: int, rank_out: int, seed: int) -> Array:
    draw = np.random.default_rng(seed).standard_normal
    terms = [
        np.einsum("bap,sa,tb->tsp", draw((rank_out, rank_in, 9)), draw((inputs, rank_in)), draw((outputs, rank_out)))
        for _ in range(groups)
    ]
    return np.asarray(sum(terms))


class TestSolver:
    @pytest.mark.parametrize("seed", range(2))
    @pytest.mark.parametrize(("groups", "rank"), [(2, 3), (4, 4), (4, 8), (8, 4)])
    def test_recovers_synthetic_block_terms(self, groups: int, rank: int, seed: int) -> None:
        weight = synthetic(32, 32, groups, rank, rank, seed)
        found = block_terms(weight, groups, rank, rank)
        assert np.linalg.norm(weight - found.tensor()) < 1e-5 * np.linalg.norm(weight)

    @given(seed=st.integers(0, 1000), groups=st.integers(1, 3), rank_in=st.integers(1, 3), rank_out=st.integers(1, 4))
    @settings(deadline=None, max_examples=40)
    def test_no_sweep_raises_the_error(self, seed: int, groups: int, rank_in: int, rank_out: int) -> None:
        weight = np.random.default_rng(seed).standard_normal((12, 10, 9))
        found = block_terms(weight, groups, rank_in, rank_out, restarts=1, sweeps=20, tolerance=0)
        assert all(after <= before + 1e-9 for before, after in pairwise(found.errors))
        real = np.square(weight - found.tensor()).sum() / np.square(weight).sum()
        assert real == pytest.approx(found.errors[-1], abs=1e-8)

    @given(seed=st.integers(0, 1000))
    @settings(deadline=None, max_examples=20)
    def test_no_half_step_raises_the_error(self, seed: int) -> None:
        """A sweep from a sweep's end starts with the blocks: its first error is at most the last of the one before."""
        generator = np.random.default_rng(seed)
        slices = generator.standard_normal((9, 12, 10))
        slices /= np.linalg.norm(slices)
        one = alternate(slices, generator.standard_normal((10, 6)), generator.standard_normal((12, 4)), 2, 1)
        again = alternate(slices, one.inward, one.outward, 2, 1, core=one.core)
        assert one.errors[1] <= one.errors[0] + 1e-9
        assert again.errors[0] <= one.errors[1] + 1e-9 and again.errors[1] <= again.errors[0] + 1e-9

    def test_one_group_is_tucker_2(self) -> None:
        weight = np.random.default_rng(0).standard_normal((12, 10, 9))
        assert np.allclose(block_terms(weight, 1, 4, 5).tensor(), hooi(weight, 4, 5).tensor(), atol=1e-4)

    def test_the_core_is_block_diagonal(self) -> None:
        core = block_terms(np.random.default_rng(0).standard_normal((12, 10, 9)), 2, 3, 4).core
        assert core.shape == (9, 8, 6)
        assert not core[:, :4, 3:].any() and not core[:, 4:, :3].any() and core[:, :4, :3].all()

    def test_a_kernel_of_zeros(self) -> None:
        assert not block_terms(np.zeros((8, 8, 9)), 2, 2, 2).tensor().any()


class TestBlockTerm:
    def test_one_group_of_full_rank_keeps_the_function(self) -> None:
        torch.manual_seed(0)
        layer, x = nn.Conv2d(8, 12, 3, padding=1), torch.randn(2, 8, 8, 8)
        stack = BlockTerm().build(layer, {"groups": 1, "rank_in": 8, "rank_out": 12})
        assert torch.allclose(stack(x), layer(x), atol=1e-5)

    def test_fits_trained_kernels_better_than_tucker_2_at_equal_multiply_accumulates(self) -> None:
        network = load_model("resnet8_fashion").module
        better = []
        for layer in network.modules():
            if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (3, 3) or layer.in_channels < 8:
                continue
            kernel = layer.weight.detach().double().flatten(2).numpy()
            outputs, inputs, _ = kernel.shape
            rank = inputs // 8
            macs = 4 * rank * (inputs + outputs + 9 * rank)
            # The largest equal ranks whose cost is that or more.
            same = int(np.ceil((-(inputs + outputs) + np.sqrt((inputs + outputs) ** 2 + 36 * macs)) / 18))
            terms, tucker = block_terms(kernel, 4, rank, rank).errors[-1], hooi(kernel, same, same).errors[-1]
            better.append(terms <= tucker)
        assert len(better) >= 4 and sum(better) > len(better) / 2

    def test_ranks_are_multiples_in_wide_layers(self) -> None:
        options = BlockTerm().options(nn.Conv2d(128, 128, 3))
        assert {option["groups"] for option in options} == {1, 2, 4, 8}
        assert all(option["rank_in"] % 4 == 0 for option in options)
        assert BlockTerm().options(nn.Conv2d(6, 5, 3))

    def test_refuses_impossible_fields(self) -> None:
        with pytest.raises(RecipeError, match=r"block_term.groups must be numbers from 1, got \(\)"):
            BlockTerm(groups=())
        with pytest.raises(RecipeError, match=r"4 groups of rank 5 in and 2 out do not fit a layer of 16 channels in"):
            BlockTerm().build(nn.Conv2d(16, 16, 3), {"groups": 4, "rank_in": 5, "rank_out": 2})

    def test_with_one_group_it_is_the_same_stack_as_tucker_2(self) -> None:
        torch.manual_seed(0)
        layer, x = nn.Conv2d(8, 12, 3), torch.randn(2, 8, 8, 8)
        terms = BlockTerm().build(layer, {"groups": 1, "rank_in": 3, "rank_out": 4})
        tucker = Tucker2().build(layer, {"rank_in": 3, "rank_out": 4})
        assert torch.allclose(terms(x), tucker(x), atol=1e-4)
