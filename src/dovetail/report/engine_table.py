"""What the native engine runs, what it answers, and how it compares: as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dovetail.runtime.engine import Operation
    from dovetail.targets import Comparison, Quantity

MOST_ROWS = 20
"""Predictions that are shown; --out writes them all."""


def kernels_table(operations: Sequence[Operation]) -> Table:
    """Each operation of a session: which layer, what runs it, and why."""
    table = _table("Kernels", ("layer", "kernel", "for", "output"), ("weights, bytes",))
    for row in operations:
        weights = f"{row.weight_bytes:,}" if row.weight_bytes else ""
        table.add_row(*map(Text, (row.layer, row.kernel, row.why, "x".join(map(str, row.shape)), weights)))
    return table


def predictions_table(names: Sequence[str], outputs: NDArray[Any], classes: Sequence[str]) -> Table:
    """The most probable class of each input; where outputs are no scores of classes, their range."""
    shown = list(zip(names, outputs, strict=True))[:MOST_ROWS]
    left_out = f"and {len(outputs) - len(shown):,} more; --out writes all" if len(outputs) > len(shown) else None
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        table = _table("Outputs", ("input", "shape"), ("least", "mean", "most"), left_out)
        for name, row in shown:
            numbers = (f"{value:.4g}" for value in (row.min(), row.mean(), row.max()))
            table.add_row(Text(name), "x".join(map(str, row.shape)), *numbers)
        return table
    table = _table("Predictions", ("input", "class"), ("probability",), left_out)
    for name, scores in shown:
        likely = np.exp(scores - scores.max())
        best = int(scores.argmax())
        label = classes[best] if len(classes) == len(scores) else str(best)
        table.add_row(Text(name), Text(label), f"{likely[best] / likely.sum():.1%}")
    return table


def outputs_table(outputs: Mapping[str, NDArray[Any]]) -> Table:
    """The outputs of a network: the shape and type of each, and its range."""
    table = _table("Outputs", ("output", "shape", "type"), ("least", "mean", "most"))
    for name, array in outputs.items():
        numbered = array.size > 0 and array.dtype.kind in "biuf"
        numbers = (f"{float(value):.4g}" for value in (array.min(), array.mean(), array.max())) if numbered else ()
        table.add_row(Text(name), "x".join(map(str, array.shape)), str(array.dtype), *numbers)
    return table


def comparisons_table(name: str, rows: Sequence[Comparison], conditions: dict[str, str]) -> Table:
    """The engine beside other runtimes: medians with their spread, and how many times as long the other takes."""
    table = _table(f"{name} in the native engine, and elsewhere", ("runtime",), ("batch", "engine, ms", "it, ms"))
    table.add_column("it / engine", justify="right")
    table.add_column("outputs differ by", justify="right")
    for row in rows:
        cells = (f"{row.batch}", _spread(row.ours), _spread(row.theirs), _spread(row.ratio, 2))
        table.add_row(row.peer, *cells, f"{row.difference:.1e}")
    said = conditions | {"spread": "10th to 90th percentile around the median, in bursts that take turns"}
    table.caption = Text("\n".join(f"{what}: {found}" for what, found in said.items()))
    return table


def _spread(quantity: Quantity, digits: int = 3) -> str:
    return f"{quantity.value:.{digits}f} ({quantity.low:.{digits}f} to {quantity.high:.{digits}f})"


def _table(title: str, left: Sequence[str], right: Sequence[str], caption: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    return table
