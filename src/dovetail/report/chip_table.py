"""Networks on chips as tables for the terminal, and the chips that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dovetail.hardware.layer import OPERANDS
from dovetail.report.charts import format_bytes, format_number
from dovetail.report.chip_charts import by_place, energy_unit, off_chip_bits, places

if TYPE_CHECKING:
    from dovetail.hardware import Chip, ChipCost, ChipRecord
    from dovetail.hardware.arch import Source
    from dovetail.hardware.cost import LayerCost

TOTAL = "total"


def chip_tables(record: ChipRecord) -> tuple[Table, ...]:
    """By layer and in total: cycles and what was waited for, accesses by memory and operand, energy by place."""
    cost = record.cost
    title = f"{record.network} on {cost.chip.name}, batch {cost.batch}, mapped for the least {record.objective}"
    cycles = _cycles(cost, title)
    words = [f"Modelled; validated against: {(cost.chip.validated or 'nothing').rstrip('.')}.", record.densities]
    kinds = ", ".join(part.partition(":")[0] for part in cost.left_out)
    words += [f"Not counted, for it is done on the way: {kinds}."] if kinds else []
    cycles.caption, cycles.caption_justify = Text("\n".join(filter(None, words))), "left"
    return cycles, _accesses(cost), _energy(cost)


def chips_table(chips: Iterable[Chip]) -> Table:
    """What each chip is, in a row."""
    names = ("elements", "clock", "node", "area", "peak")
    table = _table("Chips", "chip", *names, left=("memories from the inside out", "where its numbers come from"))
    for chip in chips:
        table.add_row(
            Text(chip.name),
            f"{chip.elements:,}",
            f"{chip.clock_mhz:g} MHz",
            f"{chip.node_nm:g} nm",
            "" if chip.area_mm2 is None else f"{chip.area_mm2:g} mm²",
            f"{format_number(2e-9 * chip.peak_macs_per_second)} GOP/s",
            Text(memories(chip)),
            Text(statuses(chip)),
        )
    return table


def sources_table(chip: Chip) -> Table:
    """Every source of a chip's numbers, and how they are known."""
    table = _table(f"{chip.name}: {chip.title}", "numbers", left=("known", "from"))
    for where, source in sourced(chip):
        table.add_row(Text(where), source.status, Text(source.says))
    return table


def sourced(chip: Chip) -> list[tuple[str, Source]]:
    """Every source with the numbers that it speaks of."""
    parts = [("", chip.source)]
    parts += [(f"{o.input_bits} x {o.weight_bits} bits", o.source) for o in chip.arithmetic.operation]
    parts += [(memory.name, memory.source) for memory in chip.memory]
    return [
        (": ".join(filter(None, (part, ", ".join(source.keys) or "all others"))), source)
        for part, sources in parts
        for source in sources
    ]


def memories(chip: Chip) -> str:
    """ "pe 0.5 KB x 168, buffer 108 KB, dram"."""
    words = []
    for memory in chip.memory:
        size = "" if memory.bytes is None else f" {_capacity(memory.bytes)}"
        count = chip.instances(memory)
        words.append(f"{memory.name}{size}{f' x {count:,}' if count > 1 else ''}")
    return ", ".join(words)


def _capacity(count: int) -> str:
    """Memories are made in powers of two: a KiB is 1,024 bytes."""
    for factor, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} B"


def statuses(chip: Chip) -> str:
    """How many sources are read, derived, from memory, assumed."""
    return ", ".join(f"{count} {status}" for status, count in Counter(s.status for s in chip.sources).items())


def _cycles(cost: ChipCost, title: str) -> Table:
    names = ("million MACs", "cycles", "computing", "filling, draining", "stalled", "in use", "of peak")
    bounded = any(layer.lower_bound is not None for layer in cost.layers)
    bound = ("above the bound",) * bounded
    table = _table(title, "layer", *names, "energy", "off chip", *bound, left=("waits most for",))
    for layer in cost.layers:
        table.add_row(*_cycle_cells(layer.layer.name, [layer], cost.chip, bounded=bounded))
    table.add_section()
    table.add_row(*_cycle_cells(TOTAL, cost.layers, cost.chip, bounded=bounded), style="bold")
    return table


def _cycle_cells(name: str, layers: Sequence[LayerCost], chip: Chip, *, bounded: bool) -> list[Text | str]:
    cycles = [layer.counts.cycles for layer in layers]
    stalled: Counter[str] = Counter()
    for each in cycles:
        stalled.update({cause: round(waited) for cause, waited in each.stalled.items() if waited})
    factor, unit = energy_unit(sum(layer.picojoules for layer in layers))
    return [
        Text(name or "(network)"),
        format_number(sum(layer.layer.macs for layer in layers) / 1e6),
        f"{sum(each.total for each in cycles):,.0f}",
        f"{sum(each.computing for each in cycles):,.0f}",
        f"{sum(each.filling + each.draining for each in cycles):,.0f}",
        f"{stalled.total():,}",
        f"{in_use(layers):.1%}",
        f"{of_peak(layers, chip):.1%}",
        f"{format_number(sum(layer.picojoules for layer in layers) / factor)} {unit}",
        format_bytes(sum(off_chip_bits(layer, chip) for layer in layers) / 8),
        *([above_bound(layers)] if bounded else []),
        Text(next((cause for cause, _ in stalled.most_common(1)), "")),
    ]


def in_use(layers: Sequence[LayerCost]) -> float:
    """Useful multiply-accumulates by those that the array could do while it computes."""
    computing = sum(layer.counts.cycles.computing for layer in layers)
    return sum(layer.utilisation * layer.counts.cycles.computing for layer in layers) / computing


def of_peak(layers: Sequence[LayerCost], chip: Chip) -> float:
    """Useful multiply-accumulates by those that the array could do in all the time that the layers take."""
    seconds = sum(layer.cycles for layer in layers) / (chip.clock_mhz * 1e6)
    return sum(layer.layer.macs for layer in layers) / (chip.peak_macs_per_second * seconds)


def above_bound(layers: Sequence[LayerCost]) -> str:
    """By how much the mappings found cost more than what no mapping costs less than; "" where a bound is missing."""
    pairs = [(layer.value, layer.lower_bound) for layer in layers]
    value, bound = (sum(pair[side] or 0.0 for pair in pairs) for side in (0, 1))
    if not bound or any(None in pair for pair in pairs):
        return ""
    gap = value / bound - 1
    return "optimal" if gap < 1e-9 else f"{gap:.2%} at most"


def _accesses(cost: ChipCost) -> Table:
    """Megabytes read and written, by memory and operand."""
    columns = [(m, operand) for m in cost.chip.memory for operand in OPERANDS if operand in m.operands]
    table = _table("Accesses: MB read, written", "layer", *(f"{memory.name} {operand}" for memory, operand in columns))
    for name, layers in (*((layer.layer.name, [layer]) for layer in cost.layers), (TOTAL, list(cost.layers))):
        if name is TOTAL:
            table.add_section()
        cells = []
        for memory, operand in columns:
            moved = [
                sum(layer.counts.bits(memory.name, operand, action) for layer in layers) / 8e6
                for action in ("read", "write")
            ]
            cells.append(", ".join(format_number(each) for each in moved))
        table.add_row(Text(name or "(network)"), *cells, style="bold" if name is TOTAL else "")
    return table


def _energy(cost: ChipCost) -> Table:
    found = places(cost)
    factor, unit = energy_unit(cost.picojoules)
    table = _table(f"Energy, {unit}", "layer", *found, "all")
    for layer in cost.layers:
        parts = by_place(layer)
        cells = (format_number(parts.get(place, 0.0) / factor) for place in found)
        table.add_row(Text(layer.layer.name or "(network)"), *cells, format_number(layer.picojoules / factor))
    table.add_section()
    totals = cost.by("place")
    words = (f"{format_number(totals[place] / factor)} ({totals[place] / cost.picojoules:.0%})" for place in found)
    table.add_row(TOTAL, *words, format_number(cost.picojoules / factor), style="bold")
    return table


def _table(title: str, first: str, *numbers: str, left: Sequence[str] = ()) -> Table:
    """A column of names, columns of numbers to the right, columns of words to the left."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    for name in left:
        table.add_column(name, overflow="fold")
    return table
