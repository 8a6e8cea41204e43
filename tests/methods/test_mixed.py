"""Bits of each layer, chosen by measurement."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods import METHODS
from dovetail.methods.method import Context
from dovetail.methods.quantize.mixed import BITS, chosen_bits
from dovetail.methods.quantize.ptq import Ptq
from dovetail.recipe import Recipe, fitting_recipe

IMAGES = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    """The second layer counts for nearly nothing in the outputs, the last for much."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    ).eval()
    with torch.no_grad():
        model[2].weight[1:] *= 1e-3
        model[2].bias[1:] += 1
    return model


def context(inputs: Tensor | None = IMAGES) -> Context:
    return Context(loss=lambda model: 0.0, example=IMAGES[:1], inputs=inputs, original=network())


@pytest.mark.parametrize(("mean_bits", "inputs"), [(2, IMAGES), (4.2, IMAGES), (3.3, None), (8, None)])
def test_the_mean_is_kept_and_used_up(mean_bits: float, inputs: Tensor | None) -> None:
    model = network()
    plan = Ptq(mean_bits=mean_bits, rounding="adaptive").plan(model, context(inputs))
    sizes = {name: model.get_parameter(name).numel() for name in plan}
    mean = sum(row["bits"] * sizes[name] for name, row in plan.items()) / sum(sizes.values())
    assert mean <= mean_bits and (mean > mean_bits - 1.1 or mean_bits == 8)
    assert {row["bits"] for row in plan.values()} <= set(BITS)


def test_a_layer_that_counts_for_little_gets_fewer_bits() -> None:
    plan = Ptq(mean_bits=4).plan(network(), context())
    assert plan["2.weight"]["bits"] < plan["0.weight"]["bits"]


def test_what_is_planned_is_what_is_held() -> None:
    model, method = network(), Ptq(mean_bits=3.5, rounding="adaptive")
    plan = method.plan(model, context())
    held = method.apply(network(), plan, 0, context())
    for name, row in plan.items():
        layer = held.get_submodule(name.removesuffix(".weight"))
        codes = layer.weight.detach().flatten(1) / layer.parametrizations["weight"][0].scale[:, None]
        assert codes.abs().max() < 2 ** (row["bits"] - 1) and torch.allclose(codes, codes.round(), atol=1e-3)


def test_the_best_sum_is_found_with_few_probes_too() -> None:
    """Rounding to a step of 2^-bits: the error measured is the one of the weight, times what the layer counts."""
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    original = [layer.weight.detach().clone() for layer in model]

    def error(network: nn.Module) -> float:
        first, second = (
            (layer.weight.detach() - was).square().sum() for layer, was in zip(network, original, strict=True)
        )
        return float(16 * first + second)

    def on_grid(path: str, weight: Tensor, bits: int) -> Tensor:
        return torch.round(weight * 2**bits) / 2**bits

    for probes in (1, 99):
        found = chosen_bits(model, ["0", "1"], on_grid, error, 5.0, probes)
        assert [found[path].setting for path in "01"] == [6, 4]
    assert all(torch.equal(layer.weight, was) for layer, was in zip(model, original, strict=True))


@pytest.mark.parametrize("mean_bits", [1.9, 8.1])
def test_a_mean_out_of_reach_is_refused_with_the_closest(mean_bits: float) -> None:
    with pytest.raises(RecipeError, match=r"mean_bits must be from 2, the least that can be reached, to 8"):
        Ptq(mean_bits=mean_bits)


def test_a_recipe_takes_a_mean_of_bits() -> None:
    recipe = fitting_recipe("bits", retrained=True).with_bits(3.5)
    assert recipe.steps[0].method == replace(Recipe.load("mixed").steps[0].method, mean_bits=3.5)
    assert recipe.changes == ("--bits", "3.5")
    with pytest.raises(RecipeError, match=r"magnitude takes a budget of bits; the methods that do are .*ptq"):
        Recipe.load("magnitude").with_bits(3.5)
    assert "ptq" in METHODS
