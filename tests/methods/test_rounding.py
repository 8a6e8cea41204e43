"""Adaptive rounding, against exhaustive search and against nearest rounding."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.methods import Ptq, watching
from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Mask
from dovetail.methods.quantize import observation
from dovetail.methods.quantize.calibration import weight_scales
from dovetail.methods.quantize.observation import observe
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.rounding import adapt, adaptive_codes, fitted_scale, nearest_codes, response_error
from dovetail.methods.quantize.uniform import Uniform
from dovetail.methods.reconstruction import best_bias, normal_equations


def problem(seed: int, rows: int, columns: int, bits: int, alike: float = 1.0) -> tuple[Tensor, Tensor, Tensor, int]:
    """A weight, the Gram matrix of inputs that are correlated, a scale a row and the highest code."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    seen = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64)
    seen += alike * torch.randn(4 * columns, 1, generator=generator, dtype=torch.float64)
    highest = 2 ** (bits - 1) - 1
    return weight, seen.T @ seen / len(seen), weight.abs().amax(1, keepdim=True) / highest, highest


def best_of_all(wanted: Tensor, gram: Tensor, scale: Tensor, highest: int) -> Tensor:
    """The least error of each row over every code there is."""
    grid = torch.tensor(
        list(itertools.product(range(-highest, highest + 1), repeat=wanted.shape[1])), dtype=torch.float64
    )
    return torch.stack([response_error(grid * s, w, gram).min() for w, s in zip(wanted, scale, strict=True)])


def test_the_optimum_is_often_reached_where_it_can_be_found_by_trying_all() -> None:
    reached, ratios = 0, []
    for seed in range(20):
        weight, gram, scale, highest = problem(seed, rows=4, columns=6, bits=3)
        codes = adaptive_codes(weight, weight, gram, scale, -highest, highest)
        found, best = response_error(codes * scale, weight, gram), best_of_all(weight, gram, scale, highest)
        reached += int((found <= best * (1 + 1e-9)).sum())
        ratios.append(found.sum() / best.sum())
    assert reached >= 60  # of 80
    assert max(ratios) < 1.5


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40), st.integers(2, 8), st.floats(0, 5), st.booleans())
def test_the_error_is_never_above_that_of_nearest_rounding(
    seed: int, rows: int, columns: int, bits: int, alike: float, asymmetric: bool
) -> None:
    weight, gram, scale, highest = problem(seed, rows, columns, bits, alike)
    wanted = weight + 0.1 * torch.ones_like(weight) if asymmetric else weight
    codes = adaptive_codes(weight, wanted, gram, scale, -highest, highest)
    assert torch.equal(codes, codes.round().clamp(-highest, highest))
    nearest = nearest_codes(weight, scale, -highest, highest)
    before, after = (response_error(c * scale, wanted, gram) for c in (nearest, codes))
    assert (after <= before * (1 + 1e-9) + 1e-12).all()


def test_correlated_inputs_gain_and_uncorrelated_ones_are_rounded_to_the_nearest() -> None:
    weight, gram, scale, highest = problem(0, rows=8, columns=200, bits=4)  # more columns than a block has
    nearest = nearest_codes(weight, scale, -highest, highest)
    codes = adaptive_codes(weight, weight, gram, scale, -highest, highest)
    before, after = (response_error(c * scale, weight, gram).sum() for c in (nearest, codes))
    assert after < 0.7 * before
    diagonal = torch.diag(gram.diagonal())
    assert torch.equal(adaptive_codes(weight, weight, diagonal, scale, -highest, highest), nearest)


def test_no_single_code_can_be_improved() -> None:
    weight, gram, scale, highest = problem(3, rows=3, columns=9, bits=3)
    codes = adaptive_codes(weight, weight, gram, scale, -highest, highest)
    error = response_error(codes * scale, weight, gram)
    for column, step in itertools.product(range(9), (-1, 1)):
        changed = codes.clone()
        changed[:, column] = (changed[:, column] + step).clamp(-highest, highest)
        assert (response_error(changed * scale, weight, gram) >= error - 1e-12).all()


def test_zeros_stay_zero_and_rows_of_zeros_do_no_harm() -> None:
    weight, gram, scale, highest = problem(1, rows=4, columns=30, bits=4)
    weight[:, ::3] = 0
    weight[2], scale[2] = 0, torch.finfo(torch.float32).tiny
    codes = adaptive_codes(weight, weight + 0.2, gram, scale, -highest, highest)
    assert not codes[weight == 0].any() and codes[0].any()


def test_rows_do_not_depend_on_one_another() -> None:
    weight, gram, scale, highest = problem(5, rows=6, columns=20, bits=3)
    together = adaptive_codes(weight, weight, gram, scale, -highest, highest)
    alone = [
        adaptive_codes(weight[i : i + 1], weight[i : i + 1], gram, scale[i : i + 1], -highest, highest)
        for i in range(6)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_the_fitted_scale_is_a_minimum() -> None:
    weight, gram, scale, highest = problem(2, rows=5, columns=12, bits=2)
    codes = adaptive_codes(weight, weight, gram, scale, -highest, highest)
    fitted = fitted_scale(codes, weight, gram, scale)
    least = response_error(codes * fitted, weight, gram)
    for factor in (0.99, 1.01):
        assert (response_error(codes * fitted * factor, weight, gram) >= least).all()
    assert torch.equal(fitted_scale(torch.zeros_like(codes), weight, gram, scale), scale)


@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_the_normal_equations_say_how_much_worse_any_weight_is(ridge: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, n, generator=generator, dtype=torch.float64) + 1 for n in (7, 3))
    start, other = (torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    energy = (x - x.mean(0)).square().mean()

    def objective(weight: Tensor) -> Tensor:
        answer = x @ weight.T + best_bias(x, y, weight)
        return (y - answer).square().sum() / len(x) + ridge * energy * (weight - start).square().sum()

    best, gram = normal_equations(x, y, start, ridge)
    expected = objective(best) + response_error(other, best, gram).sum()
    torch.testing.assert_close(objective(other), expected, rtol=1e-10, atol=0)


PATHS = ["0", "2", "4", "7"]
IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(4)).cumsum(2).cumsum(3) / 8


def network() -> nn.Sequential:
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 5),
    ).eval()


def quantised(bits: int, *, per_channel: bool = True, adaptive: bool, masked: bool = False) -> nn.Sequential:
    """The network with weights of so many bits and inputs of layers of 8."""
    model = network()
    if masked:
        constrain(model, "4.weight", Mask(model[4].weight.detach() > 0))
    seen = observe(model, PATHS, IMAGES)
    weights = {path: model.get_submodule(path).weight.detach().clone() for path in PATHS}
    held = {}
    for path, weight in weights.items():
        held[path] = Uniform(bits, weight_scales(weight, bits, per_channel=per_channel))
        constrain(model, f"{path}.weight", held[path])
        low, high = seen[path].low, seen[path].high
        scale = (high - low) / 255
        quantize_input(model, path, Uniform(8, torch.tensor(scale), torch.tensor(round(-low / scale))))
    if adaptive:
        adapt(model, weights, held, seen, IMAGES, restore=True)
    return model


def distance(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(IMAGES) - network()(IMAGES)).square().mean())


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_a_network_answers_more_like_the_original(bits: int, per_channel: bool) -> None:
    nearest = distance(quantised(bits, per_channel=per_channel, adaptive=False))
    assert distance(quantised(bits, per_channel=per_channel, adaptive=True)) < 0.5 * nearest


class Twice(nn.Module):
    """A convolution that reads what it has answered."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.linear = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.conv(self.conv(x).relu()).relu().flatten(1))
        return found


@pytest.mark.parametrize("batch", [7, 24])
def test_a_layer_that_is_called_twice_is_fitted_to_its_first_call(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BATCH", batch)
    method, model = Ptq(weight_bits=8, rounding="adaptive"), Twice().eval()
    context = Context(loss=lambda _: 0.0, example=IMAGES[:1], inputs=IMAGES, original=Twice().eval())
    with torch.no_grad():
        expected = model(IMAGES)
        found = method.apply(model, method.plan(model, context), 0, context)(IMAGES)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("batch", [7, 24])
def test_layers_are_compared_at_the_same_places_as_before(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the error would not go to nothing with the bits, where only some places are sampled."""
    monkeypatch.setattr(observation, "positions_of", lambda inputs: 10)
    monkeypatch.setattr(watching, "BATCH", batch)  # how many went through at once when the places were drawn
    assert distance(quantised(8, adaptive=True)) < 1e-3 * float(network()(IMAGES).detach().var())


def test_what_is_set_lies_on_the_grid_and_what_was_pruned_stays_zero() -> None:
    model = quantised(3, adaptive=True, masked=True)
    layer = model[4]
    latent = layer.parametrizations["weight"].original.detach()
    assert not layer.weight[network()[4].weight <= 0].any() and layer.weight.any()
    torch.testing.assert_close(layer.weight.detach(), latent)


def test_adapting_does_not_depend_on_anything_random() -> None:
    first, second = (quantised(4, adaptive=True).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
