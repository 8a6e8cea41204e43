"""Complementary sparsity: disjoint sets of equal kernels, packed products that are exact, k winners and no more."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import FormatError, ModelError, RecipeError
from dovetail.methods.constraint import bake
from dovetail.methods.method import Context
from dovetail.methods.prune.complementary import Complementary, complementary_masks, multiply, pack, unpack
from dovetail.methods.prune.k_winners import KWinners
from dovetail.networks import load_model

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(loss=lambda model: 0.0, example=X[:1])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def carried_out(method: Complementary, model: nn.Module) -> nn.Module:
    return method.apply(model, method.plan(model, CONTEXT), 0, CONTEXT)


@given(kernels=st.integers(1, 11), places=st.integers(2, 600), overlaid=st.integers(2, 8), seed=st.integers(0, 99))
def test_sets_are_disjoint_and_kernels_equal(kernels: int, places: int, overlaid: int, seed: int) -> None:
    overlaid = min(overlaid, places)
    masks = complementary_masks(np.random.default_rng(seed).random((kernels, places)), overlaid)
    assert (masks.sum(1) == places // overlaid).all()
    for first in range(0, kernels, overlaid):
        assert masks[first : first + overlaid].sum(0).max() <= 1


def test_trained_masks_are_the_best_there_are() -> None:
    """Against all 90 ways of dealing six places to three kernels, two each."""
    sizes = np.random.default_rng(0).random((3, 6))
    best = 0.0
    for code in range(3**6):
        owner = np.array([code // 3**i % 3 for i in range(6)])
        if (np.bincount(owner, minlength=3) == 2).all():
            best = max(best, float(sizes[owner, np.arange(6)].sum()))
    assert sizes[complementary_masks(sizes, 3)].sum() == pytest.approx(best)


def test_trained_masks_keep_more_than_random_ones() -> None:
    kept = {}
    for choice in ("trained", "random"):
        model = carried_out(Complementary(choice=choice), network())
        kept[choice] = float(model[2].weight.detach().abs().sum())
    assert kept["trained"] > 1.4 * kept["random"]


@given(overlaid=st.integers(2, 6), kernels=st.integers(1, 13), seed=st.integers(0, 99), active=st.integers(0, 60))
def test_the_packed_product_is_exact_and_counts_what_it_takes(
    overlaid: int, kernels: int, seed: int, active: int
) -> None:
    generator = np.random.default_rng(seed)
    places = 60
    weight = generator.integers(1, 100, (kernels, places))
    weight *= complementary_masks(generator.random(weight.shape), overlaid)
    x = np.zeros(places, np.int64)
    x[generator.permutation(places)[:active]] = generator.integers(1, 50, active)
    packed = pack(weight, overlaid)
    assert packed.values.shape == (-(-kernels // overlaid), places)
    assert np.array_equal(unpack(packed), weight)
    found, products = multiply(packed, x)
    assert np.array_equal(found, weight @ x)
    assert products == np.count_nonzero(weight[:, x != 0])
    if kernels % overlaid == 0 and places % overlaid == 0:
        assert products == active * kernels * (places // overlaid) // places  # k K N / n


def test_what_overlaps_cannot_be_packed() -> None:
    with pytest.raises(FormatError, match="kernels 2 to 3 cannot be overlaid: more than one has a nonzero at place 1"):
        pack(np.array([[1, 0], [0, 1], [0, 1], [1, 1]]), 2)


def test_masks_stay_through_training_and_can_be_packed() -> None:
    model = carried_out(Complementary(overlaid=3), network())
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X), torch.arange(6) % 4).backward()
        optimiser.step()
    for weight in Complementary(overlaid=3).weights(bake(model)).values():
        kernels = weight.flatten(1).numpy()
        assert (np.count_nonzero(kernels, axis=1) == kernels.shape[1] // 3).all()
        assert np.array_equal(unpack(pack(kernels, 3)), kernels)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_so_many_win_and_no_more(scope: str, fraction: float) -> None:
    layer = KWinners(20, fraction, scope)
    x = torch.randn(5, 20, 3, 3, generator=torch.Generator().manual_seed(0)).abs() + 0.1
    for training in (True, False):
        y = layer.train(training)(x)
        counts = (y != 0).sum(1) if scope == "local" else (y != 0).flatten(1).sum(1)
        assert (counts == round(fraction * (20 if scope == "local" else 180))).all()
        assert torch.equal(y[y != 0], x[y != 0])
    ties = layer.eval()(torch.ones(1, 20, 3, 3))
    assert int((ties != 0).sum()) == int((y[:1] != 0).sum())


def test_negative_activations_never_win() -> None:
    assert not KWinners(4, 0.5)(-torch.ones(2, 4)).any()


def test_boosting_helps_rare_winners_in_training_only() -> None:
    layer = KWinners(2, 0.5, boost=3.0)
    x = torch.tensor([[1.0, 0.9]]).expand(100, 2)
    for _ in range(10):
        layer(x)
    assert layer.duty[1] > 0.1
    assert (layer.eval()(x) != 0).any(0).tolist() == [True, False]


def test_winners_take_the_place_of_every_relu() -> None:
    model = network()
    names = set(dict(model.named_parameters()))
    changed = carried_out(Complementary(winners=0.25), copy.deepcopy(model)).eval()
    seen = []
    for module in changed.modules():
        if isinstance(module, KWinners):
            module.register_forward_hook(lambda m, a, y: seen.append((y != 0).sum(1).max()))
    changed(X)
    assert [int(most) for most in seen] == [2, 2]
    assert set(dict(bake(changed).named_parameters())) == names


def test_functional_relus_too() -> None:
    model = load_model("resnet8_fashion").module
    context = Context(loss=lambda m: 0.0, example=torch.rand(1, 1, 28, 28))
    method = Complementary(winners=1.0)
    before = bake(model)
    changed = method.apply(model, method.plan(model, context), 0, context)
    assert sum(isinstance(module, KWinners) for module in changed.modules()) == 7
    for name, weight in method.weights(changed).items():
        before.get_parameter(name).data.copy_(weight)
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(changed.eval()(x), before.eval()(x), atol=1e-6)


def test_without_a_relu_there_is_no_place_for_winners() -> None:
    context = Context(loss=lambda m: 0.0, example=torch.rand(1, 8))
    with pytest.raises(ModelError, match="k-winners go where ReLUs are"):
        Complementary(winners=0.1).apply(nn.Sequential(nn.Linear(8, 4)), {"0.weight": {}}, 0, context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlaid": 1}, "complementary.overlaid must be 2 or more, got 1"),
        ({"choice": "luck"}, "complementary.choice must be trained or random, got 'luck'"),
        ({"winners": 0.0}, r"complementary.winners must be a fraction in \(0, 1\], got 0.0"),
        ({"scope": "all"}, "complementary.scope must be local or global, got 'all'"),
        ({"boost": -1.0}, "complementary.boost must be 0 or more"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Complementary(**settings)
