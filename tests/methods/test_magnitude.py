"""Han et al. 2015: what the paper says of pruning by magnitude, and the arithmetic of its tables."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.sensitivity import (
    KEPT_FRACTIONS,
    kept_largest,
    largest,
    least_loss,
    scan,
    share_out,
    weight_errors,
)
from dovetail.networks.table import NETWORKS
from dovetail.workload import trace


def flat(features: int) -> Context:
    return Context(loss=lambda model: 0.0, example=torch.rand(1, features))


def test_keeps_the_largest() -> None:
    weight = torch.tensor([[0.1, -4.0], [3.0, 0.2]])
    assert (weight * largest(weight, 2)).tolist() == [[0, -4], [3, 0]]


def test_of_equals_keeps_the_first() -> None:
    assert largest(torch.tensor([1.0, -1.0, 1.0, 0.5]), 2).tolist() == [True, True, False, False]


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3)),
    block=st.tuples(st.integers(1, 17), st.integers(1, 5)),
    kept=st.floats(0, 1),
)
def test_keeps_the_largest_blocks(shape: tuple[int, int, int], block: tuple[int, int], kept: float) -> None:
    weight = torch.randn(*shape, 1, generator=torch.Generator().manual_seed(sum(shape)))
    mask = kept_largest(weight, kept, block)
    assert mask.shape == weight.shape
    sizes = {True: [], False: []}
    for row, column in itertools.product(range(0, shape[0], block[0]), range(0, shape[1], block[1])):
        for tap in range(shape[2]):
            place = (slice(row, row + block[0]), slice(column, column + block[1]), tap)
            (stays,) = mask[place].unique().tolist()
            sizes[stays].append(float(weight[place].square().mean()))
    assert len(sizes[True]) == max(1, round(kept * (len(sizes[True]) + len(sizes[False]))))
    assert min(sizes[True]) >= max(sizes[False], default=0) * (1 - 1e-5)


def test_a_network_is_pruned_by_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 20, 1), nn.Flatten(), nn.Linear(20 * 4, 10))
    context = Context(loss=lambda model: 0.0, example=torch.rand(1, 8, 4, 4))
    method = Magnitude(block=(16, 4), budget=Budget(macs=0.5), rounds=2, dead_units=False)
    plan = method.plan(model, context)
    for stage in range(2):
        method.apply(model, plan, stage, context)
    pruned = bake(model)
    blocks = pruned[0].weight.view(2, 16, 2, 4, 9) != 0
    assert (blocks.all(3).all(1) == blocks.any(3).any(1)).all() and not blocks.all()
    assert trace(pruned, context.example).nonzero_macs == pytest.approx(
        0.5 * trace(model, context.example).macs, rel=0.05
    )


def test_each_round_removes_the_same_share_of_what_is_left() -> None:
    model = nn.Linear(100, 10)
    method = Magnitude(sparsity=0.875, rounds=3, allocation="uniform")
    plan = method.plan(model, flat(100))
    for stage, kept in enumerate((500, 250, 125)):
        method.apply(model, plan, stage, flat(100))
        assert int((model.weight != 0).sum()) == kept


def test_pruned_weights_never_return() -> None:
    model = nn.Linear(50, 10)
    method = Magnitude(sparsity=0.8, rounds=4, allocation="uniform")
    plan = method.plan(model, flat(50))
    dead = torch.zeros(10, 50, dtype=torch.bool)
    for stage in range(4):
        method.apply(model, plan, stage, flat(50))
        assert not (model.weight[dead] != 0).any()
        dead = model.weight == 0
        model.parametrizations.weight.original.data.add_(torch.randn(10, 50))


def test_kept_fractions_given_by_hand() -> None:
    """The kept fractions of table 2 of the paper give its 267K -> 22K for LeNet-300-100."""
    model = nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10))
    method = Magnitude(sparsity=0.5, rounds=1, keep={"0": 0.08, "1": 0.09, "2": 0.26}, dead_units=False)
    method.apply(model, method.plan(model, flat(784)), 0, flat(784))
    kept = [int((layer.weight != 0).sum()) for layer in bake(model)]
    assert kept == [18816, 2700, 260]
    assert sum(kept) == pytest.approx(22_000, rel=0.02)


KEPT_PERCENT = {  # tables 4 and 5, layer by layer
    "alexnet": (84, 38, 35, 37, 37, 9, 9, 25),
    "vgg16": (58, 22, 34, 36, 53, 24, 42, 32, 27, 34, 35, 29, 36, 4, 4, 23),
}


@pytest.mark.parametrize(("network", "before", "after"), [("alexnet", 61e6, 6.7e6), ("vgg16", 138e6, 10.3e6)])
def test_published_kept_fractions_give_the_published_count(network: str, before: float, after: float) -> None:
    with torch.device("meta"):
        model = NETWORKS[network].build()
    weights = [parameter.numel() for parameter in model.parameters() if parameter.ndim > 1]
    percent = KEPT_PERCENT[network]
    assert len(weights) == len(percent)
    assert sum(weights) == pytest.approx(before, rel=0.01)
    assert sum(n * kept / 100 for n, kept in zip(weights, percent, strict=True)) == pytest.approx(
        after, rel=0.03
    )  # rounded percents


def test_the_scan_finds_the_layer_that_matters_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    model[1].weight.data.copy_(torch.eye(20))  # of which 5% loses nothing
    inputs = torch.randn(64, 20)
    target = model(inputs).detach()
    before = model[0].weight.clone()
    context = Context(loss=lambda m: float((m(inputs) - target).detach().square().mean()), example=inputs[:1])
    curves = scan(model, ["0.weight", "1.weight"], context)
    at_5_percent = KEPT_FRACTIONS.index(0.05)
    assert curves["0.weight"][at_5_percent] > 0.05
    assert curves["1.weight"][at_5_percent] == 0
    assert torch.equal(model[0].weight, before)


@given(
    sparsity=st.floats(0, 0.99),
    rises=st.lists(st.lists(st.floats(-0.1, 10), min_size=11, max_size=11), min_size=1, max_size=4),
)
def test_shared_fractions_add_up_to_the_sparsity(sparsity: float, rises: list[list[float]]) -> None:
    sizes = {str(i): 100 * (i + 1) for i in range(len(rises))}
    curves = {str(i): curve for i, curve in enumerate(rises)}
    least = least_loss(curves, sizes, sparsity)
    assert sum(least[name] * sizes[name] for name in sizes) == pytest.approx((1 - sparsity) * sum(sizes.values()))
    kept = share_out(curves, sizes, sparsity)
    assert all(0 < fraction <= 1 for fraction in kept.values())
    # A curve may jump straight from nothing to a steep rise; the sum then misses by one step of the bisection.
    assert sum(kept[name] * sizes[name] for name in sizes) == pytest.approx(
        (1 - sparsity) * sum(sizes.values()), rel=1e-3
    )


def test_a_sensitive_layer_keeps_more() -> None:
    steep, flat = np.linspace(0.1, 5, 11), np.linspace(0.01, 0.1, 11)
    kept = share_out({"first": list(steep), "last": list(flat)}, {"first": 100, "last": 100}, 0.5)
    assert kept["first"] > 0.8 > 0.2 > kept["last"]


def test_a_sum_is_made_least() -> None:
    """Two equal layers, one of which loses twice as much: convex curves share where their slopes are alike."""
    kept = np.array(KEPT_FRACTIONS)
    curves = {"a": list((1 - kept) ** 2), "b": list(2 * (1 - kept) ** 2)}
    found = least_loss(curves, {"a": 100.0, "b": 100.0}, 0.6)
    assert (1 - found["a"]) / (1 - found["b"]) == pytest.approx(2, rel=0.1)
    assert found["a"] + found["b"] == pytest.approx(0.8, abs=0.02)


def test_without_data_the_relative_error_of_a_weight_stands_in() -> None:
    model = nn.Linear(10, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    curve = weight_errors(model, ["weight"])["weight"]
    assert curve[KEPT_FRACTIONS.index(0.1)] == pytest.approx(0.5)
    plan = Magnitude(sparsity=0.5).plan(model, flat(10))
    assert plan["weight"]["kept"][-1] == pytest.approx(0.5, abs=0.01)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 4),
    )  # fmt: skip


@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("allocation", ["least_loss", "sensitivity", "uniform"])
def test_a_budget_is_met_by_the_nonzero_part(quantity: str, fraction: float, allocation: str) -> None:
    x = torch.rand(4, 2, 8, 8)
    model = convolutional()
    target = model(x).detach()
    loss = lambda m: float((m(x) - target).detach().square().mean())  # noqa: E731
    context = Context(loss=loss, probe=loss, example=x[:1])
    method = Magnitude(budget=Budget(**{quantity: fraction}), rounds=2, allocation=allocation)
    plan = method.plan(model, context)
    before = trace(model, x[:1]).nonzero_macs, sum(int((p != 0).sum()) for p in model.parameters())
    for stage in range(2):
        model = method.apply(model, plan, stage, context)
    plain = bake(model)
    after = trace(plain, x[:1]).nonzero_macs, sum(int((p != 0).sum()) for p in plain.parameters())
    reached = (after[0] / before[0]) if quantity == "macs" else (after[1] / before[1])
    assert 0.95 * fraction - 0.02 < reached <= fraction + 0.003
    for name, row in plan.items():
        assert row["params"][1] == pytest.approx(int((dict(plain.named_parameters())[name] != 0).sum()), abs=20)


def test_a_pruned_network_is_pruned_further_from_what_is_left() -> None:
    x = torch.rand(1, 2, 8, 8)
    context = Context(loss=lambda m: 0.0, example=x)
    model = convolutional()
    for fraction in (0.5, 0.5):
        method = Magnitude(budget=Budget(macs=fraction), rounds=1, allocation="uniform")
        model = method.apply(model, method.plan(model, context), 0, context)
    total = trace(convolutional(), x).macs
    assert trace(bake(model), x).nonzero_macs == pytest.approx(0.25 * total, rel=0.02)


@pytest.mark.parametrize("keep", [{}, {"0": 0.9}])
def test_a_budget_of_latency_is_met_where_zeros_save_time(keep: dict[str, float]) -> None:
    def latency(module: nn.Module, x: torch.Tensor) -> float:
        return 0.2 * whole + trace(bake(module), x).nonzero_macs

    x = torch.rand(1, 2, 8, 8)
    model, whole = convolutional(), trace(convolutional(), x).macs
    context = Context(loss=lambda m: 0.0, example=x, latency=latency)
    method = Magnitude(budget=Budget(latency=0.6), rounds=1, keep=keep)
    pruned = method.apply(model, method.plan(model, context), 0, context)
    assert 0.55 < latency(pruned, x) / (1.2 * whole) <= 0.6


def test_a_budget_of_latency_is_refused_where_zeros_save_none() -> None:
    context = Context(loss=lambda m: 0.0, example=torch.rand(1, 2, 8, 8), latency=lambda module, x: 1e-3)
    with pytest.raises(RecipeError, match=r"latency = 0.5 cannot be met: with 2% of the operations left it is 1.000"):
        Magnitude(budget=Budget(latency=0.5)).plan(convolutional(), context)
    with pytest.raises(RecipeError, match=r"needs the target"):
        Magnitude(budget=Budget(latency=0.5)).plan(convolutional(), replace(context, latency=None))


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    context = Context(loss=lambda m: 0.0, example=torch.rand(1, 2, 8, 8))
    with pytest.raises(RecipeError, match=r"macs = 0.1 cannot be met: 0.\d+ of the network is not in the weights"):
        Magnitude(layers=("0",), budget=Budget(macs=0.1)).plan(convolutional(), context)
    with pytest.raises(RecipeError, match=r"what magnitude\.keep keeps alone costs more"):
        Magnitude(keep={"2": 0.9}, budget=Budget(macs=0.2)).plan(convolutional(), context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"magnitude.sparsity must be a fraction in \[0, 1\), got 1.0"),
        ({"sparsity": 90}, r"magnitude.sparsity must be a fraction in \[0, 1\), got 90"),
        ({"rounds": 0}, r"magnitude.rounds must be 1 or more, got 0"),
        (
            {"allocation": "luck"},
            r"magnitude.allocation must be least_loss, sensitivity, uniform, got \'luck\'",
        ),
        ({"keep": {"fc": 0}}, r"magnitude.keep.fc must be a fraction in \(0, 1\], got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Magnitude(**settings)
