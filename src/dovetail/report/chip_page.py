"""A network on a chip as one self-contained HTML page, with every chart beside it as a PNG."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.errors import DovetailError, TargetError
from dovetail.hardware.layer import LOOPS
from dovetail.hardware.mapping import draw
from dovetail.report.benchmark import benchmark_card
from dovetail.report.cards import Card
from dovetail.report.charts import format_bytes, format_number
from dovetail.report.chip_charts import chip_charts, energy_unit, off_chip_bits
from dovetail.report.chip_published import beside_published, energy_beside_published
from dovetail.report.chip_table import above_bound, in_use, memories, of_peak, sourced
from dovetail.report.page import card_panel, document, fact_list, figures, head, number
from dovetail.report.pictures import picture
from dovetail.runtime.files import write_atomically

if TYPE_CHECKING:
    from dovetail.hardware import Chip, ChipCost, ChipRecord
    from dovetail.hardware.cost import Access, LayerCost


def write_chip_report(record: ChipRecord, folder: str | Path) -> Path:
    """Write report.html, record.json and a PNG of every chart into `folder`; returns the page's path.

    Raises:
        DovetailError: the folder cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DovetailError(f"The report's folder {folder} cannot be made: {error.strerror or error}") from error
    beside = energy_beside_published(record.cost)
    charts = chip_charts(record) if beside is None else (*chip_charts(record), beside)
    for chart in charts:
        write_atomically(folder / f"{chart.key}.png", picture(chart))
    write_atomically(folder / "record.json", record.to_json())
    title = f"{record.network} on {record.cost.chip.name}"
    main = f"""<h1>{escape(title)}</h1>
<p class="lead">{escape(record.cost.chip.title)}. Batch {record.cost.batch}, each layer mapped for the least
{escape(record.objective)}. {escape(record.densities)} Validated against:
{escape((record.cost.chip.validated or "nothing").rstrip("."))}.</p>
<div class="cards">{"".join(card_panel(card) for card in _cards(record.cost))}</div>
<h2>Where time and energy go</h2>
{figures(charts, "chip")}
<h2>Layer by layer</h2>
{_layers(record.cost)}
{beside_published(record.cost)}
{_accesses(record.cost)}
<h2>How each layer runs</h2>
{_mappings(record.cost)}
<h2>The chip</h2>
{_chip(record)}"""
    path = folder / "report.html"
    write_atomically(path, document(title, main).encode())
    return path


def _cards(cost: ChipCost) -> list[Card]:
    factor, unit = energy_unit(cost.picojoules / cost.batch)
    energy = f"{format_number(cost.picojoules / cost.batch / factor)} {unit}"
    milliseconds, macs = 1e3 * cost.seconds, sum(layer.layer.macs for layer in cost.layers)
    off_chip = sum(off_chip_bits(layer, cost.chip) for layer in cost.layers) / 8
    waiting = sum(sum(layer.counts.cycles.stalled.values()) for layer in cost.layers) / cost.cycles
    power = f"{format_number(1e-9 * cost.picojoules / cost.seconds)} mW"
    per_second = f"{format_number(cost.batch / cost.seconds)} inputs/s"
    speed = (
        f"{format_number(2e-9 * macs / cost.seconds)} of {format_number(2e-9 * cost.chip.peak_macs_per_second)} GOP/s"
    )
    return [
        Card("Latency", f"{format_number(milliseconds)} ms", per_second, f"a batch of {cost.batch}", "", "modelled"),
        Card("Energy", energy, power, "an input", "Off-chip memory included, the host not.", "modelled"),
        Card("Utilisation", f"{cost.utilisation:.1%}", speed, f"{waiting:.1%} of the time waiting", "", "modelled"),
        Card("Off-chip traffic", format_bytes(off_chip / cost.batch), "", "an input", "", "modelled"),
    ]


def _layers(cost: ChipCost) -> str:
    rows = "".join(_layer_row(layer, cost.chip) for layer in cost.layers)
    names = (
        "MACs",
        "cycles",
        "computing",
        "filling, draining",
        "stalled",
        "array in use",
        "of the peak",
        "energy, µJ",
        "off chip",
    )
    heading = head(("layer", "waits for", "above the bound"), names)
    return f"""<div class="panel"><h3>Cycles and energy</h3>
<div class="scroll tall"><table>{heading}<tbody>{rows}</tbody></table></div></div>"""


def _layer_row(layer: LayerCost, chip: Chip) -> str:
    cycles = layer.counts.cycles
    causes = ", ".join(name for name, waited in cycles.stalled.items() if waited)
    off_chip = off_chip_bits(layer, chip) / 8
    words = (causes, above_bound([layer]))
    counts = (layer.layer.macs, cycles.total, cycles.computing, cycles.filling + cycles.draining)
    return (
        f'<tr><td class="name">{escape(layer.layer.name or "(network)")}</td>'
        f"{''.join(f'<td>{escape(word)}</td>' for word in words)}"
        f"{''.join(number(value, f'{value:,.0f}') for value in (*counts, sum(cycles.stalled.values())))}"
        f"{''.join(number(share, f'{share:.1%}') for share in (in_use([layer]), of_peak([layer], chip)))}"
        f"{number(layer.picojoules, format_number(layer.picojoules / 1e6))}"
        f"{number(off_chip, format_bytes(off_chip))}</tr>"
    )


def _accesses(cost: ChipCost) -> str:
    """Elements and bytes by memory, operand and action, each layer and the whole network."""
    rows: list[tuple[str, Access]] = [
        (layer.layer.name or "(network)", access) for layer in cost.layers for access in layer.counts.accesses
    ]
    sums: dict[tuple[str, str, str], Access] = {}
    for _, each in rows:
        key = each.memory, each.operand, each.action
        known = sums.get(key, replace(each, elements=0.0, bits=0.0))
        sums[key] = replace(known, elements=known.elements + each.elements, bits=known.bits + each.bits)
    together = [("all layers", each) for each in sums.values()]
    body = "".join(
        f'<tr><td class="name">{escape(layer)}</td><td>{escape(each.memory)}</td><td>{escape(each.operand)}</td>'
        f"<td>{escape(each.action)}</td>{number(each.elements, f'{each.elements:,.0f}')}"
        f"{number(each.bits, format_bytes(each.bits / 8))}</tr>"
        for layer, each in (*together, *rows)
    )
    heading = head(("layer", "memory", "operand", "action"), ("elements", "moved"))
    return f"""<div class="panel" style="margin-top:16px"><h3>Accesses by memory and operand</h3>
<div class="scroll tall"><table>{heading}<tbody>{body}</tbody></table></div></div>"""


def _mappings(cost: ChipCost) -> str:
    drawn = "".join(
        f"<details><summary>{escape(layer.layer.name or '(network)')}</summary>{_mapping(layer, cost.chip)}</details>"
        for layer in cost.layers
    )
    return f'<div class="panel">{drawn}</div>'


def _mapping(layer: LayerCost, chip: Chip) -> str:
    """The loops of a layer, and the order in which they run or the fixed way of the chip."""
    extents = layer.layer.extents
    loops = ", ".join(f"{loop} = {extents[loop]}" for loop in LOOPS if extents[loop] > 1)
    words = "".join(f"<p>{escape(line)}</p>" for line in (loops, layer.note) if line)
    return words + (f"<pre>{escape(draw(chip, layer.layer, layer.mapping))}</pre>" if layer.mapping is not None else "")


def _chip(record: ChipRecord) -> str:
    chip = record.cost.chip
    facts = {
        "array": " x ".join(f"{d.size} {d.name}" for d in chip.dimension) + f", {chip.elements:,} elements",
        "clock": f"{chip.clock_mhz:g} MHz",
        "process": f"{chip.node_nm:g} nm",
        "area": "unknown" if chip.area_mm2 is None else f"{chip.area_mm2:g} mm²",
        "peak": f"{format_number(2e-9 * chip.peak_macs_per_second)} GOP/s",
        "memories": memories(chip),
        "not counted": ", ".join(part.partition(":")[0] for part in record.cost.left_out) or "nothing",
    }
    sources = "".join(
        f"<tr><td>{escape(where)}</td><td>{escape(source.status)}</td><td>{escape(source.says)}</td></tr>"
        for where, source in sourced(chip)
    )
    command = f'<figure class="panel wide"><h3>Command</h3><pre>{escape(record.command)}</pre></figure>'
    return f"""<div class="figures">
<figure class="panel"><h3>{escape(chip.title)}</h3>{fact_list(facts)}</figure>
<figure class="panel"><h3>Benchmark card</h3>{_benchmark(record)}</figure>
{command if record.command else ""}
</div>
<div class="panel scroll"><h3>Where its numbers come from</h3><table>
<thead><tr><th>numbers</th><th>known</th><th>from</th></tr></thead><tbody>{sources}</tbody></table></div>"""


def _benchmark(record: ChipRecord) -> str:
    """The card, or why there is none."""
    try:
        return fact_list(benchmark_card(record).rows())
    except TargetError as error:
        return f"<p>{escape(str(error))}.</p>"
