"""Binarized Neural Networks: signs, their gradients, and integer execution with thresholds for normalisations."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import DataError, ModelError, RecipeError
from dovetail.methods.constraint import Step, constraints, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.binary_input import SignedInput
from dovetail.methods.quantize.bnn import Bnn, SignedWeight
from dovetail.methods.quantize.packed import conv2d, fold
from dovetail.methods.quantize.quantizer import input_quantizers

X = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 70, 3, padding=1), nn.BatchNorm2d(70), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(70, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 5),
    )  # fmt: skip
    for norm in (model[1], model[4], model[8]):
        nn.init.normal_(norm.weight, 0.3, 1)  # some of them negative
        nn.init.normal_(norm.bias, 0, 0.3)
    return model.eval()


def context(inputs: torch.Tensor | None = X) -> Context:
    return Context(loss=lambda model: 0.0, example=X[:1], inputs=inputs, original=network())


def binarised(model: nn.Module, **settings: object) -> nn.Module:
    method = Bnn(**settings)
    return method.apply(model, method.plan(model, context()), 0, context())


class TestSigns:
    def test_inputs_pass_gradients_within_one_of_the_threshold(self) -> None:
        x = torch.tensor([0.5, 0.49, -0.6, 1.5, 1.6, 9.0], requires_grad=True)
        y = SignedInput(torch.tensor(0.5))(x)
        assert torch.equal(y, torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, 1.0]))
        y.backward(torch.arange(1.0, 7.0))
        assert torch.equal(x.grad, torch.tensor([1.0, 2.0, 0.0, 4.0, 0.0, 0.0]))

    def test_weights_are_signs_times_a_power_of_two_and_pass_every_gradient(self) -> None:
        weight = torch.tensor([[0.3, -0.2, 0.0, 7.0]], requires_grad=True)
        quantizer = SignedWeight(weight)
        value = quantizer(weight)
        assert torch.equal(value, 2.0 * torch.tensor([[1.0, -1.0, 1.0, 1.0]]))  # mean magnitude 1.875
        value.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        assert torch.equal(weight.grad, 2.0 * torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        assert np.array_equal(quantizer.encoder()(value.detach().numpy()).decode(), value.detach().numpy())

    def test_latent_weights_stay_in_bounds(self) -> None:
        model = binarised(network())
        held = find(model, "3.weight", SignedWeight)
        assert held is not None
        latent = model[3].parametrizations.weight.original
        model.train()(X)
        with torch.no_grad():
            latent[0] = 100.0
        for _, constraint in constraints(model):
            constraint.after_step(Step(1, 2))
        assert torch.equal(latent[0], held.bound.expand_as(latent[0]))

    def test_a_layer_of_zeros_is_guarded(self) -> None:
        model = network()
        model[3].weight.data.zero_()
        assert torch.isfinite(binarised(model)(X)).all()


class TestWhichLayers:
    def test_only_the_pictures_are_no_signs(self) -> None:
        model = binarised(network())
        assert list(input_quantizers(model)) == ["3", "7", "11"]
        assert [name for name, _ in constraints(model) if name.endswith("weight")] == [
            f"{layer}.weight" for layer in (0, 3, 7, 11)
        ]

    def test_ends_stay_if_asked_for(self) -> None:
        model = binarised(network(), keep_ends=True)
        assert list(input_quantizers(model)) == ["3", "7"]
        assert find(model, "0.weight", SignedWeight) is None and find(model, "11.weight", SignedWeight) is None

    def test_thresholds_are_means_where_nothing_is_negative(self) -> None:
        plan = Bnn().plan(network(), context())
        assert plan["11.weight"]["threshold"] > 0 and "threshold" not in plan["0.weight"]
        with torch.no_grad():
            read = network()[:3](X)
        assert plan["3.weight"]["threshold"] == pytest.approx(float(read.mean()), rel=0.05)

    def test_what_reads_integers_is_left_alone(self) -> None:
        class Words(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.out(self.words(x).mean(1))

        words = torch.arange(21).view(3, 7) % 7
        there = Context(loss=lambda model: 0.0, example=words[:1], inputs=words)
        assert list(Bnn().plan(Words(), there)) == ["out.weight"]
        with pytest.raises(ModelError, match=r"none of \['words'\] is a convolution or linear layer in use"):
            Bnn(layers=("words",)).plan(Words(), there)

    def test_says_what_it_needs(self) -> None:
        with pytest.raises(RecipeError, match="there are no images: give some, or take bwn"):
            Bnn().plan(network(), context(None))
        with pytest.raises(DataError, match="layer '0' reads NaN or infinity"):
            Bnn().plan(network(), context(X * float("nan")))


def test_stored_at_a_bit_a_weight() -> None:
    model = binarised(network())
    stored = layouts(model)["3.weight"].encode(model[3].weight.detach().numpy())
    assert stored.describe() == "dense > binary"
    assert model[3].weight.numel() * 32 / stored.bits > 28


def test_integers_and_thresholds_give_the_float_network_s_signs() -> None:
    """From the first binary layer's input to the last real layer's, no float is computed."""
    model = binarised(network())
    for parameter in model.parameters():  # as after some training
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    model.train()(X)
    model.eval()
    with torch.no_grad():
        read = model[:3](X)
        expected = model[7].input_quantizer(model[:7](X)).numpy()
        first, second = model[3].input_quantizer, model[7].input_quantizer
        integers = conv2d((read - first.threshold).numpy(), model[3].weight.numpy(), padding=(1, 1))
        scale = find(model, "3.weight", SignedWeight).scale

        def following(y: np.ndarray) -> np.ndarray:
            """From products to what the next layer compares with 0: all monotone, channel by channel."""
            maps = scale * torch.from_numpy(y)[:, :, None, None] + model[3].bias.view(-1, 1, 1)
            return (model[5](model[4](maps)) - second.threshold)[:, :, 0, 0].numpy()

        signs = fold(following, 8 * 9, 70)(integers)
    pooled = signs.reshape(32, 70, 4, 2, 4, 2).max((3, 5))  # pooling of signs is OR, after the sign as well as before
    assert np.array_equal(pooled, expected)
    assert 0.1 < (expected > 0).mean() < 0.9


def test_a_binary_network_learns() -> None:
    """A little network, from a trained one that it takes the place of, keeps most of what it knew."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 5
    pictures = torch.randn(5, 3, 10, 10, generator=generator)[labels] + torch.randn(600, 3, 10, 10, generator=generator)
    model = network()

    def fit(model: nn.Module, rate: float) -> float:
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
        held = [constraint for _, constraint in constraints(model)]
        for index in range(40):
            chosen = slice(index % 6 * 80, index % 6 * 80 + 80)
            loss = nn.functional.cross_entropy(model.train()(pictures[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for constraint in held:
                constraint.after_step(Step(index + 1, 40))
        with torch.no_grad():
            return float((model.eval()(pictures[480:]).argmax(1) == labels[480:]).float().mean())

    real = fit(model, 2e-3)
    binary = fit(binarised(copy.deepcopy(model)), 2e-3)
    assert real > 0.9 and binary > real - 0.1
