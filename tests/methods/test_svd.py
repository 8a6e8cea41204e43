"""Truncated SVD across channels and space: exact at full rank, optimal below, costed as the formulas say."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods import Svd
from dovetail.methods.budget import Budget
from dovetail.methods.layers import macs
from dovetail.methods.lowrank.reduced_rank import split
from dovetail.methods.lowrank.svd import as_matrix, lost
from dovetail.methods.method import Context
from dovetail.workload.trace import trace

INPUTS = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
DATA_FREE = Context(loss=lambda model: 0.0, example=INPUTS[:1])
DATA = replace(DATA_FREE, inputs=INPUTS)


def network() -> nn.Sequential:
    """A network whose channels are correlated, as trained ones are."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, bias=False),
        nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5),
    )  # fmt: skip
    for layer in (model[0], model[3], model[7]):
        decay = torch.logspace(0, -1.5, len(layer.weight))
        mixed = torch.linalg.qr(torch.randn(len(decay), len(decay)))[0] @ torch.diag(decay)
        layer.weight.data = (mixed @ layer.weight.data.flatten(1)).view_as(layer.weight).contiguous()
    model.train()(INPUTS)
    return model.eval()


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    same = draw(st.booleans())
    stride = (1, 1) if same else draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = "same" if same else draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    torch.manual_seed(draw(st.integers(0, 99)))
    return nn.Conv2d(
        3, draw(st.integers(1, 7)), kernel, stride, padding, dilation, bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("form", ["channel", "spatial"])
@settings(max_examples=60, deadline=None)
@given(layer=convolutions())
def test_full_rank_is_exact_whatever_stride_padding_dilation(form: str, layer: nn.Conv2d) -> None:
    method = Svd(form=form)
    full = min(as_matrix(layer, form if layer.kernel_size != (1, 1) else "channel").shape)
    stack = method.build(layer, {"rank": full})
    with torch.no_grad():
        torch.testing.assert_close(stack(INPUTS[:2]), layer(INPUTS[:2]), atol=1e-5, rtol=1e-5)


def test_full_rank_of_a_linear_layer_is_exact() -> None:
    layer, x = nn.Linear(20, 12), torch.randn(4, 7, 20)
    torch.testing.assert_close(Svd().build(layer, {"rank": 12})(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("space", ["weight", "response"])
def test_full_rank_leaves_the_network_as_it_was(form: str, space: str) -> None:
    model, original = network(), network()
    full = {"0": 9 if form == "spatial" else 24, "3": 72 if form == "spatial" else 32, "7": 5}
    method = Svd(form=form, space=space, settings={path: {"rank": rank} for path, rank in full.items()})
    method.apply(model, method.plan(model, DATA), 0, DATA)
    with torch.no_grad():
        torch.testing.assert_close(model(INPUTS), original(INPUTS), atol=1e-4, rtol=1e-4)


@given(st.integers(1, 8), st.integers(1, 12), st.integers(1, 8), st.integers(0, 99))
def test_the_error_is_that_of_the_singular_values_left_out(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    left, right = split(matrix, rank)
    tail = torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()
    assert float((matrix - left @ right).norm()) == pytest.approx(float(tail), abs=1e-10)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))  # equally scaled, for fine-tuning


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_the_error_of_a_layer_is_that_of_the_singular_values_left_out(form: str) -> None:
    layer = nn.Conv2d(5, 12, (3, 2))
    stack, rank = Svd(form=form).build(layer, {"rank": 4}), 4
    first, second = (part.weight.detach().double() for part in stack)
    if form == "channel":
        product = second.flatten(1) @ first.flatten(1)
    else:
        product = second.squeeze(2).transpose(1, 2).flatten(0, 1) @ first.flatten(1)
    matrix = as_matrix(layer, form)
    error = float((matrix - product).square().sum() / matrix.square().sum())
    assert error == pytest.approx(float(lost(layer, form)[rank]), rel=1e-4)


def test_costs_are_those_of_the_formulas() -> None:
    layer, rank = nn.Conv2d(6, 10, 3, padding=1, bias=False), 4
    channel = Svd(form="channel").build(layer, {"rank": rank})
    spatial = Svd(form="spatial").build(layer, {"rank": rank})
    assert macs(channel, (1, 6, 8, 8)) == 64 * rank * (6 * 9 + 10)
    assert macs(spatial, (1, 6, 8, 8)) == 64 * rank * 3 * (6 + 10)
    linear = Svd().build(nn.Linear(30, 10), {"rank": rank})
    assert macs(linear, (1, 30)) == rank * (30 + 10)


def test_the_spatial_stride_is_split_by_axis() -> None:
    stack = Svd(form="spatial").build(nn.Conv2d(3, 4, (3, 5), (2, 3), (1, 2), (1, 2)), {"rank": 2})
    vertical, horizontal = stack
    assert (vertical.kernel_size, vertical.stride, vertical.padding, vertical.dilation) == (
        (3, 1), (2, 1), (1, 0), (1, 1))  # fmt: skip
    assert (horizontal.kernel_size, horizontal.stride, horizontal.padding, horizontal.dilation) == (
        (1, 5), (1, 3), (0, 2), (1, 2))  # fmt: skip


def response_error(model: nn.Module, path: str, stack: nn.Module) -> float:
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda layer, args, y: seen.extend((args[0], y)))
    with torch.no_grad():
        model(INPUTS)
        handle.remove()
        return float((stack(seen[0]) - seen[1]).square().sum() / seen[1].square().sum())


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("rank", [3, 8])
def test_response_space_answers_better_than_weight_space(form: str, rank: int) -> None:
    model = network()
    model[4] = nn.Identity()  # so that the plain error of the responses is what is least
    errors = {
        space: response_error(
            model, "3", Svd(form=form, space=space).solve(model, "3", [{"form": form, "rank": rank}], DATA)[0]
        )
        for space in ("weight", "response")
    }
    assert errors["response"] < errors["weight"]


def test_response_space_is_the_principal_components() -> None:
    model = network()
    [stack] = Svd(space="response").solve(model, "3", [{"form": "channel", "rank": 5}], DATA)
    assert isinstance(model[4], nn.BatchNorm2d)
    model[3] = stack
    before, after = network()[:5](INPUTS), model[:5](INPUTS)
    rows = before.detach().movedim(1, -1).reshape(-1, 32).double()
    tail = torch.linalg.eigvalsh(rows.T.cov())[:-5].sum()
    found = (after - before).detach().movedim(1, -1).reshape(-1, 32).double().square().sum(1).mean()
    assert float(found) == pytest.approx(float(tail), rel=0.1)  # fitted to a sample, so a little above


def test_without_data_response_space_is_weight_space() -> None:
    model = network()
    pairs = [
        Svd(space=space).solve(model, "3", [{"form": "channel", "rank": 5}], DATA_FREE)[0]
        for space in ("weight", "response")
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(pair.state_dict().values() for pair in pairs), strict=True))


def test_best_takes_the_form_whose_weight_loses_less() -> None:
    for layer in (nn.Conv2d(8, 8, 3), nn.Conv2d(4, 32, 5), nn.Conv2d(32, 4, (1, 5))):
        for setting in Svd().options(layer):
            other = {"channel": "spatial", "spatial": "channel"}[setting["form"]]
            cost = macs(Svd().build(layer, setting), (1, layer.in_channels, 9, 9))
            cheaper = [
                option
                for option in Svd(form=other).options(layer)
                if macs(Svd().build(layer, option), (1, layer.in_channels, 9, 9)) <= 0.9 * cost
            ]
            mine = float(lost(layer, setting["form"])[setting["rank"]])
            assert all(mine <= float(lost(layer, other)[option["rank"]]) + 1e-9 for option in cheaper)
    assert {setting["form"] for setting in Svd().options(nn.Conv2d(8, 8, 1))} == {"channel"}


@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("fraction", [0.5, 0.25])
def test_the_budget_is_met(quantity: str, fraction: float) -> None:
    model = network()
    before = {"macs": trace(model, INPUTS[:1]).macs, "params": sum(p.numel() for p in model.parameters())}
    method = Svd(budget=Budget(**{quantity: fraction}))
    method.apply(model, method.plan(model, DATA_FREE), 0, DATA_FREE)
    after = {"macs": trace(model, INPUTS[:1]).macs, "params": sum(p.numel() for p in model.parameters())}
    assert 0.8 * fraction < after[quantity] / before[quantity] <= fraction


def test_says_what_a_budget_can_at_most_reach() -> None:
    with pytest.raises(RecipeError, match=r"budget macs = 0\.001 cannot be met by svd: 0\.\d+ is the closest"):
        Svd(budget=Budget(macs=0.001)).plan(network(), DATA_FREE)


@pytest.mark.parametrize("rank", [0, 33, 2.5, None, True])
def test_refuses_impossible_ranks(rank: object) -> None:
    method = Svd(form="channel", settings={"3": {"rank": rank}})
    with pytest.raises(RecipeError, match=r"from 1 to 32 for a weight of shape \(32, 24, 3, 3\)"):
        method.plan(network(), DATA_FREE)


@pytest.mark.parametrize("field, value", [("form", "vertical"), ("space", "phase")])
def test_refuses_unknown_choices(field: str, value: str) -> None:
    with pytest.raises(RecipeError, match=rf"svd.{field} must be "):
        Svd(**{field: value})


def test_leaves_grouped_convolutions_alone() -> None:
    assert not Svd().accepts(nn.Conv2d(4, 4, 3, groups=4))
    assert Svd().accepts(nn.Conv2d(4, 4, 3)) and Svd().accepts(nn.Linear(3, 2))
