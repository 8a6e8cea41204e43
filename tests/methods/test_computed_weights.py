"""Networks whose weights torch computes from others, by hooks or by parametrisations of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from dovetail.compression import preview
from dovetail.data import load_dataset
from dovetail.methods import METHODS, Magnitude
from dovetail.methods.constraint import bake, constraints, to_compress
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import Session, freeze

Norm = Callable[[nn.Module], nn.Module]
NORMS = {
    "hook of weight norm": weight_norm,
    "hook of spectral norm": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
}
PICTURES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


@pytest.fixture(params=NORMS.values(), ids=NORMS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    norm: Norm = request.param
    model = nn.Sequential(
        norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), norm(nn.Conv2d(16, 16, 3, padding=1)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    model(PICTURES)  # in training: the hooks' weights hang on a graph now, and spectral norms have moved
    return model


def test_they_are_parameters_of_the_copy_that_is_compressed(network: nn.Module) -> None:
    copied = to_compress(network)
    torch.testing.assert_close(copied(PICTURES), network.eval()(PICTURES))
    assert set(dict(copied.named_parameters())) == {f"{i}.{part}" for i in (0, 2, 6) for part in ("weight", "bias")}


def test_the_network_itself_is_left_as_it_was(network: nn.Module) -> None:
    network.eval()
    before, state = network(PICTURES), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    to_compress(network)
    assert torch.equal(network(PICTURES), before)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", ["channels", "svd", "penni", "magnitude", "ptq", "weight_sharing"])
def test_methods_take_them(network: nn.Module, name: str) -> None:
    recipe = Recipe(name=name, steps=(RecipeStep(method=METHODS[name]()),))
    found = preview(network, load_dataset("noise", (3, 16, 16)), recipe)
    ((_, plan),) = found.steps
    assert any(key.startswith(("0", "2")) for key in plan)
    assert torch.isfinite(bake(found.model)(PICTURES)).all()


def test_artefacts_hold_them(network: nn.Module) -> None:
    wanted = network.eval()(PICTURES).detach()
    answered = torch.from_numpy(Session(freeze(network, PICTURES))(PICTURES.numpy()))
    torch.testing.assert_close(answered, wanted, rtol=1e-4, atol=1e-5)


def test_what_other_methods_have_put_on_a_network_stays() -> None:
    recipe = Recipe(name="pruned", steps=(RecipeStep(method=Magnitude()),))
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4))
    pruned = preview(model, load_dataset("noise", (3, 16, 16)), recipe).model
    assert [name for name, _ in constraints(to_compress(pruned))] == ["1.weight", "3.weight"]
