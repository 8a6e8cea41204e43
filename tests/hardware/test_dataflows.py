"""Row-stationary beside the other dataflows on the same area, as ISCA'16 compared them.

All have 16 x 16 elements and the area of 512 bytes of registers in each and 128 KB of buffer. What a dataflow does not
spend on registers it has as buffer; a byte of registers takes as much as 1.6 bytes of buffer (from memory: with it, the
buffer without any registers is 2.6 times as large, which is what the paper tells). Energies are relative to a
multiplication: registers 1, between elements 2, buffer 6, DRAM 200. As in the paper's analysis an input or weight is
always read from a register when it is used, but for "no local reuse", which has none.
"""

from dataclasses import replace
from functools import cache

import pytest

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.cost import price
from dovetail.hardware.layer import Layer, Loop, Operand
from dovetail.hardware.mapper import best_mapping
from dovetail.hardware.published import EYERISS_ALEXNET, ROW_STATIONARY_GAIN
from dovetail.hardware.row_stationary import layer_costs

from .test_row_stationary import alexnet, isca_chip

REGISTER_AREA = 1.6
BETWEEN_ELEMENTS = 2.0


def chip(name: str, unroll: tuple[tuple[Loop, ...], tuple[Loop, ...]], kept: Operand | None) -> Chip:
    """An array whose elements keep one value of operand `kept`; the others come from the buffer every time."""
    dimensions = (
        Dimension(
            name=axis,
            size=16,
            unroll=loops,
            links={"I": "forward", "W": "forward", "O": "forward"},
            hop_picojoules=BETWEEN_ELEMENTS / 16,
        )
        for axis, loops in zip(("rows", "columns"), unroll, strict=True)
    )
    latches = {"W": 1, "O": 2, "I": 1, None: 0}[kept]  # inputs and weights that are not kept
    register = Memory(
        name="registers",
        operands=(kept or "O",),
        bytes=2,
        per=("rows", "columns"),
        width_bits=16,
        read_picojoules=1,
        write_picojoules=1,
    )
    saved = 1 - (2 / 512 if kept else 0)
    outer = Memory(
        name="buffer",
        operands=("I", "W", "O"),
        bytes=int(128 * 1024 * (1 + REGISTER_AREA * saved)),
        width_bits=16,
        read_picojoules=6,
        write_picojoules=6,
    )
    return Chip(
        name=name,
        title=name,
        kind="spatial",
        clock_mhz=200,
        node_nm=65,
        dimension=tuple(dimensions),
        arithmetic=Arithmetic(
            operation=(OperationEnergy(input_bits=16, weight_bits=16, picojoules=1 + latches),), sum_bits=16
        ),
        memory=(
            *([register] if kept else []),
            outer,
            replace(outer, name="dram", bytes=None, read_picojoules=200, write_picojoules=200),
        ),
        source=(Source(says="ISCA'16, section VI", status="memory"),),
    )


OTHERS = {
    "weight stationary": chip("ws", (("C", "R", "S"), ("K",)), "W"),
    "output stationary, one filter": chip("os_a", (("P",), ("Q",)), "O"),
    "output stationary, filters and pixels": chip("os_b", (("P", "Q"), ("K",)), "O"),
    "output stationary, one pixel": chip("os_c", (("K",), ("K",)), "O"),
    "no local reuse": chip("nlr", (("C",), ("K",)), None),
}


def energy(chip: Chip, layer: Layer) -> float:
    """Of the best mapping, with the way from the buffer into the array: links count only those between elements."""
    found = best_mapping(chip, layer)
    entering = sum(
        access.elements
        for access in found.counts.accesses
        if access.memory == "buffer" and access.operand != "O" and access.action == "read"
    )
    return sum(entry.picojoules for entry in price(chip, layer, found.counts)) + BETWEEN_ELEMENTS * entering


ALEXNET = [alexnet(name, batch=16, dense=True) for name in EYERISS_ALEXNET.layers]


@cache
def row_stationary() -> float:
    return sum(cost.picojoules for cost in layer_costs(isca_chip(), ALEXNET))


@pytest.mark.parametrize("name", OTHERS)
def test_row_stationary_takes_least_energy(name: str) -> None:
    """AlexNet's convolutions, batch 16. ISCA'16: by 1.4 to 2.5 times, which is told with one digit.

    Ours is 1.36 for WS, 1.66 to 2.47 for OS, 2.37 for NLR; each has the best of all its mappings, not the paper's own.
    """
    ratio = sum(energy(OTHERS[name], layer) for layer in ALEXNET) / row_stationary()
    least, most = ROW_STATIONARY_GAIN
    assert least <= round(ratio, 1) <= most
