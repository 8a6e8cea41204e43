"""SCALE-Sim 3 side by side: its compute cycles and ours, on layers of its own topologies, three dataflows, five arrays.

    python benchmarks/scalesim_peer.py PYTHON [--network resnet50 | --stalls]

PYTHON is the interpreter of an environment that has scalesim 3.0.0 (see scalesim_run.py). Layers are rows of its
repository's topologies (scale-sim-v2@1179bd5 alexnet.csv, SCALE-Sim Resnet18.csv and MLperf_tiny/vww.csv), small enough
for two minutes in all. With --network every layer of one of our networks instead, their inputs padded beforehand, on 32
x 32 elements, output-stationary: for ResNet-50 it takes a quarter of an hour and 11 GB. In results/scalesim.json:

    cycles      its own; `ours` is our computing + filling - 1, which must equal them: it reports the number of the last
                cycle as their count
    drained     our count until the last output has left, "os" included, where it takes sums out before they are
                finished; and `stepped`, that of the array run cycle by cycle, where it is small enough
    seconds     CPU time of its run, and of our `layer_costs` (every way to run the layer tried and priced)
    gigabytes   the most memory that its process took, for a network

With --stalls three of the layers have small memories and narrow ways to DRAM, one for each operand, of so many words a
cycle: results/scalesim_stalls.json has its cycles with stalls beside ours, and `least`, the time in which each word of
the largest operand can cross once. Its stalls are no such time: what fits into a memory is there when it starts, and
what is missed waits as long at any bandwidth. Ours are never fewer than the least.

Beyond that they differ in what a layer is. It rounds the size of outputs up (224 pixels, kernel 11, stride 4: 55, not
54, the last window being beyond the edge), has no padding, and takes a depthwise convolution whose name does not begin
with DP for one filter over all channels; here outputs are what the network has, and groups are products of their own.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import resource
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import Rows, record
from rich.console import Console
from rich.table import Table

from dovetail.hardware.arch import Chip
from dovetail.hardware.layer import OPERANDS, Layer, layers
from dovetail.hardware.systolic import layer_costs
from dovetail.hardware.systolic_array import SPREAD, Array, Dataflow, lowered
from dovetail.hardware.systolic_steps import run
from dovetail.machine import processor
from dovetail.networks import NETWORKS
from dovetail.workload import trace

RESULTS = Path(__file__).parent / "results" / "scalesim.json"
STALLS = RESULTS.with_name("scalesim_stalls.json")
DATAFLOWS: tuple[Dataflow, ...] = ("ws", "os", "is")
STEPPED = 200_000
"""Multiply-accumulates up to which the array is also run cycle by cycle."""

LAYERS = {  # input height and width, kernel height and width, channels, filters, stride
    "issue 125": (4, 1, 1, 1, 4, 4, 1),
    "vww Conv2D_1": (96, 96, 3, 3, 3, 8, 2),
    "vww Conv2D_3": (24, 24, 1, 1, 16, 32, 1),
    "vww Conv2D_7": (6, 6, 1, 1, 64, 128, 1),
    "vww Conv2D_14": (3, 3, 1, 1, 256, 256, 1),
    "vww DepthwiseConv2D_3": (24, 24, 3, 3, 32, 1, 1),
    "vww FC": (1, 1, 1, 1, 256, 2, 1),
    "resnet18 Conv4_s": (28, 28, 1, 1, 128, 256, 2),
    "resnet18 Conv5_s": (14, 14, 1, 1, 256, 512, 2),
    "resnet18 FC": (1, 1, 1, 1, 512, 1000, 1),
    "alexnet Conv5": (13, 13, 3, 3, 384, 256, 1),
}
STALLED = ("vww Conv2D_3", "vww Conv2D_7", "vww Conv2D_14")
SMALL = tuple(name for name in LAYERS if name not in ("issue 125", "alexnet Conv5"))
ARRAYS = {(4, 4): ("issue 125",), (16, 32): SMALL, (32, 32): SMALL, (64, 16): SMALL, (128, 128): ("alexnet Conv5",)}


Row = tuple[int, ...]


def layer_of(name: str, row: Row) -> Layer:
    """With SCALE-Sim's size of the output."""
    height, width, kernel_height, kernel_width, channels, filters, stride = row
    rows, columns = math.ceil((height - kernel_height) / stride) + 1, math.ceil((width - kernel_width) / stride) + 1
    extents = {"K": filters, "C": channels, "P": rows, "Q": columns, "R": kernel_height, "S": kernel_width}
    return Layer(name, extents, (stride, stride), bits=dict.fromkeys(OPERANDS, 8))  # type: ignore[arg-type]


def rows_of(network: str) -> dict[str, Row]:
    """The layers of one of our networks as SCALE-Sim takes them."""
    built = NETWORKS[network]
    with torch.device("meta"):
        found = layers(trace(built.build().eval(), torch.empty(1, *built.input_shape)), bits=8)
    taps = [(layer, layer.extents["R"], layer.extents["S"]) for layer in found]
    return {
        layer.name: (*layer.input_size, rows, columns, layer.extents["C"], layer.extents["K"], layer.stride[0])
        for layer, rows, columns in taps
    }


def cycles_of(layer: Layer, dataflow: Dataflow, rows: int, columns: int) -> dict[str, Any]:
    array = Array(rows, columns, dataflow, overlap=False)
    extents = lowered(layer).extents
    across, along, stream = SPREAD[dataflow]
    cycles = array.cycles(math.ceil(extents[across] / rows) * math.ceil(extents[along] / columns), extents[stream])
    found: dict[str, Any] = {"ours": int(cycles.computing + cycles.filling - 1), "drained": int(cycles.total)}
    if layer.macs <= STEPPED:
        random = np.random.default_rng(0)
        shapes = (extents["pixels"], extents["window"]), (extents["window"], extents["filters"])
        inputs, weights = (random.integers(-128, 128, shape).astype(np.int32) for shape in shapes)
        happened = run(inputs, weights, rows, columns, dataflow, overlap=False)
        assert (happened.output == inputs @ weights).all()
        found["stepped"] = happened.cycles
    return found


def seconds_for(found: list[Layer], dataflow: Dataflow, rows: int, columns: int) -> float:
    """CPU time of ours."""
    chip = Chip.load(f"systolic_{dataflow}")
    sizes = {"rows": rows, "columns": columns}
    chip = replace(chip, dimension=tuple(replace(d, size=sizes[d.name]) for d in chip.dimension))
    start = time.process_time()
    layer_costs(chip, found, "latency")
    return time.process_time() - start


def ask(python: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What scalesim_run.py answers."""
    command = [python, str(Path(__file__).with_name("scalesim_run.py"))]
    answer = subprocess.run(command, input=json.dumps(cases), stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(answer.stdout))


def small_layers(python: str) -> Rows:
    cases: list[dict[str, Any]] = [
        {"rows": rows, "columns": columns, "dataflow": dataflow, "layer": LAYERS[name], "name": name}
        for (rows, columns), names in ARRAYS.items()
        for name in names
        for dataflow in DATAFLOWS
    ]
    rows: Rows = {}
    for case, theirs in zip(cases, ask(python, cases), strict=True):
        layer, array = layer_of(case["name"], case["layer"]), (case["dataflow"], case["rows"], case["columns"])
        ours = cycles_of(layer, *array) | {"our_seconds": seconds_for([layer], *array)}
        rows[f"{case['name']}/{case['dataflow']}/{case['rows']}x{case['columns']}"] = theirs | ours
    return rows


def starved(chip: Chip, kilobytes: int, words: int) -> Chip:
    """With buffers of that size, and a way to DRAM for each operand of so many words (8 bits) a cycle."""
    buffers = (
        replace(memory, bytes=1024 * kilobytes) if memory.bytes is not None and not memory.per else memory
        for memory in chip.memory[:-1]
    )
    ways = (
        replace(
            chip.memory[-1], name=f"{operand}_dram", operands=(operand,), shared_port=False,
            read_bandwidth=8.0 * words, write_bandwidth=8.0 * words,
        )
        for operand in OPERANDS
    )  # fmt: skip
    return replace(chip, memory=(*buffers, *ways))


def stalled_layers(python: str) -> Rows:
    cases: list[dict[str, Any]] = [
        {"rows": 32, "columns": 32, "dataflow": dataflow, "layer": LAYERS[name], "name": name, "kilobytes": kilobytes,
         "bandwidth": words, "interface": "USER"}
        for name, dataflow, kilobytes, words in itertools.product(STALLED, DATAFLOWS, (16, 1024), (1, 4, 32))
    ]  # fmt: skip
    rows: Rows = {}
    for case, theirs in zip(cases, ask(python, cases), strict=True):
        layer, words = layer_of(case["name"], case["layer"]), case["bandwidth"]
        chip = starved(Chip.load(f"systolic_{case['dataflow']}"), case["kilobytes"], words)
        (cost,) = layer_costs(chip, [layer], "latency")
        name = f"{case['name']}/{case['dataflow']}/{case['kilobytes']} KB/{words} a cycle"
        rows[name] = theirs | {
            "ours": math.ceil(cost.cycles),
            "least": math.ceil(max(layer.elements(operand) for operand in OPERANDS) / words),
        }
    return rows


def whole(python: str, network: str) -> Rows:
    """One row for all layers of a network, and whether each is equal."""
    array: dict[str, Any] = {"dataflow": "os", "rows": 32, "columns": 32}
    found = rows_of(network)
    theirs = ask(python, [array | {"layer": row} for row in found.values()])
    ours = [cycles_of(layer_of(name, row), **array) for name, row in found.items()]
    row = {key: sum(each[key] for each in theirs) for key in ("cycles", "stalls", "seconds")}
    row |= {key: sum(each[key] for each in ours) for key in ("ours", "drained")}
    row |= {
        "layers": len(found),
        "equal_layers": sum(its["cycles"] == our["ours"] for its, our in zip(theirs, ours, strict=True)),
        "our_seconds": seconds_for([layer_of(name, row) for name, row in found.items()], **array),
        "gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }
    return {f"{network}/os/32x32": row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="an interpreter that has scalesim 3.0.0")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--network", choices=NETWORKS, help="every layer of this one")
    what.add_argument("--stalls", action="store_true", help="with small memories and narrow ways to DRAM")
    arguments = parser.parse_args()
    if arguments.stalls:
        rows = stalled_layers(arguments.python)
    else:
        rows = whole(arguments.python, arguments.network) if arguments.network else small_layers(arguments.python)
    machine = {"machine": processor(), "date": datetime.date.today().isoformat(), "peer": "scalesim 3.0.0"}
    rows = {name: row | machine for name, row in rows.items()}
    if arguments.stalls:
        show_stalls(record(STALLS, rows))
    else:
        show(record(RESULTS, rows))


def show(rows: Rows) -> None:
    table = Table("layer", "SCALE-Sim", "ours", "drained", "stepped", "its s", "our s", title="compute cycles")
    for name, row in rows.items():
        cells = [f"{row[key]:,}" if key in row else "" for key in ("cycles", "ours", "drained", "stepped")]
        table.add_row(name, *cells, f"{row['seconds']:.2f}", f"{row['our_seconds']:.4f}")
    equal = sum(row["cycles"] == row["ours"] for row in rows.values())
    theirs, mine = (sum(row[key] for row in rows.values()) for key in ("seconds", "our_seconds"))
    console = Console()
    console.print(table)
    console.print(f"equal in {equal} of {len(rows)}; {theirs:.1f} CPU seconds against {mine:.2f}")


def show_stalls(rows: Rows) -> None:
    table = Table("layer", "SCALE-Sim", "of it stalls", "ours", "least", title="cycles with stalls")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:,}" for key in ("cycles", "stalls", "ours", "least")))
    console = Console()
    console.print(table)
    for whose in ("cycles", "ours"):
        below = sum(row[whose] < row["least"] for row in rows.values())
        console.print(f"{'SCALE-Sim' if whose == 'cycles' else 'ours'}: fewer than the least in {below} of {len(rows)}")


if __name__ == "__main__":
    main()
