"""SmartDeal: recovery of planted factors, exactness in integers, sparsity, size, training."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.formats import Product
from dovetail.formats.registry import from_arrays
from dovetail.methods.constraint import Step, bake, find, layouts
from dovetail.methods.factorize.powers import Slices, factorise, improve, to_eight_bits, to_powers
from dovetail.methods.factorize.smartdeal import PowersTimesBasis, SmartDeal, without_vectors
from dovetail.methods.method import Context

GENERATOR = torch.Generator().manual_seed(0)
FLAT = Context(loss=lambda model: 0.0, example=torch.zeros(1))


def planted(density: float, slices: int = 100) -> Tensor:
    """Matrices that are sparse powers of two times bases of 8-bit integers."""
    shape = (slices, 48, 3)
    powers = 2.0 ** -torch.randint(0, 5, shape, generator=GENERATOR).double()
    signs = torch.randint(0, 2, shape, generator=GENERATOR) * 2 - 1
    kept = torch.rand(shape, generator=GENERATOR) < density
    basis = torch.randint(-127, 128, (slices, 3, 3), generator=GENERATOR).double() / 128
    return (powers * signs * kept) @ basis


@pytest.mark.parametrize("density", [0.2, 0.3, 0.4, 0.5])
def test_planted_factors_are_recovered_in_nine_of_ten_trials(density: float) -> None:
    matrices = planted(density)
    found = factorise(matrices, threshold=1e-6, levels=8, iterations=30)
    recovered = (found.product() - matrices).abs().amax((1, 2)) < 1e-9
    assert float(recovered.float().mean()) >= 0.9


@settings(deadline=None, max_examples=100)
@given(st.floats(-4, 4), st.integers(1, 8))
def test_rounds_to_the_nearest_power_of_two(value: float, levels: int) -> None:
    candidates = [0.0] + [sign * 2.0**-i for i in range(levels) for sign in (1, -1)]
    found = float(to_powers(torch.tensor([value], dtype=torch.float64), levels))
    assert found in candidates
    assert abs(found - value) == min(abs(c - value) for c in candidates)


def test_of_two_equally_near_powers_the_smaller_is_taken() -> None:
    assert to_powers(torch.tensor([0.75, -0.375, 0.76]), 8).tolist() == [0.5, -0.25, 1.0]


def test_a_basis_is_integers_of_eight_bits_times_a_power_of_two() -> None:
    basis = (
        torch.randn(20, 3, 3, generator=GENERATOR, dtype=torch.float64)
        * 10.0 ** torch.arange(-4, 1).repeat(4)[:, None, None]
    )
    found = to_eight_bits(basis)
    for old, new in zip(basis, found, strict=True):
        scale = 2.0 ** np.ceil(np.log2(float(old.abs().max()) / 127))
        integers = new / scale
        assert torch.equal(integers, integers.round()) and 64 <= float(integers.abs().max()) <= 127
        assert float((old - new).abs().max()) <= scale / 2 + 1e-12


def test_more_iterations_never_lose() -> None:
    matrices = torch.randn(10, 48, 3, generator=GENERATOR)
    errors = [
        (factorise(matrices, threshold=0.1, levels=8, iterations=i).product() - matrices).square().sum((1, 2))
        for i in (1, 3, 10, 30)
    ]
    assert all((later <= earlier + 1e-12).all() for earlier, later in pairwise(errors))


def test_a_higher_threshold_leaves_fewer_coefficients_and_more_error() -> None:
    matrices = torch.randn(20, 48, 3, generator=GENERATOR)
    found = [factorise(matrices, threshold=t, levels=8, iterations=20) for t in (0.05, 0.2, 0.35, 0.5)]
    errors = [float((f.product() - matrices).square().sum()) for f in found]
    counts = [int((f.coefficients != 0).sum()) for f in found]
    assert errors == sorted(errors) and counts == sorted(counts, reverse=True)
    rows = (found[-1].coefficients == 0).all(2)
    assert float(rows.float().mean()) > 0.1  # whole vectors


def test_zeros_and_dependent_rows_are_taken_too() -> None:
    matrices = torch.zeros(3, 12, 3)
    matrices[1, :, 0] = torch.linspace(-1, 1, 12)
    matrices[2] = torch.outer(torch.linspace(-1, 1, 12), torch.tensor([1.0, 2.0, 3.0]))
    found = factorise(matrices, threshold=0.0, levels=8, iterations=10)
    assert not found.product()[0].any()
    assert (torch.linalg.det(found.basis) != 0).all()
    assert float((found.product() - matrices).abs().max()) < 0.2 * 3


@pytest.mark.parametrize(
    ("shape", "matrices"),
    [((8, 3, 3, 3), (8, 9, 3)), ((4, 100, 3, 3), (8, 150, 3)), ((5, 512), (5, 171, 3)), ((6, 7, 1, 1), (6, 3, 3)),
     ((2, 3, 5, 5), (2, 15, 5)), ((2, 700), (4, 117, 3))],
)  # fmt: skip
def test_cuts_as_the_paper_does_and_joins_again(shape: tuple[int, ...], matrices: tuple[int, ...]) -> None:
    weight, slices = torch.randn(shape, generator=GENERATOR), Slices.of(shape, 192)
    assert slices.cut(weight).shape == matrices
    assert torch.equal(slices.join(slices.cut(weight)), weight)


def shift_and_add(coefficients: Tensor, basis: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The rebuild engine: integers, shifts and additions alone. Returns integers and each slice's unit."""
    unit = 2.0 ** np.ceil(np.log2(basis.abs().amax((1, 2)).double().numpy() / 127))
    integers = np.rint(basis.double().numpy() / unit[:, None, None]).astype(np.int64)
    q = coefficients.double().numpy()
    result = np.zeros(q.shape, np.int64)
    for s, row, j in zip(*np.nonzero(q), strict=True):
        shift = 7 + int(np.log2(abs(q[s, row, j])))
        term = integers[s, j] << shift
        result[s, row] += term if q[s, row, j] > 0 else -term
    return result, unit / 128


def test_the_product_is_the_shift_and_add_rebuild_to_the_bit() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=GENERATOR)
    held = SmartDeal()._constraint(weight)
    with torch.no_grad():
        effective = held(weight)
        coefficients = held.rounded(held.slices.cut(weight) @ held.inverse) * held.mask
    integers, unit = shift_and_add(coefficients, held.basis)
    rebuilt = held.slices.join(torch.from_numpy((integers * unit[:, None, None]).astype(np.float32)))
    assert torch.equal(rebuilt, effective)


def compressed(method: SmartDeal, layer: nn.Module) -> nn.Module:
    return method.apply(layer, method.plan(layer, FLAT), 0, FLAT)


@pytest.mark.parametrize("layer", [nn.Conv2d(32, 32, 3), nn.Conv2d(64, 16, 1), nn.Linear(200, 30), nn.Conv2d(3, 8, 5)])
def test_is_stored_as_the_product_it_is(layer: nn.Module) -> None:
    method = SmartDeal()
    plan = method.plan(layer, FLAT)
    layer = compressed(method, layer)
    weight = bake(layer).weight.detach().numpy()
    stored = layouts(layer)["weight"].encode(weight)
    assert isinstance(stored, Product)
    assert np.array_equal(stored.decode(), weight)
    assert np.array_equal(from_arrays(stored.header(), stored.arrays()).decode(), weight)
    assert plan["weight"]["bytes"] == [4 * weight.size, stored.bits // 8]


def test_is_eight_times_smaller_with_vectors_pruned() -> None:
    layer = nn.Conv2d(64, 64, 3)
    row = SmartDeal(threshold=0.3, vectors=0.3).plan(layer, FLAT)["weight"]
    assert row["bytes"][0] >= 10 * row["bytes"][1]


def test_vectors_are_pruned_by_their_sum_over_32_filters() -> None:
    weight = torch.randn(64, 4, 3, 3, generator=GENERATOR)
    pruned = without_vectors(weight, 0.25)
    for filters, old in zip(pruned.split(32), weight.split(32), strict=True):
        gone = (filters == 0).all(3).all(0)
        assert int(gone.sum()) == 3
        sums = old.abs().sum((0, 3))
        assert float(sums[gone].max()) < float(sums[~gone].min())
    assert torch.equal(pruned[pruned != 0], weight[pruned != 0])


def test_training_moves_the_coefficients_within_their_pattern_and_fits_the_bases_anew() -> None:
    layer = compressed(SmartDeal(interval=0.25), nn.Conv2d(4, 8, 3))
    held = find(layer, "weight", PowersTimesBasis)
    assert held is not None
    x, target = torch.randn(16, 4, 8, 8, generator=GENERATOR), torch.randn(16, 8, 6, 6, generator=GENERATOR)
    optimiser = torch.optim.SGD(layer.parameters(), 0.5, momentum=0.9)
    bases, losses = [held.basis.clone()], []
    for index in range(20):
        optimiser.zero_grad()
        loss = (layer.train()(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        held.after_step(Step(index + 1, 20))
        losses.append(float(loss.detach()))
        if not torch.equal(bases[-1], held.basis):
            bases.append(held.basis.clone())
    assert losses[-1] < losses[0]
    assert len(bases) == 4  # anew after 5, 10 and 15 steps, not at the end
    weight = bake(layer).weight.detach().numpy()
    assert np.array_equal(layouts(layer)["weight"].encode(weight).decode(), weight)


def test_fitting_anew_reduces_the_error() -> None:
    matrices = torch.randn(10, 48, 3, generator=GENERATOR)
    start = factorise(matrices, threshold=0.2, levels=8, iterations=30)
    moved = matrices + 0.1 * torch.randn(10, 48, 3, generator=GENERATOR)
    mask = start.coefficients != 0
    stale = to_powers(moved.double() @ torch.linalg.inv(start.basis), 8) * mask @ start.basis
    fresh = improve(moved, start.basis, mask, threshold=0, levels=8, iterations=3)
    assert not fresh.coefficients[~mask].any()
    assert float((fresh.product() - moved).norm()) < float((stale - moved).norm())


def test_bad_configurations() -> None:
    with pytest.raises(RecipeError, match=r"smartdeal\.exponent_bits must be from 1 to 3, got 4"):
        SmartDeal(exponent_bits=4)
    with pytest.raises(RecipeError, match=r"smartdeal\.vectors must be a fraction"):
        SmartDeal(vectors=1.0)
