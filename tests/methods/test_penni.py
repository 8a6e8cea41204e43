"""PENNI: exact identities, turns, thresholds, counts."""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.channels import dependencies, mask
from dovetail.methods.constraint import Step, bake, constraints, find, layouts
from dovetail.methods.factorize.kernels import above, decompose, two_step_macs, used_maps
from dovetail.methods.factorize.penni import Penni, accepts, measure, nonzero_macs
from dovetail.methods.factorize.redundant import redundant
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.methods.method import Context
from dovetail.methods.prune.magnitude import Mask
from dovetail.networks import load_model
from dovetail.networks.table import NETWORKS
from dovetail.workload.trace import trace

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(8, 3, 10, 10, generator=GENERATOR)
Y = torch.arange(8) % 4


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(),
        nn.Conv2d(12, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model.eval()(X), Y))


CONTEXT = Context(loss=loss, probe=loss, example=X[:1])


def decomposed(method: Penni, stages: int = 1) -> nn.Module:
    model = network()
    plan = method.plan(model, CONTEXT)
    for stage in range(stages):
        plan = method.refine(model, plan, stage, CONTEXT)
        model = method.apply(model, plan, stage, CONTEXT)
    return model


def step(model: nn.Module, optimiser: torch.optim.Optimizer, index: int, total: int) -> None:
    held = [constraint for _, constraint in constraints(model)]
    optimiser.zero_grad()
    value = functional.cross_entropy(model.train()(X), Y) + sum(c.penalty() for c in held)
    value.backward()
    optimiser.step()
    for constraint in held:
        constraint.after_step(Step(index + 1, total))


# A: the decomposition.


def test_a_whole_basis_gives_the_weight_back() -> None:
    weight = torch.randn(7, 5, 3, 3, generator=GENERATOR)
    coefficients, basis = decompose(weight, 9)
    assert torch.allclose((coefficients @ basis).view_as(weight), weight, atol=1e-6)


def test_a_whole_basis_gives_the_networks_outputs_back() -> None:
    with torch.no_grad():
        assert torch.allclose(decomposed(Penni(basis=9)).eval()(X), network().eval()(X), atol=1e-5)


def test_the_basis_is_orthonormal_and_what_is_lost_are_the_singular_values_left_out() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=GENERATOR).double()
    singular = torch.linalg.svdvals(weight.reshape(24, 9))
    for count in range(1, 10):
        coefficients, basis = decompose(weight, count)
        assert torch.allclose(basis @ basis.T, torch.eye(count, dtype=torch.float64), atol=1e-10)
        lost = (coefficients @ basis).view_as(weight) - weight
        assert float(lost.square().sum()) == pytest.approx(float(singular[count:].square().sum()), abs=1e-10)


def test_is_never_worse_than_the_centred_decomposition_that_drops_its_mean() -> None:
    for _ in range(100):
        rows = torch.randn(24, 9, generator=GENERATOR).double() + torch.randn(9, generator=GENERATOR)
        _, _, principal = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
        centred = (rows - rows.mean(0)) @ principal[:4].T @ principal[:4]
        coefficients, basis = decompose(rows.reshape(6, 4, 3, 3), 4)
        assert (coefficients.reshape(24, 4) @ basis - rows).norm() <= (centred - rows).norm() + 1e-9


@pytest.mark.parametrize(("stride", "padding", "kernel"), list(itertools.product((1, 2), (0, 1), (3, 5))))
def test_the_two_steps_equal_the_one_convolution(stride: int, padding: int, kernel: int) -> None:
    weight, x = torch.randn(6, 3, kernel, kernel, generator=GENERATOR) / kernel, X
    coefficients, basis = decompose(weight, 5)
    held = SharedKernels(coefficients, basis, (kernel, kernel))
    one = functional.conv2d(x, held(torch.empty(0)), stride=stride, padding=padding)
    depthwise = basis.view(5, 1, kernel, kernel).repeat(3, 1, 1, 1)
    maps = functional.conv2d(x, depthwise, stride=stride, padding=padding, groups=3)
    two = functional.conv2d(maps, coefficients.reshape(6, 15, 1, 1))
    assert torch.allclose(one, two, atol=1e-5)


def test_biases_are_kept_and_1x1_convolutions_are_only_masked() -> None:
    model = decomposed(Penni())
    assert torch.equal(bake(model)[3].bias, network()[3].bias)
    assert torch.equal(bake(model)[5].weight, network()[5].weight)
    assert find(model, "5.weight", Mask) is not None and find(model, "5.weight", SharedKernels) is None


def test_takes_convolutions_without_groups() -> None:
    assert accepts(nn.Conv2d(4, 4, 3)) and accepts(nn.Conv2d(4, 4, 1))
    assert not accepts(nn.Conv2d(4, 4, 3, groups=2)) and not accepts(nn.Linear(4, 4))


# B: turns.


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_in_its_turn_one_half_moves_and_the_other_stays_to_the_bit(optimiser: str) -> None:
    model = decomposed(Penni(interval=0.25, strength=1e-3))
    kinds = {"sgd": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
             "adamw": torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)}  # fmt: skip
    held = [c for _, c in constraints(model) if isinstance(c, SharedKernels)]
    for index in range(11):
        before = copy.deepcopy(held)
        step(model, kinds[optimiser], index, 12)
        for old, new in zip(before, held, strict=True):
            coefficients_turn = (index // 3) % 2 == 0
            assert torch.equal(old.coefficients, new.coefficients) != coefficients_turn
            assert torch.equal(old.basis, new.basis) == coefficients_turn


def test_without_turns_both_halves_move_all_the_time() -> None:
    model = decomposed(Penni(alternating=False, strength=1e-3))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    held = find(model, "0.weight", SharedKernels)
    assert held is not None and held.penalty().item() > 0
    for index in range(4):
        before = copy.deepcopy(held)
        step(model, optimiser, index, 4)
        assert not torch.equal(before.coefficients, held.coefficients) and not torch.equal(before.basis, held.basis)
    assert not held.alternating and float(held.penalty()) == 0


def test_the_turns_end_with_the_training() -> None:
    model = decomposed(Penni(interval=0.5))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for index in range(4):
        step(model, optimiser, index, 4)
    held = find(model, "0.weight", SharedKernels)
    assert held is not None and not held.alternating and float(held.penalty()) == 0
    before = copy.deepcopy(held)
    step(model, optimiser, 0, 4)
    assert not torch.equal(before.basis, held.basis) and not torch.equal(before.coefficients, held.coefficients)


def test_an_interrupted_training_goes_on_as_it_would_have() -> None:
    method = Penni(interval=0.25, strength=1e-3)
    model, again = decomposed(method), decomposed(method)
    for index in range(3):
        step(model, torch.optim.SGD(model.parameters(), 0.1), index, 8)
    again.load_state_dict(model.state_dict())
    for index in range(3, 8):
        for trained in (model, again):
            step(trained, torch.optim.SGD(trained.parameters(), 0.1), index, 8)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def small_fraction(strength: float) -> float:
    model = decomposed(Penni(interval=0.25, strength=strength))
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for index in range(40):
        step(model, optimiser, index, 40)
    held = find(model, "3.weight", SharedKernels)
    assert held is not None
    return float((held.coefficients.abs() < 0.01).float().mean())


def test_the_penalty_makes_coefficients_small() -> None:
    assert small_fraction(1e-2) > 1.5 * small_fraction(0)


# C: thresholds.


def test_the_mask_is_the_rule_of_one_deviation_and_holds_through_training() -> None:
    model = decomposed(Penni(strength=0), 1)
    expected = {}
    for name, held in constraints(model):
        values = held.coefficients.detach() if isinstance(held, SharedKernels) else bake(model)[5].weight
        expected[name] = (values.abs() >= values.std()).clone()
    pruned = decomposed(Penni(strength=0), 2)
    optimiser = torch.optim.SGD(pruned.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for index in range(5):
        step(pruned, optimiser, index, 5)
    for name, held in constraints(pruned):
        assert torch.equal(held.mask, expected[name])
        values = held.kept() if isinstance(held, SharedKernels) else bake(pruned)[5].weight
        assert not values[~expected[name]].any()
        assert 0.1 < float(expected[name].float().mean()) < 0.6


def test_the_file_holds_the_nonzero_coefficients_and_the_basis_once() -> None:
    model = decomposed(Penni(threshold=1.5), 2)
    held = find(model, "3.weight", SharedKernels)
    assert held is not None
    weight = bake(model)[3].weight.detach().numpy()
    stored = layouts(model)["3.weight"].encode(weight)
    assert np.array_equal(stored.decode(), weight)
    nonzeros = int((held.kept() != 0).sum())
    assert stored.bits <= 32 * (nonzeros + held.basis.numel()) + held.mask.numel() + 64


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_budget_is_met_by_what_is_counted(quantity: str) -> None:
    method = Penni(budget=Budget(**{quantity: 0.5}))
    model = network()
    plan = method.plan(model, CONTEXT)
    for stage in range(2):
        plan = method.refine(model, plan, stage, CONTEXT)
        model = method.apply(model, plan, stage, CONTEXT)
    if quantity == "macs":
        assert 0.3 * trace(network(), X[:1]).macs < nonzero_macs(model, X[:1]) <= 0.5 * trace(network(), X[:1]).macs
    else:
        left = sum(size.params for size in measure(model, X[:1]).values())
        assert left <= 0.5 * sum(parameter.numel() for parameter in network().parameters())
    assert {row["threshold"] for row in plan.values()} != {1.0}
    for name, row in plan.items():
        assert measure(model, X[:1])[name].macs == row["macs"][1]


def test_a_budget_out_of_reach_says_what_can_be_had() -> None:
    with pytest.raises(RecipeError, match=r"cannot be met by penni: .* is the closest it comes"):
        Penni(budget=Budget(macs=0.001)).plan(network(), CONTEXT)


def test_bad_configurations() -> None:
    with pytest.raises(RecipeError, match=r"penni\.basis must be 1 or more, got 0"):
        Penni(basis=0)
    with pytest.raises(RecipeError, match=r"penni\.budget must be of macs or params"):
        Penni(budget=Budget(latency=0.5))


# D: shrinking.


def pruned_residual() -> nn.Module:
    """ResNet-8 with shared kernels, some channels dead: not read, not made, and a chain of both."""
    model = load_model("resnet8_fashion").module
    method = Penni(threshold=0.0)
    context = Context(loss=lambda model: 0.0, example=torch.zeros(1, 1, 28, 28))
    plan = method.plan(model, context)
    for stage in range(2):
        model = method.apply(model, plan, stage, context)
    kill(model, "layer1.0.conv2.weight", inputs=[1, 5])  # nobody reads 1 and 5 of conv1
    kill(model, "layer2.0.conv1.weight", outputs=[0, 7, 8])  # 0, 7 and 8 are not made
    kill(model, "layer3.0.conv1.weight", outputs=range(1, 64))
    kill(model, "layer3.0.conv2.weight", kernel=4)
    return model


def kill(
    model: nn.Module, name: str, inputs: Sequence[int] = (), outputs: Sequence[int] = (), kernel: int = -1
) -> None:
    held = find(model, name, SharedKernels)
    assert held is not None
    held.mask[:, list(inputs)] = False
    held.mask[list(outputs)] = False
    if kernel >= 0:
        held.mask[:, :, kernel] = False


RESNET = Context(loss=lambda model: 0.0, example=torch.zeros(1, 1, 28, 28))


def test_the_shrunk_network_is_the_masked_one() -> None:
    model = pruned_residual()
    method = Penni()
    plan = {f"{path}.weight": {"basis": 5} for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    plan = method.refine(model, plan, 2, RESNET)
    plain = bake(model)
    found = dependencies(plain, RESNET.example)
    mask(found, {name: row["removed"] for name, row in plan.items() if "removed" in row})
    shrunk = method.apply(model, plan, 2, RESNET)
    x = torch.randn(4, 1, 28, 28, generator=GENERATOR)
    with torch.no_grad():
        assert torch.allclose(shrunk.eval()(x), plain.eval()(x), atol=1e-5)
    assert shrunk.get_submodule("layer1.0.conv1").weight.shape[0] == 14
    assert shrunk.get_submodule("layer2.0.conv1").weight.shape[0] == 29
    assert shrunk.get_submodule("layer2.0.conv2").weight.shape[1] == 29
    assert shrunk.get_submodule("layer3.0.conv1").weight.shape[0] == 1
    assert find(shrunk, "layer3.0.conv2.weight", SharedKernels).basis.shape == (4, 9)


def test_channels_that_are_only_unread_go_without_a_change() -> None:
    model = load_model("resnet8_fashion").module
    method = Penni(threshold=0.0)
    plan = method.plan(model, RESNET)
    for stage in range(2):
        model = method.apply(model, plan, stage, RESNET)
    kill(model, "layer1.0.conv2.weight", inputs=[1, 5])
    x = torch.randn(4, 1, 28, 28, generator=GENERATOR)
    with torch.no_grad():
        expected = model.eval()(x)
        shrunk = method.apply(model, method.refine(model, plan, 2, RESNET), 2, RESNET)
        assert torch.allclose(shrunk.eval()(x), expected, atol=1e-5)
    again = method.refine(shrunk, plan, 2, RESNET)
    assert not [row for row in again.values() if "removed" in row]  # nothing more goes


def test_what_goes_frees_others() -> None:
    """a makes 0 for b alone, whose output 0 nobody reads: both go. One pass finds the second only."""
    chain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    with torch.no_grad():
        chain[2].weight[1:, 0] = 0  # only output 0 reads channel 0
        chain[4].weight[:, 0] = 0  # nobody reads output 0
    assert redundant(dependencies(chain, torch.zeros(1, 2, 9, 9))) == {"0": [0], "2": [0]}


# Counts.


def looped_macs(kept: Tensor, kernel: Tensor, positions: int) -> int:
    """The multiplications of the two steps, one by one."""
    count = 0
    for c, m in itertools.product(range(kept.shape[1]), range(kept.shape[2])):
        if any(kept[t, c, m] for t in range(kept.shape[0])):
            count += kernel.numel()
        count += sum(bool(kept[t, c, m]) for t in range(kept.shape[0]))
    return count * positions


def test_counts_what_the_two_steps_multiply() -> None:
    kept = torch.rand(6, 4, 5, generator=GENERATOR) < 0.15
    closed = two_step_macs(positions=49, maps=used_maps(kept), taps=9, nonzeros=int(kept.sum()))
    assert closed == looped_macs(kept, torch.zeros(3, 3), 49)
    assert used_maps(kept) < 20  # as many as the paper counts


def test_without_zeros_the_count_is_that_of_the_two_layers() -> None:
    maps, mix = nn.Conv2d(8, 40, 3, padding=1, groups=8), nn.Conv2d(40, 12, 1)
    expected = trace(nn.Sequential(maps, mix), torch.zeros(1, 8, 7, 7)).macs
    assert two_step_macs(positions=49, maps=40, taps=9, nonzeros=12 * 8 * 5) == expected


def shapes(network_name: str) -> list[tuple[int, int, int, int, int, int]]:
    """T, S, taps, P Q, and height and channels of the input, for each convolution without groups."""
    entry = NETWORKS[network_name]
    with torch.device("meta"):
        model, x = entry.build(), torch.empty(1, *entry.input_shape)
    found = []
    for op in trace(model, x).operations:
        if op.kind == "conv" and op.extents["groups"] == 1:
            e = op.extents
            found.append((e["K"], e["C"], e["R"] * e["S"], e["P"] * e["Q"], op.operands[0].shape[2], e["C"]))
    return found


def reduction(network_name: str, basis: int, density: float, *, released: bool = False) -> float:
    """The fraction of multiply-accumulates of these convolutions that goes, if `density` of all coefficients stays."""
    before = after = 0
    for t, s, taps, positions, height, channels in shapes(network_name):
        before += t * s * taps * positions
        if taps == 1:
            after += round(density * t * s) * (height * channels if released else positions)
        else:
            d = min(basis, taps)
            kept = round(density * t * s * d)
            after += two_step_macs(positions=positions, maps=s * d, taps=taps, nonzeros=kept)
    return 1 - after / before


@pytest.mark.parametrize("network_name", ["vgg16_cifar", "vgg16", "resnet56", "resnet50", "alexnet"])
def test_the_table_is_the_closed_form_of_every_layer(network_name: str) -> None:
    whole = sum(t * s * taps * positions for t, s, taps, positions, *_ in shapes(network_name))
    dense = sum(
        positions * (s * min(5, taps) * taps + t * s * min(5, taps)) if taps > 1 else positions * t * s
        for t, s, taps, positions, *_ in shapes(network_name)
    )
    assert reduction(network_name, 5, 1.0) == pytest.approx(1 - dense / whole, abs=1e-12)


PUBLISHED = {"vgg16_cifar": (0.9326, 0.0734), "resnet56": (0.794, 0.0396), "resnet50": (0.901, 0.1056)}
"""The paper's reductions, and the fraction of coefficients that may then be left if no channel goes (D = 5)."""


@pytest.mark.parametrize(("network_name", "published", "density"), [(n, *row) for n, row in PUBLISHED.items()])
def test_published_reductions_are_reached_with_so_many_coefficients(
    network_name: str, published: float, density: float
) -> None:
    assert reduction(network_name, 5, density) == pytest.approx(published, abs=1e-3)


def test_with_five_kernels_resnet_56_ends_at_82_percent_unless_channels_or_maps_go() -> None:
    """16, 32 and 64 channels: S D K alone is 18 % of its multiplications. The released network has fewer channels."""
    assert reduction("resnet56", 5, 0.0) == pytest.approx(0.816, abs=1e-3)
    assert reduction("resnet56", 3, 0.1) > 0.85


def test_the_released_counter_is_wrong_about_1x1_convolutions() -> None:
    """C H stands for P Q: in ResNet-50's last stages a 1x1 weight seems to cost up to 293 times as much as it does."""
    honest, released = reduction("resnet50", 5, 0.1), reduction("resnet50", 5, 0.1, released=True)
    assert abs(honest - released) > 0.1
    assert reduction("vgg16", 5, 0.1) == reduction("vgg16", 5, 0.1, released=True)  # no 1x1


def test_at_zero_thresholds_nothing_is_pruned() -> None:
    assert above(torch.randn(5, 5), 0.0).all()
