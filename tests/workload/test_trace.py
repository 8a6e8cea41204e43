"""Tracing: what is counted, under which name, with which density."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.networks import NETWORKS
from dovetail.workload import Operation, Workload, trace

PUBLISHED = {
    "alexnet": (61.0e6, 724e6),
    "vgg16": (138.36e6, 15.47e9),
    "resnet18": (11.69e6, 1.82e9),
    "resnet50": (25.56e6, 4.1e9),
    "mobilenet_v2": (3.5e6, 300e6),
    "resnet20": (0.27e6, 40.8e6),
    "lenet_300_100": (266_610, 266_200),
    "lenet5": (431_080, 2_293_000),
}
"""Parameters and MACs of one picture."""


def on_meta(name: str, batch: int = 1) -> Workload:
    network = NETWORKS[name]
    with torch.device("meta"):
        return trace(network.build(), torch.empty(batch, *network.input_shape))


def only(workload: Workload, kind: str) -> Operation:
    (operation,) = [operation for operation in workload.operations if operation.kind == kind]
    return operation


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_are_reproduced(name: str) -> None:
    parameters, macs = PUBLISHED[name]
    totals = on_meta(name).totals
    assert totals.parameters == pytest.approx(parameters, rel=0.01)
    assert totals.macs == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_fully_understood(name: str) -> None:
    workload = on_meta(name, batch=2)
    with torch.device("meta"):
        parameters = {key: value for key, value in NETWORKS[name].build().named_parameters()}
    assert workload.totals.parameters == sum(parameter.numel() for parameter in parameters.values())
    assert {constant.name for constant in workload.constants if constant.role != "buffer"} == set(parameters)
    assert "other" not in {operation.kind for operation in workload.operations}
    assert workload.totals.macs == 2 * on_meta(name).totals.macs


def extents_product(operation: Operation) -> int:
    groups = operation.extents["groups"]
    return math.prod(operation.extents.values()) // groups // groups


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor, int]:
    """A convolution of any rank, its input, and its MACs counted by the plain formula."""
    rank, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    groups, kernel = draw(st.integers(1, 3)), tuple(draw(st.integers(1, 3)) for _ in range(rank))
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    options: dict[str, Any] = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    plain, reverse = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layer = (reverse if transposed else plain)[rank - 1](channels, filters, kernel, **options)
    source = torch.ones(draw(st.integers(1, 2)), channels, *(draw(st.integers(5, 7)) for _ in range(rank)))
    with torch.no_grad():
        looped = source if transposed else layer(source)
    macs = source.shape[0] * filters * (channels // groups) * math.prod(looped.shape[2:]) * math.prod(kernel)
    return layer, source, macs


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_macs_of_a_convolution_equal_the_formula(case: tuple[nn.Module, Tensor, int]) -> None:
    layer, source, macs = case
    operation = only(trace(layer, source), "conv")
    assert operation.macs == macs == extents_product(operation)
    assert operation.extents.keys() >= {"N", "K", "C", "P", "Q", "R", "S", "groups"}
    roles = ["input", "weight", *(["bias"] if layer.bias is not None else []), "output"]
    assert [operand.role for operand in operation.operands] == roles


def test_a_convolution_is_described_in_full() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), stride=2, padding=1, groups=2)
    operation = only(trace(layer, torch.ones(2, 4, 9, 11)), "conv")
    assert operation.extents == {"N": 2, "K": 6, "C": 4, "P": 5, "Q": 5, "R": 3, "S": 5, "groups": 2}
    assert operation.attributes == {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
    assert [operand.name for operand in operation.operands] == ["", "weight", "bias", ""]
    assert operation.macs == 2 * 6 * 2 * 5 * 5 * 3 * 5 and operation.other_ops == 2 * 6 * 5 * 5
    assert trace(nn.ConvTranspose2d(1, 1, 2), torch.ones(1, 1, 3, 3)).operations[0].operator == "transposed_convolution"


@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (8,)])
def test_a_linear_layer_is_a_matrix_product_of_its_weight(shape: tuple[int, ...]) -> None:
    workload = trace(nn.Linear(8, 3), torch.ones(shape))
    operation = only(workload, "matmul")
    rows = math.prod(shape[:-1])
    assert operation.extents == {"B": 1, "M": rows, "N": 3, "K": 8} and operation.macs == rows * 24
    assert {operand.name for operand in operation.with_role("weight", "bias")} == {"weight", "bias"}
    assert workload.totals.parameters == 27


@pytest.mark.parametrize(
    ("left", "right", "extents"),
    [
        ((4, 5), (5, 6), {"B": 1, "M": 4, "N": 6, "K": 5}),
        ((2, 3, 4, 5), (2, 3, 5, 6), {"B": 6, "M": 4, "N": 6, "K": 5}),
        ((4, 5), (5,), {"B": 1, "M": 4, "N": 1, "K": 5}),
        ((5,), (5,), {"B": 1, "M": 1, "N": 1, "K": 5}),
    ],
)
def test_products_of_activations(left: tuple[int, ...], right: tuple[int, ...], extents: dict[str, int]) -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b

    operation = only(trace(Product(), torch.ones(left), torch.ones(right)), "matmul")
    assert operation.extents == extents and operation.macs == math.prod(extents.values())
    assert {operand.role for operand in operation.operands} == {"input", "output"}


def test_densities_are_measured() -> None:
    layer = nn.Conv2d(1, 2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1, 0, 0, 0, -1, 0, 2]).view(2, 1, 2, 2))
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, :, 0] = 1
    model = nn.Sequential(layer, nn.ReLU())
    convolution, relu = trace(model, picture).operations
    assert [operand.density for operand in convolution.operands] == [0.25, 0.375, 0.0]
    # Left column only: each filter's weights on column 0 are zero, so that nothing but zeros comes out.
    assert [operand.density for operand in relu.operands] == [0.0, 0.0]


def test_an_operator_that_writes_into_its_input_is_measured_before() -> None:
    (operation,) = trace(nn.ReLU(inplace=True), torch.tensor([-1.0, 1.0])).operations
    assert [operand.density for operand in operation.operands] == [1.0, 0.5] and operation.kind == "activation"


class Nested(nn.Module):
    """A layer called twice, a functional call, a weight used without its module, and modules in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.bare = nn.Parameter(torch.ones(4, 2))
        self.unused = nn.Linear(100, 100)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.block(self.block(x)) @ self.bare, -1)


def test_operations_go_by_the_module_that_runs() -> None:
    workload = trace(Nested(), torch.ones(3, 4))
    assert [(operation.name, operation.kind) for operation in workload.operations] == [
        ("block.0", "matmul"),
        ("block.1", "activation"),
        ("block.0", "matmul"),
        ("block.1", "activation"),
        ("", "matmul"),
        ("", "softmax"),
    ]
    assert workload.totals.macs == 2 * 3 * 16 + 3 * 8
    assert workload.totals.parameters == 20 + 8, "a shared layer is stored once, an unused one is no part"
    assert workload.operations[4].with_role("weight")[0].name == "bare"


def test_views_are_free_and_copies_are_moves() -> None:
    class Moves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(1, 2)[:, ::2].reshape(-1)  # the reshape has to copy
            return F.pad(torch.cat([x, x]), (1, 1)).view(2, -1)

    workload = trace(Moves(), torch.ones(2, 4, 6))
    assert [operation.operator for operation in workload.operations] == ["clone", "cat", "constant_pad_nd"]
    assert workload.totals.macs == workload.totals.other_ops == 0
    assert {row.kind for row in workload.by_kind()} == {"move"}


@pytest.mark.parametrize(
    ("layer", "extents"),
    [
        (nn.MaxPool2d(3, 2), {"N": 2, "C": 4, "P": 3, "Q": 3, "R": 3, "S": 3}),
        (nn.AvgPool2d(2), {"N": 2, "C": 4, "P": 4, "Q": 4, "R": 2, "S": 2}),
        (nn.AdaptiveAvgPool2d(2), {"N": 2, "C": 4, "P": 2, "Q": 2, "R": 4, "S": 4}),
        (nn.AdaptiveAvgPool2d(1), {"N": 2, "C": 4, "P": 1, "Q": 1, "R": 8, "S": 8}),
    ],
)
def test_pooling(layer: nn.Module, extents: dict[str, int]) -> None:
    operation = only(trace(layer, torch.rand(2, 4, 8, 8)), "pool")
    assert operation.extents == extents and operation.other_ops == math.prod(extents.values())
    assert [operand.role for operand in operation.operands] == ["input", "output"]


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (nn.BatchNorm2d(4), (2, 4, 3, 3), "normalisation"),
        (nn.LayerNorm(6), (2, 4, 6), "normalisation"),
        (nn.GroupNorm(2, 4), (2, 4, 3, 3), "normalisation"),
        (nn.MaxPool1d(2), (2, 4, 6), "pool"),
        (nn.MaxPool3d(2), (2, 4, 6, 6, 6), "pool"),
        (nn.ReLU6(), (5,), "activation"),
        (nn.GELU(), (5,), "activation"),
        (nn.PReLU(4), (2, 4, 3), "activation"),
        (nn.Hardswish(), (5,), "activation"),
        (nn.LogSoftmax(-1), (2, 5), "softmax"),
        (nn.Upsample(scale_factor=2), (1, 2, 3, 3), "move"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 3, 3), "resample"),
        (nn.ZeroPad2d(1), (1, 2, 3, 3), "move"),
        (nn.ReflectionPad2d(1), (1, 2, 3, 3), "move"),
        (nn.PixelShuffle(2), (1, 4, 3, 3), "move"),
    ],
)
def test_kinds(layer: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    workload = trace(layer, torch.rand(shape))
    assert {operation.kind for operation in workload.operations} == {kind}
    assert workload.totals.parameters == sum(parameter.numel() for parameter in layer.parameters())


def test_the_statistics_of_batch_normalisation_are_stored_but_are_no_parameters() -> None:
    totals = trace(nn.BatchNorm2d(4), torch.rand(2, 4, 3, 3)).totals
    assert totals.parameters == 8 and totals.weight_bytes == 4 * 16


def test_a_transformer_block() -> None:
    tokens, width, hidden = 7, 8, 32
    block = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    workload = trace(block, torch.rand(3, tokens, width))
    projections = 3 * tokens * (4 * width * width + 2 * width * hidden)
    scores = 3 * tokens * tokens * width
    assert workload.totals.macs == projections + 2 * scores
    assert workload.totals.parameters == sum(parameter.numel() for parameter in block.parameters())
    assert only(workload, "attention").extents == {"B": 3, "H": 2, "L": 7, "S": 7, "E": 4, "V": 4}
    assert {"linear1", "linear2", "self_attn"} <= {operation.name for operation in workload.operations}
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_same_under_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        workload = trace(model, torch.rand(1, 1, 4, 4))
    assert [operation.kind for operation in workload.operations] == ["conv", "matmul"]
    assert workload.totals.macs == 2 * 4 * 9 + 24


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_networks_are_matrix_products(layer: Any, gates: int, device: str) -> None:
    with torch.device(device):
        workload = trace(layer(5, 6), torch.empty(4, 2, 5))
    assert workload.totals.macs == 4 * 2 * gates * 6 * (5 + 6)
    assert workload.totals.parameters == gates * 6 * (5 + 6 + 2)
    assert torch.backends.mkldnn.enabled


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.ones(3, 1))

    def forward(self, right: Tensor) -> Tensor:
        return self.left @ right


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def test_a_parametrization_is_no_operation_and_its_weight_keeps_its_name() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    parametrize.register_parametrization(model[0], "weight", Masked())
    workload = trace(model, torch.ones(1, 4))
    operation = only(workload, "matmul")
    assert len(workload.operations) == 1
    assert [(o.name, o.density) for o in operation.with_role("weight")] == [("0.weight", 0.25)]
    assert workload.totals.parameters == 15 and workload.totals.weight_density == 0.25


def test_a_product_inside_a_parametrization_is_no_operation() -> None:
    layer = nn.Linear(4, 1)
    parametrize.register_parametrization(layer, "weight", LowRank(), unsafe=True)
    operation = only(trace(layer, torch.ones(1, 4)), "matmul")
    assert [(o.role, o.name, o.shape) for o in operation.with_role("weight")] == [("weight", "weight", (4, 3))]


def test_bits_come_from_the_dtype_and_a_cast_of_a_weight_is_no_operation() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.bfloat16()

    operation = only(trace(Cast(), torch.ones(2, 4, dtype=torch.bfloat16)), "matmul")
    assert [(operand.role, operand.name, operand.bits) for operand in operation.operands] == [
        ("input", "", 16),
        ("weight", "weight", 16),
        ("output", "", 16),
    ]


def test_the_model_is_left_as_it_was_found() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval(), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trace(model, torch.rand(2, 1, 4, 4))
    assert modes == [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_wrong_input_is_one_clear_sentence() -> None:
    with pytest.raises(ModelError, match=r"does not run on input of shape \(1, 3, 8, 8\): .*expected input"):
        trace(nn.Conv2d(1, 2, 3), torch.ones(1, 3, 8, 8))
