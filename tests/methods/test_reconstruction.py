"""Response sampling, layer-wise repair and batch statistics, against what they should compute."""

import copy

import torch
from torch import nn

from dovetail.methods.layers import called, macs, replace, stack
from dovetail.methods.reconstruction import reestimate_norms, refit, regress
from dovetail.methods.responses import outputs, patches

IMAGES = torch.randn(40, 3, 10, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, (3, 1), padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 5),
    ).eval()


def test_patches_times_the_weight_are_the_outputs() -> None:
    model = network()
    for path in ("0", "3", "6"):
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        seen, answered = patches(model, path, IMAGES), outputs(model, [path], IMAGES)[path]
        expected = seen @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(expected, answered, atol=1e-5, rtol=1e-5)


def test_two_networks_are_sampled_at_the_same_positions() -> None:
    model, other = network(), network()
    other[0].weight.data.mul_(2)
    other[0].bias.data.mul_(2)
    torch.testing.assert_close(outputs(other, ["0"], IMAGES)["0"], 2 * outputs(model, ["0"], IMAGES)["0"])


def test_regression_finds_the_map_and_keeps_what_it_cannot_see() -> None:
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(2))
    x[:, 5] = x[:, 4]
    true, start = torch.randn(3, 6), torch.randn(3, 6)
    weight, bias = regress(x, x @ true.T + 7, start, 1e-9)
    torch.testing.assert_close(x @ weight.T + bias, x @ true.T + 7, atol=1e-4, rtol=1e-4)
    # Along the direction in which the inputs never vary, the start is kept.
    torch.testing.assert_close(weight[:, 4] - weight[:, 5], start[:, 4] - start[:, 5], atol=1e-3, rtol=1e-3)


def test_refitting_repairs_a_damaged_layer() -> None:
    original, model = network(), network()
    model[3].weight.data.add_(0.3 * torch.randn(model[3].weight.shape))
    refit(model, original, "3", "3", IMAGES)
    torch.testing.assert_close(model(IMAGES), original(IMAGES), atol=2e-2, rtol=2e-2)


def test_statistics_are_those_of_the_inputs() -> None:
    model = network()
    reestimate_norms(model, IMAGES)
    seen = model[0](IMAGES)
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model[1].running_var, seen.var((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert model[1].momentum == 0.1 and not model.training


def test_layers_are_found_with_their_shapes_and_replaced_whole() -> None:
    model = network()
    calls = called(model, IMAGES[:1], lambda layer: isinstance(layer, nn.Conv2d))
    assert {path: (call.input_shape, call.output_shape) for path, call in calls.items()} == {
        "0": ((1, 3, 10, 8), (1, 8, 5, 4)),
        "3": ((1, 8, 5, 4), (1, 6, 5, 4)),
    }
    assert macs(calls["3"].layer, calls["3"].input_shape) == 6 * 8 * 3 * 5 * 4
    before = model(IMAGES)
    identity = nn.Conv2d(6, 6, 1, bias=False)
    identity.weight.data.copy_(torch.eye(6)[:, :, None, None])
    replace(model, "3", stack({"same": copy.deepcopy(model[3]), "identity": identity}))
    torch.testing.assert_close(model(IMAGES), before)
    again = called(model, IMAGES[:1], lambda layer: isinstance(layer, nn.Conv2d))
    assert list(again) == ["0"], "the factors of a layer are not decomposed again"


class PaddedByItself(nn.Conv2d):
    """As in networks that came from TensorFlow."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


def test_a_layer_with_a_forward_pass_of_its_own_is_left_alone() -> None:
    model = nn.Sequential(PaddedByItself(1, 2, 2), nn.Conv2d(2, 2, 1))
    assert list(called(model, torch.zeros(1, 1, 4, 4), lambda layer: isinstance(layer, nn.Conv2d))) == ["1"]
