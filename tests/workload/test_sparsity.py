"""Where the zeros of weights and activations are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from dovetail.errors import ModelError
from dovetail.networks import NETWORKS
from dovetail.report import profile_tables
from dovetail.workload import sparsity, trace, weight_sparsity


def test_a_weight_worked_by_hand() -> None:
    weight = np.ones((4, 3, 2, 2), np.float32)
    weight[1] = 0  # an output: 12 elements
    weight[:, 2] = 0  # an input: 12 more
    weight[0, 0] = 0  # a kernel: 4 more
    weight[3, 1, 0, 0] = 0  # and one element of none of these
    found = weight_sparsity(weight)
    assert found.structured == pytest.approx((12 + 12 + 4) / 48) and found.unstructured == pytest.approx(1 / 48)
    assert found.density == pytest.approx(19 / 48)
    assert (found.zero_outputs, found.zero_inputs) == (0.25, pytest.approx(1 / 3))
    assert found.zero_kernels == pytest.approx((3 + 3 + 1) / 12)
    # One block takes all outputs and one kernel: those of the last input are zero.
    assert found.zero_blocks == pytest.approx(1 / 3)
    assert found.two_of_four == found.one_of_four == pytest.approx(7 / 12)


def test_n_of_m_runs_along_rows_and_ends_with_them() -> None:
    weight = np.tile(np.array([1, 0, 0, 1, 0, 1], np.float32), (3, 1))
    found = weight_sparsity(weight)
    assert found.two_of_four == 1.0 and found.one_of_four == 0.5
    assert found.zero_kernels is None and found.structured == pytest.approx(0.5) and found.unstructured == 0


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_the_parts_sum_to_one(seed: int, shape: list[int]) -> None:
    rng = np.random.default_rng(seed)
    found = weight_sparsity(rng.random(shape) * (rng.random(shape) < rng.random()))
    assert found.density + found.structured + found.unstructured == pytest.approx(1)
    assert min(found.density, found.structured, found.unstructured) >= -1e-12
    assert found.one_of_four <= found.two_of_four


def test_both_sides_of_a_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    conv = network[0]
    prune.ln_structured(conv, "weight", amount=0.5, n=2, dim=0)
    x = torch.randn(3, 2, 6, 6)
    first, last = sparsity(network, trace(network, x))
    assert (first.name, last.name) == ("0.weight_orig", "4.weight")
    assert first.weight.zero_outputs == first.weight.structured == 0.5 and first.weight.unstructured == 0
    assert first.input_density == 1.0
    with torch.no_grad():
        hidden = network.eval()[:3](x)
    assert last.input_density == pytest.approx(float((hidden != 0).float().mean()))
    assert last.weight.density == 1.0 and last.weight.two_of_four == 0.0


def test_networks_that_do_not_fit_are_refused() -> None:
    lenet = NETWORKS["lenet5"].build()
    workload = trace(lenet, torch.rand(1, 1, 28, 28))
    with pytest.raises(ModelError, match="trace this one"):
        sparsity(nn.Linear(3, 4), workload)
    with torch.device("meta"):
        empty = NETWORKS["lenet5"].build()
    with pytest.raises(ModelError, match="meta device"):
        sparsity(empty, workload)
    with pytest.raises(ModelError, match="two dimensions"):
        weight_sparsity(np.zeros(3))


def test_the_profile_shows_them() -> None:
    network = NETWORKS["lenet5"].build()
    workload = trace(network, torch.rand(1, 1, 28, 28))
    assert len(profile_tables(workload)) == 2
    zeros = profile_tables(workload, sparsity(network, workload))[2]
    assert zeros.row_count == 4
    assert [column.header for column in zeros.columns][-3:] == ["2:4", "1:4", "density of inputs"]
