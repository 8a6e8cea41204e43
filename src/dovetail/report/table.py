"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dovetail.report.cards import factor, fewer, pairs, points
from dovetail.report.charts import MEASURES, format_bytes, format_number

if TYPE_CHECKING:
    from dovetail.evaluation import Record
    from dovetail.runtime import Artefact
    from dovetail.targets import Quantity
    from dovetail.workload import Sparsity, Summary, Workload

MOST = 3
"""Layers that are named as those that cost most."""


def summary_table(record: Record) -> Table:
    """Size, accuracy and every cost, before and after, each with how it was obtained."""
    table = _table(
        f"{record.name} on {record.images:,} {record.split} images of {record.dataset}",
        ("", "left"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("how", "left"),
    )
    sizes = format_bytes(record.original_bytes), format_bytes(record.file_bytes)
    table.add_row("size", *sizes, f"{record.ratio:.1f} times smaller", "exact")
    before, change = "not measured", ""
    if record.original_accuracy is not None:
        before, change = f"{record.original_accuracy:.2%}", points(record.accuracy - record.original_accuracy)
    table.add_row(Text(record.metric), before, f"{record.accuracy:.2%}", change, "measured")
    for name in ("macs", "nonzero_macs", "parameters") if record.work is not None else ():
        now, was = getattr(record.work, name), getattr(record.original_work, name, None)
        title = {"macs": "MACs", "nonzero_macs": "MACs by nonzero weights"}.get(name, name)
        table.add_row(
            title, "" if was is None else f"{was:,}", f"{now:,}", fewer(was or 0, now) if was else "", "exact"
        )
    for cost, original in pairs(record):
        for name, quantity in cost.quantities.items():
            earlier = original.quantities.get(name) if original is not None else None
            table.add_row(
                Text(f"{name}, {cost.target}"),
                _quantity(earlier),
                _quantity(quantity),
                "" if earlier is None else factor(earlier, quantity, cost.how),
                cost.how,
            )
    words = ["No data were given: outputs are compared on noise."] if record.synthetic else []
    if record.sensitivities:
        most = sorted(record.sensitivities, key=lambda row: -row.value)[:MOST]
        named = ", ".join(f"{row.layer} ({MEASURES[row.measure][0]} {row.value:.4f})" for row in most)
        words.append(f"Layers that cost most, each treated alone: {named}.")
    table.caption = Text(" ".join([*words, record.speed]).strip()) if words or record.speed else None
    table.caption_justify = "left"
    return table


def inspect_table(artefact: Artefact) -> Table:
    """How each tensor is stored, and what the file is made of."""
    columns = ("values", "indices", "tables", "padding")
    table = _table(
        "What the file holds",
        ("tensor", "left"),
        ("shape", "right"),
        ("stored as", "left"),
        ("density", "right"),
        ("bits per weight", "right"),
        *((f"{column}, bits", "right") for column in columns),
        ("bytes", "right"),
    )
    for name, tensor in artefact.tensors.items():
        elements, parts = math.prod(tensor.shape), tensor.bits_by_part
        table.add_row(
            Text(name),
            "x".join(map(str, tensor.shape)) or "scalar",
            Text(tensor.describe()),
            f"{tensor.density:.1%}",
            format_number(tensor.bits / elements) if elements else "",
            *(f"{parts.get(column, 0):,}" for column in columns),
            f"{tensor.bits // 8:,}",
        )
    table.add_section()
    parts = artefact.parts()
    for part, size in parts.items():
        if part not in artefact.tensors:
            table.add_row(Text(part), *[""] * 8, f"{size:,}")
    table.add_section()
    table.add_row("file", *[""] * 8, f"{sum(parts.values()):,}", style="bold")
    return table


def profile_tables(workload: Workload, zeros: Sequence[Sparsity] = ()) -> tuple[Table, ...]:
    """What a network computes: by layer, and by kind of operation; given `zeros`, also where they are."""
    layers = _profile("By layer", "layer", [(row.name or "(network)", row) for row in workload.by_layer()])
    kinds = _profile("By kind of operation", "operations", [(str(row.operations), row) for row in workload.by_kind()])
    totals = workload.totals
    for table in (layers, kinds):
        table.add_section()
        table.add_row(*_profile_cells("total", totals, kind=""), style="bold")
    return (layers, kinds, _zeros(zeros)) if zeros else (layers, kinds)


def _zeros(rows: Sequence[Sparsity]) -> Table:
    """Zeros by the shape of hardware or layer that could leave them out."""
    names = ("density of weights", "structured zeros", "other zeros", "zero outputs", "zero inputs", "zero kernels")
    table = _table(
        "Where the zeros are",
        ("weight", "left"),
        *((name, "right") for name in (*names, "zero 4 x 4 blocks", "2:4", "1:4", "density of inputs")),
    )
    for row in rows:
        found = row.weight
        parts = (found.density, found.structured, found.unstructured, found.zero_outputs, found.zero_inputs)
        regular = (found.zero_kernels, found.zero_blocks, found.two_of_four, found.one_of_four)
        table.add_row(Text(row.name), *map(_share, (*parts, *regular, row.input_density)))
    return table


def _profile(title: str, first: str, rows: list[tuple[str, Summary]]) -> Table:
    names = ("MACs", "share", "other operations", "parameters", "weights", "density of weights", "activations")
    table = _table(
        title,
        (first, "left"),
        ("kind", "left"),
        *((name, "right") for name in (*names, "density of inputs", "operations per byte")),
    )
    for name, row in rows:
        table.add_row(*_profile_cells(name, row, kind=row.kind))
    return table


def _profile_cells(name: str, row: Summary, *, kind: str) -> tuple[Text | str, ...]:
    return (
        Text(name),
        kind,
        f"{row.macs:,}",
        f"{row.macs_share:.1%}",
        f"{row.other_ops:,}",
        f"{row.parameters:,}",
        format_bytes(row.weight_bytes),
        _share(row.weight_density),
        format_bytes(row.activation_bytes),
        _share(row.input_density),
        format_number(row.arithmetic_intensity),
    )


def _share(density: float | None) -> str:
    return "" if density is None else f"{density:.1%}"


def _quantity(quantity: Quantity | None) -> str:
    if quantity is None:
        return ""
    text = f"{format_number(quantity.value)} {quantity.unit}"
    if quantity.low is None or quantity.high is None or quantity.low == quantity.high:
        return text
    return f"{text} ({format_number(quantity.low)} to {format_number(quantity.high)})"


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left")
    return table
