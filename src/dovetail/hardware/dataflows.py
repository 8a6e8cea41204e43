"""Other dataflows on the area of a row-stationary chip, as the paper on Eyeriss compared them.

Chen, Emer, Sze. Eyeriss: A Spatial Architecture for Energy-Efficient Dataflow for Convolutional Neural Networks. ISCA
2016, section VI.

All have 16 x 16 elements and the area of 512 bytes of registers in each and 128 KB of buffer (`eyeriss_isca`). What a
dataflow does not spend on registers it has as buffer; a byte of registers takes as much as 1.6 bytes of buffer (from
memory: with it, the buffer without any registers is 2.6 times as large, which is what the paper tells). Energies are
relative to a multiplication: registers 1, between elements 2, buffer 6, DRAM 200. As in the paper's analysis an input
or weight is always read from a register when it is used, but for "no local reuse", which has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.cost import price
from dovetail.hardware.layer import Layer, Loop, Operand
from dovetail.hardware.mapper import best_mapping

REGISTER_AREA = 1.6
REGISTERS, BUFFER = 512, 128 * 1024
WORD_BYTES = 2
BETWEEN_ELEMENTS = 2.0
LATCHED: Mapping[Operand | None, int] = {"W": 1, "O": 2, "I": 1, None: 0}
"""How many of inputs and weights pass a register that is no memory, by the operand that stays."""


def _chip(name: str, rows: tuple[Loop, ...], columns: tuple[Loop, ...], stays: Operand | None) -> Chip:
    """An array whose elements keep one value of an operand; the others come from the buffer every time."""
    spread = {"rows": rows, "columns": columns}
    register = Memory(
        name="registers",
        operands=(stays or "O",),
        bytes=WORD_BYTES,
        per=tuple(spread),
        width_bits=16,
        read_picojoules=1,
        write_picojoules=1,
    )
    saved = 1 - (WORD_BYTES / REGISTERS if stays else 0)
    buffer = Memory(
        name="buffer",
        operands=("I", "W", "O"),
        bytes=int(BUFFER * (1 + REGISTER_AREA * saved)),
        width_bits=16,
        read_picojoules=6,
        write_picojoules=6,
    )
    dram = replace(buffer, name="dram", bytes=None, read_picojoules=200, write_picojoules=200)
    return Chip(
        name=name,
        title=name,
        kind="spatial",
        clock_mhz=200,
        node_nm=65,
        idle_milliwatts=0,
        dimension=tuple(
            Dimension(
                name=axis,
                size=16,
                unroll=loops,
                links={"I": "forward", "W": "forward", "O": "forward"},
                hop_picojoules=BETWEEN_ELEMENTS / 16,
            )
            for axis, loops in spread.items()
        ),
        arithmetic=Arithmetic(
            operation=(OperationEnergy(input_bits=16, weight_bits=16, picojoules=1 + LATCHED[stays]),), sum_bits=16
        ),
        memory=(*([register] if stays else []), buffer, dram),
        source=(Source(says="ISCA 2016, section VI", status="memory"),),
    )


DATAFLOWS = {
    chip.name: chip
    for chip in (
        _chip("weight stationary", ("C", "R", "S"), ("K",), "W"),
        _chip("output stationary, one filter", ("P",), ("Q",), "O"),
        _chip("output stationary, filters and pixels", ("P", "Q"), ("K",), "O"),
        _chip("output stationary, one pixel", ("K",), ("K",), "O"),
        _chip("no local reuse", ("C",), ("K",), None),
    )
}


def energy(chip: Chip, layer: Layer) -> float:
    """Of the best mapping, with the way from the buffer into the array: links count only those between elements."""
    found = best_mapping(chip, layer)
    entering = math.fsum(
        access.elements
        for access in found.counts.accesses
        if access.memory == "buffer" and access.operand != "O" and access.action == "read"
    )
    return math.fsum(entry.picojoules for entry in price(chip, layer, found.counts)) + BETWEEN_ELEMENTS * entering
