"""The row-stationary dataflow of Eyeriss: rows of a convolution stay, and everything is built from one of them.

Chen, Emer, Sze, ISCA 2016; Chen, Krishna, Emer, Sze, JSSC 2017 (the chip).

The primitive is one row of a filter against one row of an input, a one-dimensional convolution in one processing
element. Element (i, j) of a *set* of R x e has row i of a filter and row i + j * stride of an input; the sums of a
column, added up from element to element, are row j of an output. Filter rows are the same along a row of elements,
input rows along a diagonal. Sets that are higher or wider than the array are folded; what is left over has more sets.

A *processing pass* is what the array does with one load of filters. Passes follow each other as

    for m filters of K: for n images of N: for e rows of P:           # m x n x e rows of sums lie in the buffer
        for q * r channels of C (and folds of R):                     # their inputs lie in the buffer
            for p * t filters of m: one pass                          # its filters come from the prefetch buffer
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import TargetError
from dovetail.hardware import run_length
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import ARITHMETIC, IDLE, Access, Counts, Cycles, Hops, LayerCost, Objective, price
from dovetail.hardware.layer import Layer, Operand
from dovetail.hardware.published import Energies, Measured
from dovetail.hardware.row_stationary_pass import (
    Hardware,
    Pass,
    Place,
    Whole,
    ceil,
    ceils,
    cycles,
    folding,
    input_columns,
    input_rows,
    needs,
    traffic,
)


def layer_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    """Each layer with the passes that cost least of `objective`, of all that fit.

    Raises:
        TargetError: a layer does not fit; it says where.
    """
    found = (cost(chip, layer, best_pass(chip, layer, objective), objective) for layer in layers)
    return tuple(replace(best, lower_bound=best.value) for best in found)  # all others were tried


def cost(chip: Chip, layer: Layer, passes: Pass, objective: Objective = "energy") -> LayerCost:
    """A layer with given passes.

    Raises:
        TargetError: they do not fit; it says where.
    """
    if found := problems(chip, layer, passes):
        raise TargetError(f"Layer {layer.name!r} does not fit chip {chip.name!r} with passes {passes}: {found[0]}")
    hardware, counts = Hardware.of(chip, layer), count(chip, layer, passes)
    energy = price(chip, layer, counts)
    used = hardware.folds(layer)[0] * passes.e * passes.r * passes.t
    return LayerCost(
        layer,
        counts,
        energy,
        utilisation=layer.macs * hardware.mac_cycles / (chip.elements * counts.cycles.computing),
        note=f"row-stationary passes {passes}: {used} of {chip.elements} elements",
        objective=objective,
        value=_value(objective, sum(entry.picojoules for entry in energy), counts.cycles.total),
    )


def as_measured(chip: Chip, found: LayerCost) -> Measured:
    """A cost in the figures that were measured on the chip: it processes while it does not wait for DRAM."""
    hardware, cycles, hertz = Hardware.of(chip, found.layer), found.counts.cycles, chip.clock_mhz * 1e6
    buffer, dram = hardware.buffer.name, hardware.dram.name
    processing = (cycles.total - cycles.stalled.get(dram, 0.0)) / hertz
    inside = math.fsum(entry.picojoules for entry in found.energy if entry.place not in (dram, IDLE))
    return Measured(
        processing_ms=1e3 * processing,
        total_ms=1e3 * cycles.total / hertz,
        buffer_mb=found.counts.bits(buffer) / 8 / 2**20,
        dram_mb=found.counts.bits(dram) / 8 / 2**20,
        milliwatts=inside * 1e-9 / processing + chip.idle_milliwatts,
    )


def as_analysed(chip: Chip, found: LayerCost) -> Energies:
    """A cost in the levels of the paper's figure, where a multiplication costs 1 pJ."""
    registers = {memory.name for memory in chip.memory if memory.per}
    places = ({ARITHMETIC}, {chip.memory[-1].name}, registers)
    return Energies(
        *(math.fsum(entry.picojoules for entry in found.energy if entry.place in each) / 1e9 for each in places)
    )


def problems(chip: Chip, layer: Layer, passes: Pass) -> list[str]:
    """What of `passes` does not fit: what is needed, and what there is."""
    found = needs(Hardware.of(chip, layer), layer, passes.table())
    return [f"{what}: {int(needed[0])} needed, {there} there" for what, needed, there in found if needed[0] > there]


def count(chip: Chip, layer: Layer, passes: Pass) -> Counts:
    """What a layer does with given passes, which fit."""
    hardware, table = Hardware.of(chip, layer), passes.table()
    elements = traffic(hardware, layer, table)
    moved = _bits(chip, hardware, layer, elements)
    accesses, hops = [], []
    for (place, operand, action), bits in moved.items():
        if action == "hop":
            hops.append(Hops(place, operand, float(bits[0])))
        else:
            accesses.append(Access(place, operand, action, float(elements[place, operand, action][0]), float(bits[0])))
    times = {name: float(np.ravel(value)[0]) for name, value in cycles(hardware, layer, table, moved).items()}
    stalled = {hardware.buffer.name: times.pop("buffer"), hardware.dram.name: times.pop("dram")}
    return Counts(_macs(chip, layer), tuple(accesses), Cycles(**times, stalled=stalled), tuple(hops))


def best_pass(chip: Chip, layer: Layer, objective: Objective = "energy") -> Pass:
    """The passes that cost least, of all that fit.

    Raises:
        TargetError: none fit; it says why not even the smallest.
    """
    hardware = Hardware.of(chip, layer)
    best: tuple[tuple[float, float], Pass] | None = None
    for table in candidates(hardware, layer):
        moved = _bits(chip, hardware, layer, traffic(hardware, layer, table))
        time = sum(cycles(hardware, layer, table, moved).values())
        energy = _energy(chip, layer, moved, time)
        values = _value(objective, energy, time)
        first = np.lexsort((energy, values))[0]
        value = float(values[first]), float(energy[first])
        if best is None or value < best[0]:
            best = value, Pass(*table[first].tolist())
    if best is None:
        found = problems(chip, layer, Pass(1, 1, 1, 1, 1, 1, 1))
        raise TargetError(f"Layer {layer.name!r} does not fit chip {chip.name!r}: {'; '.join(found)}")
    return best[1]


def candidates(hardware: Hardware, layer: Layer) -> Iterator[Whole]:
    """All passes that fit and may be best, in tables of one `e` and `n` each.

    Of n and e only the smallest with as many tiles are tried: they move the same, and even tiles take least time. Of m,
    the most that the buffer has room for (inputs are fetched least often), and p * t (filters may stay).
    """
    loops = layer.extents
    array = hardware.rows, hardware.columns, hardware.folds(layer)[0]
    widest = ceil(loops["P"], folding(*array, loops["P"]).strips)
    p = np.arange(1, min(loops["K"], hardware.words(hardware.spads["O"])) + 1)
    q = np.arange(1, min(loops["C"], hardware.words(hardware.spads["I"]) // loops["S"]) + 1)
    for e, n in itertools.product(_shares(loops["P"], widest), _shares(loops["N"], loops["N"])):
        free = folding(*array, e)
        r, t = np.arange(1, free.above + 1), np.arange(1, free.above * free.beside + 1)
        grid = np.stack([axis.ravel() for axis in np.meshgrid(p, q, r, t, indexing="ij")], axis=1)
        table = np.column_stack([grid[:, 0] * grid[:, 3], np.full((len(grid), 2), (n, e)), grid])
        table = table[_fit(hardware, layer, table)]
        table = np.concatenate([table, _most_filters(hardware, layer, table)])
        if len(table):
            yield table


def _fit(hardware: Hardware, layer: Layer, table: Whole) -> NDArray[np.bool_]:
    """Which of the passes fit."""
    fits: NDArray[np.bool_] = np.all([needed <= there for _, needed, there in needs(hardware, layer, table)], axis=0)
    return fits


def _most_filters(hardware: Hardware, layer: Layer, table: Whole) -> Whole:
    """The passes with as many times p * t filters as the buffer has room for, where that is more."""
    m, n, e, _, q, r, _ = table.T
    inputs = input_rows(layer, e, hardware.folds(layer)[0]) * input_columns(layer) * q * r * n
    banks = hardware.words(hardware.buffer) // hardware.bank - ceils(inputs, hardware.bank)
    room = banks * hardware.bank // (n * e * layer.extents["Q"] * m)
    times = np.minimum(room, ceils(layer.extents["K"], m))
    most: Whole = np.column_stack([m * times, table[:, 1:]])[times > 1]
    return most


def _shares(total: int, most: int) -> list[int]:
    """The smallest sizes, of at most `most`, for every number of parts that `total` can be cut into."""
    return sorted({ceil(total, ceil(total, size)) for size in range(1, min(total, most) + 1)})


def _bits(chip: Chip, hardware: Hardware, layer: Layer, elements: dict[Place, Whole]) -> dict[Place, NDArray[Any]]:
    """Bits for elements. A word is as wide as the arithmetic, whatever the layer's bits: the chip packs nothing."""
    gated = layer.density["I"] if "I" in chip.arithmetic.gates else 1.0
    saved: set[Place] = {(hardware.spads["W"].name, "W", "read")}
    saved |= {(hardware.spads["O"].name, "O", "read"), (hardware.spads["O"].name, "O", "write")}
    bits = {}
    for place, number in elements.items():
        memory, operand, _ = place
        each = hardware.word * (gated if place in saved else 1.0)
        if memory == hardware.dram.name and operand in hardware.dram.compressed:
            each = min(each, _coded_bits(layer, operand))
        bits[place] = number * each
    return bits


def _coded_bits(layer: Layer, operand: Operand) -> float:
    """Bits of an element in DRAM, by run-length coding, unless it is known what the whole map takes."""
    coded = layer.coded_bits(operand)
    return run_length.expected_bits(layer.density[operand]) if coded is None else coded


def _macs(chip: Chip, layer: Layer) -> float:
    return layer.macs * (layer.density["I"] if "I" in chip.arithmetic.gates else 1.0)


def _energy(chip: Chip, layer: Layer, moved: dict[Place, NDArray[Any]], time: NDArray[Any]) -> NDArray[Any]:
    """Energy in pJ of every row: what one bit and one cycle cost, by `price`, times how many there are."""

    def each(macs: float = 0.0, access: tuple[Access, ...] = (), hop: tuple[Hops, ...] = (), time: float = 0) -> float:
        return sum(entry.picojoules for entry in price(chip, layer, Counts(macs, access, Cycles(time), hop)))

    energy = each(macs=_macs(chip, layer)) + time * each(time=1.0)
    for (place, operand, action), bits in moved.items():
        if action == "hop":
            energy = energy + bits * each(hop=(Hops(place, operand, 1.0),))
        else:
            energy = energy + bits * each(access=(Access(place, operand, action, 1.0, 1.0),))
    return energy


def _value(objective: Objective, energy: Any, time: Any) -> Any:
    return {"energy": energy, "latency": time, "edp": energy * time}[objective]
