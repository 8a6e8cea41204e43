"""What was measured on a chip, or published of it, beside what our model says, for the networks that were looked at."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from dovetail.hardware.cost import ARITHMETIC
from dovetail.hardware.published import (
    EYERISS_ISCA,
    EYERISS_ISCA_LAYERS,
    EYERISS_ISCA_SOURCE,
    EYERISS_NETWORKS,
    Energies,
    Measured,
    Network,
)
from dovetail.hardware.row_stationary import as_analysed, as_measured
from dovetail.report.charts import Chart, Series
from dovetail.report.chip_charts import MEMORY_COLOURS, OUTERMOST, PLACE_COLOURS
from dovetail.report.page import head, number

if TYPE_CHECKING:
    from dovetail.hardware import ChipCost
    from dovetail.hardware.cost import LayerCost
    from dovetail.hardware.layer import Layer

MEASURED_ON = {"eyeriss": EYERISS_NETWORKS}
"""By the name of a chip."""

ANALYSED = "eyeriss_isca"
LEVEL_COLOURS = {"arithmetic": PLACE_COLOURS[ARITHMETIC], "dram": OUTERMOST, "registers": MEMORY_COLOURS[0]}

COLUMNS = ("processing, ms", "processing and waiting for DRAM, ms", "buffer, MB", "DRAM, MB", "chip, mW")
CAPTION = (
    "The chip ran the passes that its designers chose, on real pictures; ours are the passes that cost least in the "
    "model, with the zeros named above. Where those differ, so do zeros, traffic and power. MB are 2^20 bytes."
)


def beside_published(cost: ChipCost) -> str:
    """A table of both, layer by layer; nothing where this network was not measured on this chip at this batch."""
    found = published(cost)
    if found is None:
        return ""
    network, layers = found
    pairs = [
        (name, as_measured(cost.chip, layer), network.measured[name])
        for name, layer in zip(network.layers, layers, strict=True)
    ]
    rows = "".join(_row(name, ours, theirs) for name, ours, theirs in pairs)
    heading = head(("layer",), tuple(f"{name}{whose}" for name in COLUMNS for whose in ("", ": measured")))
    return f"""<div class="panel" style="margin-top:16px"><h3>Beside the chip itself</h3>
<p>{escape(f"{network.title}: {network.source}. {CAPTION}")}</p>
<div class="scroll tall"><table>{heading}<tbody>{rows}</tbody></table></div></div>"""


def energy_beside_published(cost: ChipCost) -> Chart | None:
    """The bars of the paper beside ours, layer by layer; None where it has none of this network on this chip."""
    theirs = list(EYERISS_ISCA_LAYERS.values())
    if cost.chip.name != ANALYSED or [_size(layer.layer) for layer in cost.layers] != [_size(each) for each in theirs]:
        return None
    pairs = [
        (f"{name}{whose}", energies)
        for layer, (name, figures) in zip(cost.layers, EYERISS_ISCA.items(), strict=True)
        for whose, energies in ((", ours", as_analysed(cost.chip, layer)), (", paper", figures))
    ]
    return Chart(
        "energy_beside_published",
        "Energy beside the paper's",
        f"{EYERISS_ISCA_SOURCE}: three levels. Ours are the passes that cost least.",
        "stacked",
        tuple(label for label, _ in pairs),
        tuple(
            Series(level, tuple(getattr(energies, level) for _, energies in pairs), LEVEL_COLOURS[level])
            for level in Energies._fields
        ),
        "billion multiplications",
        tuple(f"{math.fsum(energies):.2f}" for _, energies in pairs),
        wide=True,
    )


def _size(layer: Layer) -> tuple[int, ...]:
    """The same for a linear layer and the convolution of a whole map that it is."""
    return layer.macs, layer.elements("W"), layer.elements("O")


def published(cost: ChipCost) -> tuple[Network, list[LayerCost]] | None:
    """What was measured on this chip that has just these convolutions, and their costs."""
    found = [layer for layer in cost.layers if layer.layer.extents["R"] > 1]
    shapes = [_shape(layer.layer) for layer in found]
    networks = MEASURED_ON.get(cost.chip.name, ())
    network = next((n for n in networks if [_shape(n.layer(name)) for name in n.layers] == shapes), None)
    return None if network is None else (network, found)


def _shape(layer: Layer) -> Any:
    return dict(layer.extents), layer.stride, layer.dilation


def _row(name: str, ours: Measured, theirs: Measured) -> str:
    cells = "".join(number(value, f"{value:,.1f}") for pair in zip(ours, theirs, strict=True) for value in pair)
    return f'<tr><td class="name">{escape(name)}</td>{cells}</tr>'
