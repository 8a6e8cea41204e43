"""Every target answers in the same way; a measured one times only right answers, a modelled one equals its counts."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dovetail.errors import TargetError
from dovetail.hardware import Chip, EnergyModel, EnergyTable, Level, chip_names, network_energy, simulate
from dovetail.methods.constraint import constrain
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import Artefact, freeze, to_torch
from dovetail.targets import (
    TARGETS,
    ChipTarget,
    CpuTarget,
    EnergyTarget,
    OnnxRuntimeTarget,
    OpenVinoTarget,
    Target,
    Timing,
    TorchTarget,
    artefact_workload,
    load_target,
)
from dovetail.targets.peers import Run, compare
from dovetail.targets.target import check_outputs
from dovetail.targets.timing import latency, throughput, torch_threads
from dovetail.workload import trace

Inputs = NDArray[np.float32]
QUICK = Timing(warm_up=1, runs=5, seconds=0.0)


class SelfAttention(nn.Module):
    """Its weights' names are not those of a layer's: `in_proj_weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found


class Outputs(nn.Module):
    """What a recurrent layer gives at every step, without its state."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)[0]
        return found


def quick(name: str) -> Target:
    target = load_target(name)
    return dataclasses.replace(target, timing=QUICK) if target.how == "measured" else target


@pytest.mark.parametrize("name", TARGETS)
class TestEveryTarget:
    def test_says_what_it_costs_and_how_it_knows(self, name: str, artefact: Artefact, inputs: Inputs) -> None:
        cost = quick(name).cost(artefact, inputs)
        assert cost.target == name and cost.how == TARGETS[name].how
        assert cost.quantities and cost.conditions
        for quantity in cost.quantities.values():
            assert quantity.value > 0 and quantity.unit
            assert quantity.low is not None and quantity.high is not None
            assert quantity.low <= quantity.value <= quantity.high
        expected = {"machine", "threads", "runs", "spread", "batch", "runtime", "weights"}
        assert expected <= cost.conditions.keys() or cost.how == "modelled"
        assert {"model", "prices", "assumed", "validated against"} <= cost.conditions.keys() or cost.how == "measured"

    def test_breakdowns_sum_to_the_whole(self, name: str, artefact: Artefact, inputs: Inputs) -> None:
        cost = quick(name).cost(artefact, inputs)
        for parts in cost.breakdown.values():
            assert math.fsum(parts.values()) == pytest.approx(cost.quantities["energy"].value)

    def test_takes_a_batch_of_one(self, name: str, artefact: Artefact, inputs: Inputs) -> None:
        assert "throughput" not in quick(name).cost(artefact, inputs[:1]).quantities

    def test_leaves_torch_as_it_was(self, name: str, artefact: Artefact, inputs: Inputs) -> None:
        before = torch.get_num_threads()
        quick(name).cost(artefact, inputs)
        assert torch.get_num_threads() == before and torch.is_grad_enabled()

    def test_is_described_in_its_first_line(self, name: str) -> None:
        assert (TARGETS[name].__doc__ or "").splitlines()[0].endswith(".")


def test_an_unknown_target_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        TargetError, match=r"no target 'abacus'; choose from torch, cpu, onnxruntime, openvino, energy_45nm"
    ):
        load_target("abacus")


class TestMeasured:
    @pytest.mark.parametrize(
        "target", [TorchTarget(QUICK), CpuTarget(QUICK), OnnxRuntimeTarget(QUICK), OpenVinoTarget(QUICK)]
    )
    def test_gives_latency_and_throughput(self, target: Target, artefact: Artefact, inputs: Inputs) -> None:
        cost = target.cost(artefact, inputs)
        assert {name: quantity.unit for name, quantity in cost.quantities.items()} == {
            "latency": "ms",
            "throughput": "inputs/s",
        }
        assert cost.conditions["threads"] == "1" and cost.conditions["runs"].startswith("5 after 1")

    def test_a_wrong_answer_is_not_timed(self, artefact: Artefact, inputs: Inputs) -> None:
        right = to_torch(artefact)(torch.from_numpy(inputs)).detach().numpy()
        check_outputs("torch", artefact, inputs, right)
        for wrong, message in ((right * 1.01, "differ by"), (right[:2], r"outputs \(2, 10\)"), (right * np.nan, "nan")):
            with pytest.raises(TargetError, match=message):
                check_outputs("torch", artefact, inputs, wrong)

    def test_quantised_inputs_may_fall_on_either_side(self, artefact: Artefact, inputs: Inputs) -> None:
        right = to_torch(artefact)(torch.from_numpy(inputs)).detach().numpy()
        quantised = dataclasses.replace(artefact, activations={"input": {"bits": 8}})
        check_outputs("torch", quantised, inputs, right * 1.01)
        with pytest.raises(TargetError, match=r"differ by 0\.1 of their size, more than 0\.05"):
            check_outputs("torch", quantised, inputs, right * 1.1)


@pytest.mark.parametrize(("bits", "differing"), [(None, 5e-4), (8, 0.03), (7, 0.03), (4, 0.2), (1, 0.2)])
def test_peers_may_differ_as_far_as_their_codes_are_wide(bits: int | None, differing: float) -> None:
    outputs = np.linspace(-1, 1, 50, dtype=np.float32)[None]

    def other(factor: float) -> Run:
        return lambda inputs: [outputs * (1 + factor)]

    found = compare(other(0), other(differing), "peer", [outputs], 0.0, batch=1, bits=bits)
    assert found.difference == pytest.approx(differing, rel=1e-2)
    with pytest.raises(TargetError, match="computes something else"):
        compare(other(0), other(2 * differing), "peer", [outputs], 0.0, batch=1, bits=bits)


class TestTiming:
    def test_warms_up_then_runs_at_least_so_often(self) -> None:
        calls = []
        assert len(Timing(warm_up=3, runs=4, seconds=0).samples(lambda: calls.append(1))) == 4
        assert len(calls) == 7

    def test_runs_at_least_so_long_and_measures_what_a_call_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        monkeypatch.setattr("dovetail.targets.timing.time.perf_counter", lambda: clock[0])

        def call() -> None:
            clock[0] += 0.01

        samples = Timing(warm_up=0, runs=1, seconds=0.055).samples(call)
        assert samples == pytest.approx([0.01] * 6)
        assert latency(samples).value == pytest.approx(10)

    def test_median_and_spread_are_those_of_the_samples(self) -> None:
        samples = [0.001 * i for i in range(1, 12)]
        assert (latency(samples).low, latency(samples).value, latency(samples).high) == pytest.approx((2, 6, 10))
        rate = throughput(samples, 12)
        assert (rate.low, rate.value, rate.high) == pytest.approx((1200, 2000, 6000))

    def test_pins_threads_and_gives_them_back_after_an_error(self) -> None:
        before = torch.get_num_threads()
        with pytest.raises(KeyError), torch_threads(1):
            assert torch.get_num_threads() == 1 and torch.is_inference_mode_enabled()
            raise KeyError
        assert torch.get_num_threads() == before

    @pytest.mark.parametrize("wrong", [{"threads": 0}, {"runs": 0}, {"seconds": -1.0}, {"warm_up": -1}])
    def test_refuses_nonsense(self, wrong: dict[str, int]) -> None:
        with pytest.raises(TargetError, match="Timing"):
            Timing(**wrong)


class TestChips:
    """Every chip is a target; the suite of chips is in tests/hardware/test_arch.py."""

    @pytest.mark.parametrize("name", chip_names())
    def test_costs_a_network_that_is_not_quantised(self, name: str, artefact: Artefact, inputs: Inputs) -> None:
        cost = load_target(name).cost(artefact, inputs)
        assert cost.target == name and cost.how == "modelled" and next(iter(cost.quantities)) == "energy"
        assert all(quantity.value > 0 and quantity.unit for quantity in cost.quantities.values())
        assert {"model", "prices", "arithmetic", "assumed", "validated against", "batch"} <= cost.conditions.keys()
        for parts in cost.breakdown.values():
            assert math.fsum(parts.values()) == pytest.approx(cost.quantities["energy"].value)

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (nn.Conv2d(4, 6, 3), (4, 8, 8)),
            (SelfAttention(), (10, 16)),
            (Outputs(nn.LSTM(8, 6, batch_first=True)), (5, 8)),
            (Outputs(nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)), (5, 8)),
            (Outputs(nn.GRU(8, 6, bias=False, batch_first=True)), (5, 8)),
        ],
        ids=["a layer alone", "attention", "lstm", "both ways", "gru"],
    )
    def test_counts_the_products_of_every_kind_of_layer(
        self, layer: nn.Module, shape: tuple[int, ...], tiny: Chip
    ) -> None:
        example = torch.randn(1, *shape)
        frozen = freeze(layer.eval(), example)
        expected = trace(layer, example)
        found = artefact_workload(frozen, example.numpy())
        assert found.macs == expected.macs > 0
        assert found.macs_by_weight.total() == expected.macs_by_weight.total() > 0
        assert ChipTarget(tiny).cost(frozen, example.numpy()).quantities["latency"].value > 0

    def test_is_what_the_simulation_says_of_the_stored_network(
        self, tiny: Chip, artefact: Artefact, inputs: Inputs
    ) -> None:
        target = ChipTarget(tiny, batch=3, objective="latency")
        cost = target.cost(artefact, inputs)
        workload = artefact_workload(artefact, inputs)
        stored = {o.name: o.stored_bits for op in workload.operations for o in op.with_role("weight")}
        assert stored["3.weight"] == artefact.tensors["3.weight"].bits
        found = simulate(tiny, workload.with_floats_as(8), batch=3, objective="latency")
        assert cost.quantities["energy"].value == pytest.approx(found.picojoules / 3e6)
        assert cost.quantities["latency"].value == pytest.approx(1e3 * found.seconds)
        assert cost.conditions["batch"] == "3" and "8 bits" in cost.conditions["arithmetic"]
        assert cost.conditions["validated against"] == "arithmetic in one's head"
        assert cost.conditions["prices"].endswith("1 assumed, 1 memory")

    def test_a_chip_of_ones_own_is_named_by_its_file(self, tiny: Chip, tiny_text: str, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(tiny_text)
        assert load_target(str(tmp_path / "mine.toml")) == ChipTarget(tiny)

    def test_fewer_bits_take_less_on_a_chip(self, tiny: Chip, inputs: Inputs) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].size, 64)).eval()
        example = torch.from_numpy(inputs[:1])
        half = dataclasses.replace(tiny.arithmetic.operation[0], weight_bits=4)
        arithmetic = dataclasses.replace(tiny.arithmetic, operation=(*tiny.arithmetic.operation, half))
        chip = dataclasses.replace(tiny, arithmetic=arithmetic)
        plain = ChipTarget(chip).cost(freeze(model, example), inputs).breakdown["operand"]
        constrain(model, "1.weight", Uniform(4, model[1].weight.abs().max() / 7))
        narrow = ChipTarget(chip).cost(freeze(model, example), inputs).breakdown["operand"]
        assert narrow["weights"] == pytest.approx(plain["weights"] / 2) and narrow["inputs"] == plain["inputs"]


class TestEnergy:
    def test_equals_the_counts_of_the_traced_network(self, artefact: Artefact, inputs: Inputs) -> None:
        workload = trace(to_torch(artefact), torch.from_numpy(inputs[:1])).with_weights(artefact.tensors)
        expected = network_energy(workload, EnergyModel(table=EnergyTable.load("horowitz_45nm"))).total
        assert EnergyTarget().cost(artefact, inputs).quantities["energy"].value == pytest.approx(expected / 1e6)

    def test_a_network_compressed_until_it_fits_on_the_chip_leaves_dram(
        self, artefact: Artefact, original: Artefact, inputs: Inputs
    ) -> None:
        before, after = (EnergyTarget().cost(each, inputs) for each in (original, artefact))
        assert "SRAM 1 MB" in before.breakdown["level"] and "SRAM 1 MB" not in after.breakdown["level"]
        assert after.breakdown["operand"]["weights"] < before.breakdown["operand"]["weights"] / 5
        assert after.quantities["energy"].value < before.quantities["energy"].value

    def test_weights_cost_what_their_stored_bits_cost(self, artefact: Artefact, inputs: Inputs) -> None:
        dram = EnergyTarget(levels=(Level("DRAM", math.inf, None),)).cost(artefact, inputs)
        bits = sum(tensor.bits for tensor in artefact.tensors.values())
        assert dram.breakdown["operand"]["weights"] == pytest.approx(bits * 1300 / 64 / 1e6)

    def test_the_spread_is_the_range_of_dram(self, artefact: Artefact, inputs: Inputs) -> None:
        cost = EnergyTarget(levels=(Level("DRAM", math.inf, None),)).cost(artefact, inputs)
        energy = cost.quantities["energy"]
        assert energy.high == pytest.approx(energy.value + cost.breakdown["level"]["DRAM"])

    def test_settings_show_in_the_conditions(self, artefact: Artefact, inputs: Inputs) -> None:
        target = EnergyTarget(scale=0.5, arithmetic="int16", skip_zero_weights=False)
        cost = target.cost(artefact, inputs)
        assert "scaled by 0.5" in cost.conditions["prices"]
        assert cost.conditions["arithmetic"].startswith("int16") and cost.conditions["skipped"] == "nothing"
        assert cost.quantities["energy"].value < EnergyTarget().cost(artefact, inputs).quantities["energy"].value

    def test_quantised_layers_compute_in_integers(self, inputs: Inputs) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].size, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
        example = torch.from_numpy(inputs[:1])
        plain = EnergyTarget().cost(freeze(model, example), inputs).breakdown["operand"]
        for path in ("1", "3"):
            constrain(model, f"{path}.weight", Uniform(8, model.get_submodule(path).weight.abs().max() / 127))
        weights = EnergyTarget().cost(freeze(model, example), inputs).breakdown["operand"]
        assert weights["arithmetic"] > 0.9 * plain["arithmetic"] and weights["weights"] < 0.3 * plain["weights"]
        for path in ("1", "3"):
            quantize_input(model, path, Uniform(8, torch.tensor(0.05)))
        both = EnergyTarget().cost(freeze(model, example), inputs).breakdown["operand"]
        assert both["arithmetic"] < 0.2 * plain["arithmetic"] and both["inputs"] < 0.3 * plain["inputs"]

    def test_a_parameter_that_is_one_number_costs_nothing_to_keep(self, inputs: Inputs) -> None:
        class Shifted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear, self.shift = nn.Linear(inputs[0].size, 10), nn.Parameter(torch.tensor(0.5))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.linear(x.flatten(1)) + self.shift

        model = Shifted().eval()
        cost = EnergyTarget().cost(freeze(model, torch.from_numpy(inputs[:1])), inputs)
        weights = trace(model.linear, torch.from_numpy(inputs[:1]).flatten(1))
        expected = network_energy(weights, EnergyModel(table=EnergyTable.load("horowitz_45nm"))).by("operand")
        assert cost.breakdown["operand"]["weights"] == pytest.approx(float(expected["weights"]) / 1e6)
