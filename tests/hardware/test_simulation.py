"""A network on a chip: what is counted once, what is left out, what zeros and bits change, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from dovetail.errors import DovetailError, TargetError
from dovetail.hardware import MODELS, Chip, ChipRecord, simulate
from dovetail.hardware.cost import LayerCost, Objective
from dovetail.hardware.layer import Layer, layers
from dovetail.hardware.simulation import check
from dovetail.workload import Operand, Operation, Workload, trace

from ..tiny_chip import tiny_costs


@pytest.fixture(scope="module")
def workload() -> Workload:
    torch.manual_seed(0)
    same = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)]
    model = nn.Sequential(*same, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16, 10))
    return trace(model.to("meta"), torch.empty(1, 4, 8, 8, device="meta"))


def test_each_layer_is_there_and_its_energies_add_up(tiny: Chip, workload: Workload) -> None:
    cost = simulate(tiny, workload, bits=8)
    assert [layer.layer.name for layer in cost.layers] == ["0", "1", "2", "6"]
    assert sum(layer.layer.macs for layer in cost.layers) == workload.macs
    assert (
        cost.picojoules
        == pytest.approx(sum(cost.by("place").values()))
        == pytest.approx(sum(cost.by("operand").values()))
    )
    assert set(cost.by("place")) == {"arithmetic", "buffer", "dram", "idle"}
    assert cost == tiny.cost(workload, bits=8)


def test_every_operation_of_a_chip_is_checked() -> None:
    chip = Chip.load("edge_npu")
    free = tuple(
        replace(each, picojoules=None) if each.weight_bits == 4 else each for each in chip.arithmetic.operation
    )
    with pytest.raises(TargetError, match="no energy for multiplying 4 bits by 4"):
        check(replace(chip, arithmetic=replace(chip.arithmetic, operation=free)))


def test_layers_that_cost_the_same_are_solved_once(
    tiny: Chip, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counting(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
        asked.extend(layer.name for layer in layers)
        return tiny_costs(chip, layers, objective)

    monkeypatch.setitem(MODELS, "tiny", counting)
    told: list[tuple[int, int]] = []
    simulate(tiny, workload, bits=8, progress=lambda done, of: told.append((done, of)))
    assert asked == ["0", "6"] and told == [(0, 2), (1, 2)]


def test_what_is_not_counted_is_named(tiny: Chip, workload: Workload) -> None:
    assert simulate(tiny, workload, bits=8).left_out == (
        "1 activation: 3",
        "1 pool: 4",
    )


def test_a_batch_costs_as_many_inputs_and_reads_weights_once(tiny: Chip, workload: Workload) -> None:
    one, four = (simulate(tiny, workload, batch=batch, bits=8) for batch in (1, 4))
    assert four.batch == 4 and four.layers[0].layer.macs == 4 * one.layers[0].layer.macs
    assert four.layers[0].counts.bits("dram", "W") == one.layers[0].counts.bits("dram", "W")


def test_fewer_bits_cost_less_where_there_are_operations_for_them(tiny: Chip, workload: Workload) -> None:
    narrow, wide = (simulate(tiny, workload, bits=bits) for bits in (4, 8))
    assert narrow.picojoules == wide.picojoules
    assert [layer.layer.bits["W"] for layer in narrow.layers] == [4] * 4
    half = replace(tiny.arithmetic.operation[0], input_bits=4, weight_bits=4)
    both = replace(tiny, arithmetic=replace(tiny.arithmetic, operation=(*tiny.arithmetic.operation, half)))
    assert simulate(both, workload, bits=4).picojoules < simulate(both, workload, bits=8).picojoules


def test_floating_point_on_a_chip_of_integers_says_what_to_do(tiny: Chip, workload: Workload) -> None:
    with pytest.raises(TargetError, match=r"Layer '0' multiplies 32 bits by 32; chip 'tiny' does 8 x 8.*--bits"):
        simulate(tiny, workload)
    assert simulate(tiny, workload.with_floats_as(tiny.widest)) == simulate(tiny, workload, bits=8)


def test_an_energy_that_is_not_known_is_never_taken_for_nothing(tiny: Chip, workload: Workload) -> None:
    unpriced = replace(tiny, memory=(replace(tiny.memory[0], read_picojoules=None), tiny.memory[1]))
    with pytest.raises(TargetError, match=r"'tiny' has no energy for a read of memory 'buffer' \(read_picojoules\)"):
        simulate(unpriced, workload, bits=8)


def test_what_makes_no_sense_is_refused(tiny: Chip, workload: Workload) -> None:
    for wrong in ({"batch": 0}, {"bits": 0}):
        with pytest.raises(TargetError, match="at least one input and one bit"):
            simulate(tiny, workload, **wrong)
    with pytest.raises(TargetError, match="The objective is one of energy, latency, edp, got 'speed'"):
        simulate(tiny, workload, objective="speed")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="kind 'tinny' is unknown; did you mean 'tiny'"):
        simulate(replace(tiny, kind="tinny"), workload)
    with pytest.raises(TargetError, match="nothing to map"):
        simulate(tiny, trace(nn.ReLU(), torch.zeros(1, 3)))


def test_a_record_comes_back_from_json(tiny: Chip, workload: Workload) -> None:
    record = ChipRecord(network="net", cost=simulate(tiny, workload, bits=8), objective="energy")
    assert ChipRecord.from_json(record.to_json()) == record
    for text, message in (
        ("{}", "not a record"),
        (record.to_json().replace(b'"version": 1', b'"version": 9'), "has version 9"),
    ):
        with pytest.raises(DovetailError, match=message):
            ChipRecord.from_json(text)


class TestWorkloads:
    @pytest.mark.parametrize(
        ("stored", "bits", "expected"),
        [(200 * 32 + 1000, 8, 200 * 8 + 1000), (4000, 8, 4000), (4000, 2, 2000), (32_000, 8, 8000)],
        ids=["nonzeros and where they are", "shared values", "of few bits", "all"],
    )
    def test_nonzeros_become_narrower_with_the_rest(self, stored: int, bits: int, expected: int) -> None:
        """A fifth of 1,000 weights is not zero, and they were computed with in 32 bits."""
        weight = Operand("weight", "fc.weight", (20, 50), 32, 0.2, stored)
        around = (Operand("input", "", (1, 50), 32, 1.0), weight, Operand("output", "", (1, 20), 32, 1.0))
        operation = Operation("fc", "matmul", {"B": 1, "M": 1, "N": 20, "K": 50}, around)
        (layer,) = layers(Workload((operation,)), bits=bits)
        assert layer.stored_bits["W"] == expected

    def test_a_chip_leaves_out_the_zeros_of_what_was_stored_with_them(self) -> None:
        layer = Layer("fc", {"K": 10, "C": 10}, bits={"W": 8}, density={"W": 0.2}, stored_bits={"W": 832})
        assert layer.coded_bits("W") is None and replace(layer, stored_bits={"W": 300}).coded_bits("W") == 3

    def test_stored_bits_are_never_more_than_computed_ones(self) -> None:
        model = nn.Linear(8, 4)
        found = trace(model, torch.zeros(1, 8))
        (weight,) = found.operations[0].with_role("weight")
        narrow = replace(
            found, operations=(replace(found.operations[0], operands=(replace(weight, stored_bits=999),)),)
        )
        (changed,) = narrow.with_floats_as(8).operations[0].operands
        assert (changed.bits, changed.stored_bits) == (8, 256)
        integer = replace(weight, bits=16, integer=True)
        kept = replace(found, operations=(replace(found.operations[0], operands=(integer,)),)).with_floats_as(8)
        assert kept.operations[0].operands == (integer,)

    def test_zeros_of_noise_are_not_believed(self) -> None:
        model = nn.Sequential(nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            model[1].weight[:2] = 0
        found = trace(model, torch.randn(1, 8)).with_dense_activations().operations[-1]
        assert [o.density for o in found.with_role("input", "weight")] == [1.0, 0.5]
