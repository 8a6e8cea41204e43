"""Trained and plain ternary weights: gradients, closed forms, additions only, the size of the file, an accuracy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dovetail.data import load_dataset
from dovetail.errors import RecipeError
from dovetail.methods import Method, Ttq, Twn
from dovetail.methods.constraint import Step, constrain, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.ttq import LEAST, TrainedTernary, magnitudes, sides
from dovetail.methods.quantize.twn import TernaryWeight, ternary
from dovetail.networks import load_model
from dovetail.train import Training, train


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantizer(plus: float, minus: float, threshold: float = 0.2) -> TrainedTernary:
    return TrainedTernary(threshold, torch.tensor(plus), torch.tensor(minus)).double()


class TestTrainedTernary:
    def test_the_gradients_of_both_magnitudes_are_true_and_that_of_minus_has_the_minus(self) -> None:
        weight, upstream, held = random(4, 5), random(4, 5, seed=1), quantizer(0.7, 1.3)
        (held(weight) * upstream).sum().backward()
        above, below = sides(weight, 0.2)
        assert held.plus.grad.item() == pytest.approx(upstream[above].sum().item())
        assert held.minus.grad.item() == pytest.approx(-upstream[below].sum().item())
        for parameter in (held.plus, held.minus):
            at, losses = parameter.item(), []
            for moved in (at + 1e-6, at - 1e-6):
                parameter.data.fill_(moved)
                losses.append((held(weight) * upstream).sum().item())
            parameter.data.fill_(at)
            assert parameter.grad.item() == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-7)

    def test_the_gradient_of_the_latent_weight_is_the_published_one(self) -> None:
        weight = torch.tensor([1.0, 0.3, 0.2, -0.1, -0.2, -0.5], dtype=torch.float64, requires_grad=True)
        upstream = random(6)
        value = quantizer(0.7, 1.3)(weight)
        assert torch.allclose(value, torch.tensor([0.7, 0.7, 0, 0, 0, -1.3], dtype=torch.float64))
        (value * upstream).sum().backward()
        slopes = torch.tensor([0.7, 0.7, 1, 1, 1, 1.3], dtype=torch.float64)
        assert torch.allclose(weight.grad, slopes * upstream)

    @given(st.integers(0, 1000), st.floats(0, 0.9))
    def test_starts_from_the_nearest_magnitudes(self, seed: int, threshold: float) -> None:
        weight = random(40, seed=seed)
        above, below = sides(weight, threshold)
        plus, minus = magnitudes(weight, threshold)
        error = lambda p, m: (weight - p * above + m * below).square().sum()  # noqa: E731
        for factor in (0.9, 1.1):
            assert error(plus, minus) <= error(factor * plus, minus)
            assert error(plus, minus) <= error(plus, factor * minus)

    def test_the_magnitudes_stay_positive(self) -> None:
        held = quantizer(0.1, 0.1)
        held.plus.data.fill_(-0.5)
        held.after_step(Step(1, 1))
        assert held.plus.item() == pytest.approx(LEAST) and held.minus.item() == pytest.approx(0.1)

    def test_a_layer_of_one_sign_or_of_zeros_is_held(self) -> None:
        for weight in (torch.rand(3, 4), torch.zeros(3, 4)):
            layer = nn.Linear(4, 3)
            layer.weight.data = weight
            constrain(layer, "weight", TrainedTernary(0.1, *magnitudes(weight, 0.1)))
            assert len(layer.weight.unique()) <= 2 and layer.weight.min() >= 0
            stored = layouts(layer)["weight"].encode(layer.weight.detach().numpy())
            assert np.array_equal(stored.decode(), layer.weight.detach().numpy())


class TestTernaryWeight:
    def test_its_threshold_is_nearly_the_best(self) -> None:
        """For normal weights; the best is found by trying every number of nonzeros."""
        weight = random(8, 200)
        error = (weight - ternary(weight, 0.75)).square().sum(1)
        ordered = weight.abs().sort(1, descending=True).values
        best = weight.square().sum(1) - (ordered.cumsum(1).square() / torch.arange(1, 201)).amax(1)
        assert (error >= best - 1e-9).all() and (error < 1.05 * best).all()

    def test_passes_the_gradient_on(self) -> None:
        weight, upstream = random(2, 5).requires_grad_(), random(2, 5, seed=1)
        (TernaryWeight(0.75)(weight) * upstream).sum().backward()
        assert torch.equal(weight.grad, upstream)

    def test_a_filter_of_zeros_stays_zero(self) -> None:
        weight = random(3, 7)
        weight[1] = 0
        held = ternary(weight, 0.75)
        assert not held[1].any() and held[0].any() and torch.isfinite(held).all()


@pytest.mark.parametrize(
    ("quantizer", "stored_as", "scales"),
    [
        (TrainedTernary(0.2, torch.tensor(0.03), torch.tensor(0.04)), "dense > ternary", 2),
        (TernaryWeight(0.75), "dense > ternary(one scale, axis 0)", 64),
    ],
)
def test_a_layer_is_stored_in_two_bits_a_weight_or_less(
    quantizer: TrainedTernary | TernaryWeight, stored_as: str, scales: int
) -> None:
    layer = nn.Conv2d(64, 64, 3)
    constrain(layer, "weight", quantizer)
    layout, weight = layouts(layer)["weight"], layer.weight.detach().numpy()
    stored = layout.encode(weight)
    assert stored.describe() == stored_as and np.array_equal(stored.decode(), weight)
    assert stored.bits == 2 * weight.size + 32 * scales < 32 * weight.size / 15


def test_convolving_takes_additions_and_two_multiplications_an_output() -> None:
    weight, pictures = random(3, 4, 3, 3), random(2, 4, 8, 8, seed=1)
    columns = functional.unfold(pictures, 3)
    above, below = (side.flatten(1) for side in sides(weight, 0.2))
    sums = [torch.stack([columns[:, own].sum(1) for own in side], 1) for side in (above, below)]
    added = (0.7 * sums[0] - 1.3 * sums[1]).view(2, 3, 6, 6)
    assert torch.allclose(functional.conv2d(pictures, quantizer(0.7, 1.3)(weight)), added, atol=1e-5)


def test_an_epoch_of_four_thousand_pictures_brings_the_accuracy_nearly_back() -> None:
    dataset, original = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
    pictures, labels = next(iter(dataset.batches("test", 1000)))

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (model.eval()(pictures).argmax(1) == labels).float().mean().item()

    def retrained(method: Method) -> float:
        model = load_model("resnet8_fashion").module
        context = Context(loss=lambda model: 0.0, example=pictures[:1])
        model = method.apply(model, method.plan(model, context), 0, context)
        settings = Training(optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, distillation=0.5, augment=False)
        train(model, dataset, settings, seed=0, teacher=original)
        return score(model)

    before, learned, plain = score(original), retrained(Ttq()), retrained(Twn())
    assert learned > before - 4 and plain > before - 4 and learned > plain - 1


def test_replaying_needs_no_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 3))
    plan = Ttq().plan(model, context)
    assert plan == {"1.weight": {"bits": 2}}
    Ttq().apply(model, plan, 0, context)
    assert find(model, "1.weight", TrainedTernary) is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ttq(threshold=1.0), r"ttq.threshold must be a fraction in \[0, 1\), got 1.0"),
        (lambda: Twn(factor=-0.1), r"twn.factor must be a number in \[0, 1\), got -0.1"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
