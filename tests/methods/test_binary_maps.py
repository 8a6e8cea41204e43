"""Joint binarisation of weights and maps: Bi-Real's gradient, what is learned, more signs, and the packed product."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import DataError, RecipeError
from dovetail.methods.constraint import find
from dovetail.methods.method import Context
from dovetail.methods.quantize.binary_maps import BinaryMap, BinaryMaps, bi_real_sign, fit, shape_preserving
from dovetail.methods.quantize.bwn import BinaryWeight
from dovetail.methods.quantize.packed import conv2d
from dovetail.methods.quantize.quantizer import input_quantizers, sign

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5),
    ).eval()  # fmt: skip


CONTEXT = Context(loss=lambda model: 0.0, example=X[:1], inputs=X)


def binarised(model: nn.Module, **settings: object) -> nn.Module:
    method = BinaryMaps(**settings)
    plan = method.plan(model, CONTEXT)
    for stage in range(method.stages):
        model = method.apply(model, plan, stage, CONTEXT)
    return model.eval()


class TestTheGradient:
    def test_of_the_sign_is_bi_real_s(self) -> None:
        x = torch.tensor([-1.5, -1.0, -0.75, -0.25, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
        y = bi_real_sign(x)
        assert torch.equal(y, torch.tensor([-1.0, -1, -1, -1, 1, 1, 1, 1]))
        y.sum().backward()
        assert torch.equal(x.grad, torch.tensor([0, 0, 0.5, 1.5, 2.0, 1.0, 0, 0]))

    def test_integrates_to_the_rise_of_the_sign(self) -> None:
        x = torch.linspace(-2, 2, 4001, requires_grad=True)
        bi_real_sign(x).sum().backward()
        assert float(x.grad.sum() * 0.001) == pytest.approx(2, abs=1e-3)

    def test_of_the_threshold_is_the_input_s_turned_round(self) -> None:
        quantizer = BinaryMap(torch.zeros(3), torch.tensor(0.2), torch.tensor([0.8]), extents=2)
        x = X.clone().requires_grad_()
        (quantizer(x) * torch.randn(X.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        assert torch.allclose(quantizer.threshold.grad, -x.grad.sum((0, 2, 3)), atol=1e-5)

    @pytest.mark.parametrize("orders", [1, 2, 3])
    def test_of_centre_and_first_scale_are_true_ones(self, orders: int) -> None:
        """Those of the value, with every sign as it is."""
        quantizer = BinaryMap(*fit(X.movedim(1, -1).flatten(0, 2), orders), extents=2).double()
        x, upstream = X.double(), torch.randn(X.shape, generator=torch.Generator().manual_seed(2)).double()
        signs, value = [], quantizer.centre.detach()
        for scale in quantizer.scales.detach():
            threshold = quantizer.threshold.detach().view(-1, 1, 1) if not signs else value
            signs.append(sign(x - threshold))
            value = value + scale * signs[-1]
        assert torch.allclose(quantizer(x), value)
        (quantizer(x) * upstream).sum().backward()
        assert quantizer.centre.grad == pytest.approx(float(upstream.sum()))
        by_hand = torch.stack([(upstream * one).sum() for one in signs])
        assert torch.allclose(quantizer.scales.grad, by_hand)


class TestTheFit:
    def test_is_least_squares(self) -> None:
        readings = torch.relu(torch.randn(2000, 5) + torch.arange(5) / 3)
        threshold, centre, scales = fit(readings, 1)
        signs = sign(readings - threshold)
        design = torch.stack([torch.ones(readings.numel()), signs.flatten()], 1)
        best = torch.linalg.lstsq(design, readings.flatten()[:, None]).solution[:, 0]
        assert torch.allclose(torch.stack([centre, scales[0]]), best, atol=1e-4)

    def test_each_sign_more_leaves_less_over(self) -> None:
        readings = torch.relu(torch.randn(2000, 5))
        errors = []
        for orders in range(1, 5):
            threshold, centre, scales = fit(readings, orders)
            left = BinaryMap(threshold, centre, scales)(readings).detach() - readings
            errors.append(float(left.square().mean()))
        assert all(more < 0.7 * fewer for fewer, more in itertools.pairwise(errors))

    @given(st.integers(1, 4), st.sampled_from([0.0, 3.0, -2.0]))
    def test_constant_maps_stay_what_they_are(self, orders: int, value: float) -> None:
        readings = torch.full((10, 3), value)
        quantizer = BinaryMap(*fit(readings, orders))
        x = readings.clone().requires_grad_()
        y = quantizer(x)
        y.sum().backward()
        assert torch.equal(y, readings) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_values_are_stored_exactly_at_so_many_bits(orders: int) -> None:
    quantizer = BinaryMap(*fit(X.movedim(1, -1).flatten(0, 2), orders), extents=2)
    values = quantizer(X).detach().numpy()
    stored = quantizer.encoder()(values)
    assert np.array_equal(stored.decode(), values)
    assert stored.bits_by_part["values"] == orders * values.size and quantizer.bits == orders


@pytest.mark.parametrize("orders", [1, 2])
def test_packed_products_give_the_float_layer(orders: int) -> None:
    """alpha (c sum B + s_1 conv(sign, B) + ...), plus the shortcut: what is multiplied is not in the inner loop."""
    model = binarised(network(), orders=orders, leaky=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        read = model[:3](X)
        quantizer, layer = input_quantizers(model)["3"], model[3]
        weight, expected = layer.weight.numpy(), layer(read)
        total = quantizer.centre * layer.__class__._conv_forward(  # sum B over the taps inside the picture
            layer, torch.ones(1, 8, 8, 8), sign(layer.weight), None
        )
        value, threshold = quantizer.centre, quantizer.threshold.view(-1, 1, 1)
        for scale in quantizer.scales:
            above = read - threshold
            total = total + scale * torch.from_numpy(conv2d(above.numpy(), weight, padding=(1, 1)))
            value = threshold = value + scale * sign(above)
        alpha = layer.weight.abs().mean((1, 2, 3)).view(-1, 1, 1)
        found = alpha * total + layer.bias.view(-1, 1, 1) + quantizer.gain.view(-1, 1, 1) * read
    assert torch.allclose(found, expected, atol=1e-5)


class TestTheMethod:
    def test_inputs_go_first_and_weights_after(self) -> None:
        model, method = network(), BinaryMaps()
        plan = method.plan(model, CONTEXT)
        first = method.apply(model, plan, 0, CONTEXT)
        assert list(input_quantizers(first)) == ["3", "6"] and find(first, "3.weight", BinaryWeight) is None
        second = method.apply(first, plan, 1, CONTEXT)
        assert find(second, "3.weight", BinaryWeight) is not None

    def test_shortcuts_go_where_shapes_permit_and_change_nothing_at_first(self) -> None:
        assert shape_preserving(network(), X[:1]) == {"3"}
        plan = BinaryMaps().plan(network(), CONTEXT)
        assert plan["3.weight"]["shortcut"] and not plan["6.weight"]["shortcut"]
        assert torch.equal(binarised(network())(X), binarised(network(), shortcut=False)(X))

    def test_relus_before_convolutions_learn_to_leak_and_are_the_same_at_first(self) -> None:
        model = binarised(network())
        slopes = [module.weight for module in model.modules() if isinstance(module, nn.PReLU)]
        assert [len(slope) for slope in slopes] == [8, 8]  # the last one is read by a linear layer
        assert torch.equal(model(X), binarised(network(), leaky=False)(X))

    def test_without_a_graph_relus_stay(self) -> None:
        class ByValue(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = self.inner(x if x.sum() > 0 else -x)
                return y

        model = binarised(ByValue().eval())
        assert isinstance(model, ByValue) and not any(isinstance(module, nn.PReLU) for module in model.modules())

    def test_everything_learned_is_trained(self) -> None:
        model = binarised(network())
        model.train()(X).square().sum().backward()
        learned = {name: p for name, p in model.named_parameters() if "input_quantizer" in name or "relu" in name}
        assert len(learned) == 9  # threshold, centre and scales of two layers, and a gain; two slopes
        assert all(parameter.grad.any() for parameter in learned.values())
        assert all(p.ndim < 2 for p in learned.values())  # so no weight decay takes them

    def test_more_signs_stay_closer_to_the_layer(self) -> None:
        errors = []
        with torch.no_grad():
            read = network()[:3](X)
            for orders in (1, 2, 4):
                model, method = network(), BinaryMaps(orders=orders, layers=("3",))
                model = method.apply(model, method.plan(model, CONTEXT), 0, CONTEXT)  # the inputs alone
                found = model.get_submodule("3")(read)
                errors.append(float((found - network()[3](read)).square().sum()))
        assert errors[2] < 0.5 * errors[1] and errors[1] < 0.8 * errors[0]

    @pytest.mark.parametrize("orders", [0, 5])
    def test_bad_settings_are_refused(self, orders: int) -> None:
        with pytest.raises(RecipeError, match=f"binary_maps.orders must be from 1 to 4, got {orders}"):
            BinaryMaps(orders=orders)

    def test_says_what_it_needs(self) -> None:
        without = Context(loss=CONTEXT.loss, example=X[:1])
        with pytest.raises(RecipeError, match="there are no images"):
            BinaryMaps().plan(network(), without)
        broken = Context(loss=CONTEXT.loss, example=X[:1], inputs=X * float("inf"))
        plan = BinaryMaps().plan(network(), CONTEXT)
        with pytest.raises(DataError, match="layer '3' reads NaN or infinity"):
            BinaryMaps().apply(network(), plan, 0, broken)
