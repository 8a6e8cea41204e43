"""Energy is additive, and falls with bits (and zeros) where a chip can make use of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import ARITHMETIC, ChipCost, LayerCost, as_multiplied, price
from dovetail.hardware.counts import count
from dovetail.hardware.layer import Layer
from dovetail.hardware.mapping import Mapping, problems
from dovetail.hardware.prices import EnergyTable

EDGE, MICRO = Chip.load("edge_npu"), Chip.load("micro_npu")
LAYER = Layer("conv", {"K": 16, "C": 16, "P": 8, "Q": 8, "R": 3, "S": 3})
MAPPING = Mapping(
    spatial={"rows": (("C", 16),), "columns": (("K", 8),)},
    temporal=(("S", 3), ("R", 3), ("Q", 8), ("P", 8), ("K", 2)),
    inside=0,
    held={"W": (0, 4), "I": (0, 5), "O": (2, 5)},
)
bits = st.integers(1, 16)


def on(chip: Chip, **operands: int) -> LayerCost:
    layer = as_multiplied(chip, replace(LAYER, bits=operands))
    held = dict(MAPPING.held) if chip is EDGE else dict(MAPPING.held) | {"I": (5,)}
    counts = count(chip, layer, replace(MAPPING, held=held))
    return LayerCost(layer, counts, price(chip, layer, counts), 1.0)


def test_the_mapping_is_one() -> None:
    assert not list(problems(EDGE, replace(LAYER, bits={"I": 8, "W": 8, "O": 8}), MAPPING))


@given(
    narrow=st.fixed_dictionaries({"I": bits, "W": bits, "O": bits}),
    more=st.integers(0, 8),
    operand=st.sampled_from("IWO"),
)
def test_fewer_bits_never_cost_more(narrow: dict[str, int], more: int, operand: str) -> None:
    wide = narrow | {operand: min(16, narrow[operand] + more)}
    assert on(EDGE, **narrow).picojoules <= on(EDGE, **wide).picojoules * (1 + 1e-12)


def test_bits_pay_only_where_there_are_operations_for_them() -> None:
    def arithmetic(chip: Chip, wide: int) -> float:
        return sum(entry.picojoules for entry in on(chip, I=wide, W=wide).energy if entry.place == ARITHMETIC)

    assert arithmetic(EDGE, 4) == arithmetic(EDGE, 8) / 2
    assert arithmetic(MICRO, 4) == arithmetic(MICRO, 8)
    assert on(MICRO, I=4, W=4, O=4) == on(MICRO, I=8, W=8, O=8)


def test_outputs_are_as_wide_as_what_multiplies_them_next() -> None:
    widths = {bits: as_multiplied(EDGE, replace(LAYER, bits={"I": 8, "W": 2, "O": bits})).bits for bits in (2, 5, 32)}
    assert [dict(found) for found in widths.values()] == [{"I": 8, "W": 4, "O": wide} for wide in (4, 8, 32)]


@given(number=st.integers(1, 5), W=bits)
def test_layers_add_up_and_so_do_places_and_operands(number: int, W: int) -> None:
    cost = on(EDGE, I=8, W=W, O=8)
    network = ChipCost(EDGE, (cost,) * number, 1)
    assert network.picojoules == pytest.approx(number * cost.picojoules)
    for view in ("place", "operand"):
        assert math.fsum(network.by(view).values()) == pytest.approx(network.picojoules)  # type: ignore[arg-type]


def test_prices_are_those_of_the_table() -> None:
    """Rounded to two digits; the scratchpads are made of banks of 32 KB."""
    table = EnergyTable.load("horowitz_45nm")
    for chip in (EDGE, MICRO):
        for operation in chip.arithmetic.operation:
            both = f"int{operation.input_bits}", f"int{operation.weight_bits}"
            expected = table.multiplication(*both) + table.addition("int32")
            assert operation.picojoules == pytest.approx(expected, rel=0.02)
        for memory in chip.memory:
            bank = min(memory.bytes or math.inf, 32 << 10)
            expected = table.dram(64) if memory.bytes is None else table.sram(bank, memory.width_bits)
            assert memory.read_picojoules == pytest.approx(expected, rel=0.02), memory.name
            assert memory.write_picojoules in (memory.read_picojoules, None)
