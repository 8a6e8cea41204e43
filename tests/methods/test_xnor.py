"""XNOR-Net: the map K of the input's magnitudes, and the packed product times K and alpha."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.methods.constraint import bake
from dovetail.methods.method import Context
from dovetail.methods.quantize.binary_input import SignedInput
from dovetail.methods.quantize.packed import conv2d
from dovetail.methods.quantize.quantizer import input_quantizers, quantize_input
from dovetail.methods.quantize.xnor import ScaledInput, Xnor, patch_means
from dovetail.runtime import Session, freeze

X = torch.randn(8, 6, 9, 10, generator=torch.Generator().manual_seed(1))
GEOMETRIES = [
    {"kernel_size": 3, "padding": 1}, {"kernel_size": 1}, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (2, 0)},
    {"kernel_size": 3, "dilation": 2, "padding": 2, "stride": 2}, {"kernel_size": 3, "padding": "same"},
]  # fmt: skip


def context(inputs: torch.Tensor = X) -> Context:
    return Context(loss=lambda model: 0.0, example=inputs[:1], inputs=inputs)


def binarised(model: nn.Module, inputs: torch.Tensor = X, **settings: object) -> nn.Module:
    method = Xnor(keep_ends=False, **settings)
    there = context(inputs)
    return method.apply(model, method.plan(model, there), 0, there).eval()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_k_is_the_mean_magnitude_of_each_output_s_patch(geometry: dict, groups: int) -> None:
    layer = nn.Conv2d(6, 4, groups=groups, **geometry)
    layer.weight.data.fill_(1 / layer.weight[0].numel())
    layer.bias.data.zero_()
    expected = layer(X.abs())
    assert torch.allclose(patch_means(layer, X.abs()).expand_as(expected), expected, atol=1e-6)


def test_k_is_the_paper_s_box_filter_of_the_channels_mean() -> None:
    layer = nn.Conv2d(6, 4, 3, padding=1)
    box = torch.full((1, 1, 3, 3), 1 / 9)
    expected = nn.functional.conv2d(X.abs().mean(1, keepdim=True), box, padding=1)
    assert torch.allclose(patch_means(layer, X.abs()), expected)


def test_k_of_a_linear_layer_is_the_mean_magnitude_of_its_input() -> None:
    x = torch.randn(3, 5, 7)
    assert torch.equal(patch_means(nn.Linear(7, 2), x.abs()), x.abs().mean(2, keepdim=True))


@pytest.mark.parametrize("geometry", GEOMETRIES[:4])
@pytest.mark.parametrize("input_scale", [True, False])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_packed_product_times_k_and_alpha_is_the_layer(geometry: dict, input_scale: bool, shift: float) -> None:
    """Threshold, signs, xor and popcount, the scales, and at last the bias: as an engine does it, in this order."""
    torch.manual_seed(0)
    x = X + shift  # with 5 there are no negative inputs, and so there is a threshold
    layer = nn.Conv2d(6, 4, **geometry)
    model = binarised(nn.Sequential(layer), x, input_scale=input_scale)
    quantizer, weight = input_quantizers(model)["0"], model[0].weight.detach()
    assert (float(quantizer.threshold) > 4) == (shift > 0)
    alpha = weight.abs().mean((1, 2, 3)).view(-1, 1, 1)
    away = x - quantizer.threshold
    products = torch.from_numpy(conv2d(away.numpy(), weight.numpy(), layer.stride, layer.padding, layer.dilation))
    scale = patch_means(layer, away.abs()) if input_scale else 1
    with torch.no_grad():
        expected = model(x)
        found = products * alpha * scale + layer.bias.view(-1, 1, 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_k_has_no_gradient_of_its_own() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 3)
    remembered = binarised(nn.Sequential(layer))
    x = (X * 2).requires_grad_()
    upstream = torch.randn(8, 4, 7, 8)
    remembered(x).backward(upstream)
    quantizer = input_quantizers(remembered)["0"]
    scale = patch_means(layer, (x.detach() - quantizer.threshold).abs())
    through = nn.functional.conv_transpose2d(upstream * scale, layer.weight.detach())
    assert torch.allclose(x.grad, through * ((x.detach() - quantizer.threshold).abs() <= 1), atol=1e-5)


class TestTheInputThatIsRemembered:
    def test_is_let_go_when_the_layer_is_done(self) -> None:
        model = binarised(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)))
        model.train()(X.requires_grad_())
        assert all(quantizer.read is None for quantizer in input_quantizers(model).values())
        copies = copy.deepcopy(model).eval(), bake(model).eval()
        for other in copies:
            assert torch.equal(other(X), model.eval()(X))

    def test_another_quantizer_in_its_place_has_no_scale(self) -> None:
        model = binarised(nn.Sequential(nn.Conv2d(6, 4, 3)))
        quantize_input(model, "0", SignedInput(torch.tensor(0.0)))
        plain = binarised(nn.Sequential(nn.Conv2d(6, 4, 3)), input_scale=False)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model(X), plain(X))

    def test_is_not_shared_by_two_calls_of_one_layer(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(6, 6, 3, padding=1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.conv(torch.tanh(self.conv(x)))

        model = binarised(Twice())
        assert torch.equal(model(X), model.conv(torch.tanh(model.conv(X))))


def test_the_file_computes_the_same_for_any_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2),
                          nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(448, 5))  # fmt: skip
    model = binarised(model)
    assert isinstance(input_quantizers(model)["3"], ScaledInput)
    artefact = freeze(model, X[:2])
    assert artefact.tensors["3.weight"].describe() == "dense > binary(axis 0)"
    with torch.no_grad():
        assert np.allclose(Session(artefact)(X.numpy()), model(X).numpy(), atol=1e-4)
