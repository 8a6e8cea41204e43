"""ZigZag side by side: its architectures and its mappings in our model, and our mappings in both.

    python benchmarks/zigzag_peer.py PYTHON [ARCHITECTURE/NETWORK ...] [--limit 8] [--work FOLDER]

PYTHON is the interpreter of an environment of its own that has zigzag-dse 3.9.1 (see zigzag_run.py). For every layer
that ZigZag maps, its architecture becomes our `Chip` and its loop nest our `Mapping`:

    accesses   of each memory, operand and direction, ours beside its own, in elements. Who is right where they differ
               is shown on the same nest cut short, whose loops are run (dovetail.hardware.loops)
    words      the same in words, where the elements are equal: its memories are ours with `whole_words`
    energy     its own, step by step to ours: reads of sums that do not exist yet (its priced words have them, its
               elements do not); the same for every processing element, where a sum is spread over several; and the
               width of sums: it moves all at the partial width through a memory to which some come back, we the last
               of them at the finished one
    mapping    energy times delay of its mapping and of our best, both by our model, and both by its own; CPU seconds.
               By its model ours may lose, for it optimises for our cycles and our sums. `least_cycles` are those
               that the port of DRAM needs for the words that its own model counts there: its `cycles` may be fewer,
               for the tiles of several operands that stay for the whole layer are loaded through one port at once.
               Where its mapping does not fit our memories (`its_fits`), its factors pad the layer to more than half
               of a double-buffered one

Both count the nest with whole factors and a fetched padding. What ZigZag itself prices where it unrolls fractions and
cuts the input is recorded too (`shipped`). Results go to results/zigzag.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import Rows, record, recorded
from rich.console import Console
from rich.table import Table

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.cost import Counts, price
from dovetail.hardware.counts import count
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer, Loop, Operand, layers
from dovetail.hardware.loops import Machine
from dovetail.hardware.mapper import best_mapping, value_of
from dovetail.hardware.mapping import Factor, Mapping, problems
from dovetail.machine import processor
from dovetail.networks import NETWORKS
from dovetail.workload import trace

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "zigzag.json"

SHIPPED = ("alexnet", "resnet18", "mobilenetv2")
RUNS = tuple(f"{chip}/{net}" for chip in ("eyeriss_like", "tpu_like") for net in (*SHIPPED, "resnet50"))

LOOP_OF: dict[str, Loop] = {
    "B": "N", "D": "N", "K": "K", "G": "G", "C": "C", "OY": "P", "OX": "Q", "FY": "R", "FX": "S",
}  # fmt: skip
OPERAND_OF: dict[str, Operand] = {"I1": "I", "I2": "W", "O": "O"}

Key = tuple[str, Operand, str]
Record = dict[str, Any]


def chip(architecture: Record) -> Chip:
    """Its architecture as ours.

    Its memories may be filled to the brim and still overlap their transfers with computing where it finds that half of
    them is free, layer by layer; ours overlap always, and have twice the bytes of which a tile may take half, so that
    exactly the mappings are valid that are so there.
    """
    array = architecture["operational_array"]
    names = array["dimensions"]
    return Chip(
        name=architecture["name"], title=architecture["name"], kind="spatial", clock_mhz=1000.0, node_nm=28.0,
        idle_milliwatts=0.0,
        dimension=tuple(
            Dimension(name=name, size=size, unroll=LOOPS) for name, size in zip(names, array["sizes"], strict=True)
        ),
        arithmetic=Arithmetic(
            operation=(OperationEnergy(input_bits=8, weight_bits=8, picojoules=array["unit_energy"]),), sum_bits=16
        ),
        memory=tuple(memory(name, entry, names) for name, entry in architecture["memories"].items()),
        source=(Source(says="zigzag-dse 3.9.1, inputs/hardware; clock and node are of no account", status="read"),),
        settings={"halo_reuse": False, "latched": ["I", "W"]},
    )  # fmt: skip


def memory(name: str, entry: Record, dimensions: list[str]) -> Memory:
    """Its ports of one direction together are our bandwidth; one of both directions is shared.

    Its words are of `bandwidth_min` bits, each priced as the part of `bandwidth_max` that it is.
    """
    ports = entry["ports"]
    width = {kind: sum(p["bandwidth_max"] for p in ports if p["type"] == kind) for kind in ("read", "write")}
    shared = sum(p["bandwidth_max"] for p in ports if p["type"] == "read_write")
    outermost = name == "dram"
    words = words_in_one(entry)
    return Memory(
        name=name,
        operands=tuple(OPERAND_OF[operand] for operand in entry["operands"]),
        bytes=None if outermost else entry["size"] // 8 * 2,
        per=tuple(dimension for dimension in dimensions if dimension not in entry["served_dimensions"]),
        width_bits=max(port["bandwidth_max"] for port in ports) // words,
        read_bandwidth=shared or width["read"],
        write_bandwidth=None if shared else width["write"],
        shared_port=bool(shared),
        double_buffered=not outermost,
        read_picojoules=entry["r_cost"] / words,
        write_picojoules=entry["w_cost"] / words,
        whole_words=True,
    )


def words_in_one(entry: Record) -> int:
    """How many of our words its widest has, for which it has the price."""
    widest, word = (max(port[f"bandwidth_{end}"] for port in entry["ports"]) for end in ("max", "min"))
    return int(widest) // int(word)


def mapping(found: Record, chip: Chip) -> Mapping:
    """Its loop nest as ours. Neighbouring outputs belong to one element as far as its own memory of inputs reaches."""
    temporal = tuple((LOOP_OF[loop], size) for loop, size in found["temporal"])
    spatial = {dim: tuple((LOOP_OF[loop], size) for loop, size in pairs) for dim, pairs in found["spatial"].items()}
    alone = set(chip.chain("I")[0].per) == {dimension.name for dimension in chip.dimension}
    held: dict[Operand, tuple[int, ...]] = {operand: tuple(found["held"][operand]) for operand in OPERANDS}
    return Mapping(spatial=spatial, temporal=temporal, inside=held["I"][0] if alone else 0, held=held)


def layer(found: Record, extents: dict[Loop, int]) -> Layer:
    """The layer, padded to what its mapping covers."""
    shifts = {}
    for relation in found["relations"]:  # "IX = 2*OX + 1*FX"
        (stride, output), (dilation, _) = re.findall(r"(\d+)\*(\w+)", relation)
        shifts[output] = int(stride), int(dilation)
    rows, columns = shifts.get("OY", (1, 1)), shifts.get("OX", (1, 1))
    bits: dict[Operand, int] = {"I": found["bits"]["I"], "W": found["bits"]["W"], "O": found["bits"]["O_final"]}
    return Layer(found["name"], extents, (rows[0], columns[0]), (rows[1], columns[1]), bits)


def extents_of(found: Record) -> dict[Loop, int]:
    sizes: Counter[Loop] = Counter()
    for loop, size in found["loops"].items():
        sizes[LOOP_OF[loop]] = max(sizes[LOOP_OF[loop]], 1) * size
    return dict(sizes)


def reduced(found: Record) -> Record:
    """The same nest with factors of at most 3 along the output, 2 elsewhere, and all taps."""

    def cut(pairs: list[list[Any]]) -> list[list[Any]]:
        most = {"FX": 11, "FY": 11, "OX": 3, "OY": 3}
        return [[loop, min(size, most.get(loop, 2))] for loop, size in pairs]

    spatial = {dimension: cut(pairs) for dimension, pairs in found["spatial"].items()}
    return found | {"spatial": spatial, "temporal": cut(found["temporal"])}


def their_accesses(counted: Record, unit: str = "elements") -> dict[Key, float]:
    """Elements, bits or words of each kind.

    It counts twice: elements, without sums that do not exist yet; and what its words carry, without repeated reads of
    what a multiplier still holds. The lesser is neither.
    """
    sums: Counter[Key] = Counter()
    for entry in counted["accesses"]:
        least = min(entry["elements"], entry["in_words"])
        each = {"elements": 1, "bits": entry["bits_each"], "words": entry["words"] / (entry["in_words"] or 1)}[unit]
        sums[entry["memory"], entry["operand"], action(entry)] += least * each
    return {key: elements for key, elements in sums.items() if elements}


def action(entry: Record) -> str:
    return "read" if entry["way"] in ("rd_out_to_low", "rd_out_to_high") else "write"


def our_accesses(counts: Counts, unit: str = "elements") -> dict[Key, float]:
    return {(access.memory, access.operand, access.action): getattr(access, unit) for access in counts.accesses}


def in_our_words(counted: Record, architecture: Record) -> Record:
    """What its model counts, in our words."""
    scale = {name: words_in_one(entry) for name, entry in architecture["memories"].items()}
    return counted | {
        "accesses": [entry | {"words": entry["words"] * scale[entry["memory"]]} for entry in counted["accesses"]]
    }


def compared(found: Record, chip: Chip) -> Record:
    """One layer: the accesses that differ (ours, its own), and its energy in pJ step by step to ours."""
    nest = mapping(found, chip)
    padded = layer(found, dict(nest.factors()))
    counts, exact = count(chip, padded, nest), in_our_words(found["exact"], found["architecture"])
    differing = differences(our_accesses(counts), their_accesses(exact))
    ours, theirs = our_accesses(counts, "words"), their_accesses(exact, "words")
    words = differences(ours, theirs)
    steps = {"shipped": found["shipped"]["picojoules"], "priced": exact["picojoules"]}
    steps["elements"] = exact["mac_picojoules"] + math.fsum(theirs[key] * price_of(chip, key) for key in theirs)
    more = math.fsum((words[key][0] - words[key][1]) * price_of(chip, key) for key in differing if key in words)
    steps |= {"terms": steps["elements"] + more, "ours": energy(chip, padded, counts)}
    return {
        "accesses": len({*ours, *theirs}),
        "differing": {"/".join(key): values for key, values in differing.items()},
        "words": {"/".join(key): values for key, values in words.items() if key not in differing},
        "picojoules": steps,
    }


def differences(ours: dict[Key, float], theirs: dict[Key, float]) -> dict[Key, tuple[float, float]]:
    keys = sorted({*ours, *theirs})
    pairs = {key: (ours.get(key, 0), theirs.get(key, 0)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not math.isclose(*pair, rel_tol=1e-12)}


def price_of(chip: Chip, key: Key) -> float:
    """Of one word, in pJ."""
    name, _, action = key
    (found,) = (memory for memory in chip.memory if memory.name == name)
    each = found.read_picojoules if action == "read" else found.write_picojoules
    assert each is not None
    return each


def least_cycles(chip: Chip, counted: Record) -> float:
    """What the one port of its DRAM needs for the words that its model counts."""
    dram = chip.memory[-1]
    words = sum(entry["words"] for entry in counted["accesses"] if entry["memory"] == dram.name)
    return float(words * dram.width_bits / (dram.read_bandwidth or math.inf))


def energy(chip: Chip, layer: Layer, counts: Counts) -> float:
    return math.fsum(entry.picojoules for entry in price(chip, layer, counts))


def judged(found: Record, chip: Chip, counted: Record) -> dict[str, list[float]]:
    """A nest cut short: what the loops, our closed form and ZigZag count, wherever they are not all the same."""
    nest = mapping(reduced(found), chip)
    small = layer(found, dict(nest.factors()))
    machine = Machine(chip, small, nest, {"I": {}, "W": {}})
    machine.run()
    counts = count(chip, small, nest)
    shown = {}
    for what, loops, closed, theirs in (
        ("elements", machine.tally.elements, our_accesses(counts), their_accesses(counted)),
        ("bits", machine.tally.bits, our_accesses(counts, "bits"), their_accesses(counted, "bits")),
        ("words", machine.tally.words, our_accesses(counts, "words"), their_accesses(counted, "words")),
    ):
        for key in sorted({*loops, *closed, *theirs}):
            values = [loops.get(key, 0), closed.get(key, 0), theirs.get(key, 0)]
            if len(set(values)) > 1:
                shown["/".join((*key, what))] = values
    return shown


def ask(python: str, arguments: list[str]) -> Record:
    """What zigzag_run.py answers."""
    done = subprocess.run([python, str(HERE / "zigzag_run.py"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout))


def layers_for(network: str) -> list[Record]:
    """The convolutions of a network of ours, one of each shape, as ZigZag takes them."""
    built = NETWORKS[network]
    with torch.device("meta"):
        found = layers(trace(built.build().eval(), torch.empty(1, *built.input_shape)), bits=8)
    distinct = {str(replace(layer, name="")): layer for layer in found if layer.extents["P"] > 1}
    dims = ("B", "G", "K", "C", "OY", "OX", "FY", "FX")
    return [
        {
            "id": number,
            "name": layer.name,
            "operator_type": "Conv",
            "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
            "dimension_relations": [
                f"ix={layer.stride[1]}*ox+{layer.dilation[1]}*fx",
                f"iy={layer.stride[0]}*oy+{layer.dilation[0]}*fy",
            ],
            "loop_dims": list(dims),
            "loop_sizes": [layer.extents[LOOP_OF[dim]] for dim in dims],
            "operand_precision": {"W": 8, "I": 8, "O_final": 8, "O": 16},
            "operand_source": {"I": number, "W": number},
        }
        for number, layer in enumerate(distinct.values())
    ]


def back(found: Record, mapping: Mapping) -> Record:
    """Our mapping as ZigZag takes one."""
    names = {LOOP_OF[loop]: loop for loop in found["loops"]}

    def named(factors: Iterable[Factor]) -> list[list[Any]]:
        return [[names[loop], size] for loop, size in factors if size > 1]

    ones = [index for index, (_, size) in enumerate(mapping.temporal) if size == 1]
    return {
        "spatial": {dimension: named(factors) for dimension, factors in mapping.spatial.items()},
        "temporal": named(mapping.temporal),
        "held": {
            operand: [number - sum(index < number for index in ones) for number in held]
            for operand, held in mapping.held.items()
        },
    }


def mapped(found: Record, chip: Chip) -> tuple[Record, Mapping]:
    """Energy times delay by our model, of its mapping and of our best, for the layer without padding to factors."""
    real = layer(found, extents_of(found))
    started = time.process_time()
    best = best_mapping(chip, real, "edp")
    seconds = time.process_time() - started
    nest = mapping(found, chip)
    its = value_of(chip, real, count(chip, real, nest), "edp")
    row = {"ours": best.value, "its": its, "lower_bound": best.lower_bound, "ratio": its / best.value}
    row["its_fits"] = not list(problems(chip, real, nest))
    row |= {"our_cpu_seconds": round(seconds, 4), "its_cpu_seconds": round(found["cpu_seconds"], 2)}
    return row, best.mapping


def run(python: str, name: str, limit: int, work: Path) -> Rows:
    """Every layer of one architecture and network."""
    architecture, network = name.split("/")
    target = network
    if network not in SHIPPED:
        target = str(work / f"{network}-layers.json")
        Path(target).write_text(json.dumps(layers_for(network)))
    arguments = [architecture, target, "--limit", str(limit)]
    file = work / f"{architecture}-{network}-{limit}.json"
    if not file.exists():
        file.write_text(json.dumps(ask(python, arguments)))
    found = json.loads(file.read_text())
    translated = chip(found["architecture"])

    def asked(mappings: Record) -> dict[str, Record]:
        given = work / "mappings.json"
        given.write_text(json.dumps(mappings))
        answer = ask(python, [*arguments, "--mappings", str(given)])
        return {entry["name"]: entry["exact"] for entry in answer["layers"]}

    short = asked({entry["name"]: reduced(entry) for entry in found["layers"]})
    best = {entry["name"]: mapped(entry, translated) for entry in found["layers"]}
    priced = asked({entry["name"]: back(entry, best[entry["name"]][1]) for entry in found["layers"]})
    rows = {}
    for entry in found["layers"]:
        key = entry["name"]
        entry |= {"architecture": found["architecture"]}
        judgements = {"its": entry["exact"], "ours": priced[key]}
        by_its: dict[str, float] = {who: its["picojoules"] * its["cycles"] for who, its in judgements.items()}
        by_its["ratio"] = by_its["its"] / by_its["ours"]
        for who, its in judgements.items():
            by_its |= {f"{who}_cycles": its["cycles"], f"{who}_least_cycles": least_cycles(translated, its)}
        counted = in_our_words(short[key], found["architecture"])
        row = compared(entry, translated) | {"short": judged(entry, translated, counted)}
        row |= {"energy_delay": best[key][0], "energy_delay_by_zigzag": by_its}
        rows[f"{name}/{key.strip('/')}"] = row | {"repeated_keys": found["repeated_keys"]}
    return rows


def table(rows: Rows) -> Table:
    shown = Table(title="ZigZag's mappings in its model and in ours; where they differ, the loops side with")
    steps = {"priced": "its uJ", "elements": "sums that exist", "terms": "in each PE"}
    steps["ours"] = "ours"
    last = ("its/our EDP", "by its model", "gap <", "its s", "our s")
    for column in ("layer", "equal", "differing", "words", "loops", *steps.values(), *last):
        shown.add_column(column, justify="left" if column in ("layer", "differing") else "right", no_wrap=True)
    for name, row in rows.items():
        right = Counter[str]()
        for loops, closed, theirs in row["short"].values():
            right.update(who for who, value in (("us", closed), ("it", theirs)) if value == loops)
        found = row["energy_delay"]
        shown.add_row(
            name, f"{row['accesses'] - len(row['differing'])} of {row['accesses']}", ", ".join(row["differing"]),
            str(len(row["words"])),
            ", ".join(f"{who} {times}x" for who, times in right.items()),
            *(f"{row['picojoules'][step] / 1e6:.1f}" for step in steps),
            f"{found['ratio']:.2f}", f"{row['energy_delay_by_zigzag']['ratio']:.2f}",
            f"{100 * (1 - found['lower_bound'] / found['ours']):.1f} %",
            f"{found['its_cpu_seconds']:.1f}", f"{found['our_cpu_seconds']:.3f}",
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="of an environment that has zigzag-dse")
    parser.add_argument("runs", nargs="*", metavar="ARCHITECTURE/NETWORK", help=f"all of {', '.join(RUNS)}")
    parser.add_argument("--limit", type=int, default=8, help="so many layers of each network")
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "zigzag", help="keeps what ZigZag answered")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    results = recorded(RESULTS)
    for name in arguments.runs or RUNS:
        rows = run(arguments.python, name, arguments.limit, arguments.work)
        results = record(RESULTS, {key: row | {"machine": processor(), "date": today} for key, row in rows.items()})
    Console(width=250).print(table(results))
    for name in RUNS:
        found = [row for key, row in results.items() if key.startswith(f"{name}/")]
        its, ours = (sum(row["energy_delay"][f"{whose}_cpu_seconds"] for row in found) for whose in ("its", "our"))
        worse = (sum(row[by]["ratio"] < 1 - 1e-9 for row in found) for by in ("energy_delay", "energy_delay_by_zigzag"))
        print(f"{name}: CPU seconds its {its:.0f}, ours {ours:.2f}, {its / ours:.0f} times fewer", end="; ")
        print(f"of {len(found)} mappings ours is worse {next(worse)} times by our model, {next(worse)} by its")


if __name__ == "__main__":
    main()
