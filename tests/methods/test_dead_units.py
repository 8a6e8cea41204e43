"""Weights without a path from input to output: they are found on any graph, and leaving them out changes nothing."""

import torch
from torch import Tensor, nn

from dovetail.methods.prune.dead_units import live
from dovetail.networks import load_model


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight != 0 for name, weight in model.named_parameters() if weight.ndim > 1}


def test_units_without_an_input_or_an_output_go_with_all_their_edges() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    model[0].weight.data[1] = 0  # unit 1 hears nothing
    model[2].weight.data[:, 3] = 0  # nobody hears unit 3
    found = live(model, masks_of(model), torch.rand(1, 4))
    assert found["0.weight"].any(1).tolist() == [True, False, True, False, True]
    assert found["2.weight"].any(0).tolist() == [True, False, True, False, True]
    assert int(found["0.weight"].sum()) == 12 and int(found["2.weight"].sum()) == 9


def test_a_unit_that_gives_a_constant_keeps_its_outputs() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].weight.data[1] = 0
    found = live(model, masks_of(model), torch.rand(1, 4))
    assert found["2.weight"].all()


class Concatenated(nn.Module):
    """A residual sum, a concatenation, a slice and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.c, self.norm = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = nn.functional.max_pool2d(torch.cat([a, a + self.b(a)], 1), 2)
        return self.linear(self.norm(self.c(b))[:, :4].clamp(0, 6).amax((2, 3)))


def test_any_graph() -> None:
    torch.manual_seed(0)
    model = Concatenated().eval()
    model.c.weight.data[:, 1] = 0  # channel 1 of a still goes through the sum
    found = live(model, masks_of(model), torch.rand(1, 3, 8, 8))
    assert found["a.weight"].all() and found["linear.weight"].all()
    assert not found["c.weight"][4:].any(), "outputs 4 and 5 are sliced away"
    assert found["b.weight"].all()
    model.c.weight.data[:, 5] = 0  # now nobody hears it
    found = live(model, masks_of(model), torch.rand(1, 3, 8, 8))
    assert found["a.weight"].all(), "channel 1 still enters channel 0 of the grouped convolution"
    model.b.weight.data[:, 1] = 0
    found = live(model, masks_of(model), torch.rand(1, 3, 8, 8))
    assert found["a.weight"].flatten(1).any(1).tolist() == [True, False, True, True]


def test_a_very_sparse_residual_network_computes_the_same() -> None:
    torch.manual_seed(0)
    model = load_model("resnet8_fashion").module
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data *= torch.rand_like(weight) < (0.002 if "layer2" in name else 0.05)
    masks = masks_of(model)
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before = model(x)
        found = live(model, masks, x)
        for name, weight in model.named_parameters():
            if name in found:
                weight.mul_(found[name])
        assert torch.allclose(model(x), before, atol=1e-5)
    assert sum(int(m.sum()) for m in found.values()) < sum(int(m.sum()) for m in masks.values())


def test_where_the_search_goes_wrong_nothing_is_removed() -> None:
    class Differences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(-self.linear(x))

    model = Differences()
    model.linear.bias.data.fill_(-5)
    masks = masks_of(model)
    assert live(model, masks, torch.rand(1, 4)) == masks
