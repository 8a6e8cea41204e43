"""Depth: which branches there are, that removing one leaves the rest alone, and which go."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import ModelError, RecipeError
from dovetail.methods import Depth
from dovetail.methods.budget import Budget
from dovetail.methods.graph import symbolic
from dovetail.methods.method import Context
from dovetail.methods.prune.depth import branches, without
from dovetail.networks import load_model
from dovetail.runtime import EngineSession, export_onnx, freeze
from dovetail.workload import trace

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Two convolutions and a way around them, narrowed like ResNet-50's where it must be."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if (inputs, stride) != (outputs, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return functional.relu(y + self.down(x))


class Residual(nn.Module):
    """Five blocks, the third of which ends in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 8), Block(8, 16, 2), Block(16, 16), Block(16, 16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        return self.fc(self.blocks(x).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


class Encoder(nn.Module):
    """A layer of a transformer, normalised before each of its two sums, after a table of positions is added."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 6, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.narrow(self.wide(self.norm2(x)).relu())


def context(model: nn.Module, loss: Callable[[nn.Module], float] | None = None) -> Context:
    return Context(loss=loss or (lambda model: 0.0), probe=loss, example=IMAGES[:1], original=copy.deepcopy(model))


def distance(target: nn.Module) -> Callable[[nn.Module], float]:
    """The loss that is the squared error of a network's answers."""
    with torch.no_grad():
        wanted = target(IMAGES)
        return lambda model: float((model.eval()(IMAGES) - wanted).detach().square().sum())


def removed(method: Depth, model: nn.Module, context: Context) -> list[str]:
    return [name for name, row in method.plan(model, context).items() if row["setting"] == "removed"]


def short_of(model: nn.Module, *numbers: int) -> nn.Module:
    """Written by hand: without these blocks, which keep the shape."""
    model.blocks = nn.Sequential(*(block for number, block in enumerate(model.blocks) if number not in numbers))
    return model


class TestBranches:
    def test_are_called_by_their_first_layer(self) -> None:
        found = branches(symbolic(network()), IMAGES)
        assert list(found) == [f"blocks.{number}.conv1" for number in range(5)]

    def test_of_two_terms_the_smaller_stays(self) -> None:
        whole = symbolic(network())
        left = dict(without(whole, [branches(whole, IMAGES)["blocks.2.conv1"]]).named_modules())
        assert "blocks.2.down" in left and "blocks.2.conv1" not in left and "blocks.2.conv2" not in left

    @pytest.mark.parametrize("name", ["resnet20", "resnet56"])
    def test_of_option_a_are_all_blocks(self, name: str) -> None:
        """Also of those whose shortcut is sliced and padded."""
        model = load_model(name).module.eval()
        found = branches(symbolic(model), torch.zeros(1, 3, 32, 32))
        assert list(found) == [path for path, _ in model.named_modules() if path.endswith("conv1") and "." in path]

    def test_of_a_transformer_are_attention_and_the_layers_after_it(self) -> None:
        """The table of positions is no shortcut: without what it is added to the network would not read its input."""
        assert list(branches(symbolic(Encoder().eval()), torch.randn(1, 6, 8))) == ["attention", "wide"]

    def test_where_there_is_none(self) -> None:
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        with pytest.raises(ModelError, match="none that it could take"):
            Depth().plan(plain, context(plain))


class TestRemoval:
    @pytest.mark.parametrize("numbers", [(0,), (1,), (0, 1), (3, 4), (0, 1, 3, 4)])
    def test_is_what_leaving_the_blocks_out_is(self, numbers: tuple[int, ...]) -> None:
        whole = symbolic(network())
        found = branches(whole, IMAGES)
        rest = without(whole, [found[f"blocks.{number}.conv1"] for number in numbers])
        expected = short_of(network(), *numbers)
        assert torch.equal(rest(IMAGES), expected(IMAGES))
        assert trace(rest, IMAGES[:1]).macs == trace(expected, IMAGES[:1]).macs
        operations = [[o.kind for o in trace(each, IMAGES[:1]).operations] for each in (rest, expected)]
        assert operations[0] == operations[1]  # among others no ReLU after another

    def test_leaves_what_else_reads_the_shortcut_alone(self) -> None:
        """The sum was a value of its own; what is written into it must not reach the shortcut's other readers."""

        class Reused(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                x = self.first(x)
                y = functional.relu(x + self.branch(x), inplace=True)
                return y - x

        model, x = Reused(), torch.randn(5, 4)
        whole = symbolic(model)
        rest = without(whole, branches(whole, x).values())
        kept = model.first(x)
        assert torch.equal(rest(x), kept.relu() - kept)

    def test_of_an_onnx_file_runs_in_the_engine(self, tmp_path: Path) -> None:
        file = tmp_path / "network.onnx"
        export_onnx(freeze(network(), IMAGES), file)
        model = load_model(str(file)).module
        method = Depth(budget=Budget(macs=0.6))
        case = context(model, distance(model))
        found = method.apply(model, method.plan(model, case), 0, case)
        assert trace(found, IMAGES[:1]).macs <= 0.6 * trace(network(), IMAGES[:1]).macs
        with torch.no_grad():
            expected = found(IMAGES).numpy()
        np.testing.assert_allclose(EngineSession(freeze(found, IMAGES))(IMAGES.numpy()), expected, atol=1e-4)


class TestPlan:
    @pytest.mark.parametrize("quantity", ["macs", "params"])
    @pytest.mark.parametrize("fraction", [0.9, 0.7, 0.4])
    def test_meets_the_budget_and_says_what_goes(self, quantity: str, fraction: float) -> None:
        model = network()
        case = context(model, distance(network()))
        method = Depth(budget=Budget(**{quantity: fraction}))
        plan = method.plan(model, case)
        after = method.apply(network(), plan, 0, case)
        sizes = [
            trace(each, IMAGES[:1]).macs if quantity == "macs" else sum(p.numel() for p in each.parameters())
            for each in (model, after)
        ]
        assert sizes[1] <= fraction * sizes[0]
        assert sizes[0] - sizes[1] == sum(before - left for before, left in (row[quantity] for row in plan.values()))
        whole = symbolic(model)
        for name, row in plan.items():
            alone = distance(model)(without(whole, [branches(whole, IMAGES)[name]]))
            assert ("loss_rise" in row) == (row["setting"] == "removed")
            assert row.get("loss_rise", alone) == pytest.approx(alone, rel=1e-4)

    def test_what_loses_nothing_goes_first(self) -> None:
        model = network()
        nn.init.zeros_(model.blocks[3].bn2.weight)
        nn.init.zeros_(model.blocks[3].bn2.bias)
        assert removed(Depth(budget=Budget(macs=0.9)), model, context(model, distance(model))) == ["blocks.3.conv1"]

    def test_without_data_the_least_weights_go(self) -> None:
        model = network()
        for layer in (model.blocks[1].conv1, model.blocks[1].conv2):
            layer.weight.data.mul_(0.01)
        assert removed(Depth(budget=Budget(macs=0.9)), model, context(model)) == ["blocks.1.conv1"]

    def test_takes_only_what_matches(self) -> None:
        model = network()
        method = Depth(budget=Budget(macs=0.9), layers=("blocks.4.*",))
        assert list(method.plan(model, context(model, distance(model)))) == ["blocks.4.conv1"]

    def test_a_budget_out_of_reach_is_refused(self) -> None:
        model = network()
        with pytest.raises(RecipeError, match=r"macs = 0\.01 cannot be met: 0\.\d+ is what is left"):
            Depth(budget=Budget(macs=0.01)).plan(model, context(model))

    def test_latencies_that_vary_end_with_all_that_can_go(self) -> None:
        """The network was fast enough when the budget was checked, and never again."""
        model, seconds = network(), iter((1.0, 0.1))
        case = replace(context(model, distance(model)), latency=lambda model, example: next(seconds, 1.0))
        found = removed(Depth(budget=Budget(latency=0.5)), model, case)
        assert found == [f"blocks.{number}.conv1" for number in range(5)]
