"""Deep Compression's trained quantisation: k-means, its initialisations, the summed gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods.constraint import find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.kmeans import initial_centroids, kmeans, nearest
from dovetail.methods.quantize.weight_sharing import SharedValues, WeightSharing

ANY = Context(loss=lambda model: 0.0, example=torch.zeros(1))


def shared(model: nn.Module, **settings: object) -> SharedValues:
    method = WeightSharing(**settings)
    plan = method.plan(model, ANY)
    for stage in range(method.stages):
        method.apply(model, plan, stage, ANY)
    held = find(model, "weight", SharedValues)
    assert held is not None
    return held


def test_kmeans_agrees_with_scikit_learn() -> None:
    values = np.random.default_rng(0).standard_normal(3000)
    start = initial_centroids(values, 15, "linear")
    theirs = KMeans(15, init=start[:, None], n_init=1, max_iter=300, tol=0).fit(values[:, None])
    assert np.allclose(kmeans(values, start), np.sort(theirs.cluster_centers_[:, 0]), atol=1e-6)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), st.integers(1, 16))
def test_kmeans_never_does_worse_than_its_start(values: list[float], count: int) -> None:
    array = np.array(values)
    start = initial_centroids(array, count, "linear")
    found = kmeans(array, start)
    error = lambda centroids: float(np.square(array - centroids[nearest(array, centroids)]).sum())  # noqa: E731
    assert error(found) <= error(start) + 1e-9 * (1 + error(start))
    assert np.all(np.diff(found) >= 0)


def test_gradients_are_summed_per_shared_value() -> None:
    """Deep Compression, eq. 3."""
    model = nn.Linear(30, 20, bias=False)
    held = shared(model, bits=3)
    upstream = torch.randn(20, 30)
    (model.weight * upstream).sum().backward()
    by_hand = torch.stack([upstream[held.assignment == k + 1].sum() for k in range(7)])
    assert torch.allclose(held.values.grad, by_hand, atol=1e-5)


def test_has_at_most_two_to_the_bits_values_and_zeros_stay() -> None:
    model = nn.Linear(64, 64, bias=False)
    model.weight.data[model.weight.abs() < 0.08] = 0
    zero = model.weight == 0
    shared(model, bits=3)
    assert len(model.weight.unique()) <= 8
    assert torch.equal(model.weight == 0, zero)


def test_bits_go_one_by_one() -> None:
    method = WeightSharing(bits=3, from_bits=5)
    assert method.plan(nn.Linear(4, 4), ANY)["weight"]["bits"] == [5, 4, 3]


def test_an_empty_layer_is_guarded() -> None:
    model = nn.Linear(5, 5, bias=False)
    model.weight.data.zero_()
    shared(model, bits=2)
    assert not model.weight.any()
    assert layouts(model)["weight"].encode(model.weight.detach().numpy()).decode().shape == (5, 5)


def test_linear_initialisation_keeps_the_rare_large_weights() -> None:
    """Deep Compression, section 3.2: the reason it gives for linear initialisation."""
    weights = np.concatenate([0.05 * np.random.default_rng(0).standard_normal(5000), [1.0, -1.0]])
    worst = {
        start: np.abs(weights - (c := kmeans(weights, initial_centroids(weights, 7, start)))[nearest(weights, c)]).max()
        for start in ("linear", "density")
    }
    assert worst["linear"] < 0.2 < worst["density"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "weight_sharing.bits must be from 1 to 8, got 0"),
        ({"bits": 9}, "weight_sharing.bits must be from 1 to 8, got 9"),
        ({"bits": 4, "from_bits": 3}, r"weight_sharing.from_bits must be from 4 \(bits\) to 8, got 3"),
        ({"initialisation": "best"}, "weight_sharing.initialisation must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        WeightSharing(**settings)
