"""Which layers cost the accuracy: each treated alone, by whichever method."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dovetail.data.noise import noise_like
from dovetail.methods import METHODS, Method, Ttq, Twn
from dovetail.methods.method import Context
from dovetail.methods.output_errors import MEASURES, planned, relative_error
from dovetail.methods.quantize.twn import ternary

PICTURES = torch.randn(16, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False),
        nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3),
    ).eval()  # fmt: skip


def context(inputs: torch.Tensor | None = PICTURES) -> Context:
    return Context(loss=lambda model: 0.0, example=PICTURES[:1], inputs=inputs, original=network())


@pytest.mark.parametrize("method", [m() for m in METHODS.values() if m().separable], ids=lambda method: method.name)
def test_every_method_that_shares_values_says_what_each_layer_costs(method: Method) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    plan = planned(method, model, context())
    drawn = torch.random.get_rng_state()
    assert all(row["output_error"] >= 0 for row in plan.values())
    assert max(row["output_error"] for row in plan.values()) > 0
    measured = {name: {k: v for k, v in row.items() if k not in MEASURES} for name, row in plan.items()}
    torch.manual_seed(1)
    plain = method.plan(model, context())
    assert measured == {name: {k: v for k, v in row.items() if k not in MEASURES} for name, row in plain.items()}
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_it_is_the_error_of_the_outputs_with_that_layer_alone_changed() -> None:
    model = network()
    for inputs, shown in ((PICTURES, PICTURES), (None, noise_like(PICTURES[:1]))):
        plan = planned(Twn(), model, context(inputs))
        assert list(plan) == ["3.weight", "6.weight"]
        for name, row in plan.items():
            trial = copy.deepcopy(model)
            layer = trial.get_submodule(name[0])
            layer.weight.data = ternary(layer.weight.data, Twn().factor)
            with torch.no_grad():
                assert row["output_error"] == pytest.approx(relative_error(trial, shown, model(shown)), rel=1e-5)


def test_networks_that_take_long_are_shown_fewer_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.methods.output_errors.MACS", 1.0)
    one, all_of_them = (planned(Ttq(), network(), context(PICTURES[:count])) for count in (1, 16))
    assert one == all_of_them


def test_what_a_method_has_measured_itself_stays() -> None:
    method = replace(METHODS["ptq"](), activation_bits=None)
    assert planned(method, network(), context()) == method.plan(network(), context())
