"""Nonlinear asymmetric low rank: its solvers against closed forms and search, the four variants against each other."""

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.data import Dataset, load_dataset
from dovetail.errors import RecipeError
from dovetail.methods import Nonlinear, Svd
from dovetail.methods.budget import Budget
from dovetail.methods.junctions import responses
from dovetail.methods.lowrank.reduced_rank import Fit, ReducedRank, nearest, rectified_fit
from dovetail.methods.method import Context
from dovetail.networks import load_model
from dovetail.workload.trace import trace

INPUTS = torch.randn(64, 3, 10, 10, generator=torch.Generator().manual_seed(0))
DATA_FREE = Context(loss=lambda model: 0.0, example=INPUTS[:1])
DATA = replace(DATA_FREE, inputs=INPUTS)


def rows(count: int, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(channels, channels, generator=generator)
    return (torch.randn(count, channels, generator=generator) @ mixed).double()


def objective(target: Tensor, seen: Tensor, fit: Fit) -> float:
    return float((target - fit(seen)).square().sum())


class TestReducedRank:
    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_is_the_closed_form(self, rank: int) -> None:
        seen, target = rows(200, 6, 0), rows(200, 6, 1)
        fit = ReducedRank(seen, ridge=1e-12).solve(target, rank)
        y, z = (seen - seen.mean(0)).T, (target - target.mean(0)).T
        free = z @ torch.linalg.pinv(y)
        left = torch.linalg.svd(free @ y)[0][:, :rank]
        torch.testing.assert_close(fit.matrix, left @ left.T @ free, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(fit.bias, target.mean(0) - fit.matrix @ seen.mean(0), atol=1e-8, rtol=1e-6)
        assert torch.linalg.matrix_rank(fit.matrix) == rank

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([1e-3, 1e-1, 1.0]))
    def test_no_perturbation_of_the_same_rank_is_better(self, seed: int, rank: int, size: float) -> None:
        seen, target = rows(60, 5, seed), rows(60, 5, seed + 1)
        fit = ReducedRank(seen, ridge=1e-12).solve(target, rank)
        left, sigma, right = torch.linalg.svd(fit.matrix)
        factors = left[:, :rank] * sigma[:rank], right[:rank]
        noise = torch.Generator().manual_seed(seed)
        tried = [factor + size * torch.randn(factor.shape, generator=noise).double() for factor in factors]
        other = Fit(tried[0] @ tried[1], fit.bias + size * torch.randn(5, generator=noise).double())
        assert objective(target, seen, fit) <= objective(target, seen, other) + 1e-9

    def test_of_the_responses_themselves_it_is_principal_components(self) -> None:
        seen = rows(300, 8, 2)
        fit = ReducedRank(seen, ridge=1e-12).solve(seen, 3)
        tail = torch.linalg.eigvalsh(seen.T.cov(correction=0))[:-3].sum() * len(seen)
        assert objective(seen, seen, fit) == pytest.approx(float(tail), rel=1e-6)

    def test_leaves_what_no_sample_shows(self) -> None:
        seen = rows(300, 4, 3)
        seen[:, 3] = 7.0  # a channel that never changes
        fit = ReducedRank(seen).solve(seen, 4)
        torch.testing.assert_close(fit.matrix, torch.eye(4).double(), atol=1e-8, rtol=0)


class TestRectified:
    @settings(max_examples=100, deadline=None)
    @given(st.floats(-2, 2), st.floats(-3, 3), st.sampled_from([0.01, 0.1, 1.0, 10.0]))
    def test_each_entry_is_the_best_of_a_grid(self, target: float, response: float, weight: float) -> None:
        wanted, at = torch.tensor(max(0.0, target)).double(), torch.tensor(response).double()
        cost = lambda z: (wanted - z.clamp_min(0)).square() + weight * (z - at).square()  # noqa: E731
        grid = torch.linspace(-4, 4, 8001).double()
        found = float(cost(nearest(wanted, at, weight)))
        assert found <= float(cost(grid).min()) + 1e-12
        assert found >= float(cost(grid).min()) - 1e-3

    @pytest.mark.parametrize("seed", range(3))
    def test_the_objective_never_rises_while_lambda_stays(self, seed: int) -> None:
        fit = rectified_fit(rows(500, 8, seed), rows(500, 8, seed) + 0.3, 3, rows(500, 8, seed + 9) * 0.1)
        assert len(fit.objectives) == 2
        for history in fit.objectives:
            assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(history))

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("rank", [2, 5])
    def test_is_better_after_the_relu_than_the_linear_solution(self, seed: int, rank: int) -> None:
        seen = rows(800, 8, seed)
        offset = 0.5 * rows(800, 8, seed + 5)
        linear = ReducedRank(seen).solve(seen, rank)
        fit = rectified_fit(seen + offset, seen, rank, offset)
        errors = [
            float(((seen + offset).clamp_min(0) - (one(seen) + offset).clamp_min(0)).square().sum())
            for one in (linear, fit)
        ]
        assert errors[1] < 0.995 * errors[0]
        assert torch.linalg.matrix_rank(fit.matrix) <= rank

    def test_at_full_rank_nothing_is_lost(self) -> None:
        seen = rows(100, 5, 0)
        fit = rectified_fit(seen, seen, 5)
        torch.testing.assert_close(fit(seen), seen, atol=1e-6, rtol=1e-6)


class Block(nn.Module):
    """A residual block after a first convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.conv1, self.norm1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 10)
        for norm in (self.norm, self.norm1, self.norm2):
            nn.init.normal_(norm.weight)  # some negative, all different
            nn.init.normal_(norm.bias)
        self.train()(INPUTS)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)) + x)
        result: Tensor = self.linear(y.mean((2, 3)))
        return result


FULL = {"first": {"rank": 16}, "conv*": {"rank": 16}, "linear": {"rank": 10}}


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_full_rank_leaves_the_network_as_it_was(asymmetric: bool, nonlinear: bool) -> None:
    model, original = Block(), Block()
    method = Nonlinear(settings=FULL, asymmetric=asymmetric, nonlinear=nonlinear)
    method.apply(model, method.plan(model, DATA), 0, DATA)
    with torch.no_grad():
        torch.testing.assert_close(model(INPUTS), original(INPUTS), atol=1e-4, rtol=1e-4)


def test_responses_are_those_before_the_relu() -> None:
    model = Block()
    found = responses(model, ["first", "conv1", "conv2", "linear"], INPUTS)
    assert [found[path].relu for path in ("first", "conv1", "conv2", "linear")] == [True, True, True, False]
    assert found["first"].offset.eq(0).all() and found["conv2"].offset.ge(0).all()
    assert found["conv2"].offset.gt(0).any()


def test_a_network_without_a_graph_is_taken_linearly() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.inner(x if x.mean() > -100 else -x)
            return result

    model = Branching()
    assert not responses(model, ["inner.first"], INPUTS)["inner.first"].relu
    method = Nonlinear(settings={"*.conv1": {"rank": 4}})
    method.apply(model, method.plan(model, DATA), 0, DATA)
    assert model(INPUTS).isfinite().all()


def test_a_channel_that_its_norm_has_switched_off_stays_off() -> None:
    model = Block()
    model.norm1.weight.data[3] = 0
    method = Nonlinear(settings={"conv1": {"rank": 6}})
    method.apply(model, method.plan(model, DATA), 0, DATA)
    assert model(INPUTS).isfinite().all()
    assert model.conv1.expand.weight[3].abs().max() < 1e-9


def test_each_layer_makes_up_for_the_errors_before_it() -> None:
    settings = {"first": {"rank": 5}, "conv*": {"rank": 5}}
    original = Block()
    wanted = responses(original, ["conv2"], INPUTS)["conv2"]
    errors = {}
    for asymmetric in (False, True):
        model, method = Block(), Nonlinear(settings=settings, asymmetric=asymmetric, nonlinear=False)
        method.apply(model, method.plan(model, DATA), 0, replace(DATA, original=original))
        found = responses(model, ["conv2.expand"], INPUTS)["conv2.expand"]
        errors[asymmetric] = float((found.own + found.offset - wanted.own - wanted.offset).square().sum())
    assert errors[True] < errors[False]


def fashion() -> tuple[Dataset, nn.Module, Context]:
    dataset, model = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
    inputs = torch.cat([x for x, _ in dataset.batches("train", 100, limit=300)])
    return dataset, model, Context(loss=lambda model: 0.0, example=inputs[:1], inputs=inputs, original=model)


@pytest.mark.parametrize("fraction", [1 / 2, 1 / 3])
def test_the_order_of_the_four_variants_on_a_trained_network(fraction: float) -> None:
    dataset, model, context = fashion()
    plan = Nonlinear(budget=Budget(macs=fraction), selection="energy").plan(model, context)
    variants = (
        Nonlinear(reconstruct=False),
        Nonlinear(asymmetric=False, nonlinear=False),
        Nonlinear(nonlinear=False),
        Nonlinear(),
    )
    [(pictures, _)] = dataset.batches("test", 500, limit=500)
    errors = []
    for variant in variants:
        smaller = variant.apply(copy.deepcopy(model), plan, 0, context)
        with torch.no_grad():
            errors.append(float((smaller.eval()(pictures) - model(pictures)).square().mean()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("selection", ["measured", "energy"])
@pytest.mark.parametrize("data", [DATA, DATA_FREE])
def test_the_budget_is_met(selection: str, data: Context) -> None:
    model = Block()
    before = trace(model, INPUTS[:1]).macs
    method = Nonlinear(budget=Budget(macs=0.4), selection=selection)
    plan = method.plan(model, data)
    assert json.loads(json.dumps(plan)) == plan
    method.apply(model, plan, 0, data)
    assert 0.3 < trace(model, INPUTS[:1]).macs / before <= 0.4


def test_without_reconstruction_it_is_plain_svd() -> None:
    plain, other = Block(), Block()
    plan = {"conv1": {"setting": {"rank": 4}}}
    Nonlinear(reconstruct=False).apply(plain, plan, 0, DATA)
    Svd(form="channel", reconstruct=False).apply(other, plan, 0, DATA)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), other.state_dict().values(), strict=True))


def test_refuses_impossible_ranks_and_unknown_choices() -> None:
    with pytest.raises(RecipeError, match=r"nonlinear: the rank must be a whole number from 1 to 16 .* got 17"):
        Nonlinear(settings={"conv1": {"rank": 17}}).plan(Block(), DATA)
    with pytest.raises(RecipeError, match=r"nonlinear\.selection must be"):
        Nonlinear(selection="luck")
    with pytest.raises(RecipeError, match=r"cannot be met by nonlinear: 0\.07\d is the closest"):
        Nonlinear(budget=Budget(macs=0.001), selection="energy").plan(Block(), DATA)
