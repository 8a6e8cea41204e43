"""The few numbers that a report begins with, each with how it was obtained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dovetail.report.charts import format_bytes, format_number

if TYPE_CHECKING:
    from dovetail.evaluation import Record
    from dovetail.targets import Cost, Quantity

Badge = Literal["exact", "measured", "modelled"]
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Card:
    """A number, what it was before, and how we know."""

    title: str
    number: str
    change: str
    before: str
    note: str
    badge: Badge


def cards(record: Record) -> list[Card]:
    """Size, accuracy, work, and the first quantity of every target."""
    return [_size(record), _accuracy(record), *_work(record), *_costs(record)]


def _size(record: Record) -> Card:
    before = f"{format_bytes(record.original_bytes)} → {format_bytes(record.file_bytes)}"
    note = "The file on disk, every byte of it, against the original's parameters in float32."
    return Card("Size", f"{record.ratio:.1f}{TIMES}", "smaller", before, note, "exact")


def _accuracy(record: Record) -> Card:
    change, before = "", "the original was not measured"
    if record.original_accuracy is not None:
        change = points(record.accuracy - record.original_accuracy)
        before = f"before {record.original_accuracy:.2%}"
    error = math.sqrt(record.accuracy * (1 - record.accuracy) / record.images) if 0 <= record.accuracy <= 1 else 0.0
    note = f"On {record.images:,} {record.split} images of {record.dataset}, from the decoded file"
    note += f"; standard error {100 * error:.2f} points." if error else "."
    return Card(record.metric.capitalize(), f"{record.accuracy:.2%}", change, before, note, "measured")


def _work(record: Record) -> Iterator[Card]:
    """Multiply-accumulates of one input, where they were counted; those by zeros apart."""
    after, before = record.work, record.original_work
    if after is None or before is None:
        return
    nonzero = f"; {format_number(after.nonzero_macs)} of them by weights that are not zero"
    note = f"Multiply-accumulates of one input{nonzero if after.nonzero_macs < 0.99 * after.macs else ''}."
    was = f"before {format_number(before.macs)}; parameters {before.parameters:,} → {after.parameters:,}"
    yield Card("Work", f"{format_number(after.macs)} MACs", fewer(before.macs, after.macs), was, note, "exact")


def fewer(before: float, after: float) -> str:
    """How many times fewer, "the same" within one per cent."""
    if not before or not after or abs(math.log(before / after)) < 0.01:
        return "the same"
    return f"{before / after:.2f}{TIMES} fewer" if after < before else f"{after / before:.2f}{TIMES} more"


def _costs(record: Record) -> Iterator[Card]:
    for cost, before in pairs(record):
        name, quantity = next(iter(cost.quantities.items()))
        earlier = before.quantities.get(name) if before is not None else None
        change, was = "", "the original was not costed"
        if earlier is not None:
            change = factor(earlier, quantity, cost.how)
            was = f"before {format_number(earlier.value)} {earlier.unit}"
        conditions = ("runtime", "threads", "weights") if cost.how == "measured" else ("prices", "arithmetic")
        note = "; ".join(
            f"{cost.conditions[key]} thread{'s' * (cost.conditions[key] != '1')}"
            if key == "threads"
            else cost.conditions[key]
            for key in conditions
            if key in cost.conditions
        )
        title = f"{name.capitalize()}, {cost.target}"
        yield Card(title, f"{format_number(quantity.value)} {quantity.unit}", change, was, f"{note}.", cost.how)


def pairs(record: Record) -> Iterator[tuple[Cost, Cost | None]]:
    """Every cost of the artefact with the original's on the same target."""
    originals = {cost.target: cost for cost in record.original_costs}
    return ((cost, originals.get(cost.target)) for cost in record.costs)


def factor(before: Quantity, after: Quantity, how: str) -> str:
    """How many times less or more it has become.

    "about the same" within two per cent; if it was measured within five, or if each median lies in the other's spread.
    """
    if not before.value or not after.value:
        return "no comparison"
    ratio = before.value / after.value
    indistinct = how == "measured" and _within(before, after) and _within(after, before)
    if indistinct or abs(math.log(ratio)) < math.log(1.05 if how == "measured" else 1.02):
        return "about the same"
    times = max(ratio, 1 / ratio)
    return f"{times:.{2 if times < 10 else 1}f}{TIMES} {'less' if ratio > 1 else 'more'}"


def _within(one: Quantity, other: Quantity) -> bool:
    """Whether the value of one lies in the spread of the other."""
    return other.low is not None and other.high is not None and other.low <= one.value <= other.high


def points(difference: float) -> str:
    """A difference of fractions in signed percentage points."""
    number = f"{100 * difference:+.2f}".replace("-", MINUS)
    return f"{number} points"
