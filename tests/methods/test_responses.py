"""Convolution as a matrix product at sampled positions, and values in the midst of a graph."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.compression import compress
from dovetail.data import load_dataset
from dovetail.methods import METHODS, watching
from dovetail.methods.budget import Budget
from dovetail.methods.graph import symbolic
from dovetail.methods.junctions import affine, computing, inverted, junctions, norm_after, responses
from dovetail.methods.responses import outputs, patches, values
from dovetail.recipe import Recipe, RecipeStep
from dovetail.workload import trace


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, tuple[int, int]]:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    same = draw(st.booleans())
    stride = (1, 1) if same else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = "same" if same else draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    layer = nn.Conv2d(
        draw(st.integers(1, 4)), draw(st.integers(1, 5)), kernel, stride, padding, dilation,
        bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip
    return layer, (draw(st.integers(7, 12)), draw(st.integers(7, 12)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=200, deadline=None)
@given(convolutions(), st.integers(0, 9))
def test_patches_times_the_weight_are_the_convolution(case: tuple[nn.Conv2d, tuple[int, int]], seed: int) -> None:
    layer, size = case
    inputs = torch.randn(3, layer.in_channels, *size, generator=torch.Generator().manual_seed(seed))
    model = nn.Sequential(layer)
    seen = patches(model, "0", inputs, positions=7, seed=seed)
    found = seen @ layer.weight.detach().flatten(1).T + (0 if layer.bias is None else layer.bias.detach())
    torch.testing.assert_close(found, outputs(model, ["0"], inputs, positions=7, seed=seed)["0"], atol=1e-5, rtol=1e-5)


def test_one_tap_alone_comes_from_its_own_column() -> None:
    layer = nn.Conv2d(3, 1, (2, 3), bias=False)
    for column in range(18):
        layer.weight.data.zero_().view(-1)[column] = 1
        inputs = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(column))
        model = nn.Sequential(layer)
        assert torch.equal(patches(model, "0", inputs)[:, column], outputs(model, ["0"], inputs)["0"][:, 0])


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6)])
def test_patches_of_a_linear_layer_are_its_inputs(shape: tuple[int, ...]) -> None:
    model, inputs = nn.Sequential(nn.Linear(6, 3)), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = model[0](patches(model, "0", inputs))
    torch.testing.assert_close(found, outputs(model, ["0"], inputs)["0"])


def test_positions_do_not_depend_on_how_many_inputs_go_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 1)).eval()
    inputs = torch.randn(30, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    found = []
    for batch in (7, 30):
        monkeypatch.setattr(watching, "BATCH", batch)
        found.append(
            [patches(model, "2", inputs, positions=5), *outputs(model, ["0", "2"], inputs, positions=5).values()]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert len(found[0][0].unique(dim=0)) > 100  # 30 x 5, few of them by chance the same


def test_of_few_images_all_positions_are_taken_of_many_ten_each() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    few = torch.randn(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = model(few).detach().flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.equal(outputs(model, ["0"], few)["0"], expected)
    assert len(outputs(model, ["0"], few.repeat(400, 1, 1, 1))["0"]) == 1200 * 10


class Residual(nn.Module):
    """Every kind of junction, written with values that are changed in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.third = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fourth, self.twice = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu_()
        y = self.second(x)
        y += x
        y = torch.relu_(y)
        z = self.third(y) + y
        z = self.twice(self.twice(z))
        result: Tensor = self.fourth(z).sigmoid()
        return result


def test_junctions_tell_norm_sum_and_relu() -> None:
    found = junctions(symbolic(Residual()))
    assert (found["first"].norm, found["first"].relu) == ("norm", True)
    assert found["first"].own == found["first"].last == "norm"
    assert found["second"].relu and found["second"].own == "second" and found["second"].last != "second"
    assert not found["third"].relu and found["third"].last != "third"
    assert not found["fourth"].relu and found["fourth"].own == found["fourth"].last
    assert "twice" not in found


def test_values_in_the_midst_are_taken_before_they_are_overwritten() -> None:
    model, inputs = Residual().eval(), torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    network = symbolic(model)
    part = computing(network, ["second", junctions(network)["second"].last])
    own, last = values(part, [model.second, model.second], inputs)
    assert torch.equal(own, outputs(model, ["second"], inputs)["second"])
    shortcut = outputs(nn.Sequential(model.first, model.norm, nn.ReLU()), ["2"], inputs)["2"]
    torch.testing.assert_close(last, own + shortcut)


class ChannelsLast(nn.Module):
    """Linear layers over (N, H, W, C), as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wide = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 48)
        self.narrow, self.out = nn.Linear(48, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = self.narrow(self.wide(x).relu()) + x
        result: Tensor = self.out(x.mean((1, 2)))
        return result


def test_linear_layers_over_a_picture_have_their_channels_last() -> None:
    model, inputs = ChannelsLast().eval(), torch.randn(5, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    for path in ("wide", "narrow", "out"):
        layer = model.get_submodule(path)
        found = patches(model, path, inputs, positions=7) @ layer.weight.T + layer.bias
        torch.testing.assert_close(found, outputs(model, [path], inputs, positions=7)[path])
    own = responses(model, ["narrow"], inputs)["narrow"]
    assert torch.equal(own.own, outputs(model, ["narrow"], inputs)["narrow"]) and own.offset.any()


@pytest.mark.parametrize("name", ["channels", "lasso", "svd", "nonlinear"])
def test_methods_fit_linear_layers_over_a_picture(name: str) -> None:
    model, dataset = ChannelsLast().eval(), replace(load_dataset("noise", (3, 12, 16)), synthetic=False)
    step = RecipeStep(method=METHODS[name](budget=Budget(macs=0.7)))
    found = compress(model, dataset, Recipe(name="x", steps=(step,))).model
    assert trace(found, dataset.example()).macs <= 0.7 * trace(model, dataset.example()).macs
    x = dataset.example()
    assert (found(x) - model(x)).norm() < 0.9 * model(x).norm()


def test_affine_is_the_batch_normalisation() -> None:
    model = Residual().eval()
    scale, shift = norm_after(model, "first")
    y = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    expected = scale[:, None, None] * y + shift[:, None, None]
    torch.testing.assert_close(model.norm(y).double(), expected, atol=1e-6, rtol=1e-5)
    assert norm_after(model, "second")[0].eq(1).all()
    bare_scale, bare_shift = affine(nn.BatchNorm2d(4, affine=False))
    torch.testing.assert_close(bare_scale, torch.full((4,), (1 + 1e-5) ** -0.5).double(), rtol=1e-6, atol=0)
    assert bare_shift.eq(0).all()
    assert inverted(torch.tensor([2.0, 0.0, -0.5])).tolist() == [0.5, 0.0, -2.0]
