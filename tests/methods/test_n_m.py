"""N:M sparsity: groups are exact, stored as such, and stay so through training."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import RecipeError
from dovetail.formats import from_arrays
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.n_m import NM, largest_of_groups

X = torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(loss=lambda model: 0.0, example=X[:1])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))


def pruned(method: NM, model: nn.Module) -> nn.Module:
    plan = method.plan(model, CONTEXT)
    for stage in range(method.stages):
        model = method.apply(model, plan, stage, CONTEXT)
    return model


def group_counts(weight: torch.Tensor, m: int) -> torch.Tensor:
    rows = nn.functional.pad((weight != 0).float().flatten(1), (0, -weight[0].numel() % m))
    return rows.unflatten(1, (-1, m)).sum(2).int()


@given(st.integers(1, 4), st.integers(1, 20), st.integers(2, 8), st.integers(1, 7), st.integers(0, 99))
def test_every_group_keeps_its_n_largest(rows: int, columns: int, m: int, n: int, seed: int) -> None:
    n = min(n, m - 1)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    mask = largest_of_groups(weight, n, m)
    for row, kept in zip(weight.abs().tolist(), mask.tolist(), strict=True):
        for start in range(0, columns, m):
            group, chosen = row[start : start + m], kept[start : start + m]
            assert sum(chosen) == min(n, len(group))
            left = [w for w, c in zip(group, chosen, strict=True) if not c]
            assert not left or min(w for w, c in zip(group, chosen, strict=True) if c) >= max(left)


def test_of_equals_the_first_stay() -> None:
    assert largest_of_groups(torch.ones(1, 6), 2, 4).tolist() == [[True, True, False, False, True, True]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 7)])
def test_groups_are_exact_and_stored_as_such(n: int, m: int) -> None:
    model = pruned(NM(n=n, m=m), network())
    plain = dict(bake(model).named_parameters())
    for name, layout in layouts(model).items():
        weight = plain[name].detach()
        assert int(group_counts(weight, m).max()) == n
        stored = layout.encode(weight.numpy())
        assert stored.describe().startswith("n_m")
        assert (from_arrays(stored.header(), stored.arrays()).decode() == weight.numpy()).all()


def test_the_plan_counts_what_stays() -> None:
    model = network()
    plan = NM(n=2, m=4).plan(model, CONTEXT)
    model = pruned(NM(n=2, m=4), model)
    for name, parameter in bake(model).named_parameters():
        if name in plan:
            assert plan[name]["params"] == [parameter.numel(), int((parameter != 0).sum())]
    assert plan["0.weight"]["macs"] == [90 * 16, 50 * 16]  # 18 weights a kernel: 4 groups of 4 and one of 2


def test_rounds_go_down_to_n() -> None:
    model, method = network(), NM(n=1, m=4, rounds=3)
    plan = method.plan(model, CONTEXT)
    for stage, most in enumerate((3, 2, 1)):
        method.apply(model, plan, stage, CONTEXT)
        assert int(group_counts(model[3].weight, 4).max()) == most
        assert plan["3.weight"]["kept"][stage] == most / 4


def test_pruned_weights_may_return_with_straight_through_but_groups_hold() -> None:
    model = pruned(NM(straight_through=True, decay=0.01), network())
    before = model[3].weight != 0
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(10):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X), torch.arange(8) % 3).backward()
        optimiser.step()
        assert int(group_counts(model[3].weight, 4).max()) == 2
    assert not torch.equal(model[3].weight != 0, before)
    copy.deepcopy(model)


def test_straight_through_gradient_is_the_paper_s() -> None:
    linear = nn.Linear(4, 1, bias=False)
    linear.weight.data = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
    model = NM(straight_through=True, decay=0.1).apply(linear, {"weight": {}}, 0, CONTEXT)
    model(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    gradient = model.parametrizations.weight.original.grad
    assert torch.allclose(gradient, torch.tensor([[1.0, 2.0, 3.0 + 0.2, 4.0 + 0.1]]))


def test_composes_with_magnitude() -> None:
    model = pruned(NM(), network())
    method = Magnitude(sparsity=0.8, rounds=1, allocation="uniform")
    model = method.apply(model, method.plan(model, CONTEXT), 0, CONTEXT)
    assert int(group_counts(model[3].weight, 4).max()) <= 2
    assert int((model[3].weight != 0).sum()) <= 0.2 * 240 + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 4, "m": 4}, r"n_m.n must be from 1 to 3 \(m - 1\), got 4"),
        ({"n": 0}, r"n_m.n must be from 1 to 3"),
        ({"m": 1}, r"n_m.m must be from 2 to 256, got 1"),
        ({"rounds": 3}, r"n_m.rounds must be from 1 to 2 \(m - n\), got 3"),
        ({"straight_through": True, "rounds": 2}, "n_m.rounds must be 1 with straight_through, got 2"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        NM(**settings)
