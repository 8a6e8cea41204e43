"""Networks of few bits: DoReFa-Net's grids, gradients of a few bits, bit planes, recurrent layers."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from dovetail.errors import FormatError, ModelError, RecipeError
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.bit_planes import offset_product, planes, product
from dovetail.methods.quantize.qnn import Activations, Levels, Qnn, quantize_gradient
from dovetail.methods.quantize.quantizer import input_quantizers
from dovetail.runtime import Session, freeze


def context(inputs: torch.Tensor | None, example: torch.Tensor | None = None) -> Context:
    return Context(loss=lambda model: 0.0, example=inputs[:1] if example is None else example, inputs=inputs)


def applied(model: nn.Module, inputs: torch.Tensor, **settings: object) -> nn.Module:
    method = Qnn(**settings)
    return method.apply(model, method.plan(model, context(inputs)), 0, context(inputs)).eval()


class TestBitPlanes:
    @pytest.mark.parametrize(("k", "m"), list(itertools.product(range(1, 9), repeat=2)))
    def test_their_product_is_the_integer_product(self, k: int, m: int) -> None:
        random = np.random.default_rng(8 * k + m)
        for length in (1, 7, 8, 64, 131):
            x, w = random.integers(0, 2**k, (5, length)), random.integers(0, 2**m, (4, length))
            assert np.array_equal(product(x, w, k, m), x @ w.T)

    @given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.data())
    def test_so_it_is_with_zero_points_of_whole_and_half_numbers(
        self, k: int, m: int, length: int, data: st.DataObject
    ) -> None:
        def draw(bits: int) -> np.ndarray:
            return np.array([data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=length, max_size=length))])

        x, w = draw(k), draw(m)
        x_zero, w_zero = data.draw(st.integers(0, 2**k)), data.draw(st.integers(0, 2 ** (m + 1))) / 2
        assert np.array_equal(offset_product(x, w, k, m, x_zero, w_zero), (x - x_zero) @ (w - w_zero).T)

    def test_a_quantised_layer_is_such_a_product(self) -> None:
        """1 to 4 bits, signed and unsigned: scales times products of bit planes are the layer's outputs."""
        random = torch.Generator().manual_seed(0)
        for bits, signed in itertools.product(range(1, 5), [False, True]):
            if signed and bits == 1:
                continue
            read, latent = torch.randn(6, 37, generator=random), torch.randn(5, 37, generator=random)
            grid, levels = Activations(bits, torch.tensor([0.3]), signed=signed), Levels(bits)
            x, w, top = grid(read), levels(latent), 2**bits - 1
            scale = float(w.abs().max())
            x_codes = grid.codes(read).long().numpy()
            w_codes = (w * top / scale + top).div(2).round().long().numpy()
            exact = offset_product(x_codes, w_codes, bits, bits, float(grid.zero_point), top / 2)
            assert np.allclose(exact * float(grid.scale) * 2 * scale / top, (x @ w.T).numpy(), atol=1e-4)

    def test_codes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(FormatError, match="codes from 0 to 3, found -1 to 2; add the zero point"):
            planes(np.array([-1, 2]), 2)


class TestWeights:
    @pytest.mark.parametrize("bits", range(2, 9))
    def test_are_those_of_the_paper_times_the_scale_of_least_squares(self, bits: int) -> None:
        w = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(bits))
        top, squashed = 2**bits - 1, np.tanh(w.numpy())
        levels = 2 * np.rint(top * (squashed / (2 * np.abs(squashed).max()) + 0.5)) / top - 1
        scale = (w.numpy() * levels).sum() / np.square(levels).sum()
        assert np.allclose(Levels(bits)(w).numpy(), scale * levels, atol=1e-5)

    def test_of_one_bit_are_signs_times_the_mean_magnitude(self) -> None:
        w = torch.tensor([[0.5, -1.5], [0.0, -2.0]])
        assert torch.equal(Levels(1)(w), torch.tensor([[1.0, -1.0], [1.0, -1.0]]))

    def test_have_the_gradient_of_the_same_without_rounding(self) -> None:
        w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        upstream, levels = torch.randn(4, 3, dtype=torch.float64), Levels(3)(w).detach()
        (Levels(3)(w) * upstream).sum().backward()
        # The scale is the largest level's, and a constant.
        smooth = lambda w: levels.abs().max() * torch.tanh(w) / torch.tanh(w).abs().max()  # noqa: E731
        wanted = torch.autograd.functional.vjp(smooth, w, upstream)[1]
        assert torch.allclose(w.grad, wanted)
        step = torch.full_like(w, 1e-6)
        numeric = (smooth(w.detach() + step) - smooth(w.detach() - step)) / 2e-6  # along one direction
        along = torch.autograd.functional.jvp(smooth, w.detach(), torch.ones_like(step))[1]
        assert torch.allclose(numeric, along, atol=1e-6)

    def test_of_one_bit_pass_gradients_straight_through(self) -> None:
        w = torch.randn(4, 3, requires_grad=True)
        upstream = torch.randn(4, 3)
        (Levels(1)(w) * upstream).sum().backward()
        assert torch.equal(w.grad, upstream)

    @pytest.mark.parametrize("bits", range(1, 9))
    @pytest.mark.parametrize(
        "weight", [torch.randn(6, 5, generator=torch.Generator().manual_seed(3)), torch.zeros(6, 5)]
    )
    def test_are_stored_exactly_in_so_many_bits(self, bits: int, weight: torch.Tensor) -> None:
        layer = nn.Linear(5, 6, bias=False)
        layer.weight.data.copy_(weight)
        model = applied(layer, torch.rand(3, 5), weight_bits=bits, keep_ends=False)
        stored = layouts(model)["weight"].encode(model.weight.detach().numpy())
        assert np.array_equal(stored.decode(), model.weight.detach().numpy())
        assert stored.bits_by_part["values"] == 30 * bits or not weight.any() or bits == 1


class TestGradients:
    def test_six_bits_rounded_at_random_are_unbiased_and_to_the_nearest_are_not(self) -> None:
        gradient = torch.tensor([[1.0, 0.4, 0.013, 0.0, -0.2, -1.0]])
        draws, step = 20_000, 2 / 63
        torch.manual_seed(0)
        mean = quantize_gradient(gradient.expand(draws, -1), 6).mean(0)
        # A value between two levels, step apart, has a standard deviation of step / 2 at most.
        assert ((mean - gradient).abs() <= 3 * step / 2 / math.sqrt(draws)).all()
        off = quantize_gradient(gradient, 6, rounding="nearest") - gradient
        assert off.abs().max() > 100 * step / 2 / math.sqrt(draws) > 0

    @pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
    def test_lie_on_levels_within_their_range(self, rounding: str) -> None:
        gradient = torch.randn(8, 3, 4, 4) * torch.logspace(-6, 1, 8).view(-1, 1, 1, 1)
        largest = gradient.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
        codes = (quantize_gradient(gradient, 4, rounding=rounding) / largest + 1) * 15 / 2
        assert torch.allclose(codes, codes.round(), atol=1e-4) and codes.min() > -0.1 and codes.max() < 15.1

    def test_the_range_is_that_of_the_sample_or_of_the_tensor(self) -> None:
        gradient = torch.tensor([[1e-3, -1e-3], [1.0, -1.0]])
        assert torch.allclose(quantize_gradient(gradient, 2), gradient)
        assert torch.allclose(quantize_gradient(gradient, 2, range_of="tensor").abs()[1], torch.ones(2))
        assert (quantize_gradient(gradient, 2, range_of="tensor").abs()[0] > 0.3).all()

    def test_of_zeros_stay_zeros(self) -> None:
        assert not quantize_gradient(torch.zeros(3, 4), 6).any()

    def test_are_quantised_behind_the_layer_and_masked_by_what_saturates(self) -> None:
        x = torch.rand(5, 8, requires_grad=True)
        upstream = torch.randn(5, 8)
        for bits in (6, 32):
            x.grad = None
            torch.manual_seed(3)
            (Activations(2, torch.tensor([0.2]), signed=False, gradient_bits=bits)(x) * upstream).sum().backward()
            torch.manual_seed(3)
            wanted = quantize_gradient(upstream, bits) if bits == 6 else upstream
            assert torch.equal(x.grad, wanted * ((x / 0.2).round() <= 3))

    def test_come_out_alike_for_the_same_seed(self) -> None:
        gradient = torch.randn(4, 50)
        draws = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            draws.append(quantize_gradient(gradient, 6))
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


DIGITS = load_digits()
PICTURES = torch.tensor(DIGITS.images[:, None] / 16, dtype=torch.float32)
LABELS = torch.tensor(DIGITS.target)
TRAINED = slice(0, 1200)
SEEN_FIRST = slice(1200, None)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def fitted(model: nn.Module, epochs: int, rate: float) -> float:
    """Its accuracy on digits it was not trained on."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(1200).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(PICTURES[TRAINED][batch]), LABELS[TRAINED][batch]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = model.eval()(PICTURES[SEEN_FIRST]).argmax(1) == LABELS[SEEN_FIRST]
    return float(right.float().mean())


class TestNetworks:
    def test_more_bits_are_better_and_gradients_of_six_cost_little(self) -> None:
        original = convolutions()
        real = fitted(original, 5, 3e-3)
        reached = {}
        for bits in ((1, 1, 32), (1, 2, 32), (1, 2, 6), (4, 4, 6)):
            model = copy.deepcopy(original)
            settings = dict(zip(("weight_bits", "activation_bits", "gradient_bits"), bits, strict=True))
            reached[bits] = fitted(applied(model, PICTURES[:300], **settings), 4, 1e-3)
        assert reached[1, 2, 32] > reached[1, 1, 32]
        assert reached[1, 2, 6] > reached[1, 2, 32] - 0.03
        assert reached[4, 4, 6] > real - 0.01

    def test_first_and_last_stay_as_they_are_if_asked(self) -> None:
        assert set(layouts(applied(convolutions(), PICTURES[:8]))) == {"3.weight", "6.weight"}
        model = applied(convolutions(), PICTURES[:8], keep_ends=False)
        assert set(layouts(model)) == {"0.weight", "3.weight", "6.weight", "10.weight"}
        assert set(input_quantizers(model)) == {"0", "3", "6", "10"}

    def test_real_activations_need_no_images(self) -> None:
        method, none = Qnn(activation_bits=32, weight_bits=32), context(None, PICTURES[:1])
        model = method.apply(convolutions(), method.plan(convolutions(), none), 0, none)
        assert not input_quantizers(model) and not layouts(model)
        with pytest.raises(RecipeError, match=r"qnn measures on images .*activation_bits = 32"):
            Qnn().plan(convolutions(), none)

    @pytest.mark.parametrize("bits", [1, 4])
    def test_the_file_computes_the_same(self, bits: int) -> None:
        model = applied(convolutions().eval(), PICTURES[:50], weight_bits=bits, activation_bits=bits)
        artefact = freeze(model, PICTURES[:1], layouts=layouts(model))
        with torch.no_grad():
            expected = model(PICTURES[:20]).numpy()
        assert np.allclose(Session(artefact)(PICTURES[:20].numpy()), expected, atol=1e-3)

    def test_one_bit_holds_nothing_below_zero(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        with pytest.raises(ModelError, match="layer '1' reads negative values, which need 2 bits or more"):
            Qnn(activation_bits=1).plan(model, context(torch.randn(5, 4)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"weight_bits": 0}, "qnn.weight_bits must be from 1 to 8, or 32 for real numbers, got 0"),
            ({"gradient_bits": 16}, "qnn.gradient_bits must be from 1 to 8"),
            ({"gradient_range": "batch"}, "qnn.gradient_range must be sample or tensor, got 'batch'"),
            ({"gradient_rounding": "up"}, "qnn.gradient_rounding must be stochastic or nearest"),
        ],
    )
    def test_bad_settings_are_refused(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            Qnn(**settings)


class Tagger(nn.Module):
    def __init__(self, recurrent: type[nn.RNNBase], **settings: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = nn.Linear(6, 8)
        self.recurrent = recurrent(8, 12, batch_first=True, **settings)
        self.write = nn.Linear(24 if settings.get("bidirectional") else 12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.recurrent(self.read(x))
        scores: torch.Tensor = self.write(y)
        return scores


SEQUENCES = torch.randn(7, 9, 6, generator=torch.Generator().manual_seed(5))


class TestRecurrentLayers:
    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_compute_with_the_quantised_matrices(self, kind: type[nn.RNNBase]) -> None:
        model = applied(Tagger(kind, num_layers=2, bidirectional=True), SEQUENCES, weight_bits=2, activation_bits=4)
        held = layouts(model)
        assert set(held) == {
            f"recurrent.weight_{part}_l{layer}{back}"
            for part in ("ih", "hh") for layer in (0, 1) for back in ("", "_reverse")
        }  # fmt: skip
        assert set(input_quantizers(model)) == {"recurrent"}
        plain = bake(model)
        assert type(plain.recurrent) is kind and all(
            len(dict(plain.named_parameters())[name].unique()) <= 4 for name in held
        )
        assert torch.equal(plain(SEQUENCES), model(SEQUENCES))
        for name, layout in held.items():
            weight = dict(plain.named_parameters())[name].detach().numpy()
            assert np.array_equal(layout.encode(weight).decode(), weight)

    def test_are_trained_copied_and_converted_like_others(self) -> None:
        model = applied(Tagger(nn.LSTM), SEQUENCES, weight_bits=4, activation_bits=4)
        targets = SEQUENCES.abs().sum(-1).long().clamp(0, 4)
        loss = lambda model: nn.functional.cross_entropy(model(SEQUENCES).flatten(0, 1), targets.flatten())  # noqa: E731
        first = loss(model).item()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(25):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
        assert loss(model).item() < 0.6 * first
        kept = copy.deepcopy(model)
        before = loss(kept).item()
        model.recurrent.parametrizations.weight_hh_l0.original.data.zero_()
        assert loss(kept).item() == before != loss(model).item()
        assert loss(kept.double().float()).item() == before
        other = applied(Tagger(nn.LSTM), SEQUENCES, weight_bits=4, activation_bits=4)
        other.load_state_dict(kept.state_dict())
        assert loss(other).item() == before

    def test_a_cell_is_held_too(self) -> None:
        class Loop(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.GRUCell(6, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                state = torch.zeros(len(x), 8)
                for step in x.unbind(1):
                    state = self.cell(step, state)
                return state

        model = applied(Loop(), SEQUENCES, weight_bits=3, keep_ends=False)
        assert set(layouts(model)) == {"cell.weight_ih", "cell.weight_hh"}
        assert len(model.cell.weight_hh.unique()) <= 8 and torch.isfinite(model(SEQUENCES)).all()
