"""Layers that share their weight: no method makes the network larger by giving each a weight of its own."""

import pytest
import torch
from torch import Tensor, nn

from dovetail.compression import compress
from dovetail.data import load_dataset
from dovetail.errors import DovetailError
from dovetail.methods import METHODS
from dovetail.methods.constraint import bake
from dovetail.methods.method import tied
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import freeze

STRUCTURAL = [name for name, method in METHODS.items() if method.kind in ("shrink", "rebuild", "prune")]


class Tied(nn.Module):
    """Two of three convolutions have one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.c.weight = self.b.weight
        self.d, self.out = nn.Conv2d(16, 16, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        result: Tensor = self.out(self.d(self.c(x).relu()).relu().mean((2, 3)))
        return result


def test_who_shares() -> None:
    model = Tied()
    assert tied(model) == {"b", "c"}
    nn.utils.parametrizations.spectral_norm(model.d)
    model.out.bias = model.a.bias
    assert tied(model) == {"a", "b", "c", "out"}


@pytest.mark.parametrize("name", ["ptq", "dynamic_fixed_point", "twn", "bwn", "admm", "weight_sharing"])
def test_what_is_shared_is_stored_once(name: str) -> None:
    model, dataset = Tied().eval(), load_dataset("noise", (1, 12, 12))
    recipe = Recipe(name=name, steps=(RecipeStep(method=METHODS[name]()),))
    found = bake(compress(model, dataset, recipe).model)
    assert found.b.weight is found.c.weight
    before, after = (freeze(network, dataset.example()) for network in (model, found))
    assert len(after.tensors) == len(before.tensors)


@pytest.mark.parametrize("name", STRUCTURAL)
def test_what_is_shared_is_left_alone(name: str) -> None:
    model, dataset = Tied().eval(), load_dataset("noise", (1, 12, 12))
    try:
        recipe = Recipe(name=name, steps=(RecipeStep(method=METHODS[name]()),))
        found = compress(model, dataset, recipe).model
    except DovetailError as error:
        assert str(error)
        return
    before, after = (freeze(network, dataset.example()).to_bytes() for network in (model, found))
    assert len(after) < 1.1 * len(before)
    assert torch.equal(found.b.weight, model.b.weight) and torch.equal(found.c.weight, model.b.weight)
