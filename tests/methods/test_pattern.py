"""Pattern pruning: four weights a kernel, few patterns, whole kernels gone; the sparsity or budget asked for."""

import pytest
import torch
from torch import nn

from dovetail.errors import ModelError, RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.prune.pattern import NATURAL, Pattern, kernel_mask, library, pattern_mask
from dovetail.workload import trace

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
    )


TARGET = network()(X).detach()


def loss(model: nn.Module) -> float:
    return float((model(X) - TARGET).detach().square().mean())


CONTEXT = Context(loss=loss, probe=loss, example=X[:1])


def pruned(method: Pattern, model: nn.Module) -> nn.Module:
    plan = method.plan(model, CONTEXT)
    for stage in range(method.stages):
        model = method.apply(model, plan, stage, CONTEXT)
    return model


def supports(weight: torch.Tensor) -> torch.Tensor:
    return ((weight != 0).flatten(2).long() << torch.arange(9)).sum(2).flatten()


def test_there_are_56_natural_patterns_of_four_with_the_centre() -> None:
    assert len(set(NATURAL)) == 56
    assert all(pattern.bit_count() == 4 and pattern >> 4 & 1 for pattern in NATURAL)


def test_the_library_holds_the_most_frequent_natural_patterns() -> None:
    cross, corner = 0b010_010_110, 0b000_011_011

    def kernel(pattern: int) -> torch.Tensor:
        return torch.tensor([1.0 if pattern >> place & 1 else 0.1 for place in range(9)]).view(3, 3)

    weight = torch.stack([kernel(p) for p in (cross, cross, cross, corner, corner, NATURAL[0])])[:, None]
    assert library([weight], 2) == [cross, corner]


def test_a_kernel_keeps_the_pattern_with_most_of_its_energy() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    patterns = library([weight], 8)
    kept = (weight * pattern_mask(weight, patterns)).square().sum((2, 3)).flatten()
    for index, own in enumerate(weight.flatten(0, 1)):
        energies = [sum(float(own.flatten()[i]) ** 2 for i in range(9) if p >> i & 1) for p in patterns]
        assert float(kept[index]) == pytest.approx(max(energies), rel=1e-5)


def test_kernels_of_least_norm_go() -> None:
    weight = torch.arange(1.0, 7.0).view(2, 3, 1, 1).expand(2, 3, 3, 3)
    assert kernel_mask(weight, 1 / 3).any((2, 3)).tolist() == [[False, False, False], [False, True, True]]


@pytest.mark.parametrize("patterns", [1, 4, 8, 12])
def test_a_network_has_few_patterns_and_the_sparsity(patterns: int) -> None:
    method = Pattern(sparsity=0.8, patterns=patterns)
    model = pruned(method, network())
    found = torch.cat([supports(weight) for weight in method.weights(model).values()])
    assert len(set(found.tolist()) - {0}) <= patterns
    assert set(found.tolist()) - {0} <= set(NATURAL)
    total = sum(weight.numel() for weight in method.weights(model).values())
    kept = sum(int((weight != 0).sum()) for weight in method.weights(model).values())
    assert kept / total == pytest.approx(0.2, abs=0.01)
    assert (model[5].weight != 0).all()


def test_patterns_alone_leave_four_of_nine() -> None:
    model = pruned(Pattern(sparsity=5 / 9, rounds=1), network())
    assert ((model[2].weight != 0).sum((2, 3)) == 4).all()


def test_they_hold_through_rounds_and_training() -> None:
    method, model = Pattern(sparsity=0.8, rounds=3), network()
    plan = method.plan(model, CONTEXT)
    for stage in range(3):
        model = method.apply(model, plan, stage, CONTEXT)
        optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(X), TARGET).backward()
            optimiser.step()
    counts = (model[2].weight != 0).sum((2, 3)).unique().tolist()
    assert counts == [0, 4]


def test_is_stored_by_patterns() -> None:
    model = pruned(Pattern(), network())
    plain = dict(bake(model).named_parameters())
    stored = layouts(model)["2.weight"].encode(plain["2.weight"].detach().numpy())
    assert (stored.decode() == plain["2.weight"].detach().numpy()).all()
    assert stored.describe().startswith("kernel_patterns")


@pytest.mark.parametrize("budget", [Budget(macs=0.3), Budget(params=0.6)])
def test_a_budget_is_met(budget: Budget) -> None:
    model = network()
    before = {"macs": trace(model, X[:1]).macs, "params": sum(p.numel() for p in model.parameters())}
    plain = bake(pruned(Pattern(budget=budget), model))
    after = {"macs": trace(plain, X[:1]).nonzero_macs, "params": sum(int((p != 0).sum()) for p in plain.parameters())}
    assert after[budget.quantity] / before[budget.quantity] <= budget.fraction + 0.01


def test_other_layers_are_not_taken() -> None:
    with pytest.raises(ModelError, match=r"pattern: no layer matches \['5'\]"):
        Pattern(layers=("5",)).plan(network(), CONTEXT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 0.5}, r"pattern.sparsity must be a fraction in \[5/9, 1\), got 0.5"),
        ({"sparsity": 1.0}, r"pattern.sparsity must be a fraction in \[5/9, 1\), got 1.0"),
        ({"patterns": 57}, "pattern.patterns must be from 1 to 56, got 57"),
        ({"rounds": 0}, "pattern.rounds must be 1 or more, got 0"),
        ({"budget": Budget(latency=0.5)}, "pattern.budget must be of macs or params"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Pattern(**settings)
