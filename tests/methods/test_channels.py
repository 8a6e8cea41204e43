"""Removing channels from real graphs: a network without them equals one in which nothing reads them."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.channel_networks import EXAMPLES, Exotic, Grouped, Shuffle, Transformer, randomised
from torch import Tensor, fx, nn

from dovetail.errors import ModelError
from dovetail.methods.budget import Budget
from dovetail.methods.channels import dependencies, mask, remove
from dovetail.methods.channels.channels import Channels
from dovetail.methods.channels.removal import example_removal
from dovetail.methods.method import Context
from dovetail.networks import NETWORKS
from dovetail.networks.resnet_cifar import CifarResNet
from dovetail.runtime import freeze
from dovetail.workload import read_onnx


def check(model: nn.Module, shape: tuple[int, ...], fraction: float = 0.4, seed: int = 0) -> nn.Module:
    """Remove random units and compare with the masked network; returns what is left."""
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    masked = copy.deepcopy(model)
    found = dependencies(model, x[:1])
    removed = example_removal(found, fraction, seed)
    assert removed
    mask(dependencies(masked, x[:1]), removed)
    before, names = sum(p.numel() for p in model.parameters()), set(model.state_dict())
    pruned = remove(found, removed)
    with torch.no_grad():
        expected, given = masked(x), pruned(x)
    assert torch.allclose(expected, given, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert sum(p.numel() for p in pruned.parameters()) < before
    assert set(pruned.state_dict()) == names
    return pruned


def exported(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The network after a round trip through ONNX."""
    program = torch.onnx.export(model, (torch.zeros(1, *shape),), dynamo=True, verbose=False, optimize=True)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    return read_onnx(program.model_proto)


@pytest.mark.parametrize("name, size, own", [
    ("resnet20", 32, False), ("resnet18", 64, True), ("resnet50", 64, True), ("mobilenet_v2", 64, True),
    ("vgg16_cifar", 32, True), ("alexnet", 227, True), ("lenet5", 28, True), ("lenet_300_100", 28, True),
])  # fmt: skip
def test_reference_networks(name: str, size: int, own: bool) -> None:
    network = NETWORKS[name]
    model = randomised(network.build())
    pruned = check(model, (network.input_shape[0], size, size))
    assert (type(pruned) is type(model)) == own  # the option-A shortcut is rewritten


@pytest.mark.parametrize("build", EXAMPLES)
def test_tied_channels(build: type[nn.Module]) -> None:
    pruned = check(randomised(build()), build.input_shape, 0.5)
    check(pruned, build.input_shape, 0.3, seed=1)  # and again, in what is left


@pytest.mark.parametrize("build", (Exotic, Shuffle, Grouped, Transformer))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.floats(0.1, 0.9))
def test_any_removal(build: type[nn.Module], seed: int, fraction: float) -> None:
    check(randomised(build(), seed), build.input_shape, fraction, seed)


class Random(nn.Module):
    """A chain of random joints between convolutions: sums, products, concatenations, gates, slices, pads."""

    def __init__(self, joints: list[str], widths: list[int]) -> None:
        super().__init__()
        self.joints = joints
        self.layers, self.sides = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for joint, width in zip(joints, widths, strict=True):
            self.layers.append(nn.Conv2d(channels, width, 3, padding=1))
            self.sides.append(nn.Conv2d(channels, width, 1))
            channels = {"concatenate": 2 * width, "pad": width + 3, "slice": width - 1, "parts": width}.get(
                joint, width
            )
        self.last = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        for joint, layer, side in zip(self.joints, self.layers, self.sides, strict=True):
            y, z = torch.tanh(layer(x)), side(x)
            if joint == "add":
                x = y + z
            elif joint == "gate":
                x = y * torch.sigmoid(z.mean((2, 3), keepdim=True))
            elif joint == "concatenate":
                x = torch.cat([y, z], 1)
            elif joint == "pad":
                x = F.pad(y, (0, 0, 0, 0, 1, 2)) + F.pad(z, (0, 0, 0, 0, 3, 0))
            elif joint == "slice":
                x = y[:, 1:] - z[:, :-1]
            else:
                first, second = y.split([2, y.shape[1] - 2], 1)
                x = torch.cat([second, first.flip(1)], 1) + z
        return self.last(x.mean((2, 3)))


@settings(max_examples=40, deadline=None)
@given(
    joints=st.lists(st.sampled_from(["add", "gate", "concatenate", "pad", "slice", "parts"]), min_size=1, max_size=4),
    widths=st.lists(st.integers(4, 9), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_random_graphs(joints: list[str], widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(joints, widths[: len(joints)])
    found = dependencies(model, torch.zeros(1, 3, 5, 5))
    if example_removal(found, 0.5):
        check(model, (3, 5, 5), 0.5, seed)


def test_zero_at_the_producers_is_the_same_as_gone() -> None:
    """Scale and shift of a removed channel's normalisations set to zero: only what comes out of them changes."""
    model = randomised(CifarResNet(1))
    x = torch.randn(2, 3, 16, 16)
    found = dependencies(model, x[:1])
    removed = example_removal(found, 0.5)
    silent = copy.deepcopy(model)
    for name, units in removed.items():
        for (path, role), members in found.groups[name].members.items():
            if role == "follow":
                for unit in units:
                    silent.get_submodule(path).weight.data[members[unit]] = 0
                    silent.get_submodule(path).bias.data[members[unit]] = 0
    assert torch.allclose(remove(found, removed)(x), silent(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of torch's exporter
@pytest.mark.parametrize("build", (lambda: CifarResNet(1), Shuffle, Exotic, Grouped, *EXAMPLES[:2]))
def test_onnx_models(build: type[nn.Module]) -> None:
    model = randomised(build())
    shape = getattr(build, "input_shape", (3, 32, 32))
    check(exported(model, shape), shape, 0.5)


@pytest.mark.parametrize("build", (lambda: CifarResNet(1), Transformer, Exotic))
def test_what_is_left_can_be_frozen(build: type[nn.Module]) -> None:
    shape = getattr(build, "input_shape", (3, 16, 16))
    model = randomised(build())
    found = dependencies(model, torch.randn(1, *shape))
    pruned = remove(found, example_removal(found, 0.5))
    assert freeze(pruned, torch.randn(1, *shape)).tensors


def test_attention_with_all_its_heads_is_torchs() -> None:
    model = randomised(Transformer())
    x = torch.randn(3, 5, 6)
    expected = model(x)
    found = dependencies(model, x[:1])
    assert found.groups["attention"].size == 4
    pruned = check(model, (5, 6))
    assert expected.shape == pruned(x).shape and isinstance(pruned, Transformer)
    assert pruned.attention.num_heads == 2 or pruned.attention.num_heads == 3


def test_a_grouped_layer_may_be_left_with_one_input_a_group() -> None:
    pruned = check(randomised(Grouped()), Grouped.input_shape, 0.75)
    check(pruned, Grouped.input_shape, 0.5)
    layer = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 16, 2, 2, groups=8), nn.Conv2d(16, 2, 1))
    check(layer, (3, 4, 4), 0.5)


def test_a_second_removal_finds_the_same_groups() -> None:
    model = randomised(CifarResNet(1))
    groups = list(dependencies(model, torch.randn(1, 3, 16, 16)).groups)
    pruned = check(model, (3, 16, 16), 0.25)
    again = dependencies(pruned, torch.randn(1, 3, 16, 16))
    assert list(again.groups) == groups and all(group.size > 1 for group in again.groups.values())
    check(pruned, (3, 16, 16), 0.25, seed=1)


def test_groups_can_be_read() -> None:
    found = dependencies(CifarResNet(1), torch.zeros(1, 3, 16, 16))
    text = str(found)
    assert "layer1.0.conv1: 16 units, from layer1.0.conv1, through layer1.0.bn1, to layer1.0.conv2" in text
    assert "linear: 10 channels stay: it is an output of the network" in text
    assert found.groups["layer2.0.conv2"].size == 16  # the other 16 are tied to the stage before
    assert found.groups["conv1"].producers == ["conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(torch.cumsum(self.a(x), 1)))


def test_what_is_not_understood_is_frozen_and_says_why() -> None:
    found = dependencies(Unknown(), torch.zeros(1, 3, 8, 8))
    assert list(found.groups) == ["b"]
    (reason,) = found.frozen["a"]
    assert "no rule for cumsum()" in reason
    check(Unknown(), (3, 8, 8), 0.5)


def test_the_network_is_left_alone_by_looking() -> None:
    model = CifarResNet(1).train()
    before = copy.deepcopy(model.state_dict())
    dependencies(model, torch.randn(1, 3, 16, 16))
    assert model.training and all(
        torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )


def test_bad_input() -> None:
    found = dependencies(CifarResNet(1), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ModelError, match=r"all 16 units of layer1.0.conv1 would go"):
        remove(found, {"layer1.0.conv1": range(16)})
    with pytest.raises(ModelError, match="no group of channels 'nowhere'"):
        remove(found, {"nowhere": [0]})
    with pytest.raises(ModelError, match="does not run on input of shape"):
        dependencies(CifarResNet(1), torch.zeros(1, 5, 16, 16))


def test_a_rewritten_graph_is_a_module_like_any_other() -> None:
    model = randomised(CifarResNet(1))
    found = dependencies(model, torch.randn(1, 3, 16, 16))
    pruned = remove(found, example_removal(found, 0.5))
    assert isinstance(pruned, fx.GraphModule)
    again = copy.deepcopy(pruned)
    again.load_state_dict(pruned.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), pruned(x))


def test_what_is_left_of_a_group_is_a_multiple() -> None:
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 32, 3), nn.ReLU(), nn.Conv2d(32, 5, 1)).eval()
    context = Context(loss=lambda _: 0.0, example=torch.zeros(1, 3, 9, 9))
    plan = Channels(budget=Budget(macs=0.15), multiple=8).plan(model, context)
    assert {row["kept"][-1] % 8 for row in plan.values() if row["kept"][-1] < row["units"]} == {0}
