"""Optimal Brain Damage: saliencies are exact where they can be, agree with the paper's recursion, and rank well."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context
from dovetail.methods.prune.curvature import fisher, gauss_newton, hutchinson, self_divergence
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.obd import Obd
from dovetail.workload import trace


def test_saliency_is_the_exact_rise_of_a_quadratic_loss() -> None:
    curvature = torch.tensor([[3.0, 0.5], [0.0, 2.0]])
    weight = torch.tensor([[1.0, -2.0], [4.0, 0.1]], requires_grad=True)
    at = weight.detach().clone()
    loss = lambda w: (curvature * (w - at) ** 2).sum() / 2  # noqa: E731
    (h,) = hutchinson(lambda: loss(weight), [weight], probes=1, seed=0)
    saliency = h * at**2 / 2
    for k in np.ndindex(2, 2):
        pruned = at.clone()
        pruned[k] = 0
        assert float(saliency[k]) == pytest.approx(float(loss(pruned)), abs=1e-6)


def recursion(w1: Tensor, w2: Tensor, x: Tensor, d: Tensor, gauss_newton: bool) -> list[Tensor]:
    """The paper's equations for tanh units and the squared error sum (d - x)^2, averaged over the inputs (N, F)."""
    h = torch.tanh(x @ w1.T)
    y = torch.tanh(h @ w2.T)
    slope_h, slope_y = 1 - h**2, 1 - y**2
    bend_h, bend_y = -2 * h * slope_h, -2 * y * slope_y
    error = -2 * (d - y)
    output = 2 * slope_y**2 + (0 if gauss_newton else error * bend_y)
    hidden = slope_h**2 * (output @ w2**2) + (0 if gauss_newton else bend_h * ((error * slope_y) @ w2))
    return [hidden.T @ x**2 / len(x), output.T @ h**2 / len(x)]


@pytest.mark.parametrize("exact", [True, False])
def test_the_recursion_of_the_paper_equals_hutchinson(exact: bool) -> None:
    """The true Hessian by double backpropagation; with d = y (no error) it is the Gauss-Newton one."""
    generator = torch.Generator().manual_seed(0)
    w1, w2, x, d = (torch.randn(s, generator=generator) * 0.7 for s in ((4, 5), (3, 4), (30, 5), (30, 3)))
    if not exact:
        d = torch.tanh(torch.tanh(x @ w1.T) @ w2.T)
    w1.requires_grad_()
    w2.requires_grad_()
    loss = lambda: ((torch.tanh(torch.tanh(x @ w1.T) @ w2.T) - d) ** 2).sum() / len(x)  # noqa: E731
    found = hutchinson(loss, [w1, w2], probes=10_000, seed=1)
    expected = recursion(w1.detach(), w2.detach(), x, d, gauss_newton=not exact)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.05


def test_estimators_of_the_softmax_curvature_agree() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4))
    x = torch.randn(20, 1, 4, 4)
    weights = [model[0].weight, model[3].weight]
    exact = [torch.zeros_like(w) for w in weights]
    for single in x.split(1):
        p = model(single).detach().softmax(1)[0]
        for k in range(4):
            v = p[k].sqrt() * (torch.eye(4)[k] - p)
            for total, g in zip(exact, torch.autograd.grad(model(single), weights, v[None]), strict=True):
                total += g**2 / len(x)
    by_signs = gauss_newton(model, weights, x, draws=500, seed=0)
    by_products = hutchinson(self_divergence(model, x), weights, probes=3000, seed=0)
    for a, b, c in zip(by_signs, by_products, exact, strict=True):
        assert float((a - c).norm() / c.norm()) < 0.05
        assert float((b - c).norm() / c.norm()) < 0.1
    assert all((h >= 0).all() for h in fisher(model, weights, x))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pictures, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pictures / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1300], y[:1300], x[1300:], y[1300:]


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float = 3e-3) -> None:
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()


def trained(seed: int, x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))
    fit(model, x, y, 40)
    return model


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def context_of(x: Tensor, y: Tensor) -> Context:
    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(x), y))

    return Context(loss=loss, probe=loss, example=x[:1], inputs=x)


def test_is_better_than_magnitude_without_retraining() -> None:
    x, y, x_test, y_test = digits()
    context = context_of(x, y)
    models = [trained(seed, x, y) for seed in range(5)]
    for sparsity in (0.6, 0.75, 0.9):
        reached: dict[str, float] = {}
        methods: dict[str, Callable[[], Magnitude | Obd]] = {
            "obd": lambda s=sparsity: Obd(sparsity=s, rounds=1),  # type: ignore[misc]
            "magnitude": lambda s=sparsity: Magnitude(sparsity=s, rounds=1, allocation="uniform"),  # type: ignore[misc]
        }
        for name, make in methods.items():
            scores = []
            for model in models:
                method, copy = make(), bake(model)
                copy = method.apply(copy, method.plan(copy, context), 0, context)
                scores.append(accuracy(copy, x_test, y_test))
            reached[name] = float(np.mean(scores))
        print(sparsity, reached)
        assert reached["obd"] >= reached["magnitude"]


def test_with_retraining_a_quarter_of_the_weights_is_enough() -> None:
    x, y, x_test, y_test = digits()
    context, model = context_of(x, y), trained(0, x, y)
    dense = accuracy(model, x_test, y_test)
    method = Obd(sparsity=0.8, rounds=3)
    plan = method.plan(model, context)
    for stage in range(3):
        plan = method.refine(model, plan, stage, context)
        model = method.apply(model, plan, stage, context)
        fit(model, x, y, 15)
    kept = sum(int((w != 0).sum()) for w in method.weights(model).values())
    assert kept == pytest.approx(0.2 * (640 * 4 + 400), abs=2)
    assert accuracy(model, x_test, y_test) >= dense - 0.01


@pytest.mark.parametrize("estimator", ["gauss_newton", "hutchinson", "fisher"])
def test_a_budget_is_met(estimator: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.rand(30, 1, 8, 8)
    context = context_of(x, torch.arange(30) % 3)
    method = Obd(budget=Budget(macs=0.3), rounds=2, estimator=estimator)
    before, plan = trace(model, x[:1]).macs, method.plan(model, context)
    for stage in range(2):
        plan = method.refine(model, plan, stage, context)
        model = method.apply(model, plan, stage, context)
    assert trace(bake(model), x[:1]).nonzero_macs / before == pytest.approx(0.3, abs=0.02)
    for name, weight in method.weights(model).items():
        assert plan[name]["params"][1] == pytest.approx(int((weight != 0).sum()), abs=1)


def test_needs_inputs() -> None:
    with pytest.raises(RecipeError, match="needs inputs; without data, use magnitude"):
        Obd().plan(nn.Linear(4, 2), Context(loss=lambda m: 0.0, example=torch.rand(1, 4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"obd.sparsity must be a fraction in \[0, 1\), got 1.0"),
        ({"rounds": 0}, "obd.rounds must be 1 or more, got 0"),
        ({"estimator": "luck"}, "obd.estimator must be gauss_newton, hutchinson, fisher, got 'luck'"),
        ({"budget": Budget(latency=0.5)}, "obd.budget must be of macs or params"),
        ({"images": 0}, "obd.images must be 1 or more"),
        ({"draws": 0}, "obd.draws must be 1 or more"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Obd(**settings)
