"""A small chip, with a model that anybody can check in his head: every operand crosses every memory once."""

from collections.abc import Iterator, Sequence

import pytest

from dovetail.hardware import MODELS, Chip
from dovetail.hardware.arch import parse
from dovetail.hardware.cost import Access, Counts, Cycles, LayerCost, Objective, price
from dovetail.hardware.layer import OPERANDS, Layer

TINY = """
name = "tiny"
title = "A chip of four multipliers"
kind = "tiny"
clock_mhz = 100
node_nm = 65
area_mm2 = 2.5
idle_milliwatts = 1.0
validated = "arithmetic in one's head"

[[source]]
says = "invented for tests"
status = "assumed"

[arithmetic]
sum_bits = 32

[[arithmetic.operation]]
input_bits = 8
weight_bits = 8
picojoules = 0.5

[[dimension]]
name = "rows"
size = 4
unroll = ["C"]

[[memory]]
name = "buffer"
operands = ["I", "W", "O"]
bytes = 4096
width_bits = 64
read_picojoules = 2
write_picojoules = 3

[[memory]]
name = "dram"
operands = ["I", "W", "O"]
width_bits = 64
read_bandwidth = 32
shared_port = true
read_picojoules = 100
write_picojoules = 100

[[memory.source]]
says = "another table"
status = "memory"
keys = ["read_picojoules", "write_picojoules"]
"""


def tiny_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    return tuple(_cost(chip, layer, objective) for layer in layers)


def _cost(chip: Chip, layer: Layer, objective: Objective) -> LayerCost:
    accesses = tuple(
        Access(memory.name, operand, "write" if operand == "O" else "read", elements, elements * layer.bits[operand])
        for memory in chip.memory
        for operand in OPERANDS
        for elements in [layer.elements(operand)]
    )
    computing = layer.macs / chip.elements
    moving = sum(access.bits for access in accesses if access.memory == "dram") / (chip.memory[-1].read_bandwidth or 1)
    counts = Counts(layer.macs, accesses, Cycles(computing, stalled={"dram": max(0.0, moving - computing)}))
    energy = price(chip, layer, counts)
    utilisation = layer.macs / (chip.elements * counts.cycles.total)
    return LayerCost(layer, counts, energy, utilisation, note="all at once", objective=objective)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    """The chip, with the model of its kind."""
    monkeypatch.setitem(MODELS, "tiny", tiny_costs)
    yield parse(TINY)


@pytest.fixture
def tiny_text() -> str:
    """Its file."""
    return TINY
