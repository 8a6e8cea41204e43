"""Chips: what our models say beside what was measured or published, for every figure that was read.

    python benchmarks/chips.py [GROUP ...]

Each figure has the tolerance that we set ourselves, whether it is met and, where it is not, why. The chips are those of
the package; what is fitted or assumed in them is said in their files. Records to results/chips.json, draws
results/chips.png. See published.py for the figures and their sources.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import published
import torch
from records import Rows, record, recorded
from rich.console import Console
from rich.table import Table
from torch import nn

from dovetail.hardware import Chip, EnergyTable
from dovetail.hardware.angel_eye import layer_costs as angel_eye_costs
from dovetail.hardware.cost import LayerCost
from dovetail.hardware.diannao import layer_costs as diannao_costs
from dovetail.hardware.diannao import peak_operations_per_second
from dovetail.hardware.layer import Layer, layers
from dovetail.networks import NETWORKS
from dovetail.targets.timing import processor
from dovetail.workload import Workload, trace

RESULTS = Path(__file__).parent / "results" / "chips.json"


@dataclass(frozen=True)
class Figure:
    """One figure, ours and the published one.

    `within` is the tolerance: a part of the published figure, or with `points` in the figure's own unit; None where
    there is none to meet. `reason` says why it is not met.
    """

    name: str
    unit: str
    ours: float
    published: float
    within: float | None
    source: str
    points: bool = False
    reason: str = ""

    @property
    def difference(self) -> float:
        """In percent of the published figure, or in points."""
        if self.points:
            return self.ours - self.published
        return 100 * (self.ours / self.published - 1)

    @property
    def met(self) -> bool | None:
        if self.within is None:
            return None
        return abs(self.difference) <= (self.within if self.points else 100 * self.within)

    def row(self) -> dict[str, Any]:
        row = asdict(self) | {"difference": round(self.difference, 2), "met": self.met}
        return row if self.met is False else row | {"reason": ""}


def workload(network: str, rank: int | None = None) -> Workload:
    """One input, without values. With a rank the first linear layer is two."""
    built = NETWORKS[network]
    with torch.device("meta"):
        model = built.build().eval()
        if rank is not None:
            first = model.classifier[0]
            pair = nn.Linear(first.in_features, rank, bias=False), nn.Linear(rank, first.out_features)
            model.classifier[0] = nn.Sequential(*pair)
        return trace(model, torch.empty(1, *built.input_shape))


def convolutions(network: str, *, batch: int, bits: int = 16) -> list[Layer]:
    return [layer for layer in layers(workload(network), batch=batch, bits=bits) if layer.extents["R"] > 1]


def diannao() -> Iterator[Figure]:
    chip, source = Chip.load("diannao"), published.DIANNAO_SOURCE
    peak = peak_operations_per_second(chip) / 1e9
    why = "the structure has 496 operations a cycle, the paper counts 461 and does not say which it leaves out"
    yield Figure("peak", "GOP/s", peak, published.DIANNAO_GOPS, 0.1, source, reason=why)
    costs = diannao_costs(chip, convolutions("alexnet", batch=1))
    outside = chip.chain("W")[-1].name
    inside = sum(entry.picojoules for cost in costs for entry in cost.energy if entry.place != outside)
    seconds = sum(cost.cycles for cost in costs) / (chip.clock_mhz * 1e6)
    yield Figure("power, AlexNet", "mW", inside * 1e-9 / seconds, published.DIANNAO_MILLIWATTS, 0.25, source)


def horowitz() -> Iterator[Figure]:
    table = EnergyTable.load("horowitz_45nm")
    ours = {f"{number} addition": table.addition(number) for number in ("int8", "int32", "float16", "float32")}
    ours |= {
        f"{number} multiplication": table.multiplication(number) for number in ("int8", "int32", "float16", "float32")
    }
    ours |= {"8 KB SRAM, 64 bits": table.sram(8 << 10, 64), "DRAM, 64 bits, low": table.dram(64)}
    ours["DRAM, 64 bits, high"] = table.high().dram(64)
    for name, picojoules in published.HOROWITZ.items():
        yield Figure(name, "pJ", ours[name], picojoules, 0.0, published.HOROWITZ_SOURCE)


def qiu() -> Iterator[Figure]:
    """VGG-16 with a first linear layer of rank 500, as the paper runs it."""
    chip, source = Chip.load("angel_eye"), published.QIU_SOURCE
    costs = angel_eye_costs(chip, layers(workload("vgg16", rank=500), bits=16))
    convolving = [cost for cost in costs if cost.layer.extents["R"] > 1]
    hertz = chip.clock_mhz * 1e6

    def rate(costs: Sequence[LayerCost]) -> float:
        """In GOP/s; two operations are one multiply-accumulate."""
        return 2e-9 * sum(cost.layer.macs for cost in costs) / (sum(cost.cycles for cost in costs) / hertz)

    yield Figure("pictures", "per s", hertz / sum(cost.cycles for cost in costs), published.QIU_FPS, 0.15, source)
    yield Figure("convolutions", "GOP/s", rate(convolving), published.QIU_CONV_GOPS, 0.15, source)
    yield Figure("all", "GOP/s", rate(costs), published.QIU_GOPS, 0.15, source)


GROUPS: dict[str, Callable[[], Iterator[Figure]]] = {
    "DianNao": diannao,
    "Horowitz": horowitz,
    "Zynq VGG-16": qiu,
}


def run(group: str) -> Rows:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        f"{group}: {figure.name}": figure.row() | {"machine": processor(), "date": today} for figure in GROUPS[group]()
    }


def table(rows: Rows) -> Table:
    shown = Table(title="Ours beside what was published", caption="difference in %, or in points (pt)")
    for column in ("figure", "ours", "published", "difference", "within", "met", "why not"):
        shown.add_column(column, justify="left" if column in ("figure", "why not") else "right")
    for name, row in rows.items():
        unit = "pt" if row["points"] else "%"
        within = row["within"] if row["points"] or row["within"] is None else 100 * row["within"]
        shown.add_row(
            f"{name}, {row['unit']}", f"{row['ours']:,.4g}", f"{row['published']:,.4g}",
            f"{row['difference']:+.1f} {unit}", "" if within is None else f"{within:g} {unit}",
            {True: "yes", False: "[bold]no[/bold]", None: ""}[row["met"]], row["reason"],
        )  # fmt: skip
    return shown


def draw(rows: Rows) -> None:
    """Bars: what was published, and ours beside it, each panel one unit of one group."""
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, row in rows.items():
        group, figure = name.split(": ", 1)
        kind = figure.split(", ", 1)[1] if ", " in figure else row["unit"]
        panels.setdefault(f"{group}, {kind}", []).append((figure.split(", ", 1)[0], row))
    wide = 4
    high = -(-len(panels) // wide)
    figure_, axes = plt.subplots(high, wide, figsize=(4.5 * wide, 2.8 * high), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, entries) in zip(axes.flat, panels.items(), strict=False):
        places = range(len(entries))
        axis.bar([x - 0.2 for x in places], [row["published"] for _, row in entries], 0.38, color="#999999")
        colours = ["#c0392b" if row["met"] is False else "#2471a3" for _, row in entries]
        axis.bar([x + 0.2 for x in places], [row["ours"] for _, row in entries], 0.38, color=colours)
        if max(row["published"] for _, row in entries) > 50 * min(row["published"] for _, row in entries):
            axis.set_yscale("log")
        axis.set_xticks(list(places), [name for name, _ in entries], rotation=30, ha="right", fontsize=7)
        axis.set_title(f"{title} ({entries[0][1]['unit']})", fontsize=9)
    figure_.suptitle("grey: published; blue: ours, within our tolerance; red: ours, not within it", fontsize=10)
    figure_.tight_layout()
    figure_.savefig(RESULTS.with_suffix(".png"), dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all")
    parser.add_argument("--list", action="store_true", help="only show what is recorded")
    arguments = parser.parse_args()
    results = recorded(RESULTS)
    if not arguments.list:
        for group in arguments.groups or GROUPS:
            results = record(RESULTS, run(group))
    draw(results)
    Console(width=200).print(table(results))


if __name__ == "__main__":
    main()
