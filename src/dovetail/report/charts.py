"""What the report shows, as plain data: every chart is made here once, and drawn by plotly and by matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dovetail.evaluation import Record, TensorRecord
    from dovetail.targets import Cost

PART_COLOURS = {
    "values": "#3b82f6",
    "indices": "#f59e0b",
    "tables": "#10b981",
    "padding": "#06b6d4",
    "graph": "#8b5cf6",
    "manifest": "#ec4899",
    "container": "#64748b",
}
ENERGY_COLOURS = {
    "arithmetic": "#3b82f6",
    "DRAM": "#ef4444",
    "dram": "#ef4444",
    "idle": "#94a3b8",
    "weights": "#8b5cf6",
    "inputs": "#10b981",
    "outputs": "#f59e0b",
}
OTHER_COLOURS = ("#10b981", "#f59e0b", "#ec4899", "#64748b", "#06b6d4", "#84cc16", "#8b5cf6", "#a16207", "#f472b6")
BEFORE, AFTER, ACCENT, SECOND = "#94a3b8", "#0d9488", "#0d9488", "#6366f1"
LONGEST_LABEL = 24
SENSITIVITY = "sensitivity"
"""How the keys of these charts begin."""
MEASURES = {
    "loss_rise": (
        "loss rise",
        "By how much the loss rises if this layer alone is treated; without data, the relative error of its outputs on "
        "noise.",
    ),
    "output_error": (
        "output error",
        "The squared error of the network's outputs, relative to these, if this layer alone is treated, before any "
        "retraining.",
    ),
}
"""Of what it costs to treat one layer alone: what people call it, and what it is."""


@dataclass(frozen=True)
class Series:
    """One colour of a chart: a value for each label, with its spread where there is one; None draws nothing."""

    name: str
    values: tuple[float | None, ...]
    colour: str
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart. Bars lie, one row a label, side by side ("bars") or end to end ("stacked"); a "line" goes by label.

    `texts` replaces the numbers written at the ends of rows (or at points), one a label. Rows of a stacked chart begin
    at `starts` instead of 0. A scatter with a `curve` draws it behind its points, and both axes are logarithmic.
    """

    key: str
    title: str
    note: str
    kind: Literal["bars", "stacked", "line", "scatter"]
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    unit: str
    texts: tuple[str, ...] = ()
    wide: bool = False
    positions: tuple[float, ...] = ()
    position_unit: str = ""
    starts: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def has_legend(self) -> bool:
        """Whether the colours say something that the labels do not."""
        return len(self.series) > 1 and tuple(series.name for series in self.series) != self.labels

    @property
    def short_labels(self) -> tuple[str, ...]:
        """The labels, the middle left out of long ones."""
        return tuple(shorten(label) for label in self.labels)

    @property
    def largest(self) -> float:
        """The largest number that has to fit in."""
        if self.kind == "stacked":
            return max((ends[-1] for ends in self.ends()), default=0.0)
        numbers = (number for series in self.series for number in (*series.values, *series.high))
        return max((number for number in numbers if number is not None), default=0.0)

    def ends(self) -> list[list[float]]:
        """Of each row of a stacked chart: where it starts, and where the bar of each series ends."""
        starts = self.starts or (0.0,) * len(self.labels)
        rows = ([series.values[i] or 0.0 for series in self.series] for i in range(len(self.labels)))
        return [list(itertools.accumulate(row, initial=start)) for start, row in zip(starts, rows, strict=True)]


def charts(record: Record) -> tuple[Chart, ...]:
    """Every chart that this record has the numbers for, in the order of the page."""
    possible = (
        size_by_part(record),
        accuracy_by_step(record),
        size_by_step(record),
        parts_of_file(record),
        latency(record),
        *energy_by(record, "level"),
        *energy_by(record, "operand"),
        size_by_tensor(record),
        density_by_tensor(record),
        bits_per_weight(record),
        *sensitivities(record),
    )
    return tuple(chart for chart in possible if chart is not None)


def sensitivity(key: str, step: str, measure: str, rows: Sequence[tuple[str, float]]) -> Chart:
    """What each layer alone costs, by one of MEASURES; `rows` are layers with their values."""
    name, note = MEASURES[measure]
    series = (Series(name, tuple(max(0.0, value) for _, value in rows), SECOND),)
    labels, texts = tuple(layer for layer, _ in rows), tuple(f"{value:.4f}" for _, value in rows)
    return Chart(key, f"Sensitivity by layer, {step}", note, "bars", labels, series, name, texts)


def sensitivities(record: Record) -> Iterator[Chart]:
    """What each layer alone cost, for every step that measured it."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in record.sensitivities:
        found.setdefault((row.step, row.measure), []).append((row.layer, row.value))
    for number, ((step, measure), rows) in enumerate(found.items()):
        yield sensitivity(f"{SENSITIVITY}{number}", step, measure, rows)


def size_by_part(record: Record) -> Chart:
    """Bytes before and after, on one scale."""
    parts = [(name, count) for name, count in record.bytes_by_part.items() if count]
    original = Series("float32 weights", (record.original_bytes, None), BEFORE)
    after = tuple(Series(name, (None, count), part_colour(name)) for name, count in parts)
    return Chart(
        "size",
        "Size, before and after",
        f"Before: {record.original_bytes_source}. After: every byte of the file.",
        "stacked",
        ("before", "after"),
        tuple(scaled(series, record.original_bytes) for series in (original, *after)),
        byte_unit(record.original_bytes),
        (format_bytes(record.original_bytes), format_bytes(record.file_bytes)),
        wide=True,
    )


def parts_of_file(record: Record) -> Chart:
    """The file's bytes by what they are for."""
    parts = sorted(((name, count) for name, count in record.bytes_by_part.items() if count), key=lambda part: -part[1])
    names, counts = tuple(name for name, _ in parts), tuple(float(count) for _, count in parts)
    largest = max(counts, default=0.0)
    series = tuple(
        scaled(Series(name, tuple(count if here == name else None for here in names), part_colour(name)), largest)
        for name, count in parts
    )
    texts = tuple(f"{format_bytes(count)} ({count / record.file_bytes:.0%})" for count in counts)
    note = "The parts sum to the size of the file: tensors first, then what it takes to run them."
    return Chart("parts", "What the file is made of", note, "stacked", names, series, byte_unit(largest), texts)


def accuracy_by_step(record: Record) -> Chart | None:
    """The metric on held-out data after each step of the recipe."""
    rows = [row for row in record.history if row.accuracy is not None and row.kept]
    if len(rows) < 2:
        return None
    values = tuple(100 * row.accuracy for row in rows if row.accuracy is not None)
    title = f"{record.metric.capitalize()} after each step"
    judge = record.provenance.get("judge", "validation")
    note = f"While compressing, on the {judge} images; the summary has the test set."
    series, texts = (Series(record.metric, values, ACCENT),), tuple(f"{value:.2f} %" for value in values)
    return Chart("accuracy_by_step", title, note, "line", tuple(row.step for row in rows), series, "%", texts)


def size_by_step(record: Record) -> Chart | None:
    """Bytes after each step of the recipe."""
    rows = [row for row in record.history if row.kept]
    if len(rows) < 2:
        return None
    values = tuple(float(row.bytes) for row in rows)
    series = (scaled(Series("size", values, SECOND), max(values)),)
    texts = tuple(format_bytes(value) for value in values)
    steps = tuple(row.step for row in rows)
    note = "If the network were stored after this step."
    return Chart("size_by_step", "Size after each step", note, "line", steps, series, byte_unit(max(values)), texts)


def latency(record: Record) -> Chart | None:
    """Measured latency of both networks on each target, with its spread."""
    before, after = (
        {cost.target: cost.quantities["latency"] for cost in costs if "latency" in cost.quantities}
        for costs in (record.original_costs, record.costs)
    )
    if not after:
        return None
    series = []
    for name, colour, found in (("original", BEFORE, before), ("compressed", AFTER, after)):
        quantities = [found.get(target) for target in after]
        if found:
            series.append(
                Series(
                    name,
                    tuple(None if quantity is None else quantity.value for quantity in quantities),
                    colour,
                    tuple(None if quantity is None else quantity.low for quantity in quantities),
                    tuple(None if quantity is None else quantity.high for quantity in quantities),
                )
            )
    how = " and ".join(sorted({cost.how for cost in record.costs if "latency" in cost.quantities}))
    note = f"{how.capitalize()}: one inference; whiskers go from the 10th to the 90th percentile around the median."
    texts = tuple(
        " → ".join(f"{format_number(found[target].value)}" for found in (before, after) if target in found)
        + f" {quantity.unit}"
        for target, quantity in after.items()
    )
    unit = next(iter(after.values())).unit
    return Chart("latency", "Latency by target", note, "bars", tuple(after), tuple(series), unit, texts)


def energy_by(record: Record, view: str) -> Iterable[Chart]:
    """Energy of one inference before and after, split by level of memory or by operand; one chart a target."""
    for cost in record.costs:
        if view in cost.breakdown:
            before = next((other for other in record.original_costs if other.target == cost.target), None)
            yield _energy(cost, before, view)


def _energy(cost: Cost, before: Cost | None, view: str) -> Chart:
    rows = [(name, found) for name, found in (("before", before), ("after", cost)) if found is not None]
    names = list(dict.fromkeys(name for _, found in reversed(rows) for name in found.breakdown[view]))
    names.sort(key=lambda name: (name != "arithmetic", name == "DRAM"))
    others = [name for name in names if name not in ENERGY_COLOURS]
    colours = ENERGY_COLOURS | dict(zip(others, itertools.cycle(OTHER_COLOURS), strict=False))
    series = tuple(
        Series(name, tuple(found.breakdown[view].get(name) for _, found in rows), colours[name]) for name in names
    )
    energies = [found.quantities["energy"] for _, found in rows]
    return Chart(
        f"{cost.target}_by_{view}",
        f"Energy of one inference by {'memory' if view == 'level' else view}",
        f"{cost.how.capitalize()}, not measured: {cost.conditions.get('prices', cost.target)}.",
        "stacked",
        tuple(name for name, _ in rows),
        series,
        energies[0].unit,
        tuple(f"{format_number(energy.value)} {energy.unit}" for energy in energies),
    )


def size_by_tensor(record: Record) -> Chart:
    """Bytes of each stored weight by part; the small tensors together."""
    weights, rest = _split(record)
    rows = [(_layer(tensor), tensor.bits_by_part) for tensor in weights]
    if rest:
        together = {part: sum(tensor.bits_by_part.get(part, 0) for tensor in rest) for part in PART_COLOURS}
        rows.append((f"{len(rest)} other tensors", together))
    totals = [sum(parts.values()) / 8 for _, parts in rows]
    largest = max(totals, default=0.0)
    used = [part for part in PART_COLOURS if any(parts.get(part) for _, parts in rows)]
    series = tuple(
        scaled(Series(part, tuple(parts.get(part, 0) / 8 for _, parts in rows), part_colour(part)), largest)
        for part in used
    )
    names, texts = tuple(name for name, _ in rows), tuple(format_bytes(total) for total in totals)
    note = "Stored bytes of every weight by what they are for: the values, where they are, tables, filling."
    return Chart("tensors", "Bytes by layer", note, "stacked", names, series, byte_unit(largest), texts, wide=True)


def density_by_tensor(record: Record) -> Chart:
    """The fraction of each weight that is not zero."""
    weights, _ = _split(record)
    series = Series("nonzero", tuple(100 * tensor.density for tensor in weights), ACCENT)
    note = "The fraction of every weight tensor that is not zero."
    names = tuple(_layer(tensor) for tensor in weights)
    texts = tuple(f"{tensor.density:.1%}" for tensor in weights)
    return Chart("density", "Density by layer", note, "bars", names, (series,), "%", texts)


def bits_per_weight(record: Record) -> Chart:
    """Stored bits per element of each weight, zeros included."""
    weights, _ = _split(record)
    series = Series("bits per weight", tuple(tensor.bits_per_weight for tensor in weights), SECOND)
    note = "Stored bits, indices and tables included, for every element, zeros included; float32 takes 32."
    names = tuple(_layer(tensor) for tensor in weights)
    texts = tuple(format_number(tensor.bits_per_weight) for tensor in weights)
    return Chart("bits_per_weight", "Bits per weight by layer", note, "bars", names, (series,), "bits", texts)


def trade_off(records: Sequence[Record]) -> Chart:
    """Several records: the metric against how many times smaller the file is."""
    series = Series("networks", tuple(100 * record.accuracy for record in records), ACCENT)
    labels = tuple(record.name for record in records)
    ratios = tuple(record.ratio for record in records)
    metric = records[0].metric
    return Chart(
        "trade_off",
        f"{metric.capitalize()} against size",
        "Further right is smaller, further up is better.",
        "scatter",
        labels,
        (series,),
        "%",
        tuple(shorten(label) for label in labels),
        wide=True,
        positions=ratios,
        position_unit="times smaller",
    )


def _split(record: Record) -> tuple[list[TensorRecord], list[TensorRecord]]:
    """The weights (two dimensions or more), and all other tensors; the weights are all there are if none has two."""
    weights = [tensor for tensor in record.tensors if len(tensor.shape) >= 2]
    if not weights:
        return list(record.tensors), []
    return weights, [tensor for tensor in record.tensors if len(tensor.shape) < 2]


def _layer(tensor: TensorRecord) -> str:
    """The path of the layer a weight belongs to."""
    return tensor.name.removesuffix(".weight")


def part_colour(part: str) -> str:
    """The colour of a part of the file."""
    return PART_COLOURS.get(part, "#64748b")


def scaled(series: Series, largest: float) -> Series:
    """Bytes in the unit that suits the largest number of a chart."""
    factor = _byte_factor(largest)[0]
    return Series(series.name, tuple(v if v is None else v / factor for v in series.values), series.colour)


def byte_unit(largest: float) -> str:
    """The unit that suits the largest number of bytes of a chart."""
    return _byte_factor(largest)[1]


def _byte_factor(count: float) -> tuple[float, str]:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= factor:
            return factor, unit
    return 1.0, "B"


def format_bytes(count: float) -> str:
    """As 39.8 KB; a kilobyte is 1,000 bytes."""
    factor, unit = _byte_factor(count)
    return f"{format_number(count / factor)} {unit}"


def format_number(value: float) -> str:
    """Three significant digits, without an exponent where one can do without."""
    if not 1 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def shorten(label: str) -> str:
    """The label without its middle, if it is long."""
    if len(label) <= LONGEST_LABEL:
        return label
    half = (LONGEST_LABEL - 1) // 2
    return f"{label[:half]}…{label[-half:]}"
