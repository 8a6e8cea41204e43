"""ESCALATE's hybrid quantisation: additions, then a few 8-bit kernels."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import ModelError, RecipeError
from dovetail.formats import Product
from dovetail.methods import Escalate, Penni
from dovetail.methods.constraint import constraints, find, layouts
from dovetail.methods.factorize.escalate import HIGHEST, HybridKernels, fitted, ternary
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.methods.method import Context
from dovetail.methods.quantize.uniform import Uniform

X = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))
CONTEXT = Context(loss=lambda model: 0.0, example=X[:1])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.ReLU(),
        nn.Conv2d(12, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip


def hybrid(model: nn.Module, method: Escalate | None = None) -> nn.Module:
    method = method or Escalate()
    return method.apply(model, method.plan(model, CONTEXT), 0, CONTEXT)


def held_by(model: nn.Module, name: str) -> HybridKernels:
    found = find(model, name, HybridKernels)
    assert found is not None
    return found


def test_pairs_of_channels_share_kernels_and_the_rest_has_8_bits() -> None:
    plan = Escalate().plan(network(), CONTEXT)
    assert plan == {
        "0.weight": {"bits": 8}, "2.weight": {"bits": 2, "basis": 5}, "4.weight": {"bits": 2, "basis": 1},
        "6.weight": {"bits": 8}, "9.weight": {"bits": 8},
    }  # fmt: skip
    kinds = {name: type(constraint) for name, constraint in constraints(hybrid(network()))}
    assert [name for name, kind in kinds.items() if kind is Uniform] == ["0.weight", "6.weight", "9.weight"]
    assert Escalate(keep_ends=False).plan(network(), CONTEXT)["0.weight"] == {"bits": 2, "basis": 5}


@pytest.mark.parametrize(("name", "stride"), [("2", 2), ("4", 1)])
def test_additions_and_then_integers_give_the_convolution_to_the_bit(name: str, stride: int) -> None:
    """No multiplication by a scale: inputs are added and subtracted, then convolved with integers, then scaled once."""
    model = hybrid(network())
    held, weight = held_by(model, f"{name}.weight"), model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    symbols, codes = held.symbols().long(), torch.round(held.rounded() / held.steps()[:, None]).long()
    assert set(symbols.unique().tolist()) <= {-1, 0, 1} and int(codes.abs().max()) == HIGHEST
    x = torch.randint(0, 256, (2, weight.shape[1], 9, 9), generator=torch.Generator().manual_seed(2))
    out = torch.zeros(0)
    for m in range(symbols.shape[2]):
        added = torch.einsum("tc,nchw->nthw", symbols[:, :, m].double(), x.double())  # exact: integers below 2^53
        kernel = codes[m].view(1, 1, *held.kernel).expand(len(weight), -1, -1, -1).double()
        convolved = functional.conv2d(added, kernel, stride=stride, groups=len(weight))
        assert torch.equal(convolved, convolved.round())
        term = convolved * held.steps()[m].double()
        out = term if m == 0 else out + term
    expected = functional.conv2d(x.double(), weight.detach().double(), stride=stride)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-3)


def test_the_symbols_are_the_signs_of_what_exceeds_the_threshold() -> None:
    coefficients = torch.tensor([[[4.0, 1.0]], [[-1.0, -1.0]], [[1.0, 1.0]]])
    kept = torch.ones_like(coefficients, dtype=torch.bool)
    assert ternary(coefficients, kept, 0.75).squeeze(1).tolist() == [[1, 1], [0, -1], [0, 1]]
    kept[0, 0, 0] = False
    assert ternary(coefficients, kept, 0.75).squeeze(1).tolist() == [[0, 1], [-1, -1], [1, 1]]


def test_the_basis_is_the_nearest_for_its_symbols() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 5, 3, 3, generator=generator)
    symbols = torch.randint(-1, 2, (6, 5, 4), generator=generator).float()
    symbols[..., 3] = 0  # one that no kernel takes
    basis = fitted(weight, symbols)
    expected = np.linalg.lstsq(symbols.flatten(0, 1).numpy(), weight.flatten(2).flatten(0, 1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(basis.numpy(), expected, atol=1e-5)


def test_gradients_pass_straight_through_to_what_is_left() -> None:
    model = hybrid(network())
    held = held_by(model, "2.weight")
    held.kept[0, 0] = False
    weight = model.get_submodule("2").weight
    assert isinstance(weight, Tensor)
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    weight.backward(gradient)
    flat = gradient.flatten(2)
    of_coefficients = torch.einsum("tck,mk->tcm", flat, held.rounded()) * held.kept
    of_basis = torch.einsum("tcm,tck->mk", held.symbols(), flat)
    torch.testing.assert_close(held.coefficients.grad, of_coefficients, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(held.basis.grad, of_basis, rtol=1e-4, atol=1e-5)
    assert not held.coefficients.grad[0, 0].any()


def test_what_penni_pruned_stays_zero_and_its_basis_is_taken() -> None:
    method, model = Penni(basis=4, threshold=0.5, shrink=False), network()
    plan = method.plan(model, CONTEXT)
    for stage in range(method.stages):
        plan = method.refine(model, plan, stage, CONTEXT)
        model = method.apply(model, plan, stage, CONTEXT)
    before = find(model, "2.weight", SharedKernels)
    assert before is not None and not before.mask.all()
    model = hybrid(model)
    assert find(model, "2.weight", SharedKernels) is None
    held = held_by(model, "2.weight")
    assert len(held.basis) == 4 and torch.equal(held.kept, before.mask)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        model(X).square().sum().backward()
        optimiser.step()
    assert not held.symbols()[~before.mask].any()


def test_the_file_holds_two_bits_a_coefficient_and_eight_a_number_of_the_basis() -> None:
    model = hybrid(network())
    layer = model.get_submodule("2")
    stored = layouts(model)["2.weight"].encode(layer.weight.detach().numpy())
    assert isinstance(stored, Product)
    assert np.array_equal(stored.decode(), layer.weight.detach().numpy())
    coefficients, numbers = 12 * 8 * 5, 5 * 9
    assert stored.coefficients.bits <= 8 * math.ceil(2 * coefficients / 8) + 32  # or fewer without its zeros
    assert stored.basis.bits == 8 * numbers + 5 * 32


def test_says_what_it_needs() -> None:
    with pytest.raises(ModelError, match=r"takes convolutions without groups, and there is none among \['0.weight'\]"):
        Escalate().plan(nn.Sequential(nn.Linear(3, 4)), CONTEXT)
    with pytest.raises(RecipeError, match=r"escalate.basis must be 1 or more, got 0"):
        Escalate(basis=0)
    with pytest.raises(RecipeError, match=r"escalate.threshold must be a number, 0 or more, got -1"):
        Escalate(threshold=-1)
