"""Fixed-point factorised networks: exact inner steps, errors that only fall, three layers that are one."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dovetail.data import load_dataset
from dovetail.errors import ModelError, RecipeError
from dovetail.methods import Ffn
from dovetail.methods.constraint import bake, layouts
from dovetail.methods.method import Context
from dovetail.methods.quantize.ffn import TernaryFactor, Unit, matrix, stack, units
from dovetail.methods.quantize.semidiscrete import Array, Factors, decompose, recover, respond, signs, turn
from dovetail.networks import load_model
from dovetail.runtime import Session, freeze
from dovetail.workload.trace import trace

INPUTS = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(400, 20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip
    model.train()(INPUTS)
    return model.eval()


def context(inputs: torch.Tensor | None = INPUTS) -> Context:
    return Context(loss=lambda model: 0.0, example=INPUTS[:1], inputs=inputs, original=network())


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def ternary(length: int) -> Array:
    return np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=length)))


def error(weight: Array, factors: Factors) -> float:
    return float(np.square(weight - factors.product()).sum() / np.square(weight).sum())


class TestInnerSteps:
    @given(st.lists(st.one_of(st.floats(-9, 9), st.integers(-3, 3)), min_size=1, max_size=7))
    def test_signs_are_the_best_there_are(self, entries: list[float]) -> None:
        s = np.array(entries, float)
        every = ternary(len(s))
        every = every[np.abs(every).sum(1) > 0]
        best = ((every @ s) ** 2 / np.square(every).sum(1)).max()
        u = signs(s)
        assert u.any() and (u @ s) ** 2 / (u @ u) == pytest.approx(best, rel=1e-12, abs=1e-300)

    def test_of_nothing_but_zeros_all_signs_are_one(self) -> None:
        assert (signs(np.zeros(4)) == 1).all()

    @pytest.mark.parametrize("seed", range(20))
    def test_a_turn_is_that_of_one_entry_after_the_other(self, seed: int) -> None:
        """Against the loop of the released code, each entry tried at its three values."""
        x = gaussian(12, 9, seed=seed)
        gram, target = x.T @ x, 9 * gaussian(9, seed=seed + 100)
        v = np.sign(gaussian(9, seed=seed + 200)) * (gaussian(9, seed=seed + 300) > 0)
        found, seen = v.copy(), gram @ v
        turn(found, seen, gram, target)
        for j in range(9):
            costs = []
            for value in (-1.0, 0.0, 1.0):
                v[j] = value
                costs.append(v @ gram @ v - 2 * v @ target)
            v[j] = np.argmin(costs) - 1.0
        assert (found == v).all()
        assert np.allclose(seen, gram @ v)


class TestDecomposition:
    @given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_the_error_falls_with_every_component_and_every_sweep(
        self, rows: int, columns: int, rank: int, seed: int
    ) -> None:
        weight = gaussian(rows, columns, seed=seed)
        by_rank = [error(weight, decompose(weight, k, sweeps=0)) for k in range(1, rank + 1)]
        by_sweep = [error(weight, decompose(weight, rank, sweeps=sweeps)) for sweeps in range(5)]
        for errors in ([1.0, *by_rank], by_sweep):
            assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))

    def test_entries_are_ternary_and_no_column_is_empty(self) -> None:
        factors = decompose(gaussian(8, 20), 8)
        for factor in (factors.left, factors.right):
            assert set(np.unique(factor)) <= {-1, 0, 1} and np.abs(factor).sum(0).min() >= 1
        assert factors.left.shape == (8, 8) and factors.right.shape == (20, 8)
        assert factors.nonzeros == np.abs(factors.left).sum() + np.abs(factors.right).sum()

    def test_a_first_component_is_the_best_there_is_where_all_can_be_tried(self) -> None:
        """Turns end where neither vector alone can do better; on easy matrices that is the best pair of all."""
        u, v = np.array([1.0, 0, -1, 1]), np.array([0.0, 1, 1, -1, 0])
        weight = 0.7 * np.outer(u, v) + 0.05 * gaussian(4, 5)
        factors = decompose(weight, 1)
        pairs = itertools.product(ternary(4), ternary(5))
        gains = ((a @ weight @ b) ** 2 / ((a @ a) * (b @ b)) for a, b in pairs if a.any() and b.any())
        assert error(weight, factors) == pytest.approx(1 - max(gains) / np.square(weight).sum(), rel=1e-9)

    def test_a_weight_of_zeros_is_a_product_of_zeros(self) -> None:
        assert not decompose(np.zeros((3, 5)), 2).product().any()

    def test_more_components_than_the_rank_come_closer(self) -> None:
        weight = gaussian(6, 30)
        assert error(weight, decompose(weight, 24)) < 0.5 * error(weight, decompose(weight, 6))


class TestResponses:
    def test_their_error_falls_in_every_epoch_below_that_of_the_weights_decomposition(self) -> None:
        x = np.maximum(gaussian(200, 40) @ gaussian(40, 30, seed=1), 0)
        weight = gaussian(10, 30, seed=2)
        y = x @ weight.T + 0.1 * gaussian(200, 10, seed=3)
        start = decompose(weight, 10)
        errors = []
        for epochs in range(6):
            product = respond(start, x.T @ x, x.T @ y, epochs=epochs).product()
            errors.append(float(np.square(y - x @ product.T).sum()))
        assert errors[0] == pytest.approx(float(np.square(y - x @ start.product().T).sum()))
        assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
        assert errors[-1] < 0.75 * errors[0]

    def test_what_no_input_shows_stays(self) -> None:
        start = decompose(gaussian(4, 6), 4)
        found = respond(start, np.zeros((6, 6)), np.zeros((6, 4)))
        assert np.array_equal(found.product(), start.product())


class TestRecovery:
    def test_latent_factors_round_to_the_factors_and_come_nearer_to_the_weight(self) -> None:
        weight = gaussian(12, 40)
        factors = decompose(weight, 12)
        errors = [error(weight, factors)]
        for rounds in range(1, 5):
            left, right = recover(weight, factors, rounds=rounds)
            assert np.array_equal(left.round().clip(-1, 1), factors.left)
            assert np.array_equal(right.round().clip(-1, 1), factors.right)
            errors.append(error(weight, Factors(left, factors.scale, right)))
        assert all(after <= before + 1e-12 for before, after in itertools.pairwise(errors))
        assert errors[-1] < 0.5 * errors[0]

    def test_balance_gives_both_factors_and_the_weight_the_same_relative_gradient(self) -> None:
        weight = 0.05 * gaussian(32, 90)
        factors = decompose(weight, 32)
        left, right = recover(weight, factors)
        a, b = units(weight, factors, left, right)
        gradient = gaussian(32, 90, seed=5)  # of the weight
        of_left, of_right = gradient @ factors.right * factors.scale / a, gradient.T @ factors.left * factors.scale / b
        relative = [np.linalg.norm(g) / np.linalg.norm(x) for g, x in ((of_left, a * left), (of_right, b * right))]
        assert relative == pytest.approx([np.linalg.norm(gradient) / np.linalg.norm(weight)] * 2, rel=0.05)


class TestLayers:
    @pytest.mark.parametrize(
        "layer, x",
        [
            (nn.Conv2d(3, 8, 3, 2, 1), INPUTS[:2]),
            (nn.Conv2d(3, 8, (3, 1), padding="same", dilation=2, bias=False), INPUTS[:2]),
            (nn.Linear(12, 7), INPUTS[:2]),
        ],
    )
    def test_the_three_are_the_layer_with_the_product_for_its_weight(
        self, layer: nn.Conv2d | nn.Linear, x: torch.Tensor
    ) -> None:
        factors = decompose(matrix(layer), 6)
        bias = None if layer.bias is None else layer.bias.detach()
        made = stack(layer, factors, bias)
        whole = copy.deepcopy(layer)
        whole.weight.data = torch.from_numpy(factors.product()).float().view_as(layer.weight)
        assert torch.allclose(made(x), whole(x), atol=1e-5)
        assert set(made.reduce.weight.unique().tolist()) <= {-1, 0, 1}
        assert set(made.expand.weight.unique().tolist()) <= {-1, 0, 1}
        assert torch.allclose(made.scale.weight, torch.from_numpy(factors.scale).float())

    def test_the_gradient_passes_straight_through_the_rounding_within_its_range(self) -> None:
        latent = torch.tensor([-0.9, -0.2, 0.2, 0.4, 0.8], requires_grad=True)
        value = TernaryFactor(0.5)(latent)
        assert torch.equal(value, torch.tensor([-1.0, 0, 0, 1, 1])) and not torch.signbit(value[1])
        value.backward(torch.arange(1.0, 6.0))
        assert torch.equal(latent.grad, torch.tensor([0.0, 4, 6, 8, 0]))

    def test_the_latent_weight_of_values_is_in_units(self) -> None:
        values = torch.tensor([-1.0, 0.3, 0.7])
        factor = TernaryFactor(0.1)
        assert torch.allclose(factor.right_inverse(values), torch.tensor([-0.1, 0.03, 0.07]))
        assert torch.equal(factor(factor.right_inverse(values)), torch.tensor([-1.0, 0, 1]))

    def test_the_scale_is_held_in_its_unit(self) -> None:
        unit = Unit(0.25)
        latent = unit.right_inverse(torch.tensor([1.0, -2.0])).requires_grad_()
        assert torch.equal(unit(latent), torch.tensor([1.0, -2.0]))
        unit(latent).sum().backward()
        assert torch.equal(latent.grad, torch.tensor([0.25, 0.25]))


class TestNetwork:
    def test_first_and_last_layer_stay_unless_asked_for(self) -> None:
        assert list(Ffn().plan(network(), context())) == ["3", "7"]
        assert list(Ffn(keep_ends=False).plan(network(), context())) == ["0", "3", "7", "9"]
        with pytest.raises(ModelError, match="none lies between"):
            Ffn(layers=("0", "9")).plan(network(), context())

    def test_only_the_scales_multiply(self) -> None:
        """The operations counted one by one: products with ternary weights are additions of what is not zero."""
        model, method = network(), Ffn()
        plan = method.plan(model, context(None))
        method.apply(model, plan, 0, context(None))
        plain = bake(model)
        weights = dict(plain.named_parameters())
        for path, row in plan.items():
            additions, multiplications = 0, 0
            for operation in trace(plain, INPUTS[:1]).operations:
                if not operation.name.startswith(f"{path}."):
                    continue
                [weight] = [weights[operand.name] for operand in operation.with_role("weight")]
                if operation.macs:
                    assert set(weight.unique().tolist()) <= {-1, 0, 1}
                    additions += operation.macs // weight.numel() * int(weight.count_nonzero())
                else:
                    assert operation.operator == "mul"
                    multiplications += operation.other_ops
            assert (row["additions"], row["multiplications"]) == (additions, multiplications)
        assert plan["3"]["multiplications"] == 16 * 25 and plan["3"]["additions"] < plan["3"]["macs"][0]

    @pytest.mark.parametrize("ratio, rank", [(0.5, 8), (1.0, 16), (2.0, 32), (0.01, 1)])
    def test_the_rank_is_in_proportion_to_the_smaller_side(self, ratio: float, rank: int) -> None:
        model, method = network(), Ffn(rank_ratio=ratio, layers=("3",))
        plan = method.plan(model, context())
        method.apply(model, plan, 0, context())
        assert plan["3"]["rank"] == rank == len(model[3].scale.weight)
        assert plan["3"]["macs"] == [25 * 16 * 108, 25 * rank * (108 + 16)]
        assert plan["3"]["params"][1] == rank * (108 + 16 + 1) + 16

    def test_fitting_responses_beats_the_weights_decomposition(self) -> None:
        original, errors = network(), []
        with torch.no_grad():
            for method, data in ((Ffn(), context(None)), (Ffn(epochs=0), context()), (Ffn(), context())):
                model = method.apply(network(), method.plan(network(), data), 0, data)
                errors.append(float((model(INPUTS) - original(INPUTS)).square().mean()))
        assert errors == sorted(errors, reverse=True)

    def test_layers_make_up_for_those_before(self) -> None:
        """The second layer taken sees what the first one, as changed, gives it."""
        alone = Ffn(layers=("7",))
        model = network()
        first = Ffn(layers=("3",))
        first.apply(model, first.plan(model, context()), 0, context())
        apart = alone.apply(copy.deepcopy(model), alone.plan(model, context()), 0, context())
        both = Ffn().apply(network(), Ffn().plan(network(), context()), 0, replace(context(), inputs=INPUTS))
        assert torch.equal(apart[7].reduce.weight, both[7].reduce.weight)

    def test_the_file_holds_ternary_values_and_computes_the_same(self) -> None:
        model = Ffn().apply(network(), Ffn().plan(network(), context()), 0, context())
        artefact = freeze(model, INPUTS[:1], layouts=layouts(model))
        for name in ("3.reduce.weight", "3.expand.weight", "7.reduce.weight", "7.expand.weight"):
            assert artefact.tensors[name].describe() == "dense > ternary(one scale)"
        stored = artefact.tensors["3.reduce.weight"].bits
        assert 2 * 16 * 108 <= stored <= 2 * 16 * 108 + 64
        with torch.no_grad():
            assert np.allclose(Session(artefact)(INPUTS.numpy()), model(INPUTS).numpy(), atol=1e-5)

    def test_training_lowers_the_loss_and_keeps_the_factors_ternary(self) -> None:
        model, method = network(), Ffn(rank_ratio=0.5)
        method.apply(model, method.plan(model, context()), 0, context())
        with torch.no_grad():
            wanted = network()(INPUTS)
        before = model[3].reduce.weight.detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        losses = []
        for _ in range(60):
            loss = functional.mse_loss(model.eval()(INPUTS), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
        after = model[3].reduce.weight
        assert not torch.equal(after, before) and set(after.unique().tolist()) == {-1, 0, 1}

    def test_a_layer_of_zeros_and_inputs_all_alike_are_taken(self) -> None:
        model = network()
        nn.init.zeros_(model[3].weight)
        for data in (context(None), context(torch.ones_like(INPUTS))):
            found = Ffn().apply(copy.deepcopy(model), Ffn().plan(model, data), 0, replace(data, original=model))
            assert found(INPUTS).isfinite().all()

    def test_leaves_grouped_convolutions_alone(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 2, 3))
        assert list(Ffn().plan(model, context(None))) == ["2"]

    def test_a_trained_network_keeps_its_accuracy_without_labels(self) -> None:
        dataset, model = load_dataset("fashion_mnist_sample"), load_model("resnet8_fashion").module.eval()
        inputs = torch.cat([x for x, _ in dataset.batches("train", 100, limit=300)])
        data = Context(loss=lambda model: 0.0, example=inputs[:1], inputs=inputs, original=model)
        smaller = Ffn().apply(copy.deepcopy(model), Ffn().plan(model, data), 0, data).eval()
        [(pictures, labels)] = dataset.batches("test", 500, limit=500)
        with torch.no_grad():
            before, after = ((found(pictures).argmax(1) == labels).float().mean() for found in (model, smaller))
        assert before - after <= 0.03

    def test_bits_of_a_code(self) -> None:
        assert TernaryFactor(1.0).bits == math.log2(3)


@pytest.mark.parametrize("field, value", [("rank_ratio", 0.0), ("rank_ratio", 5.0), ("sweeps", -1), ("epochs", -1)])
def test_says_what_a_field_must_be(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"ffn.{field} must be .*, got"):
        Ffn(**{field: value})
