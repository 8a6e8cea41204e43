"""A plan before it is carried out: as a table for the terminal, as a page and as a picture.

A plan is what a method decided, as plain dicts: by layer (or weight) a row of its setting, of MACs and parameters
before and after, and of what the network's loss rose by when this layer alone was treated.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from dovetail.report.charts import AFTER, BEFORE, MEASURES, Chart, Series, format_number, sensitivity
from dovetail.report.page import document, figures
from dovetail.report.pictures import picture
from dovetail.runtime.files import write_atomically

Plan = Mapping[str, Mapping[str, Any]]
Titled = tuple[str, Plan]
COLUMNS = ("layer", "setting", "MACs", "parameters")
SHOWN = ("macs", "params", *MEASURES, "weights", "setting", "removed", "kernels", "norms")
ELSEWHERE = "counted above"
"""Of channels that lie in layers whose other channels have a row of their own."""
NOTE = {
    "macs": "Multiply-accumulates of one input.",
    "params": "Numbers in the layer's weights; where single weights are pruned, those that are not zero.",
}
LONGEST_LIST = 4
MILLION = 1e6


@dataclass(frozen=True)
class _Row:
    """What is planned for one layer."""

    layer: str
    setting: str
    macs: tuple[float, float] | None
    params: tuple[float, float] | None
    rise: float | None
    """By the plan's measure."""


def plan_table(title: str, plan: Plan) -> Table:
    """What a step will do, layer by layer, and the sums over its layers; columns with nothing in them are left out."""
    rows, columns = list(_rows(plan)), (*COLUMNS, MEASURES[_measure(plan)][0])
    rises = [row.rise for row in rows if row.rise is not None]
    lines = [(row.layer, row.setting, _change(row.macs), _change(row.params), _rise(row.rise)) for row in rows]
    total = (
        "together",
        "",
        _change(_sum(rows, "macs")),
        _change(_sum(rows, "params")),
        _rise(sum(rises) if rises else None),
    )
    shown = [number for number in range(len(columns)) if number == 0 or any(line[number] for line in lines)]
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold")
    for number in shown:
        table.add_column(columns[number], justify="left" if number < 2 else "right", overflow="fold")
    for line in lines:
        table.add_row(*(Text(line[number]) for number in shown))
    if any(total[1:]):
        table.add_section()
        table.add_row(*(total[number] for number in shown), style="bold")
    return table


def write_plan(steps: Sequence[Titled], words: Sequence[str], folder: Path) -> Path:
    """Write plan.html and plan.png into `folder`, which is made if need be; returns the page's path.

    `steps` are titles with plans, `words` the sentences that stand above them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [(title, _charts(title, number, plan)) for number, (title, plan) in enumerate(steps)]
    lead = "".join(f'<p class="lead">{escape(sentence)}</p>' for sentence in words)
    sections = (f"<h2>{escape(title)}</h2>{figures(charts, f'step{i}')}" for i, (title, charts) in enumerate(drawn))
    path = folder / "plan.html"
    write_atomically(path, document("The plan", f"<h1>The plan</h1>{lead}{''.join(sections)}").encode())
    charts = [chart for _, group in drawn for chart in group]
    if charts:
        write_atomically(folder / "plan.png", _stacked([picture(chart) for chart in charts]))
    return path


def _rows(plan: Plan) -> Iterator[_Row]:
    measure = _measure(plan)
    for layer, row in plan.items():
        params = row.get("params")
        if params is None and "weights" in row and "kept" in row:
            kept = row["kept"][-1] if isinstance(row["kept"], list) else row["kept"]
            params = (row["weights"], round(row["weights"] * kept)) if isinstance(kept, float) else None
        yield _Row(layer, _setting(row), _pair(row.get("macs")), _pair(params), row.get(measure))


def _measure(plan: Plan) -> str:
    """The one of MEASURES that the plan's rows have."""
    return next((measure for measure in MEASURES if any(measure in row for row in plan.values())), "loss_rise")


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _rise(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _setting(row: Mapping[str, Any]) -> str:
    """What was chosen, in words: "rank 12", "kept 0.58, 0.34, 0.2"."""
    given = row.get("setting")
    chosen = dict(given) if isinstance(given, Mapping) else {} if given is None else {"": given}
    chosen |= {key: value for key, value in row.items() if key not in SHOWN}
    if "kept" in chosen and "units" in chosen:
        chosen["kept"] = f"{_value(chosen['kept'])} of {chosen.pop('units')}"
    return ", ".join(f"{key} {_value(value)}".strip() for key, value in chosen.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) if len(value) <= LONGEST_LIST else f"({len(value)} of them)"
    if isinstance(value, Mapping):
        return f"({len(value)} of them)"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _sum(rows: Sequence[_Row], field: str) -> tuple[float, float] | None:
    pairs = [pair for row in rows if (pair := getattr(row, field)) is not None]
    return (sum(before for before, _ in pairs), sum(after for _, after in pairs)) if pairs else None


def _change(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return ""
    return f"{pair[0]:,.0f} → {pair[1]:,.0f} ({pair[1] / pair[0]:.0%})" if pair[0] else ELSEWHERE


def _charts(title: str, number: int, plan: Plan) -> list[Chart]:
    """Before and after by layer, and the sensitivities."""
    rows = list(_rows(plan))
    found = []
    for field, name in (("macs", "MACs"), ("params", "parameters")):
        having = [(row.layer, pair) for row in rows if (pair := getattr(row, field)) is not None]
        if having:
            millions = max(before for _, (before, _) in having) >= MILLION
            scale, unit = (MILLION, f"million {name}") if millions else (1, name)
            series = tuple(
                Series(when, tuple(pair[side] / scale for _, pair in having), colour)
                for side, (when, colour) in enumerate((("before", BEFORE), ("after", AFTER)))
            )
            texts = tuple(
                " → ".join(format_number(end / scale) for end in pair) if pair[0] else ELSEWHERE for _, pair in having
            )
            labels = tuple(layer for layer, _ in having)
            found.append(
                Chart(
                    f"{field}{number}",
                    f"{name[0].upper()}{name[1:]} by layer, {title}",
                    NOTE[field],
                    "bars",
                    labels,
                    series,
                    unit,
                    texts,
                )
            )
    rises, measure = [(row.layer, row.rise) for row in rows if row.rise is not None], _measure(plan)
    if rises:
        found.append(sensitivity(f"{measure}{number}", title, measure, rises))
    return found


def _stacked(pictures: Sequence[bytes]) -> bytes:
    """Pictures one below the other."""
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in pictures]
    size = (max(image.width for image in images), sum(image.height for image in images))
    sheet, top = Image.new("RGB", size, "white"), 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
