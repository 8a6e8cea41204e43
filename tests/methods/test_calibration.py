"""Ranges of what layers read by each rule, scales of weights, and what no grid can be laid over."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.errors import DataError
from dovetail.methods.quantize.calibration import RULES, clipped_range, grid, quantized, weight_scales
from dovetail.methods.quantize.observation import observe

TAILED = torch.cat([torch.randn(20_000, generator=torch.Generator().manual_seed(0)), torch.tensor([40.0])]).relu()


def error(values: Tensor, bits: int, rule: str) -> float:
    values = values.double()
    return float((quantized(values, *grid(*clipped_range(values, bits, rule), bits), bits) - values).square().mean())


class TestRanges:
    @pytest.mark.parametrize("rule", RULES)
    @given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(2, 8))
    def test_they_hold_zero_and_nothing_that_was_not_seen(self, rule: str, values: list[float], bits: int) -> None:
        low, high = clipped_range(torch.tensor(values), bits, rule)
        assert min(*values, 0.0) <= low <= 0 <= high <= max(*values, 0.0)
        scale, zero = grid(low, high, bits)
        assert scale >= 0 and 0 <= zero < 2**bits

    def test_min_max_is_that_of_all_values_where_these_are_a_sample(self) -> None:
        assert clipped_range(torch.tensor([1.0, -2.0]), 8, "min_max") == (-2, 1)
        assert clipped_range(torch.tensor([1.0]), 8, "min_max", (-3.0, 4.0)) == (-3, 4)

    @pytest.mark.parametrize("rule", ["percentile", "mse", "kl"])
    def test_the_others_leave_an_outlier_out(self, rule: str) -> None:
        low, high = clipped_range(TAILED, 4, rule)
        assert low == 0 and 1 < high < 10

    def test_mse_loses_least(self) -> None:
        assert error(TAILED, 4, "mse") == min(error(TAILED, 4, rule) for rule in RULES)

    @pytest.mark.parametrize("rule", ["mse", "kl"])
    def test_of_even_values_nothing_is_clipped_much(self, rule: str) -> None:
        low, high = clipped_range(torch.linspace(-1, 3, 4001), 8, rule)
        assert low < -0.9 and high > 2.7

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("constant", [-2.0, 0.0, 3.0])
    def test_constants_lie_on_the_grid(self, rule: str, constant: float) -> None:
        values = torch.full((1000,), constant)
        found = quantized(values, *grid(*clipped_range(values, 8, rule), 8), 8)
        assert torch.allclose(found, values, rtol=0.01)

    @pytest.mark.parametrize("rule", RULES)
    def test_there_must_be_finite_values(self, rule: str) -> None:
        with pytest.raises(DataError, match="at least one value, got none"):
            clipped_range(torch.tensor([]), 8, rule)
        with pytest.raises(DataError, match="NaN or infinite"):
            clipped_range(torch.tensor([1.0, float("nan")]), 8, rule)


def test_what_is_never_negative_gets_all_codes() -> None:
    assert grid(0.0, 5.1, 8) == (pytest.approx(0.02), 0)
    assert grid(-1.0, 0.0, 2) == (pytest.approx(1 / 3), 3)


class TestWeightScales:
    WEIGHT = (
        torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
        * torch.logspace(-2, 1, 6)[:, None, None, None]
    )

    def left(self, scale: Tensor, rows: Tensor) -> Tensor:
        flat = self.WEIGHT.flatten(1)
        return ((torch.round(flat / scale[:, None]).clamp(-7, 7) * scale[:, None] - flat) @ rows.T).square().sum(1)

    def test_clipping_loses_no_more_than_not_clipping(self) -> None:
        whole = self.WEIGHT.abs().flatten(1).amax(1) / 7
        found, eye = weight_scales(self.WEIGHT, 4), torch.eye(36)
        assert found.shape == (6,) and (found <= whole * 1.0001).all()
        assert (self.left(found, eye) <= self.left(whole, eye) * 1.0001).all()

    def test_the_error_is_that_of_the_outputs_where_inputs_are_known(self) -> None:
        rows = torch.randn(200, 36, generator=torch.Generator().manual_seed(2)) * torch.linspace(0, 1, 36) ** 8
        plain, informed = (self.left(weight_scales(self.WEIGHT, 4, seen), rows) for seen in (None, rows))
        assert (informed <= plain * 1.0001).all() and informed.sum() < 0.99 * plain.sum()

    def test_one_scale_for_all_and_none_for_zeros(self) -> None:
        assert weight_scales(self.WEIGHT, 8, per_channel=False).shape == (1,)
        assert weight_scales(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), 8).tolist() == pytest.approx([0, 1 / 127])


class TestObservation:
    def test_sees_what_layers_read_and_answer(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)).eval()
        x = torch.randn(40, 2, 4, 4)
        seen = observe(model, ["0", "3"], x)
        hidden = model[:3](x).detach()
        assert (seen["3"].low, seen["3"].high) == (float(hidden.min()), float(hidden.max()))
        assert torch.equal(seen["3"].patches, hidden)
        assert torch.allclose(seen["3"].mean.float(), model(x).mean(0), atol=1e-5)
        assert torch.allclose(seen["0"].deviation.float(), model[0](x).std((0, 2, 3), correction=0), atol=1e-5)

    def test_layers_that_are_not_called_or_are_none_are_left_out(self) -> None:
        attention = nn.MultiheadAttention(4, 2)  # reads its weights itself

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table, self.attention = nn.Embedding(5, 4), attention

            def forward(self, x: Tensor) -> Tensor:
                y = self.table(x.long())
                return self.attention(y, y, y)[0]

        assert observe(Network().eval(), ["table", "attention.out_proj"], torch.ones(2, 3)) == {}

    def test_says_what_is_wrong_with_the_data(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2))
        x = torch.ones(4, 3)
        x[1, 0] = torch.nan
        with pytest.raises(DataError, match="1 of 4 inputs hold NaN or infinity"):
            observe(model, ["0"], x)
        with pytest.raises(DataError, match="at least one input"):
            observe(model, ["0"], x[:0])
        model[0].weight.data.fill_(torch.inf)
        with pytest.raises(DataError, match="layer '0' answers"):
            observe(model, ["0"], torch.ones(1, 3))

    def test_one_image_is_enough(self) -> None:
        seen = observe(nn.Sequential(nn.Conv2d(2, 3, 3)), ["0"], torch.randn(1, 2, 4, 4))["0"]
        assert seen.patches is not None and seen.patches.shape == (4, 18)
