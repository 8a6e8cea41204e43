"""Channel selection by LASSO, against scikit-learn; and the budget that it and `channels` share."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as Judge
from torch import nn

from dovetail.errors import ModelError, RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.channels.channels import Channels
from dovetail.methods.channels.groups import dependencies
from dovetail.methods.channels.removal import remove
from dovetail.methods.method import Context
from dovetail.methods.prune.lasso import Lasso, lasso, select
from dovetail.networks.resnet_cifar import CifarResNet
from dovetail.workload.trace import trace

PICTURES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = CifarResNet(1)
    with torch.no_grad():
        model.train()(PICTURES)  # statistics that fit
    return model.eval()


ORIGINAL = network()


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model.eval()(PICTURES) - ORIGINAL(PICTURES)).square().mean())


CONTEXT = Context(loss=loss, probe=loss, example=PICTURES[:1], inputs=PICTURES, original=ORIGINAL)


def carried_out(method: Channels, context: Context = CONTEXT) -> nn.Module:
    model = network()
    plan = method.plan(model, context)
    for stage in range(method.stages):
        plan = method.refine(model, plan, stage, context)
        model = method.apply(model, plan, stage, context)
    return model


@pytest.mark.parametrize("penalty", [0.01, 0.1, 0.5])
def test_the_solver_agrees_with_scikit_learn(penalty: float) -> None:
    generator = np.random.default_rng(0)
    z = generator.standard_normal((80, 12)) @ generator.standard_normal((12, 12))
    y = z @ (generator.standard_normal(12) * (generator.random(12) < 0.5)) + generator.standard_normal(80)
    judge = Judge(penalty, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(z, y)
    gram, correlation = torch.from_numpy(z.T @ z / 80), torch.from_numpy(z.T @ y / 80)
    found = lasso(gram, correlation, penalty)
    objective = lambda b: ((y - z @ b) ** 2).sum() / 160 + penalty * np.abs(b).sum()  # noqa: E731
    assert objective(found.numpy()) == pytest.approx(objective(judge.coef_), rel=1e-4)


def test_selection_finds_the_channels_that_matter() -> None:
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = z @ torch.tensor([2.0, 1, 0, 1, 0.1, 0], dtype=torch.float64)
    scores = select(z.T @ z / 200, z.T @ y / 200, 3, torch.ones(6, dtype=torch.float64))
    assert set(torch.argsort(scores, descending=True)[:3].tolist()) == {0, 1, 3}


def test_least_squares_mends_what_the_selection_breaks() -> None:
    method = Lasso(budget=Budget(macs=0.6))
    mended, broken = carried_out(method), carried_out(replace(method, reconstruct=False))
    torch.manual_seed(1)
    model = network()
    found = dependencies(model, PICTURES[:1])
    plan = method.plan(model, CONTEXT)
    chance = remove(found, {
        name: torch.randperm(row["units"])[row["kept"][0] :].tolist() for name, row in plan.items()
    })  # fmt: skip
    assert loss(mended) < loss(broken) and loss(mended) < loss(chance)


@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("importance", ["magnitude", "response", "taylor"])
def test_a_budget_is_met(quantity: str, importance: str) -> None:
    pruned = carried_out(Channels(budget=Budget(**{quantity: 0.5}), importance=importance, rounds=2))
    if quantity == "macs":
        cost = trace(pruned, PICTURES[:1]).macs / trace(ORIGINAL, PICTURES[:1]).macs
    else:
        cost = sum(p.numel() for p in pruned.parameters()) / sum(p.numel() for p in ORIGINAL.parameters())
    assert 0.4 < cost <= 0.5


def test_a_budget_of_latency_is_met() -> None:
    context = replace(CONTEXT, latency=lambda model, x: float(trace(model, x).macs))
    pruned = carried_out(Channels(budget=Budget(latency=0.5)), context)
    assert 0.35 < trace(pruned, PICTURES[:1]).macs / trace(ORIGINAL, PICTURES[:1]).macs <= 0.5


def test_widths_suit_the_kernels() -> None:
    pruned = carried_out(Channels(budget=Budget(macs=0.5), multiple=4))
    assert all(layer.out_channels % 4 == 0 for layer in pruned.modules() if isinstance(layer, nn.Conv2d))


def test_without_data() -> None:
    context = Context(loss=lambda model: 0.0, example=PICTURES[:1])
    pruned = carried_out(Channels(budget=Budget(macs=0.5)), context)
    assert trace(pruned, PICTURES[:1]).macs <= 0.5 * trace(ORIGINAL, PICTURES[:1]).macs


def test_bad_input() -> None:
    with pytest.raises(RecipeError, match=r"budget macs = 0.001 cannot be met: 0\.\d+ is what"):
        carried_out(Channels(budget=Budget(macs=0.001)))
    with pytest.raises(RecipeError, match=r"needs the target"):
        carried_out(Channels(budget=Budget(latency=0.5)))
    with pytest.raises(ModelError, match=r"go with those of \['conv1', "):
        carried_out(Channels(layers=("layer1.0.conv2",)))
    with pytest.raises(RecipeError, match=r"channels.least must be 1 or more, got 0"):
        Channels(least=0)
    copy.deepcopy(Channels())
