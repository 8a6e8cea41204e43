"""Folding of batch normalisations and cross-layer equalisation: the same function, weights of like ranges."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Mask
from dovetail.methods.quantize.equalization import balance, equalize, pairs
from dovetail.methods.quantize.fold_norms import Statistics, fold, foldable, normalizing
from dovetail.methods.quantize.weight_sharing import WeightSharing

X = torch.randn(6, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 4),
    )  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight, 1, 0.5)
        nn.init.normal_(norm.bias, 1, 2)
        nn.init.uniform_(norm.running_var, 0.01, 9)
        nn.init.normal_(norm.running_mean)
    return model.eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.c(torch.relu(self.b(y)) + y)


def same(a: nn.Module, b: nn.Module, x: Tensor = X) -> bool:
    with torch.no_grad():
        return torch.allclose(a(x), b(x), rtol=1e-3, atol=1e-4 * float(b(x).abs().max()))


def folded(model: nn.Module) -> dict[str, Statistics]:
    return {path: fold(model, path, norm) for path, norm in foldable(model, ["0", "3", "6", "10"]).items()}


class TestFolding:
    def test_keeps_the_function_and_the_paths(self) -> None:
        model, untouched = network(), network()
        known = folded(model)
        assert sorted(known) == ["0", "3"] and known["0"].norm == "1"
        assert isinstance(model[1], nn.Identity) and len(model) == len(untouched) and same(model, untouched)
        assert torch.equal(known["3"].mean, untouched[4].bias)

    def test_under_a_mask_but_not_under_a_table(self) -> None:
        model = network()
        constrain(model, "0.weight", Mask(model[0].weight > 0))
        shared = WeightSharing(layers=("3",))
        context = Context(loss=lambda m: 0.0, example=X[:1])
        shared.apply(model, shared.plan(model, context), 0, context)
        untouched = copy.deepcopy(model)
        assert list(folded(model)) == ["0"] and same(model, untouched)
        assert torch.equal(model[0].weight == 0, untouched[0].weight == 0)

    def test_not_where_a_weight_has_two_users(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
        model[2].weight = model[0].weight
        assert foldable(model.eval(), ["0", "2"]) == {}

    def test_normalizing_gives_each_channel_its_mean_and_deviation(self) -> None:
        model = network()
        known = folded(model)
        noise = torch.randn(64, 3, 10, 10)
        before = model(noise)
        with normalizing(model, list(known.values())):
            y = model[:2](noise)
        assert torch.allclose(y.mean((0, 2, 3)), known["0"].mean, atol=1e-3)
        assert torch.allclose(y.std((0, 2, 3)), known["0"].deviation, rtol=1e-2)
        assert isinstance(model[1], nn.Identity) and torch.equal(model(noise), before)


class TestPairs:
    def test_are_found_through_what_commutes_with_factors(self) -> None:
        model = network()
        folded(model)
        found = pairs(model, ["0", "3", "6", "10"])
        assert [(p.first, p.second, p.repeat, p.absorbs) for p in found] == [
            ("0", "3", 1, False), ("3", "6", 1, True), ("6", "10", 16, False),
        ]  # fmt: skip

    def test_not_across_sums_nor_normalisations_nor_layers_left_out(self) -> None:
        assert pairs(Residual(), ["a", "b", "c"]) == []
        assert [pair.first for pair in pairs(network(), ["0", "3", "6", "10"])] == ["6"]
        assert pairs(network(), ["6"]) == []
        assert pairs(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 3)), ["0", "2"]) == []

    def test_none_where_the_graph_cannot_be_read(self) -> None:
        class Branching(Residual):
            def forward(self, x: Tensor) -> Tensor:
                return self.a(x) if x.sum() > 0 else self.b(x)

        assert pairs(Branching(), ["a", "b"]) == [] and foldable(Branching(), ["a", "b"]) == {}


class TestEqualizing:
    def test_keeps_the_function_and_makes_ranges_alike(self) -> None:
        model = network()
        folded(model)
        model[6].weight.data.mul_(torch.logspace(-2, 2, 6)[:, None, None, None])
        model[6].bias.data.mul_(torch.logspace(-2, 2, 6))
        untouched = copy.deepcopy(model)
        equalize(model, pairs(model, ["0", "3", "6", "10"]), {})
        assert same(model, untouched)
        first = model[6].weight.abs().flatten(1).amax(1)
        second = model[10].weight.abs().view(4, 6, 16).amax((0, 2))
        assert torch.allclose(first, second, rtol=1e-2)

    def test_what_is_known_of_outputs_is_scaled_with_them(self) -> None:
        model = network()
        known = folded(model)
        before = model[:5](X)
        now = equalize(model, pairs(model, ["0", "3"]), known)
        factors = now["0"].deviation / known["0"].deviation
        assert torch.allclose(now["0"].mean, known["0"].mean * factors, rtol=1e-4)
        assert torch.allclose(model[:5](X), before, rtol=1e-3, atol=1e-3)

    def test_high_biases_are_absorbed_exactly_where_the_relu_is_never_off(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
        nn.init.constant_(model[1].bias, 20.0)
        untouched = copy.deepcopy(model)
        known = {"0": fold(model, "0", "1")}
        now = equalize(model, pairs(model, ["0", "3"]), known)["0"]
        assert (now.mean < 4 * now.deviation).all() and same(model, untouched)

    def test_dead_channels_are_left_alone(self) -> None:
        assert balance(torch.tensor([0.0, 4.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])).tolist() == [1, 2, 1]

    def test_zeros_stay_zeros_under_a_mask_and_tables_are_not_touched(self) -> None:
        model = network()
        folded(model)
        constrain(model, "6.weight", Mask(model[6].weight > 0))
        untouched = copy.deepcopy(model)
        equalize(model, pairs(model, ["6", "10"]), {})
        assert same(model, untouched) and not torch.equal(model[10].weight, untouched[10].weight)
        assert torch.equal(model[6].weight == 0, untouched[6].weight == 0)

        model = network()
        shared = WeightSharing(layers=("10",))
        context = Context(loss=lambda m: 0.0, example=X[:1])
        shared.apply(model, shared.plan(model, context), 0, context)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        equalize(model, pairs(model, ["6", "10"]), {})
        assert all(torch.allclose(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_by_what_the_first_layer_answers(self) -> None:
        model = network()
        folded(model)
        untouched, answers = copy.deepcopy(model), torch.logspace(-1, 2, 6)
        (pair,) = pairs(model, ["6", "10"])
        equalize(model, [pair], {}, {"6": answers})
        factors = untouched[6].bias / model[6].bias
        second = model[10].weight.abs().view(4, 6, 16).amax((0, 2))
        assert torch.allclose(answers / factors, second, rtol=1e-2) and same(model, untouched)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_convolutions_of_other_dimensions(kind: type[nn.Conv1d]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(3, 4, 1), nn.ReLU(), kind(4, 2, 1))
    untouched = copy.deepcopy(model)
    x = torch.randn(2, 3, *[5] * (1 if kind is nn.Conv1d else 3))
    equalize(model, pairs(model, ["0", "2"]), {})
    assert same(model, untouched, x) and not torch.equal(model[0].weight, untouched[0].weight)
