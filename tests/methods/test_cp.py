"""CP: alternating least squares, Levenberg-Marquardt, and rounds."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods import Cp
from dovetail.methods.decomposition import weight_error
from dovetail.methods.layers import Call
from dovetail.methods.lowrank.cp_als import (
    alternate,
    balanced,
    composed,
    cp,
    from_singular_vectors,
    levenberg_marquardt,
    squared_error,
)
from dovetail.methods.method import Context
from dovetail.networks import load_model

Array = NDArray[np.float64]


def random_tensor(shape: tuple[int, ...], seed: int = 0) -> Array:
    tensor = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(tensor / np.linalg.norm(tensor))


class TestSolver:
    @pytest.mark.parametrize("rank", [1, 3, 10, 20])
    @pytest.mark.parametrize("shape", [(16, 12, 9), (24, 32, 9), (10, 12, 3, 3)])
    def test_recovers_synthetic_tensors(self, shape: tuple[int, ...], rank: int) -> None:
        generator = np.random.default_rng(rank)
        tensor = composed([generator.standard_normal((size, rank)) for size in shape])
        found = composed(cp(tensor, rank, restarts=5, steps=100, tolerance=1e-9))
        assert np.linalg.norm(tensor - found) < 1e-4 * np.linalg.norm(tensor)

    @given(seed=st.integers(0, 1000), rank=st.integers(1, 15), shape=st.sampled_from([(6, 5, 9), (5, 6, 3, 3)]))
    @settings(deadline=None, max_examples=30)
    def test_no_sweep_and_no_step_raises_the_objective(self, seed: int, rank: int, shape: tuple[int, ...]) -> None:
        tensor = random_tensor(shape, seed)
        start = from_singular_vectors(tensor, rank, np.random.default_rng(seed))
        swept, before = alternate(tensor, start, 8)
        stepped, after = levenberg_marquardt(tensor, swept, 8)
        curve = before + after
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(curve))
        assert squared_error(tensor, stepped) <= after[-1] + 1e-12

    def test_steps_fall_along_the_gradient(self) -> None:
        """Levenberg-Marquardt ends where finite differences of the objective vanish."""
        tensor = random_tensor((5, 4, 3))
        start = from_singular_vectors(tensor, 2, np.random.default_rng(0))
        factors, _ = levenberg_marquardt(tensor, start, 300, ridge=1e-6)
        for mode, factor in enumerate(factors):
            for index in ((0, 0), (len(factor) - 1, 1)):
                moved = [np.array(f) for f in factors]
                moved[mode][index] += 1e-5
                above = squared_error(tensor, moved)
                moved[mode][index] -= 2e-5
                below = squared_error(tensor, moved)
                assert abs(above - below) / 2e-5 < 1e-4

    def test_balancing_keeps_the_tensor_and_evens_the_norms(self) -> None:
        generator = np.random.default_rng(0)
        factors = [generator.standard_normal((size, 3)) * scale for size, scale in ((5, 1.0), (6, 100.0), (9, 0.01))]
        even = balanced(factors)
        assert np.allclose(composed(even), composed(factors))
        norms = np.array([np.linalg.norm(factor, axis=0) for factor in even])
        assert np.allclose(norms, norms[0])

    def test_a_rank_above_every_dimension_fits_better(self) -> None:
        tensor = random_tensor((6, 5, 9))
        errors = [squared_error(tensor, cp(tensor, rank)) for rank in (5, 12, 25)]
        assert errors[0] > errors[1] > errors[2]


class TestCp:
    def test_full_rank_keeps_the_function(self) -> None:
        """Every kernel is a sum of S * T terms, one for each pair of channels."""
        torch.manual_seed(0)
        layer, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 8, 8)
        stack = Cp().build(layer, {"rank": 12})
        assert torch.allclose(stack(x), layer(x), atol=2e-3)

    def test_keeping_space_together_fits_better(self) -> None:
        """Always at the optimum; what is found are local ones, hence the one percent."""
        network = load_model("resnet8_fashion").module
        wide = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels > 3]
        errors = []
        for layer in (layer for layer in wide if layer.kernel_size == (3, 3)):
            shape = (1, layer.in_channels, 8, 8)
            for rank in (layer.in_channels // 2, layer.in_channels):
                stacks = (Cp(form=form).build(layer, {"rank": rank}) for form in ("depthwise", "spatial_split"))
                errors.append([weight_error(Call("", layer, shape, shape), stack) for stack in stacks])
        assert all(together <= 1.01 * split for together, split in errors)
        assert np.mean([together / split for together, split in errors]) < 0.97

    def test_rounds_go_from_the_input_on(self) -> None:
        model = nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(4)))
        context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 8, 12, 12))
        method = Cp(rounds=2, settings={"*": {"rank": 4}})
        plan = method.plan(model, context)
        assert method.stages == 2
        assert [(path, row["round"]) for path, row in plan.items()] == [("0", 0), ("1", 0), ("2", 1), ("3", 1)]
        first = method.apply(copy.deepcopy(model), plan, 0, context)
        assert isinstance(first[1], nn.Sequential) and isinstance(first[2], nn.Conv2d)
        assert all(isinstance(part, nn.Sequential) for part in method.apply(first, plan, 1, context))

    def test_settings_by_hand(self) -> None:
        model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
        context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 8, 12, 12))
        plan = Cp(settings={"1": {"rank": 5}}).plan(model, context)
        assert list(plan) == ["1"] and plan["1"]["params"] == [8 * 8 * 9 + 8, 5 * (8 + 9 + 8) + 8]

    def test_refuses_impossible_fields(self) -> None:
        with pytest.raises(RecipeError, match=r'cp.form must be "depthwise" or "spatial_split"'):
            Cp(form="full")
        with pytest.raises(RecipeError, match=r"cp.rounds must be 1 or more"):
            Cp(rounds=0)
        with pytest.raises(RecipeError, match=r"cp: rank must be a whole number from 1 to 72 here, got 73"):
            Cp().build(nn.Conv2d(8, 12, 3), {"rank": 73})
