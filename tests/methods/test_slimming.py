"""Network slimming: sparse scales, then the channels that they silence."""

import copy

import pytest
import torch
from torch import nn

from dovetail.errors import ModelError, RecipeError
from dovetail.methods.constraint import constraints
from dovetail.methods.method import Context
from dovetail.methods.prune.slimming import Slimming
from dovetail.networks.resnet_cifar import CifarResNet

PICTURES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(384, 3),
    )  # fmt: skip
    model[1].weight.data = torch.linspace(0.1, 1, 10)
    model[1].bias.data = torch.linspace(-1, 1, 10)
    return model.eval()


def carried_out(method: Slimming, model: nn.Module, inputs: torch.Tensor | None = None) -> nn.Module:
    context = Context(loss=lambda m: 0.0, example=PICTURES[:1], inputs=inputs)
    plan = method.plan(model, context)
    for stage in range(method.stages):
        plan = method.refine(model, plan, stage, context)
        model = method.apply(model, plan, stage, context)
    return model


def test_the_penalty_drives_scales_to_zero() -> None:
    model = network()
    method = Slimming(strength=0.1)
    context = Context(loss=lambda m: 0.0, example=PICTURES[:1])
    method.apply(model, method.plan(model, context), 0, context)
    (held,) = (constraint for _, constraint in constraints(model))
    model.train()(PICTURES)
    assert held.penalty().item() == pytest.approx(0.1 * 5.5)
    held.penalty().backward()
    assert torch.allclose(model[1].parametrizations.weight.original.grad, torch.full((10,), 0.1))
    copy.deepcopy(model)


def test_the_smallest_scales_of_the_whole_network_go() -> None:
    pruned = carried_out(Slimming(sparsity=0.4, reconstruct=False), network())
    assert torch.allclose(pruned[1].weight, torch.linspace(0.1, 1, 10)[4:])
    assert pruned[0].out_channels == pruned[3].in_channels == 6


def test_what_a_silent_channel_gave_is_folded_exactly_without_data() -> None:
    model = network()
    model[1].weight.data[:4] = 0
    expected = model(PICTURES)
    pruned = carried_out(Slimming(sparsity=0.4), model)
    assert pruned[0].out_channels == 6
    assert torch.allclose(pruned(PICTURES), expected, atol=1e-5)


def test_rounds_reach_the_same_sparsity() -> None:
    pruned = carried_out(Slimming(sparsity=0.4, rounds=2), network(), PICTURES)
    assert pruned[0].out_channels == 6 and not list(constraints(pruned))


def test_coupled_channels_go_together_and_none_is_emptied() -> None:
    torch.manual_seed(0)
    model = CifarResNet(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.1, 1)
    model.layer1[0].bn1.weight.data.mul_(0.001)  # the whole layer falls below the threshold
    pruned = carried_out(Slimming(sparsity=0.5, least=2), model.eval())
    assert pruned.get_submodule("layer1.0.conv1").out_channels == 2
    assert pruned(PICTURES).shape == (8, 10)


def test_bad_input() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.Flatten(), nn.Linear(384, 3))
    with pytest.raises(ModelError, match=r"have a batch normalisation.*take the method channels"):
        carried_out(Slimming(), plain.eval())
    with pytest.raises(RecipeError, match=r"slimming.sparsity must be a fraction in \(0, 1\), got 1.0"):
        Slimming(sparsity=1.0)
