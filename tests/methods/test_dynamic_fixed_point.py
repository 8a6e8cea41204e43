"""Dynamic fixed point: the search, the greedy pass over the layers, integers, dynamic against static."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.data import load_dataset
from dovetail.errors import DataError, RecipeError
from dovetail.methods.constraint import bake, constrain, find, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.dynamic_fixed_point import DynamicFixedPoint, best_fraction
from dovetail.methods.quantize.fixed_point_grid import FixedPointGrid
from dovetail.methods.quantize.quantizer import input_quantizers
from dovetail.networks import load_model
from dovetail.planning import planning_context
from dovetail.runtime import Session, freeze
from dovetail.train import score

X = torch.randn(20, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(150, 3),
    )  # fmt: skip
    model.train()(3 * X + 1)
    return model.eval()


def context(inputs: torch.Tensor | None = X) -> Context:
    return Context(loss=lambda model: 0.0, example=X[:1], inputs=inputs, original=network())


def fixed(model: nn.Module, inputs: torch.Tensor | None = X, **settings: object) -> nn.Module:
    method, ours = DynamicFixedPoint(**settings), context(inputs)
    return method.apply(model, method.plan(model, ours), 0, ours).eval()


def by_formula(x: np.ndarray, bits: int, fraction: int, rounding: str = "nearest") -> np.ndarray:
    whole = (np.rint if rounding == "nearest" else np.floor)(x.astype(np.float64) * 2.0**fraction)
    return np.clip(whole, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * 2.0**-fraction


class TestGrid:
    @pytest.mark.parametrize("bits", [2, 4, 8, 16])
    @pytest.mark.parametrize("fraction", [-3, 0, 5, 20])
    @pytest.mark.parametrize("rounding", ["nearest", "floor"])
    def test_is_that_of_the_paper(self, bits: int, fraction: int, rounding: str) -> None:
        x = (
            torch.randn(500, generator=torch.Generator().manual_seed(bits)) * 2.0 ** (bits - fraction - 2)
        ).requires_grad_()
        grid = FixedPointGrid(bits, fraction, rounding)
        y = grid(x)
        assert np.array_equal(y.detach().numpy(), by_formula(x.detach().numpy(), bits, fraction, rounding))
        assert grid.fraction == fraction and grid.double().fraction == fraction
        y.sum().backward()
        unclipped = by_formula(x.detach().numpy(), 60, fraction, rounding)
        assert np.array_equal(x.grad.numpy(), unclipped == y.detach().numpy())

    @given(st.integers(2, 16), st.integers(-20, 20), st.lists(st.floats(-1e4, 1e4, width=32), min_size=1))
    def test_is_stored_exactly(self, bits: int, fraction: int, values: list[float]) -> None:
        grid = FixedPointGrid(bits, fraction)
        on_grid = grid(torch.tensor(values)).numpy()
        stored = grid.encoder()(on_grid)
        assert np.array_equal(stored.decode(), on_grid) and stored.bits_by_part["values"] == len(values) * bits


class TestSearch:
    @given(
        st.integers(2, 10), st.sampled_from([1, 2]), st.sampled_from(["nearest", "floor"]), st.floats(0.5, 6),
        st.integers(-20, 20), st.integers(0, 2**31),
    )  # fmt: skip
    def test_equals_trying_every_length(
        self, bits: int, power: int, rounding: str, tails: float, exponent: int, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        x = (random.standard_normal(40) * np.abs(random.standard_normal(40)) ** tails * 2.0**exponent).astype(
            np.float32
        )
        error = lambda f: (np.abs(x - by_formula(x, bits, f, rounding)) ** power).sum()  # noqa: E731
        found = best_fraction(torch.tensor(x), bits, power=power, rounding=rounding)
        assert error(found) <= min(map(error, range(-64, 65))) * (1 + 1e-9)

    def test_a_power_of_two_alone_is_held_exactly(self) -> None:
        found = best_fraction(torch.tensor([1.0, -0.5]), 8)
        assert torch.equal(FixedPointGrid(8, found)(torch.tensor([1.0, -0.5])), torch.tensor([1.0, -0.5]))

    def test_a_few_large_values_saturate(self) -> None:
        x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([60.0])])
        assert best_fraction(x, 4) > 4 - 1 - math.ceil(math.log2(60))

    def test_towards_other_values_equals_trying_every_length(self) -> None:
        """As the greedy pass uses it: what is rounded is not what is wanted."""
        for seed in range(10):
            random = np.random.default_rng(seed)
            wanted = np.maximum(random.standard_normal(300), 0).astype(np.float32)
            x = (1.2 * wanted + 0.1 * random.standard_normal(300)).astype(np.float32)
            for bits in (2, 4, 8):
                error = lambda f, x=x, wanted=wanted, bits=bits: np.abs(wanted - by_formula(x, bits, f)).sum()  # noqa: E731
                first = bits - 1 - math.ceil(math.log2(np.abs(x).max()))
                found = best_fraction(torch.tensor(x), bits, target=torch.tensor(wanted))
                assert error(found) == min(map(error, range(first - 1, 65)))

    def test_zeros_have_some_length_and_nan_none(self) -> None:
        assert best_fraction(torch.zeros(5), 8) == 7
        with pytest.raises(DataError, match="needs finite values"):
            best_fraction(torch.tensor([1.0, torch.nan]), 8)


def test_a_trained_network_keeps_its_accuracy_and_more_of_it_than_with_one_length_for_all() -> None:
    """The paper's widths, 16, 8 and 8/4, and 6, without training: within half a point, one point with 4 bits."""
    dataset, model = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
    ours = planning_context(dataset, model)

    def accuracy(bits: int, linear_bits: int, precision: str) -> float:
        method = DynamicFixedPoint(
            conv_bits=bits, linear_bits=linear_bits, activation_bits=bits, bias_bits=max(bits, 8), precision=precision
        )
        changed = copy.deepcopy(model)
        return score(method.apply(changed, method.plan(changed, ours), 0, ours).eval(), dataset, "test")

    real = score(model, dataset, "test")
    for bits, linear_bits, lost in ((16, 16, 0.002), (8, 8, 0.005), (8, 4, 0.01), (6, 6, 1)):
        dynamic = accuracy(bits, linear_bits, "dynamic")
        assert dynamic >= real - lost
        assert dynamic >= accuracy(bits, linear_bits, "static")


class TestNetworks:
    def test_batch_normalisations_are_folded_and_all_is_in_fixed_point(self) -> None:
        model = fixed(network(), conv_bits=16, linear_bits=16, bias_bits=16, activation_bits=16)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert torch.allclose(model(X), network()(X), atol=2e-3)
        assert set(layouts(model)) == {f"{path}.{part}" for path in ("0", "3", "6") for part in ("weight", "bias")}
        assert set(input_quantizers(model)) == {"0", "3", "6"}

    def test_lengths_of_weights_and_biases_are_the_best_of_each(self) -> None:
        model = fixed(network(), linear_bits=4)
        plain = network()
        assert find(model, "6.weight", FixedPointGrid).fraction == best_fraction(plain[6].weight, 4, power=2)
        assert find(model, "6.bias", FixedPointGrid).fraction == best_fraction(plain[6].bias, 8, power=2)
        assert find(model, "3.weight", FixedPointGrid).bits == 8

    def test_lengths_of_inputs_are_the_best_for_the_network_in_fixed_point_before(self) -> None:
        """One pass finds what layer-by-layer search finds."""
        model, plain = fixed(network(), activation_bits=4), network()
        held = input_quantizers(model)
        with torch.no_grad():
            for path in ("0", "3", "6"):
                real, ours = plain[: int(path)](X), model[: int(path)](X)
                assert held[path].fraction == best_fraction(ours, 4, target=real, power=2)

    @pytest.mark.parametrize("rounding", ["nearest", "floor"])
    def test_integers_compute_the_same_to_the_bit(self, rounding: str) -> None:
        """Weights, inputs and biases as integers, shifts between: equal to the simulation in floats."""
        model = fixed(network(), linear_bits=4, rounding=rounding)
        held, codes, scales = input_quantizers(model), {}, {}
        for path in ("0", "3", "6"):
            for part in ("weight", "bias"):
                grid = find(model, f"{path}.{part}", FixedPointGrid)
                value = getattr(model[int(path)], part).detach().double() * 2.0**grid.fraction
                codes[path, part], scales[path, part] = value.long(), grid.fraction
                assert torch.equal(value, value.round())
        with torch.no_grad():
            x, fraction = held["0"].codes(X).long(), held["0"].fraction
            for path, compute in (
                ("0", nn.functional.conv2d),
                ("3", nn.functional.conv2d),
                ("6", nn.functional.linear),
            ):
                if path != "0":
                    x = shifted(x.relu(), fraction - held[path].fraction, rounding).clamp(-128, 127)
                    x, fraction = (x.flatten(1) if path == "6" else x), held[path].fraction
                product = fraction + scales[path, "weight"]
                fraction = max(product, scales[path, "bias"])
                bias = codes[path, "bias"] << (fraction - scales[path, "bias"])
                bias = bias if path == "6" else bias.view(-1, 1, 1)
                x = (compute(x, codes[path, "weight"]) << (fraction - product)) + bias
            assert torch.equal(x.double() * 2.0**-fraction, model(X).double())

    def test_the_file_computes_the_same(self) -> None:
        model = fixed(network())
        artefact = freeze(model, X[:1], layouts=layouts(model))
        assert "fixed_point(8" in artefact.tensors["3.weight"].describe()
        with torch.no_grad():
            assert np.allclose(Session(artefact)(X.numpy()), model(X).numpy(), atol=1e-5)

    def test_static_has_one_length_for_all(self) -> None:
        model = fixed(network(), precision="static")
        weights = torch.cat(
            [bake(fixed(network(), conv_bits=16, linear_bits=16))[i].weight.flatten() for i in (0, 3, 6)]
        )
        lengths = {find(model, f"{path}.weight", FixedPointGrid).fraction for path in ("0", "3", "6")}
        assert lengths == {best_fraction(weights, 8, power=2)}
        assert len({grid.fraction for grid in input_quantizers(model).values()}) == 1

    def test_without_images_noise_with_the_known_statistics_stands_in(self) -> None:
        seen, unseen = (input_quantizers(fixed(network(), inputs)) for inputs in (X, None))
        assert all(abs(seen[path].fraction - unseen[path].fraction) <= 2 for path in seen)

    def test_holding_the_bias_too_leaves_copies_alone(self) -> None:
        model = network()
        constrain(model, "3.weight", FixedPointGrid(8, 6))
        kept = copy.deepcopy(model)
        expected = kept(X)
        constrain(model, "3.bias", FixedPointGrid(2, 0))
        assert torch.equal(kept(X), expected) and not torch.equal(model(X), expected)

    def test_real_activations_and_biases_if_asked(self) -> None:
        model = fixed(network(), None, activation_bits=32, bias_bits=32)
        assert not input_quantizers(model) and set(layouts(model)) == {"0.weight", "3.weight", "6.weight"}

    def test_constant_channels_zero_layers_and_a_single_image_are_no_trouble(self) -> None:
        model = network()
        model[0].weight.data[1] = 0
        model[3].weight.data.zero_()
        model[3].bias.data.zero_()
        assert torch.isfinite(fixed(model, X[:1])(X)).all()

    def test_images_with_nan_are_refused(self) -> None:
        broken = X.clone()
        broken[3, 0, 2, 2] = torch.nan
        with pytest.raises(DataError, match="layer '0' reads NaN or infinity"):
            fixed(network(), broken)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"conv_bits": 1}, "dynamic_fixed_point.conv_bits must be from 2 to 16, got 1"),
            ({"activation_bits": 20}, "dynamic_fixed_point.activation_bits must be from 2 to 16, or 32"),
            ({"precision": "mixed"}, "dynamic_fixed_point.precision must be dynamic or static, got 'mixed'"),
            ({"power": 3}, "dynamic_fixed_point.power must be 1 or 2, got 3"),
            ({"rounding": "up"}, "dynamic_fixed_point.rounding must be nearest or floor"),
        ],
    )
    def test_bad_settings_are_refused(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            DynamicFixedPoint(**settings)


def shifted(x: torch.Tensor, places: int, rounding: str) -> torch.Tensor:
    """Integers / 2^places in integer arithmetic, to nearest even or down."""
    if places <= 0:
        return x << -places
    if rounding == "floor":
        return x >> places
    half = (1 << (places - 1)) - 1
    return (x + half + ((x >> places) & 1)) >> places
