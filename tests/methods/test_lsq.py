"""Learned step sizes: the paper's gradients, the grids, starting values, storage."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import DataError, RecipeError
from dovetail.methods.constraint import bake, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.lsq import LearnedStep, Lsq
from dovetail.methods.quantize.quantizer import input_quantizers
from dovetail.methods.quantize.reading import magnitudes_read
from dovetail.runtime import Session, freeze

X = torch.randn(12, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(150, 3)
    ).eval()


def context(inputs: torch.Tensor | None = X) -> Context:
    return Context(loss=lambda model: 0.0, example=X[:1], inputs=inputs, original=network())


def learned(model: nn.Module, **settings: object) -> nn.Module:
    method = Lsq(**settings)
    return method.apply(model, method.plan(model, context()), 0, context())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("weight", [True, False])
def test_gradients_are_those_of_the_paper(bits: int, signed: bool, weight: bool) -> None:
    """Equations 1 to 3 and 5, and the gradient scale of section 2.2, written out."""
    generator = torch.Generator().manual_seed(bits)
    v = (3 * torch.randn(7, 5, 2, generator=generator)).requires_grad_()
    upstream = torch.randn(7, 5, 2, generator=generator)
    quantizer = LearnedStep(bits, torch.tensor(0.37), signed=signed, weight=weight)
    (quantizer(v) * upstream).sum().backward()

    s, x = np.float32(0.37), v.detach().numpy()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    inside = (low < x / s) & (x / s < high)
    by_step = np.where(inside, np.rint(x / s) - x / s, np.where(x / s <= low, low, high))
    scale = 1 / math.sqrt((x.size if weight else x[0].size) * high)
    assert np.array_equal(quantizer(v).detach().numpy(), np.rint(np.clip(x / s, low, high)) * s)
    assert np.allclose(v.grad.numpy(), upstream.numpy() * inside, rtol=1e-6)
    assert quantizer.step.grad.item() == pytest.approx(scale * float((by_step * upstream.numpy()).sum()), rel=1e-4)


def test_steps_start_where_the_paper_starts_them() -> None:
    model = learned(network(), weight_bits=3, activation_bits=2)
    weight, held = network()[3].weight.detach(), find(model, "3.weight", LearnedStep)
    assert held.step.item() == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(3), rel=1e-5)
    read = network()[:3](X).detach()
    (grid,) = input_quantizers(model).values()
    assert grid.step.item() == pytest.approx(2 * float(read.abs().mean()) / math.sqrt(3), rel=1e-5)
    assert not grid.signed and grid.highest == 3


def test_inputs_below_zero_get_a_signed_grid() -> None:
    model = learned(network(), layers=("0", "3"), keep_ends=False)
    assert {path: grid.signed for path, grid in input_quantizers(model).items()} == {"0": True, "3": False}


def test_first_and_last_stay_as_they_are_if_asked() -> None:
    assert set(layouts(learned(network()))) == {"3.weight"}
    assert set(layouts(learned(network(), keep_ends=False))) == {"0.weight", "3.weight", "6.weight"}


def test_inputs_stay_as_they_are_with_32_bits_and_need_no_images() -> None:
    method = Lsq(activation_bits=32)
    model = method.apply(network(), method.plan(network(), context(None)), 0, context(None))
    assert not input_quantizers(model) and set(layouts(model)) == {"3.weight"}


def test_training_the_steps_lowers_the_error_of_the_responses() -> None:
    model, original = learned(network(), weight_bits=2, activation_bits=2, keep_ends=False), network()
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if name.endswith("step")], lr=0.005)
    with torch.no_grad():
        wanted = original(X)
    errors = []
    for _ in range(30):
        error = (model(X) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-5:]) < 0.8 * errors[0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_values_are_stored_exactly(bits: int) -> None:
    model = learned(network(), weight_bits=bits, keep_ends=False)
    effective = dict(bake(model).named_parameters())
    for name, layout in layouts(model).items():
        stored = layout.encode(effective[name].detach().numpy())
        assert np.array_equal(stored.decode(), effective[name].detach().numpy())
        assert len(effective[name].unique()) <= 2**bits


def test_a_step_below_zero_is_taken_by_its_size() -> None:
    weight, quantizer = torch.randn(5, 4), LearnedStep(4, torch.tensor(0.2), signed=True, weight=True)
    before = quantizer(weight)
    quantizer.step.data.neg_()
    assert torch.equal(quantizer(weight), before)
    assert np.array_equal(quantizer.encoder()(before.detach().numpy()).decode(), before.detach().numpy())


def test_constant_layers_and_a_single_image_are_no_trouble() -> None:
    model = network()
    model[3].weight.data.zero_()
    method = Lsq(keep_ends=False)
    one = context(X[:1])
    model = method.apply(model, method.plan(model, one), 0, one)
    assert torch.isfinite(model(X)).all() and not bake(model)[3].weight.any()


def test_the_file_computes_the_same() -> None:
    model = learned(network(), weight_bits=4, activation_bits=4, keep_ends=False)
    artefact = freeze(model, X[:1], layouts=layouts(model))
    assert "affine(4)" in artefact.tensors["3.weight"].describe()
    with torch.no_grad():
        assert np.allclose(Session(artefact)(X.numpy()), model(X).numpy(), atol=1e-4)


def test_images_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"lsq measures on images .*activation_bits = 32"):
        Lsq().plan(network(), context(None))
    broken = X.clone()
    broken[3, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="layer '3' reads NaN or infinity"):
        Lsq().plan(network(), context(broken))


def test_looking_leaves_no_trace() -> None:
    model = network().train()
    model[1].eval()
    running = model[1].running_mean.clone()
    found = magnitudes_read(model, ["3", "6"], X)
    assert not found["3"].signed and found["3"].magnitude > 0
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model[0].training and not model[1].training and torch.equal(model[1].running_mean, running)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 1}, "lsq.weight_bits must be from 2 to 8, got 1"),
        ({"activation_bits": 16}, "lsq.activation_bits must be from 2 to 8, or 32 for real numbers, got 16"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Lsq(**settings)
