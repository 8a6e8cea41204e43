"""Han et al. 2015: what the paper says of pruning by magnitude, and the arithmetic of its tables."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.sensitivity import KEPT_FRACTIONS, largest, scan, share_out

FLAT = Context(loss=lambda model: 0.0, example=torch.zeros(1))


def test_keeps_the_largest() -> None:
    weight = torch.tensor([[0.1, -4.0], [3.0, 0.2]])
    assert (weight * largest(weight, 2)).tolist() == [[0, -4], [3, 0]]


def test_of_equals_keeps_the_first() -> None:
    assert largest(torch.tensor([1.0, -1.0, 1.0, 0.5]), 2).tolist() == [True, True, False, False]


def test_each_round_removes_the_same_share_of_what_is_left() -> None:
    model = nn.Linear(100, 10)
    method = Magnitude(sparsity=0.875, rounds=3, allocation="uniform")
    plan = method.plan(model, FLAT)
    for stage, kept in enumerate((500, 250, 125)):
        method.apply(model, plan, stage, FLAT)
        assert int((model.weight != 0).sum()) == kept


def test_pruned_weights_never_return() -> None:
    model = nn.Linear(50, 10)
    method = Magnitude(sparsity=0.8, rounds=4, allocation="uniform")
    plan = method.plan(model, FLAT)
    dead = torch.zeros(10, 50, dtype=torch.bool)
    for stage in range(4):
        method.apply(model, plan, stage, FLAT)
        assert not (model.weight[dead] != 0).any()
        dead = model.weight == 0
        model.parametrizations.weight.original.data.add_(torch.randn(10, 50))


def test_kept_fractions_given_by_hand() -> None:
    """The kept fractions of table 2 of the paper give its 267K -> 22K for LeNet-300-100."""
    model = nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10))
    method = Magnitude(sparsity=0.5, rounds=1, keep={"0": 0.08, "1": 0.09, "2": 0.26})
    method.apply(model, method.plan(model, FLAT), 0, FLAT)
    kept = [int((layer.weight != 0).sum()) for layer in bake(model)]
    assert kept == [18816, 2700, 260]
    assert sum(kept) == pytest.approx(22_000, rel=0.02)


ALEXNET = {
    "conv1": (34_848, 0.84), "conv2": (307_200, 0.38), "conv3": (884_736, 0.35), "conv4": (663_552, 0.37),
    "conv5": (442_368, 0.37), "fc6": (37_748_736, 0.09), "fc7": (16_777_216, 0.09), "fc8": (4_096_000, 0.25),
}  # fmt: skip


def test_published_kept_fractions_give_the_published_count() -> None:
    """Table 4: AlexNet 61M -> 6.7M."""
    assert sum(n for n, _ in ALEXNET.values()) == pytest.approx(61e6, rel=0.01)
    assert sum(n * kept for n, kept in ALEXNET.values()) == pytest.approx(6.7e6, rel=0.02)


def test_the_scan_finds_the_layer_that_matters_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    model[1].weight.data.copy_(torch.eye(20))  # of which 5% loses nothing
    inputs = torch.randn(64, 20)
    target = model(inputs).detach()
    before = model[0].weight.clone()
    curves = scan(model, ["0.weight", "1.weight"], lambda m: float((m(inputs) - target).detach().square().mean()))
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
    kept = share_out({str(i): curve for i, curve in enumerate(rises)}, sizes, sparsity)
    assert all(0 < fraction <= 1 for fraction in kept.values())
    # A curve may jump straight from nothing to a steep rise; the sum then misses by one step of the bisection.
    assert sum(kept[name] * sizes[name] for name in sizes) == pytest.approx(
        (1 - sparsity) * sum(sizes.values()), rel=1e-3
    )


def test_a_sensitive_layer_keeps_more() -> None:
    steep, flat = np.linspace(0.1, 5, 11), np.linspace(0.01, 0.1, 11)
    kept = share_out({"first": list(steep), "last": list(flat)}, {"first": 100, "last": 100}, 0.5)
    assert kept["first"] > 0.8 > 0.2 > kept["last"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"magnitude.sparsity must be a fraction in \[0, 1\), got 1.0"),
        ({"sparsity": 90}, r"magnitude.sparsity must be a fraction in \[0, 1\), got 90"),
        ({"rounds": 0}, r"magnitude.rounds must be 1 or more, got 0"),
        ({"allocation": "luck"}, r'magnitude.allocation must be "sensitivity" or "uniform", got \'luck\''),
        ({"keep": {"fc": 0}}, r"magnitude.keep.fc must be a fraction in \(0, 1\], got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Magnitude(**settings)
