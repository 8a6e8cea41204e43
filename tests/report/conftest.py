"""Records with invented numbers, to test how they are laid out; nothing here was measured."""

import pytest
import torch
from torch import nn

from dovetail.evaluation import HistoryRecord, Record, SensitivityRecord, TensorRecord
from dovetail.hardware import Chip, ChipRecord, simulate
from dovetail.targets import Cost, Quantity
from dovetail.workload import trace

HOSTILE = '</script><script>alert("no")</script><b>&'
RECIPE = """name = "deep_compression"
remaining = "float16"

[[step]]
method = "magnitude"
sparsity = 0.9
training = { epochs = 4, learning_rate = 0.01 }

[[step]]
method = "weight_sharing"
bits = 4

[[step]]
method = "entropy_coding"
"""


def tensor(name: str, shape: tuple[int, ...], density: float) -> TensorRecord:
    elements = 1
    for side in shape:
        elements *= side
    if len(shape) == 1:
        return TensorRecord(name, shape, "float16", elements, 16 * elements, {"values": 16 * elements}, 1.0)
    nonzero = round(elements * density)
    parts = {"values": 3 * nonzero, "indices": 4 * nonzero, "tables": 512, "padding": 0}
    parts["padding"] = -sum(parts.values()) % 8
    bits = sum(parts.values())
    return TensorRecord(name, shape, "relative_index(5) > codebook(4) > ans", elements, bits, parts, nonzero / elements)


def resnet_tensors(blocks: int) -> tuple[TensorRecord, ...]:
    tensors = [tensor("conv1.weight", (16, 3, 3, 3), 0.8), tensor("bn1.scale", (16,), 1.0)]
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(blocks):
            before = width // 2 if stage > 1 and block == 0 else width
            for index, channels in ((1, before), (2, width)):
                path = f"layer{stage}.{block}"
                density = 0.5 - 0.12 * stage + 0.01 * block
                tensors.append(tensor(f"{path}.conv{index}.weight", (width, channels, 3, 3), density))
                tensors.append(tensor(f"{path}.bn{index}.scale", (width,), 1.0))
                tensors.append(tensor(f"{path}.bn{index}.shift", (width,), 1.0))
    return (*tensors, tensor("linear.weight", (10, 64), 0.6), tensor("linear.bias", (10,), 1.0))


def measured(target: str, latency: float, throughput: float) -> Cost:
    return Cost(
        target,
        "measured",
        {
            "latency": Quantity(latency, "ms", latency * 0.93, latency * 1.2),
            "throughput": Quantity(throughput, "inputs/s", throughput * 0.9, throughput * 1.04),
        },
        {
            "runtime": f"{target} 9.9",
            "weights": "decoded to dense float32",
            "batch": "1 for latency, 32 for throughput",
            "machine": "An Invented Processor @ 2.00 GHz, 2 logical cores",
            "load": "0.3 (1 minute average)",
            "threads": "1",
            "runs": "104 after 5 to warm up",
        },
    )


def modelled(level: dict[str, float], operand: dict[str, float]) -> Cost:
    total = sum(level.values())
    return Cost(
        "energy_45nm",
        "modelled",
        {"energy": Quantity(total, "µJ", total, total + level.get("DRAM", 0.0))},
        {
            "model": "compulsory traffic and operations of one inference, a lower bound",
            "prices": "horowitz_45nm (45 nm CMOS, 0.9 V), each read in a cited source",
            "arithmetic": "float32 multiplications and additions",
        },
        {"level": level, "operand": operand, "layer": {"all": total}},
    )


def build_record(
    name: str = "resnet20", *, compressed_to: float = 1.0, accuracy: float = 0.9142, blocks: int = 3
) -> Record:
    tensors = resnet_tensors(blocks)
    parts = {part: 0 for part in ("values", "indices", "tables", "padding")}
    for row in tensors:
        for part, bits in row.bits_by_part.items():
            parts[part] += round(compressed_to * bits / 8)
    parts |= {"graph": 2310, "manifest": 1480, "container": 310}
    elements = sum(row.elements for row in tensors)
    return Record(
        name=name,
        dataset="cifar10",
        split="test",
        images=10_000,
        metric="accuracy",
        accuracy=accuracy,
        original_accuracy=0.9178,
        original_bytes=4 * elements,
        original_bytes_source=f"4 bytes for each of the original's {elements:,} parameters",
        file_bytes=sum(parts.values()),
        bytes_by_part=parts,
        tensors=tensors,
        costs=(
            measured("torch", 4.31, 512),
            measured("onnxruntime", 1.62, 871),
            modelled(
                {"arithmetic": 63.1, "SRAM 32 KB": 1.9, "SRAM 1 MB": 12.0},
                {"arithmetic": 63.1, "weights": 2.1, "inputs": 6.0, "outputs": 5.8},
            ),
        ),
        original_costs=(
            measured("torch", 4.35, 508),
            measured("onnxruntime", 1.60, 880),
            modelled(
                {"arithmetic": 188.0, "SRAM 32 KB": 1.9, "SRAM 1 MB": 9.9, "DRAM": 177.0},
                {"arithmetic": 188.0, "weights": 177.0, "inputs": 6.0, "outputs": 5.8},
            ),
        ),
        history=(
            HistoryRecord("original", 0.921, 4 * elements),
            HistoryRecord("magnitude 1", 0.919, 700_000),
            HistoryRecord("magnitude 2", 0.917, 440_000),
            HistoryRecord("magnitude 3", 0.916, 260_000),
            HistoryRecord("weight_sharing", 0.9165, 90_000),
            HistoryRecord("entropy_coding", 0.9165, 71_000),
        ),
        sensitivities=tuple(
            SensitivityRecord("weight_sharing", row.name, "output_error", 0.01 / (number + 1))
            for number, row in enumerate(tensors)
            if len(row.shape) > 1
        ),
        provenance={
            "model": name,
            "recipe": "deep_compression",
            "recipe_text": RECIPE,
            "recipe_sha256": "0123456789abcdef" * 4,
            "dataset": "cifar10",
            "seed": 0,
            "max_drop": None,
            "versions": {"dovetail": "0.1.0", "torch": "9.9"},
        },
        commands=(
            f"dovetail compress {name} --recipe deep_compression --data cifar10 --seed 0 --out out",
            "dovetail evaluate out/model.dvt --data cifar10 --target torch --target onnxruntime --target energy_45nm",
        ),
    )


@pytest.fixture(scope="session")
def record() -> Record:
    return build_record()


@pytest.fixture(scope="session")
def hostile_record() -> Record:
    """One whose every text tries to end the element it stands in."""
    record = build_record(HOSTILE, blocks=1)
    tensors = (tensor(f"{HOSTILE}.weight", (4, 4), 0.5), *record.tensors[1:])
    history = tuple(HistoryRecord(f"{row.step}{HOSTILE}", row.accuracy, row.bytes) for row in record.history)
    return Record(
        **{
            **{field: getattr(record, field) for field in record.__dataclass_fields__},
            "tensors": tensors,
            "history": history,
            "sensitivities": (SensitivityRecord(HOSTILE, HOSTILE, "loss_rise", 0.5),),
            "dataset": HOSTILE,
            "provenance": {"model": HOSTILE, "recipe": HOSTILE, "recipe_text": HOSTILE, HOSTILE: HOSTILE},
            "commands": (HOSTILE,),
        }
    )


@pytest.fixture
def chip_record(tiny: Chip) -> ChipRecord:
    """Three layers on the small chip."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 10))
    workload = trace(model.to("meta"), torch.empty(1, 4, 8, 8, device="meta"))
    cost = simulate(tiny, workload, batch=2, bits=8)
    return ChipRecord(network="net", cost=cost, objective="energy", densities="Nothing is zero.", command="dovetail")
