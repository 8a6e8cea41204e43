"""Sums over a workload, and weights kept in storage formats."""

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ModelError
from dovetail.formats import Dense, Float, Format
from dovetail.networks import NETWORKS
from dovetail.workload import Operand, Operation, Workload, trace


@pytest.fixture(scope="module")
def workload() -> Workload:
    torch.manual_seed(0)
    return trace(NETWORKS["lenet5"].build(), torch.rand(2, 1, 28, 28))


def dense(shape: tuple[int, ...], density: float = 1.0) -> Format:
    values = np.ones(shape, np.float32)
    values.reshape(-1)[round(density * values.size) :] = 0
    return Dense(Float.encode(values, dtype="float16"))


def test_rows_add_up_to_the_totals(workload: Workload) -> None:
    totals = workload.totals
    for rows in (workload.by_kind(), workload.by_layer()):
        for quantity in ("operations", "macs", "macs_share", "other_ops", "parameters", "activation_bytes"):
            assert sum(getattr(row, quantity) for row in rows) == pytest.approx(getattr(totals, quantity)), quantity
    assert totals.operations == len(workload.operations) and totals.macs_share == 1.0


def test_rows_by_kind_and_by_layer(workload: Workload) -> None:
    assert [row.kind for row in workload.by_kind()] == ["conv", "matmul", "pool", "activation"]
    layers = workload.by_layer()
    assert [(row.name, row.kind) for row in layers][:3] == [("conv1", "conv"), ("", "pool"), ("conv2", "conv")]
    conv2 = layers[2]
    assert conv2.macs == 2 * 50 * 20 * 8 * 8 * 25 and conv2.parameters == 25_050
    assert conv2.weight_bytes == 4 * 25_050 and conv2.activation_bytes == 4 * 2 * 50 * 64
    moved = conv2.weight_bytes + conv2.activation_bytes + 4 * 2 * 20 * 144
    assert conv2.arithmetic_intensity == pytest.approx((2 * conv2.macs + 2 * 50 * 64) / moved)
    assert layers[1].weight_density is None and layers[1].input_density is not None


def test_weights_take_the_bits_and_density_of_their_format(workload: Workload) -> None:
    stored = workload.with_weights({"fc1.weight": dense((500, 800), 0.25)})
    (operation,) = [operation for operation in stored.operations if operation.name == "fc1"]
    (weight,) = operation.with_role("weight")
    assert weight.stored_bits == 16 * 400_000 and weight.bytes == 800_000 and weight.density == 0.25
    assert weight.bits == 32, "the width it is computed with stays"
    assert stored.totals.weight_bytes == workload.totals.weight_bytes - 800_000
    assert stored.totals.parameters == workload.totals.parameters and stored.totals.macs == workload.totals.macs


def test_a_part_of_a_stored_weight_has_its_share_of_the_bits() -> None:
    attention = nn.MultiheadAttention(4, 1, batch_first=True, bias=False)
    x, memory = torch.rand(1, 3, 4), torch.rand(1, 5, 4)
    traced = trace(attention, x, memory, memory).with_weights({"in_proj_weight": dense((12, 4))})
    parts = [o for op in traced.operations for o in op.operands if o.name == "in_proj_weight"]
    assert sum(part.stored_bits or 0 for part in parts) == 16 * 48 and len(parts) > 1
    assert traced.totals.parameters == 48 + 16


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("fc9.weight", (2, 2), "A format is given for 'fc9.weight', but no operation"),
        ("fc1.weight", (2, 2), r"for 'fc1.weight' is of shape \(2, 2\), but the tensor of \(500, 800\)"),
    ],
)
def test_a_format_that_does_not_fit_is_refused(
    workload: Workload, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        workload.with_weights({name: dense(shape)})


def test_a_workload_made_by_hand_finds_its_constants() -> None:
    operands = (
        Operand("input", "", (2, 3), 8, 0.5),
        Operand("weight", "w", (3, 5), 3, 1.0),
        Operand("output", "", (2, 5), 16, 1.0),
    )
    product = Operation("fc", "matmul", {"B": 1, "M": 2, "N": 5, "K": 3}, operands, macs=30)
    totals = Workload((product, product)).totals
    assert (totals.parameters, totals.macs, totals.weight_bytes) == (15, 60, 6)
    assert totals.activation_bytes == 40 and totals.input_density == 0.5


def test_an_empty_workload_has_totals_of_zero() -> None:
    totals = trace(nn.Identity(), torch.rand(2)).totals
    assert (totals.macs, totals.parameters, totals.macs_share, totals.arithmetic_intensity) == (0, 0, 0.0, 0.0)


def test_nonzero_macs_leave_out_zero_weights() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False))
    layers[0].weight.data.fill_(1)
    layers[0].weight.data[1:] = 0
    layers[1].weight.data.fill_(1)
    work = trace(layers, torch.rand(1, 2, 5, 5))
    assert work.macs == 4 * 2 * 9 * 9 + 4 * 4 * 9
    assert work.nonzero_macs == 1 * 2 * 9 * 9 + 4 * 4 * 9
