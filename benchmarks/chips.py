"""Chips: what our models say beside what was measured or published, for every figure that was read.

    python benchmarks/chips.py [GROUP ...]

Each figure has the tolerance that we set ourselves, whether it is met and, where it is not, why. The chips are those of
the package; what is fitted or assumed in them is said in their files. Records to results/chips.json, draws
results/chips.png. See dovetail/hardware/published.py for the figures and their sources.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from records import Rows, record, recorded
from rich.console import Console
from rich.table import Table
from torch import nn

from dovetail.hardware import Chip, EnergyTable, published
from dovetail.hardware.angel_eye import computing_cycles
from dovetail.hardware.angel_eye import layer_costs as angel_eye_costs
from dovetail.hardware.cost import LayerCost, operation_for
from dovetail.hardware.dataflows import DATAFLOWS, energy
from dovetail.hardware.diannao import layer_costs as diannao_costs
from dovetail.hardware.diannao import peak_operations_per_second
from dovetail.hardware.fused import fuse, pace
from dovetail.hardware.layer import Layer, layers
from dovetail.hardware.row_stationary import as_analysed, as_measured
from dovetail.hardware.row_stationary import cost as row_stationary_cost
from dovetail.hardware.row_stationary import layer_costs as row_stationary_costs
from dovetail.hardware.row_stationary_pass import Pass, ceil
from dovetail.hardware.systolic_array import SPREAD, Array, lowered
from dovetail.hardware.tpu import Span, applications, tera_operations, timeline
from dovetail.machine import processor
from dovetail.networks import NETWORKS
from dovetail.workload import Workload, trace

RESULTS = Path(__file__).parent / "results" / "chips.json"


@dataclass(frozen=True)
class Figure:
    """One figure, ours and the published one.

    `within` is the tolerance: a part of the published figure, or with `points` in the figure's own unit; None where
    there is none to meet. `remark` says why it is not met, or what else there is to know.
    """

    name: str
    unit: str
    ours: float
    published: float
    within: float | None
    source: str
    points: bool = False
    remark: str = ""

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
        return asdict(self) | {"difference": round(self.difference, 2), "met": self.met}


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


@functools.cache
def convolutions(network: str, *, batch: int, bits: int = 16) -> list[Layer]:
    return [layer for layer in layers(workload(network), batch=batch, bits=bits) if layer.extents["R"] > 1]


def diannao() -> Iterator[Figure]:
    chip, source = Chip.load("diannao"), published.DIANNAO_SOURCE
    peak = peak_operations_per_second(chip) / 1e9
    why = "the structure has 496 operations a cycle, the paper counts 461 and does not say which it leaves out"
    yield Figure("peak", "GOP/s", peak, published.DIANNAO_GOPS, 0.1, source, remark=why)
    costs = diannao_costs(chip, convolutions("alexnet", batch=1))
    outside = chip.chain("W")[-1].name
    inside = sum(entry.picojoules for cost in costs for entry in cost.energy if entry.place != outside)
    seconds = sum(cost.cycles for cost in costs) / (chip.clock_mhz * 1e6)
    yield Figure("power, AlexNet", "mW", inside * 1e-9 / seconds, published.DIANNAO_MILLIWATTS, 0.25, source)


def horowitz() -> Iterator[Figure]:
    table, source = EnergyTable.load("horowitz_45nm"), published.HOROWITZ_SOURCE
    ours = {"64 bits of 8 KB SRAM": table.sram(8 << 10, 64), "64 bits of DRAM (low)": table.dram(64)}
    ours["64 bits of DRAM (high)"] = table.high().dram(64)
    for number in ("int8", "int16", "int32", "float16", "float32"):
        ours[f"{number} addition"] = table.addition(number)
        ours[f"{number} multiplication"] = table.multiplication(number)
    for name, picojoules in published.HOROWITZ.items():
        yield Figure(name, "pJ", ours[name], picojoules, 0.0, source)
    remark = "both are estimates; ours: the power law between 8 and 32 bits"
    for name, picojoules in published.HOROWITZ_BETWEEN.items():
        yield Figure(name, "pJ", ours[name], picojoules, None, source, remark=remark)


EYERISS_COLUMNS = {"processing": "ms", "latency": "ms", "power": "mW", "GLB": "MB", "DRAM": "MB", "active": "elements"}


def eyeriss() -> Iterator[Figure]:
    """AlexNet's convolutions, batch 4, with the passes of Table III and the zeros of Table V."""
    network = published.EYERISS_ALEXNET
    within = {"processing": 0.08, "power": 0.2, "GLB": 0.1, "DRAM": 0.1}
    rows = {name: eyeriss_figures(network, name, passes) for name, passes in network.passes.items()}
    times = [row["processing"] for row in rows.values()]
    rows["total"] = {column: math.fsum(row[column] for row in rows.values()) for column in EYERISS_COLUMNS}
    for column in ("power", "active"):  # means over the time
        weighed = math.fsum(row[column] * time for row, time in zip(rows.values(), times, strict=False))
        rows["total"][column] = weighed / sum(times)
    other = eyeriss_figures(network, "conv3", network.passes["conv4"])
    remarks = {
        ("conv3", "GLB"): "Tables III and V disagree: 4 channels a pass, as III has it, move 62.9 MB of sums alone; "
        f"with III's passes for conv4 it is {other['GLB']:.1f} MB and {other['processing']:.1f} ms",
        ("total", "processing"): "; ".join(f"{name} {off:+g} %" for name, off in published.EYERISS_PEERS.items()),
    }
    for name, row in rows.items():
        known = eyeriss_columns(network.measured.get(name, network.total)) | {"active": published.EYERISS_ACTIVE[name]}
        for what, unit in EYERISS_COLUMNS.items():
            tolerance = 0.015 if (name, what) == ("total", "processing") else within.get(what)
            remark = remarks.get((name, what), "")
            yield Figure(f"{name}, {what}", unit, row[what], known[what], tolerance, network.source, remark=remark)


def eyeriss_columns(measured: published.Measured) -> dict[str, float]:
    times = measured.processing_ms, measured.total_ms
    figures = *times, measured.milliwatts, measured.buffer_mb, measured.dram_mb
    return dict(zip(EYERISS_COLUMNS, figures, strict=False))


def eyeriss_figures(network: published.Network, name: str, passes: Pass) -> dict[str, float]:
    """EYERISS_COLUMNS of one layer."""
    chip = Chip.load("eyeriss")
    cost = row_stationary_cost(chip, network.layer(name), passes)
    (active,) = re.findall(r"(\d+) of \d+ elements", cost.note)
    return eyeriss_columns(as_measured(chip, cost)) | {"active": float(active)}


def eyeriss_vgg() -> Iterator[Figure]:
    """VGG-16, batch 3: nothing was fitted to it."""
    network = published.EYERISS_VGG
    within = {"processing": 0.08, "latency": None, "power": 0.2, "GLB": 0.1, "DRAM": 0.12}
    unexplained = {
        "conv1_2": "54 MB would take sums of all 64 filters in the buffer, with 144 elements active and not 156",
        "conv4_2": "less than what is published of conv4_3, which has the same shape and fewer nonzeros",
    }
    rows = {name: eyeriss_figures(network, name, passes) for name, passes in network.passes.items()}
    time = math.fsum(row["processing"] for row in rows.values())
    energy = math.fsum(row["processing"] * row["power"] for row in rows.values())
    rows["total"] = {what: math.fsum(row[what] for row in rows.values()) for what in within} | {"power": energy / time}
    for name, row in rows.items():
        known = eyeriss_columns(network.measured.get(name, network.total))
        for what, tolerance in within.items():
            unit, remark = EYERISS_COLUMNS[what], unexplained.get(name, "") if what == "DRAM" else ""
            tolerance = 0.015 if (name, what) == ("total", "processing") else tolerance
            yield Figure(f"{name}, {what}", unit, row[what], known[what], tolerance, network.source, remark=remark)


def eyeriss_isca() -> Iterator[Figure]:
    """The analysis that came before the chip: 16 x 16 elements, 128 KB, energies relative to a multiplication."""
    chip = Chip.load("eyeriss_isca")
    for name, layer in published.EYERISS_ISCA_LAYERS.items():
        (cost,) = row_stationary_costs(chip, [layer])
        theirs = published.EYERISS_ISCA[name]
        for place, ours, figure in zip(theirs._fields, as_analysed(chip, cost), theirs, strict=True):
            yield Figure(f"{name}, {place}", "G", ours, figure, 0.15, published.EYERISS_ISCA_SOURCE)


def other_dataflows() -> Iterator[Figure]:
    """The same area with other dataflows: the energy of AlexNet's convolutions, by row-stationary's."""
    convolutions = [published.EYERISS_ISCA_LAYERS[name] for name in published.EYERISS_ALEXNET.layers]
    least = math.fsum(cost.picojoules for cost in row_stationary_costs(Chip.load("eyeriss_isca"), convolutions))
    ratios = {
        name: math.fsum(energy(chip, layer) for layer in convolutions) / least for name, chip in DATAFLOWS.items()
    }
    remark = "; ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    ends = zip(("least", "most"), (min, max), published.ROW_STATIONARY_GAIN, strict=True)
    for what, of, figure in ends:  # published with two digits
        yield Figure(
            f"energy of the others, {what}", "times", of(ratios.values()), figure, 0.05,
            published.ROW_STATIONARY_SOURCE, points=True, remark=f"each by its best mappings: {remark}",
        )  # fmt: skip


def tpu() -> Iterator[Figure]:
    """Three applications as far as the paper tells their shapes (hardware/tpu.py says what is inferred)."""
    chip, source = Chip.load("tpu_v1"), published.TPU_SOURCE
    yield Figure("peak", "TOPS", 2e-12 * chip.peak_macs_per_second, published.TPU_PEAK_TOPS, 0.01, source)
    ridge = chip.elements / ((chip.chain("W")[-1].read_bandwidth or math.inf) / 8)
    yield Figure("MACs a byte of weights", "", ridge, published.TPU_RIDGE, 0.01, source)
    contradicts = "Table 3 contradicts itself here: an array that is active 78.2 % of the time does 72 TOPS"
    for name, application in applications().items():
        tops, span = tera_operations(chip, application)
        remark = contradicts if name == "CNN0" else ""
        yield Figure(f"{name}, rate", "TOPS", tops, published.TPU_TOPS[name], 0.2, source, remark=remark)
        weights = sum(layer.elements("W") for layer in application.layers)
        reuse = sum(layer.macs for layer in application.layers) / weights
        inferred = "the layers were inferred from it"
        yield Figure(f"{name}, MACs a weight", "", reuse, published.TPU_REUSE[name], None, source, remark=inferred)
        waits = span.weight_stall + span.weight_shift > span.active
        bound = "it waits for weights longer than it multiplies" if waits else "it multiplies most of the time"
        yield Figure(
            f"{name}, bound by memory", "1: yes", float(waits), float(published.TPU_WAITS_FOR_WEIGHTS[name]), 0, source,
            points=True, remark=bound,
        )  # fmt: skip
        waiting = span.total - sum(timeline(chip, application.layers, dependent=application.dependent), Span()).total
        cycles = sum(layer.macs * operation_for(chip, layer).cycles for layer in application.layers) / chip.elements
        ours = (
            span.active,
            cycles,
            span.active - cycles,
            span.weight_stall,
            span.weight_shift,
            span.non_matrix,
            waiting,
        )
        for what, value, percent in zip(published.TPU_COLUMNS, ours, published.TPU_PERCENT[name], strict=True):
            remark = "weights that arrive while the input does save more than that takes" if value < 0 else ""
            yield Figure(
                f"{name}, {what}", "%", 100 * value / span.total, percent, 10, source, remark=remark, points=True
            )
    _, span = tera_operations(chip, applications()["MLP0"])
    rate, remark = 200 / (span.total / (chip.clock_mhz * 1e6)), "published with a limit of 7 ms on the slowest answers"
    yield Figure("MLP0, inferences", "per s", rate, published.TPU_MLP0_IPS[200], None, source, remark=remark)


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


def block_convolution() -> Iterator[Figure]:
    """The same network and board as Qiu's, blocks of 28 x 28: half of the memory for maps, half for weights."""
    chip, chain = Chip.load("angel_eye"), layers(workload("vgg16", rank=500), bits=16)
    room, bandwidth = sum(memory.bytes or 0 for memory in chip.memory) / 2, chip.memory[-1].read_bandwidth
    assert bandwidth is not None

    def computing(layer: Layer, grid: tuple[int, int]) -> float:
        return computing_cycles(chip, layer, math.ceil(layer.extents["P"] * layer.stride[0] / grid[0]))

    found = pace(fuse(chain, size=28, buffer_bytes=room, weight_bytes=room), computing, bandwidth)
    hertz, operations = chip.clock_mhz * 1e6, 2e-9 * sum(layer.macs for layer in chain)
    apart = sum(cost.cycles for cost in angel_eye_costs(chip, chain))
    why = (
        f"{published.BLOCK_CONVOLUTION_FPS} a second are {published.BLOCK_CONVOLUTION_FPS * operations:.0f} GOP/s, and "
        f"this array has {2e-9 * chip.peak_macs_per_second:.0f}: theirs is larger; on equal resources fusion gains "
        f"{apart / found.interval:.1f}x (published: {published.BLOCK_CONVOLUTION_FPS / published.QIU_FPS:.1f}x)"
    )
    figure = hertz / found.interval, published.BLOCK_CONVOLUTION_FPS, None, published.BLOCK_CONVOLUTION_SOURCE
    yield Figure("pictures, Angel-Eye's array", "per s", *figure, remark=why)


def scalesim_cycles(dataflow: str, pixels: int, filters: int, window: int, rows: int, columns: int) -> int:
    """SCALE-Sim's Total Cycles in closed form, which we found to be exact on 65 layers."""

    def tiles(a: int, b: int) -> int:
        return -(-a // rows) * -(-b // columns)

    return {
        "os": tiles(pixels, filters) * (window + rows + columns - 2) - 1,
        "ws": tiles(window, filters) * (pixels + 2 * rows + columns - 2) - 1,
        "is": tiles(window, pixels) * (filters + 2 * rows + columns - 2) - 1,
    }[dataflow]


def scalesim() -> Iterator[Figure]:
    """AlexNet's convolutions of one group; the figure of SCALE-Sim is the number of the last cycle."""
    for name, (pixels, filters, window, measured) in published.SCALESIM.items():
        assert scalesim_cycles("os", pixels, filters, window, 32, 32) == measured
        for dataflow in ("os", "ws", "is"):
            array = Array.of(Chip.load(f"systolic_{dataflow}"))
            product = lowered(Layer(name, {"N": pixels, "K": filters, "C": window}))
            stream = product.extents[SPREAD[dataflow][2]]
            tile = array.tile(product.extents, stream)
            cycles = array.cycles(math.prod(ceil(product.extents[axis], tile[axis]) for axis in tile), stream)
            theirs = scalesim_cycles(dataflow, pixels, filters, window, array.rows, array.columns)
            ours = cycles.computing + cycles.filling - 1
            yield Figure(f"{name}, {dataflow}", "cycles", ours, theirs, 0.0, published.SCALESIM_SOURCE)


GROUPS: dict[str, Callable[[], Iterator[Figure]]] = {
    "Eyeriss": eyeriss,
    "Eyeriss, VGG-16": eyeriss_vgg,
    "Eyeriss, ISCA 2016": eyeriss_isca,
    "dataflows, ISCA 2016": other_dataflows,
    "TPU": tpu,
    "DianNao": diannao,
    "Horowitz": horowitz,
    "Zynq VGG-16": qiu,
    "block convolution": block_convolution,
    "SCALE-Sim": scalesim,
}


def run(group: str) -> Rows:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        f"{group}: {figure.name}": figure.row() | {"machine": processor(), "date": today} for figure in GROUPS[group]()
    }


def table(rows: Rows) -> Table:
    shown = Table(title="Ours beside what was published", caption="difference in %, or in points (pt)")
    for column in ("figure", "ours", "published", "difference", "within", "met", "remark"):
        shown.add_column(column, justify="left" if column in ("figure", "remark") else "right")
    for name, row in rows.items():
        unit = "pt" if row["points"] else "%"
        within = row["within"] if row["points"] or row["within"] is None else 100 * row["within"]
        shown.add_row(
            f"{name}, {row['unit']}", f"{row['ours']:,.4g}", f"{row['published']:,.4g}",
            f"{row['difference']:+.1f} {unit}", "" if within is None else f"{within:g} {unit}",
            {True: "yes", False: "[bold]no[/bold]", None: ""}[row["met"]], row["remark"],
        )  # fmt: skip
    return shown


def draw(rows: Rows) -> None:
    """Bars, ours beside what was published: a panel for each quantity of a group, the few that are alone in one."""
    panels: dict[str, list[tuple[str, float, float, bool | None]]] = {}
    for name, row in rows.items():
        group, figure = name.split(": ", 1)
        entry, _, quantity = figure.partition(", ")
        title = f"{group}{', ' if quantity else ''}{quantity} ({row['unit']})"
        panels.setdefault(title, []).append((entry, row["ours"], row["published"], row["met"]))
    alone = {title: entries for title, entries in panels.items() if len(entries) < 3}
    panels = {title: entries for title, entries in panels.items() if title not in alone}
    panels["others, as parts of the published"] = [
        (f"{title.split(' (')[0]}: {name}", ours / theirs, 1.0, met)
        for title, entries in alone.items()
        for name, ours, theirs, met in entries
    ]
    wide = 3
    high = ceil(len(panels), wide)
    figure_, axes = plt.subplots(high, wide, figsize=(5.5 * wide, 2.9 * high), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, entries) in zip(axes.flat, panels.items(), strict=False):
        places, published_ = range(len(entries)), [theirs for _, _, theirs, _ in entries]
        axis.bar([x - 0.2 for x in places], published_, 0.38, color="#999999")
        colours = [{True: "#2471a3", False: "#c0392b", None: "#85c1e9"}[met] for *_, met in entries]
        axis.bar([x + 0.2 for x in places], [ours for _, ours, _, _ in entries], 0.38, color=colours)
        if 0 < 50 * min(published_) < max(published_):
            axis.set_yscale("log")
        axis.set_xticks(list(places), [name for name, *_ in entries], rotation=30, ha="right", fontsize=7)
        axis.set_title(title, fontsize=9)
    legend = "grey: published; ours blue within the tolerance, red not within it, pale where there is none"
    figure_.suptitle(legend, fontsize=10)
    figure_.tight_layout(rect=(0, 0, 1, 0.98))
    figure_.savefig(RESULTS.with_suffix(".png"), dpi=90)


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
