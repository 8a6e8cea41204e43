import copy

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ModelError
from dovetail.methods.constraint import bake, constrain, layouts
from dovetail.methods.quantize.quantizer import (
    input_quantizers,
    output_quantizers,
    quantize_input,
    quantize_output,
    sign,
    straight_through,
)
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Session, freeze


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)).eval()


X = torch.randn(5, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def test_straight_through_gives_the_value_exactly_and_passes_gradients_where_it_should() -> None:
    x, scale = torch.tensor([0.3, -2.0, 0.1], requires_grad=True), torch.tensor(0.7, requires_grad=True)
    value = straight_through(x, scale * sign(x.detach()), x.detach().abs() <= 1)
    assert torch.equal(value, scale * torch.tensor([1.0, -1.0, 1.0]))
    value.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(x.grad, torch.tensor([1.0, 0.0, 3.0])) and scale.grad == 1 - 2 + 3


def test_the_sign_of_zero_is_one() -> None:
    assert torch.equal(sign(torch.tensor([-0.0, 0.0, -1e-9])), torch.tensor([1.0, 1.0, -1.0]))


class TestTheTwoCopyRule:
    def test_small_steps_of_the_latent_weight_add_up(self) -> None:
        """On a quadratic: the quantised weight reaches the grid point nearest to the minimum, in steps far below it."""
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(0.0)
        constrain(layer, "weight", Uniform(4, torch.tensor(0.25)))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
        for _ in range(300):
            loss = (layer.weight - 0.9).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert layer.weight.item() in (0.75, 1.0)


class TestUniform:
    @pytest.mark.parametrize("bits", range(2, 9))
    @pytest.mark.parametrize("scales", [1, 3])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_values_are_stored_exactly(self, bits: int, scales: int, symmetric: bool) -> None:
        weight = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(bits))
        zero = None if symmetric else torch.arange(scales)
        quantizer = Uniform(bits, torch.linspace(0.1, 0.5, scales), zero)
        values = quantizer(weight).numpy()
        stored = quantizer.encoder()(values)
        assert np.array_equal(stored.decode(), values)
        assert len(np.unique(values[0])) <= 2**bits
        assert stored.bits_by_part["values"] == 60 * bits

    def test_rounds_ties_to_even_saturates_and_passes_gradients_inside(self) -> None:
        x = torch.tensor([0.5, 1.5, -9.0, 2.4], requires_grad=True)
        quantizer = Uniform(3, torch.tensor(1.0))
        y = quantizer(x)
        assert torch.equal(y, torch.tensor([0.0, 2.0, -3.0, 2.0])) and torch.equal(quantizer.codes(x), y)
        y.sum().backward()
        assert torch.equal(x.grad, torch.tensor([1.0, 1.0, 0.0, 1.0]))

    def test_a_channel_of_zeros_stays_zero(self) -> None:
        quantizer = Uniform(8, torch.tensor([0.0, 1.0]))
        assert torch.equal(quantizer(torch.tensor([[0.0], [2.0]])), torch.tensor([[0.0], [2.0]]))


class TestInputs:
    def test_a_layer_reads_its_input_through_the_quantizer(self) -> None:
        model, plain = network(), network()
        quantizer = Uniform(4, torch.tensor(0.3), torch.tensor(7))
        quantize_input(model, "0", quantizer)
        assert torch.equal(model(X), plain(quantizer(X)))
        assert input_quantizers(model) == {"0": quantizer}

    def test_a_second_one_takes_the_place_of_the_first(self) -> None:
        model = network()
        quantize_input(model, "4", Uniform(2, torch.tensor(1.0)))
        second = Uniform(8, torch.tensor(0.1))
        quantize_input(model, "4", second)
        assert input_quantizers(model) == {"4": second} and len(model[4]._forward_pre_hooks) == 1

    def test_copies_and_baking_keep_it(self) -> None:
        model = network()
        quantize_input(model, "0", Uniform(4, torch.tensor(0.3)))
        constrain(model, "0.weight", Uniform(4, torch.full((4,), 0.05)))
        expected = model(X)
        assert torch.equal(copy.deepcopy(model)(X), expected) and torch.equal(bake(model)(X), expected)

    def test_the_file_computes_the_same_and_stores_the_codes(self) -> None:
        model = network()
        for path, scale in (("0", 0.05), ("4", 0.02)):
            quantize_input(model, path, Uniform(8, torch.tensor(0.03)))
            rows = len(model.get_submodule(path).weight)
            constrain(model, f"{path}.weight", Uniform(4, torch.full((rows,), scale)))
        artefact = freeze(model, X[:1], layouts=layouts(model))
        assert artefact.tensors["0.weight"].describe() == "dense > affine(4, axis 0)"
        assert artefact.activations == {"0": {"bits": 8}, "4": {"bits": 8}}
        with torch.no_grad():
            assert np.allclose(Session(artefact)(X.numpy()), model(X).numpy(), atol=1e-5)

    def test_a_part_of_that_name_is_not_overwritten(self) -> None:
        model = network()
        model[0].add_module("input_quantizer", nn.Identity())
        with pytest.raises(ModelError, match="input_quantizer of its own"):
            quantize_input(model, "0", Uniform(4, torch.tensor(0.3)))


class TestOutputs:
    def test_all_readers_see_the_output_through_the_quantizer(self) -> None:
        model, plain = network(), network()
        quantizer = Uniform(4, torch.tensor(0.1))
        quantize_output(model, "4", Uniform(2, torch.tensor(1.0)))
        quantize_output(model, "4", quantizer)
        assert torch.equal(model(X), quantizer(plain(X)))
        assert output_quantizers(model) == {"4": quantizer} and input_quantizers(model) == {}

    def test_a_batch_normalisation_keeps_its_quantizers_when_it_is_folded(self) -> None:
        model = network()
        quantize_input(model, "1", Uniform(8, torch.tensor(0.02)))
        quantize_output(model, "1", Uniform(3, torch.tensor(0.5)))
        with torch.no_grad():
            assert np.allclose(Session(freeze(model, X[:1]))(X.numpy()), model(X).numpy(), atol=1e-4)
