"""Block convolution: which pixels change, what borders become, and that blocks can be run one after the other."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import ModelError, RecipeError
from dovetail.methods.factorize.block_convolution import BlockConv2d, BlockConvolution, accepts, buffer_size, fused
from dovetail.methods.method import Context
from dovetail.networks import load_model
from dovetail.runtime import Session, freeze
from dovetail.workload.trace import trace


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """With these every sum of products is exact, in whatever order it is taken."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


def convolution(channels: int, outputs: int, kernel: int = 3, stride: int = 1, **others: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2 * others.get("dilation", 1), **others)
    layer.weight.data.copy_(whole_numbers(*layer.weight.shape, seed=1))
    layer.bias.data.copy_(whole_numbers(outputs, seed=2))
    return layer


def isolated(layer: nn.Conv2d, block: Tensor, border: str) -> Tensor:
    """The convolution of a block that was cut out of its map."""
    p = layer.padding[0]
    padded = functional.pad(block, (p, p, p, p), mode="constant" if border == "zeros" else border)
    return functional.conv2d(padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(6, 17),
    width=st.integers(6, 17),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    border=st.sampled_from(["zeros", "replicate", "reflect"]),
)
def test_every_block_is_the_convolution_of_that_block_alone(
    height: int, width: int, grid: tuple[int, int], kernel: int, stride: int, border: str
) -> None:
    layer, x = convolution(2, 3, kernel, stride), whole_numbers(2, 2, height, width)
    blocked = BlockConv2d.of(layer, grid, border)
    if grid == (1, 1):
        border = "zeros"  # a map that stays whole keeps its own padding
    b_h, b_w = blocked.block(height, width)
    last = min((height - 1) % b_h, (width - 1) % b_w) + 1
    missing = [-height % b_h, -width % b_w]
    if border == "reflect" and (last <= kernel // 2 or any(0 < lack < kernel // 2 for lack in missing)):
        return  # the method leaves such layers whole
    y = blocked(x)
    assert y.shape == layer(x).shape
    for top, left in itertools.product(range(0, height, b_h), range(0, width, b_w)):
        expected = isolated(layer, x[:, :, top : top + b_h, left : left + b_w], border)
        found = y[:, :, top // stride :, left // stride :][:, :, : expected.shape[2], : expected.shape[3]]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dilation", [1, 2])
def test_only_pixels_that_look_over_a_border_differ_from_the_ordinary_convolution(dilation: int) -> None:
    layer, x = convolution(3, 4, dilation=dilation), whole_numbers(1, 3, 12, 12)
    same = (BlockConv2d.of(layer, (2, 2), "zeros")(x) == layer(x)).all(1)[0]
    near = torch.zeros(12, dtype=torch.bool)
    near[6 - dilation : 6 + dilation] = True
    inside = ~(near[:, None] | near[None, :])
    assert same[inside].all() and not same[~inside].any()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 0), (5, 1, 1), (5, 2, 0), (3, 1, 1)])
def test_a_layer_that_pads_less_has_the_same_outputs_away_from_the_borders(
    kernel: int, stride: int, padding: int
) -> None:
    layer, x = convolution(2, 3, kernel, stride), whole_numbers(1, 2, 16, 16)
    layer.padding = (padding, padding)
    y, expected = BlockConv2d.of(layer, (2, 2), "zeros")(x), layer(x)
    assert y.shape == expected.shape
    reach, middle = kernel // 2, (torch.arange(y.shape[2]) * stride + kernel // 2 - padding)
    inside = (middle + reach < 8) | (middle - reach >= 8)
    assert torch.equal(y[:, :, inside][..., inside], expected[:, :, inside][..., inside])
    assert not torch.equal(y, expected)


def test_one_block_is_the_ordinary_convolution() -> None:
    layer, x = convolution(3, 4), whole_numbers(2, 3, 9, 9)
    assert torch.equal(BlockConv2d.of(layer, (1, 1), "zeros")(x), layer(x))


def test_groups_and_depthwise_are_kept() -> None:
    layer, x = convolution(4, 4, groups=4), whole_numbers(1, 4, 8, 8)
    y = BlockConv2d.of(layer, (2, 2), "zeros")(x)
    assert torch.equal(y[:, :, :4, :4], isolated(layer, x[:, :, :4, :4], "zeros"))


def stack(stride: int = 1) -> list[nn.Module]:
    layers = [
        convolution(3, 8),
        nn.ReLU(),
        convolution(8, 8),
        nn.MaxPool2d(2),
        nn.ReLU(),
        convolution(8, 16, 3, stride),
    ]
    return [BlockConv2d.of(layer, (2, 2), "zeros") if isinstance(layer, nn.Conv2d) else layer for layer in layers]


@pytest.mark.parametrize("stride", [1, 2])
def test_fused_execution_gives_the_same_bits_with_the_buffer_of_the_formula(stride: int) -> None:
    layers, x = stack(stride), whole_numbers(1, 3, 16, 16)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(x)
        found = fused(layers, x)
    assert torch.equal(found.output, expected)
    assert found.peak_buffer == buffer_size(layers, x) == 8 * 8 * 16  # the second layer: 8 channels in, 8 out


def test_fused_execution_refuses_blocks_that_do_not_line_up() -> None:
    layers = stack()
    with pytest.raises(ModelError, match="do not line up"):
        fused(layers, whole_numbers(1, 3, 10, 10))  # blocks of 5 do not pool
    layers[2] = BlockConv2d.of(convolution(8, 8), (4, 4), "zeros")
    with pytest.raises(ModelError, match="one grid"):
        fused(layers, whole_numbers(1, 3, 16, 16))


def test_takes_windows_around_a_pixel() -> None:
    assert accepts(nn.Conv2d(1, 1, 3, padding=1)) and accepts(nn.Conv2d(1, 1, 7, 2, 3))
    assert accepts(nn.Conv2d(1, 1, 5, padding="same"))
    assert accepts(nn.Conv2d(1, 1, 3)) and not accepts(nn.Conv2d(1, 1, 3, 2)) and not accepts(nn.Conv2d(1, 1, 3, 1, 2))
    assert not accepts(nn.Conv2d(1, 1, 1)) and not accepts(nn.Conv2d(1, 1, 2))


def context(example: Tensor) -> Context:
    return Context(loss=lambda model: 0.0, example=example)


def resnet() -> nn.Module:
    return load_model("resnet8_fashion").module


EXAMPLE = torch.zeros(1, 1, 28, 28)


def test_a_fixed_size_leaves_small_maps_whole_and_a_fixed_number_does_not() -> None:
    by_size = BlockConvolution(size=14).plan(resnet(), context(EXAMPLE))
    assert "layer1.0.conv1" in by_size and "layer3.0.conv2" not in by_size
    by_number = BlockConvolution(blocks=2).plan(resnet(), context(EXAMPLE))
    assert set(by_number) == {path for path, module in resnet().named_modules() if isinstance(module, nn.Conv2d)}
    assert by_number["conv1"] | {"loss": 0} == {
        "blocks": [2, 2], "block": [14, 14], "padding": "zeros", "buffer": [17 * 28 * 28, 17 * 14 * 14], "loss": 0
    }  # fmt: skip
    assert by_number["layer3.0.conv1"]["block"] == [8, 8]  # of 14, with a stride of 2


def test_the_network_keeps_its_parameters_and_its_multiplications() -> None:
    model = resnet()
    names, before = list(model.state_dict()), trace(model, EXAMPLE).macs
    method = BlockConvolution()
    model = method.apply(model, method.plan(model, context(EXAMPLE)), 0, context(EXAMPLE))
    assert list(model.state_dict()) == names
    assert before <= trace(model, EXAMPLE).macs <= 1.2 * before  # blocks of 8 cover 7 pixels


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
def test_is_exported(padding: str) -> None:
    model = resnet()
    method = BlockConvolution(padding=padding)
    model = method.apply(model, method.plan(model, context(EXAMPLE)), 0, context(EXAMPLE))
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    artefact = freeze(model, x)
    with torch.no_grad():
        assert Session(artefact)(x.numpy()) == pytest.approx(model(x).numpy(), abs=1e-3)


def test_batch_statistics_are_estimated_anew() -> None:
    inputs = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = resnet()
    method = BlockConvolution()
    untouched = copy.deepcopy(model)
    full = Context(loss=lambda model: 0.0, example=EXAMPLE, inputs=inputs)
    blocked = method.apply(model, method.plan(model, full), 0, full)
    with torch.no_grad():
        y = blocked.conv1(inputs)
    assert torch.allclose(blocked.bn1.running_mean, y.mean((0, 2, 3)), atol=1e-5)
    assert not torch.allclose(blocked.bn1.running_mean, untouched.bn1.running_mean, atol=1e-3)


def test_bad_configurations() -> None:
    with pytest.raises(RecipeError, match=r"block_convolution\.blocks must be 2 or more, got 1"):
        BlockConvolution(blocks=1)
    with pytest.raises(RecipeError, match="left out where blocks is given"):
        BlockConvolution(blocks=2, size=28)
    with pytest.raises(RecipeError, match="one of zeros, replicate, reflect"):
        BlockConvolution(padding="mirror")
    with pytest.raises(ModelError, match="give a smaller size"):
        BlockConvolution(size=64).plan(resnet(), context(EXAMPLE))
