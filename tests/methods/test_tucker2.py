"""Tucker-2: HOOI, and ranks by variational Bayes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods import Tucker2
from dovetail.methods.lowrank.evbmf import evbmf_rank
from dovetail.methods.lowrank.hooi import hooi
from dovetail.methods.method import Context
from dovetail.networks import load_model

Array = NDArray[np.float64]


def planted(outputs: int, inputs: int, rank_in: int, rank_out: int, decibels: float, seed: int) -> Array:
    """A kernel (T, S, 9) of these ranks, and white noise that many decibels below it."""
    generator = np.random.default_rng(seed)
    draw = generator.standard_normal
    core, inward, outward = draw((rank_out, rank_in, 9)), draw((inputs, rank_in)), draw((outputs, rank_out))
    weight = np.einsum("bap,sa,tb->tsp", core, inward, outward)
    noise = draw(weight.shape)
    return np.asarray(weight + noise * np.linalg.norm(weight) / np.linalg.norm(noise) * 10 ** (-decibels / 20))


class TestHooi:
    @given(seed=st.integers(0, 1000), rank_in=st.integers(1, 8), rank_out=st.integers(1, 10))
    @settings(deadline=None, max_examples=40)
    def test_its_error_never_rises_and_is_at_most_that_of_hosvd(self, seed: int, rank_in: int, rank_out: int) -> None:
        weight = np.random.default_rng(seed).standard_normal((10, 8, 9))
        found = hooi(weight, rank_in, rank_out, tolerance=0, sweeps=10)
        assert all(after <= before + 1e-12 for before, after in pairwise(found.errors))
        real = np.square(weight - found.tensor()).sum() / np.square(weight).sum()
        assert real == pytest.approx(found.errors[-1], abs=1e-10)

    def test_improves_on_hosvd_where_that_is_not_best(self) -> None:
        errors = hooi(np.random.default_rng(0).standard_normal((16, 12, 9)), 5, 6).errors
        assert errors[-1] < 0.95 * errors[0]

    def test_its_bases_are_orthonormal(self) -> None:
        found = hooi(np.random.default_rng(0).standard_normal((10, 8, 9)), 3, 4)
        assert np.allclose(found.inward.T @ found.inward, np.eye(3))
        assert np.allclose(found.outward.T @ found.outward, np.eye(4))

    def test_recovers_planted_subspaces(self) -> None:
        assert hooi(planted(32, 24, 3, 5, 300, 0), 3, 5).errors[-1] < 1e-12


class TestEvbmf:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(("outputs", "inputs"), [(16, 16), (32, 24), (64, 64)])
    @pytest.mark.parametrize("decibels", [20, 40, 300])
    def test_finds_planted_ranks(self, outputs: int, inputs: int, decibels: float, seed: int) -> None:
        weight = planted(outputs, inputs, 3, 5, decibels, seed)
        assert evbmf_rank(weight.reshape(outputs, -1)) == 5
        assert evbmf_rank(weight.transpose(1, 0, 2).reshape(inputs, -1)) == 3

    def test_finds_nothing_in_noise_or_zeros(self) -> None:
        assert evbmf_rank(np.random.default_rng(0).standard_normal((30, 200))) == 0
        assert evbmf_rank(np.zeros((4, 9))) == 0

    def test_takes_a_matrix_either_way_up(self) -> None:
        weight = planted(32, 24, 3, 5, 30, 0).reshape(32, -1)
        assert evbmf_rank(weight) == evbmf_rank(weight.T)


class TestTucker2:
    def test_full_ranks_keep_the_function(self) -> None:
        torch.manual_seed(0)
        layer, x = nn.Conv2d(7, 9, 3, padding=1), torch.randn(2, 7, 8, 8)
        stack = Tucker2().build(layer, {"rank_in": 7, "rank_out": 9})
        assert torch.allclose(stack(x), layer(x), atol=1e-5)

    def test_refuses_impossible_fields(self) -> None:
        with pytest.raises(RecipeError, match=r'tucker2.ranks must be "budget" or "evbmf"'):
            Tucker2(ranks="vbmf")
        with pytest.raises(RecipeError, match=r"tucker2.multiple must be 1 or more"):
            Tucker2(multiple=0)

    def test_ranks_are_multiples_in_wide_layers(self) -> None:
        for setting in Tucker2(multiple=8).options(nn.Conv2d(64, 48, 3)):
            assert setting["rank_in"] % 8 == 0 and setting["rank_out"] % 8 == 0
        assert all(setting["rank_in"] <= 3 for setting in Tucker2(multiple=8).options(nn.Conv2d(3, 64, 3)))

    def test_ranks_from_noise_are_the_planted_ones(self) -> None:
        model = nn.Sequential(nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3))
        model[0].weight.data.copy_(torch.from_numpy(planted(32, 24, 3, 5, 20, 0)).view(32, 24, 3, 3))
        context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 24, 9, 9))
        plan = Tucker2(ranks="evbmf").plan(model, context)
        assert plan["0"]["setting"] == {"rank_in": 3, "rank_out": 5}
        assert plan["0"]["params"] == [24 * 32 * 9 + 32, 24 * 3 + 3 * 5 * 9 + 5 * 32 + 32]

    def test_a_plan_without_data_meets_its_budget(self) -> None:
        model = load_model("resnet8_fashion")
        example = torch.zeros(1, *model.input_shape)
        plan = Tucker2().plan(model.module, Context(loss=lambda model: 0.0, example=example))
        saved = sum(row["macs"][0] - row["macs"][1] for row in plan.values())
        assert saved > 0 and all(row["loss_rise"] < 1 for row in plan.values())
