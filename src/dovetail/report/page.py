"""Records as one self-contained HTML page that needs no network, with every chart beside it as a PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from dovetail.errors import DovetailError
from dovetail.report.cards import Card, cards, factor, pairs, points
from dovetail.report.charts import SENSITIVITY, Chart, charts, format_bytes, format_number, trade_off
from dovetail.report.figures import figure
from dovetail.report.pictures import picture
from dovetail.runtime.files import write_atomically

if TYPE_CHECKING:
    from dovetail.evaluation import Record
    from dovetail.targets import Cost, Quantity

HERE = Path(__file__).parent
WIDE = ("tensors", "density", "bits_per_weight", SENSITIVITY)
"""How the keys of the charts begin that have a row a layer."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the page may load: nothing from anywhere."""


def write_report(records: Record | Sequence[Record], folder: str | Path) -> Path:
    """Write report.html and a PNG of every chart into `folder`, which is made if need be; returns the page's path.

    Raises:
        DovetailError: there is no record, or the folder cannot be written.
    """
    several = list(records) if isinstance(records, Sequence) else [records]
    if not several:
        raise DovetailError("A report needs at least one record; make one with `dovetail evaluate`")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DovetailError(f"The report's folder {folder} cannot be made: {error.strerror or error}") from error
    drawn = [(_prefix(record, index, len(several)), charts(record)) for index, record in enumerate(several)]
    overview = (trade_off(several),) if len(several) > 1 else ()
    for prefix, group in (("", overview), *drawn):
        for chart in group:
            write_atomically(folder / f"{prefix}{chart.key}.png", picture(chart))
    path = folder / "report.html"
    write_atomically(path, _page(several, drawn, overview).encode())
    return path


def _prefix(record: Record, index: int, count: int) -> str:
    """What the names of a record's pictures begin with, where there are several records."""
    return "" if count == 1 else f"{index + 1}_{re.sub(r'[^a-z0-9]+', '_', record.name.lower())}_"


def _page(records: Sequence[Record], drawn: Iterable[tuple[str, tuple[Chart, ...]]], overview: Sequence[Chart]) -> str:
    title = f"{records[0].name}, compressed" if len(records) == 1 else f"{len(records)} compressed networks"
    sections = [
        _record(record, group, f"record{index}", alone=len(records) == 1)
        for index, (record, (_, group)) in enumerate(zip(records, drawn, strict=True))
    ]
    top = ""
    if len(records) > 1:
        links = "".join(f'<a href="#record{i}">{escape(record.name)}</a>' for i, record in enumerate(records))
        top = f"<h1>{escape(title)}</h1><nav>{links}</nav>{_overview(records)}{figures(overview, 'overview')}"
    return document(title, top + "".join(sections))


def document(title: str, main: str) -> str:
    """A whole page around what stands in it; `main` is HTML, the title is not."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)} · Dovetail</title>
<style>{(HERE / "page.css").read_text("utf-8")}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<header><div class="brand">Dovetail report</div></header>
<main>{main}</main>
<footer><p>Measured means run and timed here; modelled means computed from counts and published prices. Bytes are exact;
1 KB is 1,000 bytes. This page needs no network.</p></footer>
<script>{(HERE / "page.js").read_text("utf-8")}</script>
</body>
</html>
"""


def _record(record: Record, group: Sequence[Chart], identity: str, *, alone: bool) -> str:
    recipe = record.provenance.get("recipe")
    by = f" by the recipe {escape(str(recipe))}" if recipe else ""
    lead = "No data were given: outputs are compared on noise, and an accuracy is none. " * record.synthetic
    lead += f"Compressed{by}, evaluated on {record.images:,} {escape(record.split)} images of {escape(record.dataset)}."
    wide = [chart for chart in group if chart.key.startswith(WIDE)]
    return f"""<section class="record" id="{identity}">
<h1>{escape(record.name)}</h1>
<p class="lead">{lead}</p>
<div class="cards">{"".join(card_panel(card) for card in cards(record))}</div>
{f'<p class="lead">{escape(record.speed)}</p>' if record.speed else ""}
<h2>{"What changed" if alone else "Charts"}</h2>
{figures([chart for chart in group if chart not in wide], identity)}
<h2>Layer by layer</h2>
{figures(wide, identity)}
{_tensors(record)}
{_costs(record)}
{_provenance(record)}
</section>"""


def card_panel(card: Card) -> str:
    """A card as HTML."""
    return f"""<div class="card">{_badge(card.badge)}<div class="title">{escape(card.title)}</div>
<div class="big">{escape(card.number)}</div><div class="change">{escape(card.change)}</div>
<div class="before">{escape(card.before)}</div><div class="note">{escape(card.note)}</div></div>"""


def _badge(how: str) -> str:
    return f'<span class="badge {escape(how)}">{escape(how)}</span>'


def figures(group: Sequence[Chart], identity: str) -> str:
    """Charts side by side; `identity` begins the names of their elements."""
    return f'<div class="figures">{"".join(_figure(chart, f"{identity}-{chart.key}") for chart in group)}</div>'


def _figure(chart: Chart, identity: str) -> str:
    legend = "".join(
        f'<li><button type="button" data-series="{index}" aria-pressed="true">'
        f'<i style="background:{escape(series.colour)}"></i>{escape(series.name)}</button></li>'
        for index, series in enumerate(chart.series)
    )
    drawing = figure(chart)
    identity = escape(identity)
    return f"""<figure class="panel{" wide" if chart.wide else ""}">
<figcaption><h3>{escape(chart.title)}</h3><p>{escape(chart.note)}</p></figcaption>
{f'<ul class="legend">{legend}</ul>' if chart.has_legend else ""}
<div class="plot" data-figure="{identity}" style="height:{drawing["layout"]["height"]}px"></div>
<script type="application/json" id="{identity}">{_script_json(drawing)}</script>
</figure>"""


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _overview(records: Sequence[Record]) -> str:
    rows = "".join(
        f'<tr><td class="name"><a href="#record{index}">{escape(record.name)}</a></td>'
        f"{number(record.ratio, f'{record.ratio:.1f}')}{number(record.file_bytes, format_bytes(record.file_bytes))}"
        f"{number(record.accuracy, f'{record.accuracy:.2%}')}{_loss(record)}</tr>"
        for index, record in enumerate(records)
    )
    heading = head(("network",), ("times smaller", "file", records[0].metric, "change"))
    table = f"<table>{heading}<tbody>{rows}</tbody></table>"
    return f'<div class="panel wide scroll" style="margin-bottom:16px">{table}</div>'


def _loss(record: Record) -> str:
    if record.original_accuracy is None:
        return number(0, "not measured")
    difference = record.accuracy - record.original_accuracy
    return number(difference, points(difference))


def _tensors(record: Record) -> str:
    rows = "".join(
        f'<tr><td class="name">{escape(tensor.name)}</td><td class="number" data-value="{tensor.elements}">'
        f"{'&thinsp;&times;&thinsp;'.join(map(str, tensor.shape)) or 'scalar'}</td>"
        f"<td><code>{escape(tensor.format)}</code></td>"
        f"{number(tensor.density, f'{tensor.density:.1%}')}"
        f"{number(tensor.bits_per_weight, format_number(tensor.bits_per_weight))}"
        f"{number(4 * tensor.elements, format_bytes(4 * tensor.elements))}"
        f"{number(tensor.bits / 8, format_bytes(tensor.bits / 8))}"
        f"{number(tensor.bits, f'{32 * tensor.elements / tensor.bits:.1f}' if tensor.bits else '')}</tr>"
        for tensor in record.tensors
    )
    names = ("density", "bits per weight", "float32", "stored", "times smaller")
    heading = head(("tensor",), ("shape",), ("stored as",), names)
    return f"""<div class="panel" style="margin-top:16px"><h3>Every tensor of the file</h3>
<div class="scroll tall"><table>{heading}<tbody>{rows}</tbody></table></div></div>"""


def head(*groups: tuple[str, ...]) -> str:
    """A heading that sorts; the last group of columns, and "shape", hold numbers."""
    cells = [(name, group is groups[-1] or name == "shape") for group in groups for name in group]
    return "".join(
        (
            "<thead><tr>",
            *(
                f'<th{" class=number" * numeric}><button type="button">{escape(name)}</button></th>'
                for name, numeric in cells
            ),
            "</tr></thead>",
        )
    )


def number(value: float, text: str) -> str:
    """A cell that shows `text` and sorts by `value`."""
    return f'<td class="number" data-value="{value:.10g}">{escape(text)}</td>'


def _costs(record: Record) -> str:
    if not record.costs:
        return ""
    rows = "".join(_cost_rows(cost, before) for cost, before in pairs(record))
    conditions = "".join(
        f"<details><summary>{escape(cost.target)} {_badge(cost.how)}</summary>{fact_list(cost.conditions)}</details>"
        for cost in record.costs
    )
    return f"""<h2>Costs</h2>
<div class="panel scroll"><table><thead><tr><th>target</th><th>how</th><th>quantity</th><th class="number">before</th>
<th class="number">after</th><th class="number">change</th></tr></thead><tbody>{rows}</tbody></table></div>
<div class="panel" style="margin-top:16px"><h3>Conditions</h3>
<div style="margin-top:10px">{conditions}</div></div>"""


def _cost_rows(cost: Cost, before: Cost | None) -> str:
    rows = []
    for name, quantity in cost.quantities.items():
        earlier = before.quantities.get(name) if before is not None else None
        change = "" if earlier is None else factor(earlier, quantity, cost.how)
        rows.append(
            f'<tr><td class="name">{escape(cost.target)}</td><td>{_badge(cost.how)}</td><td>{escape(name)}</td>'
            f'<td class="number">{_with_spread(earlier)}</td><td class="number">{_with_spread(quantity)}</td>'
            f'<td class="number">{escape(change)}</td></tr>'
        )
    return "".join(rows)


def _with_spread(quantity: Quantity | None) -> str:
    if quantity is None:
        return ""
    text = f"{format_number(quantity.value)} {quantity.unit}"
    if quantity.low is not None and quantity.high is not None:
        text += f" ({format_number(quantity.low)} to {format_number(quantity.high)})"
    return escape(text)


def _provenance(record: Record) -> str:
    known = dict(record.provenance)
    recipe = known.pop("recipe_text", "")
    known.pop("history", None)
    facts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    recipe_panel = f'<figure class="panel"><h3>Recipe</h3><pre>{escape(str(recipe))}</pre></figure>' if recipe else ""
    return f"""<h2>How to reproduce it</h2>
<div class="figures">
<figure class="panel wide"><h3>Commands</h3><pre>{escape(chr(10).join(record.commands))}</pre></figure>
{recipe_panel}
<figure class="panel{"" if recipe else " wide"}"><h3>Provenance</h3>{fact_list(facts)}</figure>
</div>"""


def fact_list(facts: Mapping[str, str]) -> str:
    """Names with what they are."""
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts.items())}</dl>"
