"""A Record says what was measured, adds up, and comes back from JSON as it was."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dovetail.data import Dataset
from dovetail.data.dataset import TensorSplit
from dovetail.data.task import Classification
from dovetail.errors import DovetailError, TargetError
from dovetail.evaluation import Record, evaluate
from dovetail.formats import Layout
from dovetail.runtime import Artefact, freeze
from dovetail.targets import Cost, EnergyTarget, OnnxRuntimeTarget, Timing

QUICK = OnnxRuntimeTarget(Timing(warm_up=0, runs=3, seconds=0))
PROVENANCE = {
    "model": "tiny",
    "dataset": "noise",
    "recipe": "mine",
    "seed": 7,
    "max_drop": 0.5,
    "judge": "validation",
    "baseline_score": 0.75,
    "history": [
        {"method": "magnitude", "step": 0, "stage": 0, "score": 0.7, "stored_bytes": 900, "kept": True},
        {"method": "magnitude", "step": 0, "stage": 1, "score": 0.2, "stored_bytes": 800, "kept": False},
        {"method": "weight_sharing", "step": 1, "stage": 0, "score": 0.7, "stored_bytes": 500, "kept": True},
    ],
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        images = torch.randint(0, 256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)
        return TensorSplit(images, torch.randint(0, 4, (count,), generator=generator))

    return Dataset(
        name="noise",
        task=Classification(),
        train=split(8),
        validation=split(8),
        test=split(100),
        input_shape=(1, 6, 6),
        classes=("a", "b", "c", "d"),
        mean=(0.5,),
        std=(0.5,),
    )


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))


@pytest.fixture(scope="module")
def artefact(original: nn.Module, dataset: Dataset) -> Artefact:
    example = next(iter(dataset.batches("test", 2)))[0]
    with torch.no_grad():
        original[3].weight *= original[3].weight.abs() > 0.1
    return freeze(
        original, example, layouts={"3.weight": Layout("smallest", entropy="smallest")}, provenance=PROVENANCE
    )


@pytest.fixture(scope="module")
def record(artefact: Artefact, dataset: Dataset, original: nn.Module) -> Record:
    return evaluate(artefact, dataset, [QUICK, "energy_45nm"], original=original)


class TestRecord:
    def test_accuracy_is_that_of_the_decoded_weights(
        self, record: Record, dataset: Dataset, original: nn.Module
    ) -> None:
        inputs, targets = next(iter(dataset.batches("test", 100)))
        expected = float((original(inputs).argmax(1) == targets).float().mean())
        assert record.accuracy == record.original_accuracy == pytest.approx(expected)
        assert (record.images, record.split, record.metric) == (100, "test", "accuracy")

    def test_bytes_are_those_of_the_file_and_parts_sum_to_it(self, record: Record, artefact: Artefact) -> None:
        assert record.file_bytes == len(artefact.to_bytes()) == sum(record.bytes_by_part.values())
        assert {"values", "tables", "padding", "graph", "manifest", "container"} <= record.bytes_by_part.keys()

    def test_the_original_is_counted_in_float32(self, record: Record, original: nn.Module) -> None:
        assert record.original_bytes == 4 * sum(parameter.numel() for parameter in original.parameters())
        assert "original's 300 parameters" in record.original_bytes_source
        assert record.ratio == record.original_bytes / record.file_bytes

    def test_every_tensor_is_there(self, record: Record, artefact: Artefact) -> None:
        assert [tensor.name for tensor in record.tensors] == list(artefact.tensors)
        for tensor in record.tensors:
            assert sum(tensor.bits_by_part.values()) == tensor.bits == artefact.tensors[tensor.name].bits
            assert tensor.format == artefact.tensors[tensor.name].describe()
            assert tensor.bits_per_weight == tensor.bits / tensor.elements

    def test_both_networks_are_costed_on_the_same_targets(self, record: Record) -> None:
        for costs in (record.costs, record.original_costs):
            assert [(cost.target, cost.how) for cost in costs] == [
                ("onnxruntime", "measured"),
                ("energy_45nm", "modelled"),
            ]

    def test_history_begins_with_the_original_and_marks_what_was_undone(self, record: Record) -> None:
        assert [(row.step, row.accuracy, row.bytes, row.kept) for row in record.history] == [
            ("original", 0.75, 1200, True),
            ("magnitude 1", 0.7, 900, True),
            ("magnitude 2", 0.2, 800, False),
            ("weight_sharing", 0.7, 500, True),
        ]

    def test_commands_repeat_it(self, record: Record) -> None:
        assert record.commands == (
            "dovetail compress tiny --recipe mine.toml --data noise --seed 7 --max-drop 0.5 --judge validation "
            "--out out",
            "dovetail evaluate out/model.dvt --data noise --target onnxruntime --target energy_45nm",
        )

    def test_json_gives_it_back(self, record: Record) -> None:
        assert Record.from_json(record.to_json()) == record
        assert json.loads(record.to_json())["version"] == 1


class TestOptions:
    def test_without_the_original(self, artefact: Artefact, dataset: Dataset) -> None:
        record = evaluate(artefact, dataset, [EnergyTarget()])
        assert record.original_accuracy is None and record.original_costs == ()
        assert "decoded tensors" in record.original_bytes_source and record.original_bytes == 1200

    def test_limit_and_split(self, artefact: Artefact, dataset: Dataset) -> None:
        assert evaluate(artefact, dataset, [], limit=10).images == 10
        assert evaluate(artefact, dataset, [], split="validation").images == 8

    def test_progress_is_told(self, artefact: Artefact, dataset: Dataset, original: nn.Module) -> None:
        told: list[str] = []
        evaluate(artefact, dataset, [EnergyTarget()], original=original, progress=told.append)
        assert told[0] == "accuracy of the artefact on noise" and told[-1] == "energy_45nm, the original"

    def test_a_target_that_refuses_is_left_out_and_named(
        self, artefact: Artefact, dataset: Dataset, original: nn.Module
    ) -> None:
        class Refusing(EnergyTarget):
            name: ClassVar[str] = "picky"

            def cost(self, artefact: Artefact, inputs: NDArray[np.float32]) -> Cost:
                raise TargetError("No, thanks.")

        told: list[str] = []
        targets = [Refusing(), EnergyTarget()]
        record = evaluate(artefact, dataset, targets, original=original, refused=told.append)
        assert told == ["picky is left out: No, thanks."]
        assert [cost.target for cost in (*record.costs, *record.original_costs)] == ["energy_45nm"] * 2
        with pytest.raises(TargetError, match="No, thanks"):
            evaluate(artefact, dataset, targets)

    def test_an_artefact_without_a_recipe_has_no_history(self, artefact: Artefact, dataset: Dataset) -> None:
        record = evaluate(dataclasses.replace(artefact, provenance={}), dataset, [])
        assert record.history == () and record.name == "network"
        assert record.commands == ("dovetail evaluate out/model.dvt --data noise",)

    def test_the_original_keeps_its_mode(self, artefact: Artefact, dataset: Dataset, original: nn.Module) -> None:
        original.train()
        evaluate(artefact, dataset, [], original=original)
        assert original.training


class TestErrors:
    def test_an_unknown_target(self, artefact: Artefact, dataset: Dataset) -> None:
        with pytest.raises(TargetError, match="no target 'abacus'"):
            evaluate(artefact, dataset, ["abacus"])

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1}', "not json"])
    def test_what_is_no_record(self, text: str) -> None:
        with pytest.raises(DovetailError, match="not a record"):
            Record.from_json(text)

    def test_a_record_of_another_version(self, record: Record) -> None:
        text = record.to_json().replace(b'"version": 1', b'"version": 99')
        with pytest.raises(DovetailError, match="version 99, this program reads version 1"):
            Record.from_json(text)
