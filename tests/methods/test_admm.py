"""ADMM: the projection, the dual, what a layer sees when, and that a network keeps its accuracy."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dovetail.data import load_dataset
from dovetail.errors import RecipeError
from dovetail.methods.constraint import Step, bake, constraints, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.admm import GRIDS, Admm, PulledToGrid, best_scale, nearest, refitted
from dovetail.networks import load_model
from dovetail.planning import planning_context
from dovetail.train import Training, score, train

LENGTHS = {"binary": 8, "ternary": 6, "five": 5, "seven": 4}
STORED = {"binary": "binary", "ternary": "ternary(one scale)", "five": "codebook(3)", "seven": "codebook(3)"}


@pytest.mark.parametrize("grid", GRIDS)
class TestProjection:
    def test_is_exact(self, grid: str) -> None:
        """Against all codes at their best scales."""
        magnitudes = GRIDS[grid]
        values = sorted({sign * size for size in magnitudes for sign in (1, -1)})
        for length in range(1, LENGTHS[grid] + 1):
            codes = torch.tensor(list(itertools.product(values, repeat=length)), dtype=torch.float64)
            squares = codes.square().sum(1).clamp_min(1e-30)
            for seed in range(40):
                v = torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
                least = v.square().sum() - ((codes @ v).clamp_min(0).square() / squares).max()
                scale = best_scale(v, magnitudes)
                assert (v - scale * nearest(v, magnitudes, scale)).square().sum() == pytest.approx(
                    float(least), abs=1e-12
                )

    def test_of_values_on_the_grid_finds_them(self, grid: str) -> None:
        codes = torch.tensor([-1.0, 1.0, 1.0, *GRIDS[grid]])
        scale = best_scale(0.3 * codes, GRIDS[grid])
        assert torch.allclose(scale * nearest(0.3 * codes, GRIDS[grid], scale), 0.3 * codes)

    def test_of_zeros_can_be_divided_by(self, grid: str) -> None:
        zeros = torch.zeros(5)
        scale = best_scale(zeros, GRIDS[grid])
        assert 0 < scale < 1e-30 and (refitted(zeros, GRIDS[grid], scale) > 0).all()
        assert nearest(zeros, GRIDS[grid], scale).unique().tolist() == [min(GRIDS[grid])]

    @given(values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30), scale=st.floats(0.01, 10))
    def test_refitting_a_scale_does_no_harm(self, grid: str, values: list[float], scale: float) -> None:
        v, magnitudes, before = torch.tensor(values).double(), GRIDS[grid], torch.tensor([scale]).double()
        error = lambda a: float((v - a * nearest(v, magnitudes, a)).square().sum())  # noqa: E731
        after = refitted(v, magnitudes, before)
        assert error(best_scale(v, magnitudes)) - 1e-9 <= error(after) <= error(before) * (1 + 1e-9) + 1e-9


def test_ties_go_to_the_smaller_magnitude_and_zero_is_positive() -> None:
    values, one = torch.tensor([0.5, -0.5, 1.5, 3.0, -3.1, 0.0]), torch.ones(1)
    assert nearest(values, GRIDS["seven"], one).tolist() == [0, 0, 1, 2, -4, 0]
    assert nearest(torch.tensor([-0.0, 0.0, -1e-9]), GRIDS["binary"], one).tolist() == [1, 1, -1]


def layer(grid: str = "ternary", **settings: float) -> tuple[nn.Linear, PulledToGrid]:
    torch.manual_seed(0)
    model, method = nn.Linear(9, 7, bias=False), Admm(grid=grid, keep_ends=False, **settings)
    anything = Context(loss=lambda model: 0.0, example=torch.zeros(1, 9))
    method.apply(model.eval(), method.plan(model, anything), 0, anything)
    held = find(model, "weight", PulledToGrid)
    assert held is not None
    return model, held


class TestConstraint:
    def test_the_scale_is_of_the_layer_or_if_asked_of_each_filter(self) -> None:
        (weight,) = (parameter.detach().clone() for parameter in layer()[0].parameters())
        for per_filter, scale in ((False, weight.abs().mean()), (True, weight.abs().mean(1, keepdim=True))):
            model, held = layer("binary", per_filter=per_filter)
            assert torch.allclose(held.goal, scale * torch.where(weight >= 0, 1.0, -1.0))
            stored = layouts(model)["weight"].encode(bake(model).weight.detach().numpy())
            assert stored.describe() == ("dense > binary(axis 0)" if per_filter else "dense > binary")

    def test_ternary_filters_have_three_values_each(self) -> None:
        model, held = layer(per_filter=True)
        rows = [best_scale(row, GRIDS["ternary"]) for row in next(model.parameters()).detach()]
        assert torch.equal(held.scale, torch.stack(rows)) and len(held.goal.unique()) > 3
        assert all(len(row.unique()) == 3 for row in held.goal)
        stored = layouts(model)["weight"].encode(bake(model).weight.detach().numpy())
        assert stored.describe() == "dense > ternary(one scale, axis 0)"

    def test_the_pull_is_exact(self) -> None:
        model, held = layer()
        held.dual.normal_()
        (latent,) = model.parameters()
        model.train()(torch.zeros(1, 9))
        held.penalty().backward()
        assert torch.allclose(latent.grad, held.rho * (latent - held.goal + held.dual))

    def test_updates_follow_the_paper_and_the_dual_is_in_units_of_the_pull(self) -> None:
        _, held = layer()
        weight, dual = torch.randn(7, 9), 0.1 * torch.randn(7, 9)
        held.dual.copy_(dual)
        rho = held.rho
        held.update(weight, 3 * rho)
        scale = best_scale((weight + dual).flatten(), GRIDS["ternary"])
        goal = scale * nearest(weight + dual, GRIDS["ternary"], scale)
        assert torch.equal(held.goal, goal) and held.rho == 3 * rho
        assert torch.allclose(held.rho * held.dual, rho * (dual + weight - goal))

    def test_a_layer_sees_the_latent_weight_only_while_it_is_pulled_and_learns(self) -> None:
        model, held = layer(pull=0.5, updates=1)
        (latent,) = model.parameters()
        assert torch.equal(model.train().weight, latent)
        with torch.no_grad():
            assert torch.equal(model.weight, held.goal)
        assert torch.equal(model.eval().weight, held.goal) and len(bake(model).weight.unique()) == 3
        seen = []
        for index in range(1, 5):
            seen.append(len(model.train().weight.unique()))
            held.after_step(Step(index, 4))
        assert seen == [63, 63, 3, 3] and not held.pulling and held.penalty() == 0
        assert len(model.eval().weight.unique()) == 3

    def test_on_the_grid_the_gradient_passes_straight_through(self) -> None:
        model, held = layer()
        held.pulling = False
        (latent,) = model.parameters()
        upstream = torch.randn(7, 9)
        (model.train().weight * upstream).sum().backward()
        assert torch.equal(latent.grad, upstream)

    def test_goals_are_set_as_often_as_asked_and_the_pull_grows(self) -> None:
        model, held = layer(rho=0.01, last_rho=1.0, updates=4, pull=0.8)
        rhos = []
        for index in range(1, 101):
            model.train()(torch.zeros(1, 9))
            held.after_step(Step(index, 100))
            rhos.append(held.rho)
        assert np.allclose(sorted(set(rhos)), np.geomspace(0.01, 1, 4))
        assert [rhos.index(rho) + 1 for rho in sorted(set(rhos))] == [1, 20, 40, 60]

    def test_copies_are_possible_in_the_middle_of_a_step(self) -> None:
        model, _ = layer()
        nn.utils.parametrize.register_parametrization(model, "weight", nn.Identity())
        model.train()(torch.zeros(1, 9))
        copied = copy.deepcopy(model)
        assert torch.equal(copied.eval().weight, model.eval().weight)

    def test_a_state_dict_holds_all_that_training_depends_on(self) -> None:
        model, held = layer(pull=0.9)
        for index in range(1, 60):
            model.train()(torch.zeros(1, 9))
            held.after_step(Step(index, 100))
        other, theirs = layer(pull=0.9)
        other.load_state_dict(model.state_dict())
        assert (theirs.rho, theirs.pulling) == (held.rho, held.pulling)
        for index in range(60, 101):
            for network, constraint in ((model, held), (other, theirs)):
                network.train()(torch.zeros(1, 9))
                constraint.after_step(Step(index, 100))
        assert torch.equal(other.eval().weight, model.eval().weight) and not theirs.pulling

    @pytest.mark.parametrize("grid", GRIDS)
    def test_is_stored_at_its_bits(self, grid: str) -> None:
        model, held = layer(grid)
        weight = bake(model).weight.detach().numpy()
        stored = layouts(model)["weight"].encode(weight)
        assert np.array_equal(stored.decode(), weight)
        assert STORED[grid] in stored.describe()
        assert stored.bits_by_part["values"] <= held.bits * 63


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "four"}, "admm.grid must be binary, ternary, five, seven, got 'four'"),
        ({"grid": "seven", "per_filter": True}, 'admm.per_filter must be false with the grid "seven"'),
        ({"rho": 0.0}, "admm.rho must be a number above 0, got 0.0"),
        ({"rho": 2.0}, r"admm.last_rho must be 2 \(rho\) or more, got 0.1"),
        ({"updates": 0}, "admm.updates must be 1 or more, got 0"),
        ({"pull": 0.0}, r"admm.pull must be a fraction in \(0, 1\], got 0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Admm(**settings)


class Digits:
    """Handwritten digits of 8 x 8, and a network of two hidden layers trained on them."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.images, self.labels = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
        torch.manual_seed(0)
        hidden = [nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.BatchNorm1d(128)]
        self.network = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(128, 10))
        self.train(self.network, 400, 0.05)

    def train(self, model: nn.Module, steps: int, rate: float) -> list[float]:
        """SGD; returns ||W - G|| / ||W|| of each layer when the pull ends."""
        torch.manual_seed(1)
        optimizer, left = torch.optim.SGD(model.train().parameters(), rate, momentum=0.9), []
        held = [constraint for _, constraint in constraints(model)]
        for index in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = rate * (1 - (index - 1) / steps)
            batch = torch.randint(1297, (64,))
            loss = nn.functional.cross_entropy(model(self.images[batch]), self.labels[batch])
            loss = loss + sum(constraint.penalty() for constraint in held)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for constraint in held:
                if constraint.pulling and index / steps >= constraint.pull:
                    latent = constraint._latent.detach()
                    left.append(float((latent - constraint.goal).norm() / latent.norm()))
                constraint.after_step(Step(index, steps))
        model.eval()
        return left

    def score(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(self.images[1297:]).argmax(1) == self.labels[1297:]).double().mean())

    def context(self) -> Context:
        return Context(
            loss=lambda model: 0.0, example=self.images[:1], inputs=self.images[:1297], original=self.network
        )


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def carried_out(method: Admm, digits: Digits) -> nn.Module:
    model = copy.deepcopy(digits.network)
    return method.apply(model, method.plan(model, digits.context()), 0, digits.context())


@pytest.mark.parametrize(("grid", "points"), [("ternary", 1.0), ("binary", 2.0)])
def test_weights_reach_the_grid_and_the_network_keeps_its_accuracy(digits: Digits, grid: str, points: float) -> None:
    model = carried_out(Admm(grid=grid, keep_ends=False, last_rho=10.0, updates=20, pull=0.8), digits)
    left = digits.train(model, 800, 0.01)
    assert len(left) == 3 and max(left) < 0.01
    assert digits.score(model) >= digits.score(digits.network) - points / 100


@pytest.mark.parametrize("grid", GRIDS)
def test_as_it_is_by_default_too(digits: Digits, grid: str) -> None:
    model = carried_out(Admm(grid=grid, keep_ends=False), digits)
    digits.train(model, 300, 0.01)
    assert digits.score(model) >= digits.score(digits.network) - 0.01
    assert all(len(weight.unique()) <= 7 for weight in Admm().weights(model).values())


def test_a_trained_network_is_ternary_after_a_short_training() -> None:
    dataset, model = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
    given, method = planning_context(dataset, model), Admm()
    compressed = copy.deepcopy(model)
    method.apply(compressed, method.plan(compressed, given), 0, given)
    settings = Training(epochs=2, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, distillation=0.5)
    train(compressed, dataset, settings, seed=0, teacher=model)
    assert score(compressed.eval(), dataset, "test") >= score(model, dataset, "test") - 0.03
    assert all(len(method.weights(compressed)[name].unique()) == 3 for name, _ in constraints(compressed))


def test_products_are_shifts_and_additions(digits: Digits) -> None:
    """A layer of integers 0, 1, 2, 4 computed by adding shifted inputs, then one scale, is the float layer."""
    model = carried_out(Admm(grid="seven", keep_ends=False), digits)
    held = find(model, "0.weight", PulledToGrid)
    assert held is not None
    codes = (model[0].weight.detach() / held.scale).round().long()
    pixels = (16 * digits.images[:20]).long()
    total = torch.zeros(20, 128, dtype=torch.long)
    for shift, magnitude in enumerate((1, 2, 4)):
        shifted = pixels << shift
        for sign in (1, -1):
            total += sign * additions(shifted, codes == sign * magnitude)
    with torch.no_grad():
        expected = model[0](digits.images[:20])
    assert torch.allclose(total * held.scale / 16 + model[0].bias, expected, atol=1e-5)


def additions(values: Tensor, which: Tensor) -> Tensor:
    """For each row of `which` the sum of the values (n, F) that it marks."""
    return torch.stack([values[:, row].sum(1) for row in which], 1)
