"""What a report shows of a network on a chip, as plain data, from the record of one simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dovetail.hardware.cost import ARITHMETIC, IDLE
from dovetail.hardware.layer import OPERANDS
from dovetail.report.charts import ACCENT, Chart, Series, format_number

if TYPE_CHECKING:
    from dovetail.hardware import Chip, ChipCost, ChipRecord
    from dovetail.hardware.arch import Memory
    from dovetail.hardware.cost import LayerCost

OPERAND_NAMES = {"I": "inputs", "W": "weights", "O": "outputs"}
OPERAND_COLOURS = {"I": "#10b981", "W": "#8b5cf6", "O": "#f59e0b", ARITHMETIC: "#3b82f6", IDLE: "#94a3b8"}
PLACE_COLOURS = {ARITHMETIC: "#3b82f6", IDLE: "#94a3b8"}
LINK_COLOURS = ("#a3e635", "#eab308")
MEMORY_COLOURS = ("#10b981", "#f59e0b", "#8b5cf6", "#ec4899", "#06b6d4", "#84cc16")
OUTERMOST, COMPUTING, FILLING, DRAINING = "#ef4444", "#3b82f6", "#94a3b8", "#64748b"
STEPS = ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"))
APART = 0.9, 0.3
"""Points of the roofline nearer to each other than so many powers of ten, across and up, share one label."""


def chip_charts(record: ChipRecord) -> tuple[Chart, ...]:
    """Every chart that this record has the numbers for, in the order of the page."""
    possible = energy_by_layer(record), timeline(record), roofline(record), energy_by_place(record)
    return tuple(chart for chart in possible if chart is not None)


def energy_by_layer(record: ChipRecord) -> Chart:
    """Energy of the batch, layer by layer, split by where it is spent."""
    cost = record.cost
    factor, unit = energy_unit(max(layer.picojoules for layer in cost.layers))
    colours = place_colours(cost.chip)
    by_layer = [by_place(layer) for layer in cost.layers]
    series = (
        Series(place, tuple(parts.get(place, 0.0) / factor for parts in by_layer), colours[place])
        for place in places(cost)
    )
    return Chart(
        "energy_by_layer",
        "Energy by layer and memory",
        f"Modelled: what a batch of {cost.batch} spends, by where it is spent.",
        "stacked",
        _names(cost.layers),
        tuple(series),
        unit,
        tuple(f"{format_number(layer.picojoules / factor)} {unit}" for layer in cost.layers),
        wide=True,
    )


def energy_by_place(record: ChipRecord) -> Chart:
    """Energy of the whole network by memory, split by what was moved."""
    cost = record.cost
    operands = list(dict.fromkeys((*OPERANDS, *cost.by("operand"))))
    sums = {place: dict.fromkeys(operands, 0.0) for place in places(cost)}
    for entry in itertools.chain.from_iterable(layer.energy for layer in cost.layers):
        sums[entry.place][entry.operand] += entry.picojoules
    totals = [math.fsum(parts.values()) for parts in sums.values()]
    factor, unit = energy_unit(max(totals))
    used = [operand for operand in operands if any(parts[operand] for parts in sums.values())]
    return Chart(
        "energy_by_memory",
        "Energy by memory and operand",
        "Modelled: the whole network, by what was moved, multiplied or waited for.",
        "stacked",
        tuple(sums),
        tuple(
            Series(
                OPERAND_NAMES.get(operand, operand),
                tuple(parts[operand] / factor for parts in sums.values()),
                OPERAND_COLOURS.get(operand, FILLING),
            )
            for operand in used
        ),
        unit,
        tuple(f"{format_number(t / factor)} {unit} ({t / math.fsum(totals):.0%})" for t in totals),
        wide=True,
    )


def timeline(record: ChipRecord) -> Chart:
    """When each layer runs, and how much of that time the array computes."""
    cost = record.cost
    milliseconds = 1e3 / (cost.chip.clock_mhz * 1e6)
    causes = list(dict.fromkeys(name for layer in cost.layers for name, c in layer.counts.cycles.stalled.items() if c))
    colours = place_colours(cost.chip)
    cycles = [layer.counts.cycles for layer in cost.layers]
    parts = [
        ("filling", FILLING, [each.filling for each in cycles]),
        ("computing", COMPUTING, [each.computing for each in cycles]),
        *(
            (f"waiting for {name}", colours.get(name, OUTERMOST), [c.stalled.get(name, 0.0) for c in cycles])
            for name in causes
        ),
        ("draining", DRAINING, [each.draining for each in cycles]),
    ]
    starts = list(itertools.accumulate((each.total for each in cycles), initial=0.0))[:-1]
    return Chart(
        "timeline",
        "When each layer runs",
        f"Modelled: a batch of {cost.batch} at {cost.chip.clock_mhz:g} MHz, the layers one after the other.",
        "stacked",
        _names(cost.layers),
        tuple(
            Series(name, tuple(milliseconds * value for value in values), colour)
            for name, colour, values in parts
            if any(values)
        ),
        "ms",
        tuple(f"{format_number(milliseconds * each.total)} ms" for each in cycles),
        wide=True,
        starts=tuple(milliseconds * start for start in starts),
    )


def roofline(record: ChipRecord) -> Chart | None:
    """Operations per byte of off-chip traffic against operations per second, under the roof of the chip.

    Off-chip memories that nothing crosses do not count, nor those without a limit of bandwidth beside others.
    """
    cost, chip = record.cost, record.cost.chip
    used = [memory for memory in off_chip(chip) if any(layer.counts.bits(memory.name) for layer in cost.layers)]
    limited = [memory for memory in used if _bandwidth(memory) is not None] or used
    moved = [(layer, math.fsum(layer.counts.bits(memory.name) for memory in limited)) for layer in cost.layers]
    points = [(layer, bits) for layer, bits in moved if bits]
    if not points:
        return None
    intensity = [16 * layer.layer.macs / bits for layer, bits in points]
    speed = [2e-9 * layer.layer.macs * chip.clock_mhz * 1e6 / layer.cycles for layer, _ in points]
    names, memories = _names(layer for layer, _ in points), " and ".join(memory.name for memory in limited)
    return Chart(
        "roofline",
        "Roofline",
        f"Modelled: a layer under the slope waits for {memories}, one under the flat roof for the array."
        + (" The slope is that of all these memories at work at once." if len(limited) > 1 else ""),
        "scatter",
        names,
        (Series("layers", tuple(speed), ACCENT),),
        "GOP/s",
        _labels(names, list(zip(intensity, speed, strict=True))),
        wide=True,
        positions=tuple(intensity),
        position_unit=f"operations per byte to and from {memories}",
        curve=_roof(chip, intensity, [_bandwidth(memory) or math.inf for memory in limited]),
    )


def _labels(names: Sequence[str], points: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """The name of each point, and how many more lie at the same place; these have none."""
    labels = [""] * len(names)
    shared: dict[int, int] = {}
    for index, point in enumerate(points):
        near = (
            first
            for first in shared
            if all(abs(math.log10(a / b)) < apart for a, b, apart in zip(point, points[first], APART, strict=True))
        )
        first = next(near, index)
        shared[first] = shared.get(first, -1) + 1
    for first, others in shared.items():
        labels[first] = f"{names[first]} and {others} more" if others else names[first]
    return tuple(labels)


def _roof(chip: Chip, intensity: Sequence[float], bandwidths: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Corners of what the chip can do at most, over whole powers of ten."""
    peak = 2e-9 * chip.peak_macs_per_second
    slope = math.fsum(bandwidths) / 8 * chip.clock_mhz * 1e-3  # GB/s, so GOP/s for one operation a byte
    ridge = [peak / slope] if slope < math.inf else []
    low, high = min([*intensity, *ridge]), max([*intensity, *ridge])
    ends = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    return tuple((x, min(peak, slope * x)) for x in (ends[0], *ridge, ends[1]))


def _bandwidth(memory: Memory) -> float | None:
    """Bits a cycle of an outermost memory, reads and writes together; None without a limit."""
    if memory.shared_port or "O" not in memory.operands:  # without outputs nothing is written
        return memory.read_bandwidth
    if memory.read_bandwidth is None or memory.write_bandwidth is None:
        return None
    return memory.read_bandwidth + memory.write_bandwidth


def off_chip(chip: Chip) -> tuple[Memory, ...]:
    """The outermost memories."""
    return tuple({chain[-1].name: chain[-1] for chain in map(chip.chain, OPERANDS)}.values())


def off_chip_bits(layer: LayerCost, chip: Chip) -> float:
    """Bits that cross the chip's border in a layer."""
    return math.fsum(layer.counts.bits(memory.name) for memory in off_chip(chip))


def places(cost: ChipCost) -> list[str]:
    """Where energy is spent: on arithmetic, in the memories from the inside out, then elsewhere."""
    known = cost.by("place")
    ordered = [ARITHMETIC, *(memory.name for memory in cost.chip.memory)]
    return [place for place in ordered if place in known] + [place for place in known if place not in ordered]


def place_colours(chip: Chip) -> dict[str, str]:
    """A colour for each place; the outermost memories are red."""
    inner = [memory.name for memory in chip.memory if memory not in off_chip(chip)]
    links = [f"links of {dimension.name}" for dimension in chip.dimension]
    return (
        PLACE_COLOURS
        | dict(zip(inner, itertools.cycle(MEMORY_COLOURS), strict=False))
        | dict(zip(links, itertools.cycle(LINK_COLOURS), strict=False))
        | {memory.name: OUTERMOST for memory in off_chip(chip)}
    )


def energy_unit(largest: float) -> tuple[float, str]:
    """The picojoules of the unit that suits the largest number, and its name."""
    return next(((factor, unit) for factor, unit in STEPS if largest >= factor), (1.0, "pJ"))


def by_place(layer: LayerCost) -> dict[str, float]:
    """Energy of one layer in pJ, by where it is spent."""
    sums: dict[str, float] = {}
    for entry in layer.energy:
        sums[entry.place] = sums.get(entry.place, 0.0) + entry.picojoules
    return sums


def _names(layers: Iterable[LayerCost]) -> tuple[str, ...]:
    return tuple(layer.layer.name or "(network)" for layer in layers)
