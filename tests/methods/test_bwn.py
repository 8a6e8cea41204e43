"""Binary-Weight-Network: the closed form, both gradients against the paper, additions only, the size of the file."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import ModelError, RecipeError
from dovetail.methods import Bwn, Magnitude
from dovetail.methods.constraint import Step, constrain, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.bwn import BinaryWeight, scales
from dovetail.methods.quantize.ends import inner
from dovetail.methods.quantize.quantizer import sign

ONE = torch.tensor(1.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_other_signs_and_scale_are_nearer() -> None:
    """Section 3.1, with a hundred thousand others."""
    weight = random(1, 12)
    error = (weight - scales(weight) * sign(weight)).square().sum()
    generator = torch.Generator().manual_seed(1)
    signs = sign(torch.randn(100_000, 12, generator=generator, dtype=torch.float64))
    alphas = 2 * torch.rand(100_000, 1, generator=generator, dtype=torch.float64)
    assert (weight - alphas * signs).square().sum(1).min() >= error


def gradient_of(quantizer: BinaryWeight, weight: Tensor, upstream: Tensor) -> Tensor:
    latent = weight.clone().requires_grad_()
    (quantizer(latent) * upstream).sum().backward()
    return latent.grad


@pytest.mark.parametrize("centre", [False, True])
def test_the_exact_gradient_is_that_of_the_scale_plus_the_straight_through_one(centre: bool) -> None:
    """Finite differences of alpha(W) S + alpha W 1{|W| <= 1}, whose signs S and other alpha are held fixed."""
    weight, upstream = random(3, 4, 2, 2), random(3, 4, 2, 2, seed=1)
    assert (weight.abs() > 1).any()
    less_mean = lambda w: w - w.mean(1, keepdim=True) if centre else w  # noqa: E731
    start = less_mean(weight)
    mean = lambda w: w.abs().mean((1, 2, 3), keepdim=True)  # noqa: E731
    through = mean(start) * (start.abs() <= 1)
    surrogate = lambda w: ((mean(less_mean(w)) * start.sign() + through * less_mean(w)) * upstream).sum()  # noqa: E731
    gradient = gradient_of(BinaryWeight(ONE, "exact", centre), weight, upstream)
    for i in range(weight.numel()):
        step = torch.zeros(weight.numel(), dtype=torch.float64).index_fill(0, torch.tensor(i), 1e-6).view_as(weight)
        slope = (surrogate(weight + step) - surrogate(weight - step)) / 2e-6
        assert gradient.flatten()[i].item() == pytest.approx(slope.item(), abs=1e-8)


@pytest.mark.parametrize("centre", [False, True])
def test_the_diagonal_gradient_is_the_published_one(centre: bool) -> None:
    weight, upstream = random(3, 4, 2, 2), random(3, 4, 2, 2, seed=1)
    gradient = gradient_of(BinaryWeight(ONE, "diagonal", centre), weight, upstream)
    binarised = weight - weight.mean(1, keepdim=True) if centre else weight
    for index in np.ndindex(*weight.shape):
        alpha = binarised[index[0]].abs().mean()
        slope = (1 / 16 + alpha * (binarised[index].abs() <= 1)) * (1 - 1 / 4 if centre else 1)
        assert gradient[index].item() == pytest.approx((slope * upstream[index]).item(), abs=1e-12)


def test_after_a_step_the_latent_weight_is_clipped_and_centred() -> None:
    layer = nn.Conv2d(4, 3, 2)
    layer.weight.data = 2 * random(3, 4, 2, 2).float()
    constrain(layer, "weight", BinaryWeight(ONE, centre=True))
    latent = layer.parametrizations.weight.original
    expected = (latent - latent.mean(1, keepdim=True)).clamp(-1, 1).detach()
    layer.weight.sum().backward()
    find(layer, "weight", BinaryWeight).after_step(Step(1, 1))
    assert torch.equal(latent, expected) and latent.requires_grad
    twin = copy.deepcopy(layer)
    find(twin, "weight", BinaryWeight).after_step(Step(1, 1))
    assert torch.equal(latent, expected)


def test_weights_beyond_one_widen_the_limit_and_depthwise_filters_are_not_centred() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False))
    model[0].weight.data *= 30
    weight = model[0].weight.detach().clone()
    method = Bwn(centre=True, keep_ends=False)
    context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 4, 5, 5))
    method.apply(model, method.plan(model, context), 0, context)
    assert find(model, "0.weight", BinaryWeight).limit == weight.abs().max() > 1
    expected = weight.abs().mean((1, 2, 3), keepdim=True) * weight.sign()
    assert torch.allclose(model[0].weight, expected)


def test_convolving_takes_additions_and_one_multiplication_an_output() -> None:
    weight, pictures = random(3, 4, 3, 3), random(2, 4, 8, 8, seed=1)
    columns = functional.unfold(pictures, 3)
    signs = weight.flatten(1) >= 0
    sums = torch.stack([columns[:, own].sum(1) - columns[:, ~own].sum(1) for own in signs], 1)
    added = (scales(weight).view(1, 3, 1) * sums).view(2, 3, 6, 6)
    assert torch.allclose(functional.conv2d(pictures, BinaryWeight(ONE)(weight)), added, atol=1e-5)


def test_a_layer_is_stored_in_a_bit_a_weight_and_a_scale_a_filter() -> None:
    layer = nn.Conv2d(64, 64, 3)
    constrain(layer, "weight", BinaryWeight(ONE))
    stored = layouts(layer)["weight"].encode(layer.weight.detach().numpy())
    assert stored.describe() == "dense > binary(axis 0)"
    assert stored.bits == layer.weight.numel() + 64 * 32 < 32 * layer.weight.numel() / 28


def test_a_filter_of_zeros_stays_zero_and_is_stored() -> None:
    layer = nn.Linear(5, 2)
    layer.weight.data[0] = 0
    constrain(layer, "weight", BinaryWeight(ONE))
    assert not layer.weight[0].any() and layer.weight[1].all()
    weight = layer.weight.detach().numpy()
    assert np.array_equal(layouts(layer)["weight"].encode(weight).decode(), weight)


def digits_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def trained(model: nn.Module, epochs: int) -> float:
    """Trains `model` on scikit-learn's digits; its accuracy on those held out, in percent."""
    digits = load_digits()
    pictures = torch.from_numpy(digits.images[:, None] / 16).float()
    labels = torch.from_numpy(digits.target)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    held = [module for module in model.modules() if hasattr(module, "after_step")]
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(1200).split(60):
            optimizer.zero_grad()
            functional.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimizer.step()
            for constraint in held:
                constraint.after_step(Step(1, 1))
        steps.step()
    with torch.no_grad():
        return 100 * (model.eval()(pictures[1200:]).argmax(1) == labels[1200:]).float().mean().item()


@pytest.mark.parametrize("gradient", ["exact", "diagonal"])
def test_costs_at_most_two_points_on_digits(gradient: str) -> None:
    torch.manual_seed(0)
    model = digits_network()
    before = trained(model, 8)
    context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 1, 8, 8))
    method = Bwn(gradient=gradient)
    plan = method.plan(model, context)
    assert list(plan) == ["4.weight", "9.weight"]
    after = trained(method.apply(model, plan, 0, context), 8)
    assert before > 92 and after > before - 2


class TestTheEnds:
    def test_are_the_first_and_last_to_run_however_they_are_listed(self) -> None:
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last, self.middle, self.norm = nn.Linear(4, 2), nn.Linear(4, 4), nn.LayerNorm(4)
                self.first = nn.Linear(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.norm(self.middle(self.first(x))))

        model, example = Backwards(), torch.zeros(1, 3)
        assert inner(model, example, ["last.weight", "middle.weight", "first.weight"]) == ["middle.weight"]
        constrain(model, "first.weight", BinaryWeight(ONE))
        assert inner(model, example, ["middle.weight"]) == ["middle.weight"]
        with pytest.raises(ModelError, match=r"first and last, \['first.weight', 'last.weight'\].*keep_ends to false"):
            inner(model, example, ["first.weight"])

    def test_are_taken_where_that_is_asked_for(self) -> None:
        model, context = digits_network(), Context(loss=lambda model: 0.0, example=torch.zeros(1, 1, 8, 8))
        assert list(Bwn(keep_ends=False).plan(model, context)) == ["0.weight", "4.weight", "9.weight", "12.weight"]


def test_pruned_weights_get_a_sign() -> None:
    model, context = digits_network(), Context(loss=lambda model: 0.0, example=torch.zeros(1, 1, 8, 8))
    for method in (Magnitude(rounds=1, sparsity=0.5), Bwn()):
        method.apply(model, method.plan(model, context), 0, context)
    assert model[4].weight.abs().amin() > 0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"bwn.gradient must be .*, got 'none'"):
        Bwn(gradient="none")
