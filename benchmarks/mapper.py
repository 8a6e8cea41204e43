"""How long the mapper takes for whole networks, and how far from the best it may be: on an array like Eyeriss's.

    python benchmarks/mapper.py [NETWORK ...] [--objective energy|latency|edp] [--runs 5]

CPU time of one thread, nothing cached: the median of the runs, the least and the most. Results go to
results/mapper.json. No other mapper runs here; zigzag_peer.py has ZigZag beside ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import torch
from records import record

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.cost import Objective
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer, layers
from dovetail.hardware.mapper import best_mapping
from dovetail.networks import NETWORKS
from dovetail.workload import trace

RESULTS = Path(__file__).parent / "results" / "mapper.json"


def eyeriss_like() -> Chip:
    """Registers, a buffer and DRAM as large as Eyeriss's; energies of an access relative to a multiplication."""
    per = ("rows", "columns")

    def memory(name: str, operands: tuple[Any, ...], energy: float, size: int | None, **fields: Any) -> Memory:
        prices = {"read_picojoules": energy, "write_picojoules": energy}
        return Memory(name=name, operands=operands, bytes=size, width_bits=16, **prices, **fields)

    registers = {"I": 24, "W": 448, "O": 48}
    return Chip(
        name="eyeriss_like",
        title="An array like Eyeriss's that may run any loops",
        kind="spatial",
        clock_mhz=200.0,
        node_nm=65.0,
        idle_milliwatts=0.0,
        dimension=(Dimension(name="rows", size=12, unroll=LOOPS), Dimension(name="columns", size=14, unroll=LOOPS)),
        arithmetic=Arithmetic(operation=(OperationEnergy(input_bits=16, weight_bits=16, picojoules=1.0),), sum_bits=16),
        memory=(
            *(memory(f"{operand} registers", (operand,), 1.0, size, per=per) for operand, size in registers.items()),
            memory("buffer", OPERANDS, 6.0, 108 * 1024),
            memory("DRAM", OPERANDS, 200.0, None),
        ),
        source=(
            Source(
                says="Sizes of Eyeriss (JSSC 2017); energies 1, 6, 200 as in the tests of nn_dataflow", status="read"
            ),
        ),
    )


def measure(network: str, objective: Objective, runs: int) -> dict[str, Any]:
    """CPU-seconds for all layers that differ, and their gaps; a network's gap weighs layers by what they cost."""
    known = NETWORKS[network]
    with torch.device("meta"):
        workload = trace(known.build().eval(), torch.zeros(1, *known.input_shape))
    chip, found = eyeriss_like(), layers(workload, batch=1, bits=16)
    different: list[Layer] = []
    for layer in found:
        if not any(layer.same_shape(other) for other in different):
            different.append(layer)
    times = []
    for _ in range(runs):
        start = time.process_time()
        solved = [(layer, best_mapping(chip, layer, objective)) for layer in different]
        times.append(time.process_time() - start)
    of_all = [next(mapped for other, mapped in solved if other.same_shape(layer)) for layer in found]
    value, bound = (sum(getattr(mapped, name) for mapped in of_all) for name in ("value", "lower_bound"))
    return {
        "objective": objective,
        "layers": len(found),
        "different": len(solved),
        "proven_optimal": sum(mapped.exact for _, mapped in solved),
        "cpu_seconds": [round(pick(times), 3) for pick in (statistics.median, min, max)],
        "runs": runs,
        "widest_gap": round(max(mapped.gap for _, mapped in solved), 4),
        "gap": round(1 - bound / value, 4),
        "value": value,
        "tiles_priced": sum(mapped.explored for _, mapped in solved),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet50", "vgg16", "mobilenet_v2"])
    parser.add_argument("--objective", choices=get_args(Objective), default="energy")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    best_mapping(eyeriss_like(), Layer("to have everything loaded", {"K": 8, "C": 8}))
    for network in options.networks:
        row = measure(network, options.objective, options.runs)
        median, least, most = row["cpu_seconds"]
        print(f"{network}: {row['layers']} layers, {row['different']} differ, {median} CPU-seconds ({least} to {most})")
        print(f"  {row['proven_optimal']} proven optimal; gap {row['gap']:.2%}, the widest {row['widest_gap']:.2%}")
        record(RESULTS, {f"{network}, {options.objective}": row})


if __name__ == "__main__":
    main()
