"""Binary weights by hashing: the search, what it is asked, and that the network gains by it."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.data import load_dataset
from dovetail.errors import RecipeError
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.bwnh import Bwnh, descended, hashed
from dovetail.methods.quantize.quantizer import sign
from dovetail.methods.responses import patches
from dovetail.networks import load_model
from dovetail.planning import planning_context
from dovetail.train import score


def problem(size: int, filters: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, and G and c of what it answers to random inputs."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(40, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(filters, size, generator=generator, dtype=torch.float64)
    return weight, seen.T @ seen, weight @ (seen.T @ seen)


def error(signs: Tensor, scale: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """The squared error of each filter, but for the constant ||y||^2."""
    return scale.square() * ((signs @ gram) * signs).sum(1) - 2 * scale * (cross * signs).sum(1)


def best_error(signs: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    scale = (cross * signs).sum(1) / ((signs @ gram) * signs).sum(1)
    return error(signs, scale, gram, cross)


class TestSearch:
    def test_finds_the_optimum_of_small_problems_in_nine_of_ten_cases(self) -> None:
        found, cases = 0, 0
        for seed, size in itertools.product(range(20), (4, 6, 8, 10)):
            weight, gram, cross = problem(size, 10, seed)
            every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
            least = torch.stack([best_error(every, gram, c.expand_as(every)).min() for c in cross])
            reached = error(*hashed(weight, gram, cross), gram, cross)
            assert (reached >= least - 1e-9 * least.abs()).all()
            found, cases = found + int((reached <= least * (1 - 1e-9)).sum()), cases + 10
        assert found >= 0.9 * cases

    @given(st.integers(1, 12), st.integers(0, 1000))
    def test_every_half_step_lowers_the_error(self, size: int, seed: int) -> None:
        weight, gram, cross = problem(size, 5, seed)
        scale = weight.abs().mean(1)  # BWN, then its best scale, then sweep by sweep
        errors = [error(sign(weight), scale, gram, cross), best_error(sign(weight), gram, cross)]
        errors += [best_error(descended(sign(weight), gram, cross, sweeps, 0), gram, cross) for sweeps in (1, 2, 3, 20)]
        errors.append(error(*hashed(weight, gram, cross), gram, cross))
        slack = 1e-9 * (1 + errors[0].abs())
        assert all((later <= earlier + slack).all() for earlier, later in itertools.pairwise(errors))

    def test_no_single_bit_is_left_that_would_lower_it(self) -> None:
        weight, gram, cross = problem(30, 7, 3)
        signs, _ = hashed(weight, gram, cross, sweeps=100)
        reached = best_error(signs, gram, cross)
        for j in range(30):
            changed = signs.clone()
            changed[:, j] *= -1
            assert (best_error(changed, gram, cross) >= reached - 1e-6 * reached.abs()).all()

    def test_with_the_identity_it_is_bwn(self) -> None:
        weight, _, _ = problem(50, 6, 0)
        signs, scale = hashed(weight, torch.eye(50, dtype=torch.float64), weight)
        assert torch.equal(signs, sign(weight))
        assert torch.allclose(scale, weight.abs().mean(1))

    def test_scales_are_not_negative_and_nothing_divides_by_zero(self) -> None:
        weight, gram, cross = problem(9, 4, 1)
        signs, scale = hashed(weight, gram, -cross)
        assert (scale >= 0).all() and (signs.abs() == 1).all()
        nothing = torch.zeros(4, 9, dtype=torch.float64)
        signs, scale = hashed(nothing, torch.zeros_like(gram), nothing)
        assert (signs.abs() == 1).all() and not scale.any()


X = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 4),
    ).eval()  # fmt: skip


def context(inputs: Tensor | None = X) -> Context:
    return Context(loss=lambda model: 0.0, example=X[:1], inputs=inputs, original=network())


class TestNetwork:
    def test_says_which_layers_are_solved_from_what(self) -> None:
        plan = Bwnh(keep_ends=False).plan(network(), context())
        rows = {name: row["fit"] for name, row in plan.items()}
        assert rows == {
            "0.weight": "responses", "4.weight": "responses", "7.weight": "responses", "2.weight": "weights"
        }  # fmt: skip
        assert list(Bwnh().plan(network(), context())) == ["4.weight", "2.weight"]

    def test_without_inputs_it_is_bwn(self) -> None:
        method, model = Bwnh(), network()
        weight = model[4].weight.detach().clone()
        plan = method.plan(model, context(None))
        assert {row["fit"] for row in plan.values()} == {"weights"}
        method.apply(model, plan, 0, context(None))
        expected = weight.abs().mean((1, 2, 3), keepdim=True) * sign(weight)
        assert torch.allclose(model[4].weight, expected)

    def test_the_layer_sees_what_was_solved(self) -> None:
        """By hand for the first layer that is taken: inputs as they are, targets the original's, bias apart."""
        method, model = Bwnh(layers=("4",), ridge=1e-6), network()
        seen, weight = patches(model, "4", X).double(), model[4].weight.detach().flatten(1).double()
        method.apply(model, method.plan(model, context()), 0, context())
        gram = seen.T @ seen
        signs, scale = hashed(weight, gram, weight @ gram)
        assert torch.allclose(model[4].weight.flatten(1).double(), scale[:, None] * signs, rtol=1e-4)

    def test_later_layers_make_up_for_the_errors_of_earlier_ones(self) -> None:
        left = {}
        for asymmetric in (True, False):
            method, model = Bwnh(asymmetric=asymmetric, keep_ends=False, layers=("0", "4", "7")), network()
            method.apply(model, method.plan(model, context()), 0, context())
            with torch.no_grad():
                left[asymmetric] = float((model(X) - network()(X)).square().mean())
        assert left[True] < left[False]

    def test_a_bit_for_each_weight_and_a_scale_for_each_filter(self) -> None:
        method, model = Bwnh(), network()
        method.apply(model, method.plan(model, context()), 0, context())
        weight = bake(model).get_parameter("4.weight").detach().numpy()
        stored = layouts(model)["4.weight"].encode(weight)
        assert stored.describe() == "dense > binary(axis 0)"
        assert stored.bits_by_part["values"] == 48 and (stored.decode() == weight).all()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"sweeps": 0}, "bwnh.sweeps must be 1 or more, got 0"), ({"ridge": -1.0}, "bwnh.ridge must be 0 or more")],
    )
    def test_bad_settings_are_named(self, settings: dict[str, float], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            Bwnh(**settings)


def test_a_trained_network_answers_better_than_with_bwn() -> None:
    """Layer by layer on the same inputs never worse, mostly better; the whole network without any training."""
    dataset, original = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
    given = planning_context(dataset, original)
    given = replace(given, inputs=given.inputs[:300])
    for path in [f"layer{n}.0.conv{m}" for n in (1, 2, 3) for m in (1, 2)]:
        seen = patches(original, path, given.inputs).double()
        weight = original.get_submodule(path).weight.detach().flatten(1).double()
        gram = seen.T @ seen
        hashing = error(*hashed(weight, gram, weight @ gram, sweeps=5), gram, weight @ gram)
        bwn = error(sign(weight), weight.abs().mean(1), gram, weight @ gram)
        assert (hashing <= bwn).all() and (hashing < bwn).double().mean() > 0.5
    scores = {}
    for inputs in (None, given.inputs):
        method, model = Bwnh(sweeps=5), load_model("resnet8_fashion").module.eval()
        plan = method.plan(model, replace(given, inputs=inputs))
        method.apply(model, plan, 0, given)
        scores[inputs is None] = score(model, dataset, "test")
    assert scores[False] > scores[True] + 0.05
