"""What was measured on a chip beside what our model says of it, for the networks that were."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dovetail.hardware.published import EYERISS_NETWORKS, Measured, Network
from dovetail.hardware.row_stationary import as_measured
from dovetail.report.page import head, number

if TYPE_CHECKING:
    from dovetail.hardware import ChipCost
    from dovetail.hardware.cost import LayerCost
    from dovetail.hardware.layer import Layer

MEASURED_ON = {"eyeriss": EYERISS_NETWORKS}
"""By the name of a chip."""

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
