"""Whole networks in the native engine, beside ONNX Runtime, OpenVINO and DeepSparse.

    python benchmarks/engine.py [NETWORK/ARITHMETIC/BATCH[@avx2] ...] [--threads 1] [--rounds 15]
        [--python RUNTIME=PATH] [--list]

NETWORK: a built-in one, or minilm (minilm.py), with its own weights, the given ones, or random ones (which cost as
much). float32, or int8: weights for each output and what layers read, in ranges seen on noise; or signs: of weights and
of what layers read (`binary_maps`). Every runtime gets the same integers. FILE.dvt in NETWORK's place takes a
compressed network; its peers run what it becomes as standard ONNX.
@avx2 limits the engine and OpenVINO to that instruction set.
DeepSparse wants Python 3.11 and packages older than ours: an environment of its own, named by --python deepsparse=PATH.

Every runtime is a process of its own (engine_worker.py) on the same number of threads. Answers are compared with the
engine's first, all within a thousandth of the largest in floats, nine of ten images within a twentieth in integers,
where a value halfway between two codes may go to either; a runtime that differs is not timed. Then all take turns, in
short bursts, so that what else runs on the machine disturbs all alike: median and 10th to 90th percentile of all calls,
and of the ratios of the bursts' medians. Start: from the file to a network that is ready, and to the first answer;
memory: what that took beyond the imported package. Records results/engine.json and engine.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import onnx
import torch
from engine_worker import OPENINGS
from minilm import LENGTH, WIDTH, minilm
from records import Rows, given, record, recorded
from rich.console import Console

from dovetail.compression import preview
from dovetail.data import load_dataset
from dovetail.methods import BinaryMaps, Ptq
from dovetail.networks import load_model
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import Artefact, freeze, to_qdq
from dovetail.targets.target import INTEGER_TOLERANCE, RELATIVE_TOLERANCE, relative_difference
from dovetail.targets.timing import machine

RESULTS = Path(__file__).parent / "results" / "engine.json"
FILES = Path(__file__).parents[1] / "out" / "engine"
NETWORKS = (
    *("lenet_300_100", "lenet5", "resnet20", "resnet56", "vgg16_cifar"),
    *("mobilenet_v2", "resnet50", "alexnet", "minilm"),
)
TRAINED = ("resnet20", "resnet56")
CASES = [f"{network}/{kind}/{batch}" for network in NETWORKS for kind in ("float32", "int8") for batch in (1, 32)]
CASES += [f"{network}/signs/{batch}" for network in TRAINED for batch in (1, 32)]
CASES += [f"{network}/int8/{batch}@avx2" for network in TRAINED for batch in (1, 32)]
INTEGERS = {
    "int8": Ptq(calibration="min_max", equalize=False, bias_correction=False, renormalize=False),
    "signs": BinaryMaps(gradual=False),
}
LIMITS = {"": {}, "avx2": {"DOVETAIL_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
"""What tells a runtime which instructions it may use."""
UNLIMITED = ("onnxruntime", "deepsparse")
"""They cannot be told."""
BURST = 0.05
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5)


@dataclass
class Worker:
    """A runtime in its process; `facts` is what it said once it had answered."""

    runtime: str
    process: subprocess.Popen[str]
    outputs: np.ndarray
    facts: dict[str, Any]

    def burst(self) -> list[float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(BURST, file=self.process.stdin, flush=True)
        return list(json.loads(self.process.stdout.readline()))


def start(runtime: str, python: str, file: Path, inputs: Path, threads: int, level: str) -> Worker | str:
    """The worker, or why there is none."""
    if level and runtime in UNLIMITED:
        return f"it cannot be limited to {level}"
    outputs = inputs.with_name(f"{runtime}.npy")
    worker = Path(__file__).with_name("engine_worker.py")
    command = [python, str(worker), runtime, str(file), str(inputs), str(outputs), str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NM_DISABLE_ANALYTICS": "True"} | LIMITS[level]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
    line = process.stdout.readline()
    if not line:
        last = process.communicate()[1].strip().splitlines()[-1:]
        return " ".join(last)[:200] or "it ended without a word"
    return Worker(runtime, process, np.load(outputs), json.loads(line))


def files(network: str, kind: str) -> tuple[Path, Path]:
    """The artefact, and the same as standard ONNX; made if they are not there."""
    FILES.mkdir(parents=True, exist_ok=True)
    artefact = Path(network) if network.endswith(".dvt") else FILES / f"{network}-{kind}.dvt"
    if not artefact.exists():
        make(network, kind).save(artefact)
    standard = FILES / f"{artefact.resolve().parent.name}-{artefact.stem}.onnx"
    standard.write_bytes(to_qdq(Artefact.load(artefact))[0].SerializeToString())
    return artefact, standard


def make(network: str, kind: str) -> Artefact:
    torch.manual_seed(0)
    if network == "minilm":
        module, shape = minilm().eval(), (LENGTH, WIDTH)
    else:
        loaded = load_model(network)
        module, shape = given(network) if network in TRAINED else loaded.module.eval(), loaded.input_shape
    assert shape is not None
    if kind in INTEGERS:
        recipe = Recipe(name=kind, steps=(RecipeStep(method=INTEGERS[kind]),))
        images = load_dataset("cifar10") if kind == "signs" else load_dataset("noise", shape)  # thresholds are real
        module = preview(module, images, recipe).model.eval()
    return freeze(module, torch.randn(2, *shape))


def run(case: str, threads: int, rounds: int, pythons: dict[str, str]) -> dict[str, Any]:
    case, _, level = case.partition("@")
    network, kind, batch = case.rsplit("/", 2)
    artefact, standard = files(network, kind)
    shape = tuple(_input_shape(standard))
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs.npy")
        np.save(inputs, np.random.default_rng(0).standard_normal((int(batch), *shape), np.float32))
        started = {
            runtime: start(runtime, pythons[runtime], file, inputs, threads, level)
            for runtime, file in {**dict.fromkeys(OPENINGS, standard), "dovetail": artefact}.items()
        }
        workers = {name: worker for name, worker in started.items() if isinstance(worker, Worker)}
        absent = {name: worker for name, worker in started.items() if isinstance(worker, str)}
        try:
            return compared(workers, kind, rounds) | {"absent": absent, "threads": threads, **machine()}
        finally:
            for worker in workers.values():
                worker.process.communicate("")


def _input_shape(standard: Path) -> list[int]:
    (entry, *_) = onnx.load(standard).graph.input
    return [side.dim_value for side in entry.type.tensor_type.shape.dim[1:]]


def compared(workers: dict[str, Worker], kind: str, rounds: int) -> dict[str, Any]:
    """What was measured, by runtime."""
    rows, timed = agreement(workers, kind)
    bursts = in_turns(timed, rounds)
    for name, own in bursts.items():
        rows[name] |= spread("ms", 1e3 * np.concatenate(own)) | spread("ratio", ratios(bursts["dovetail"], own))
    return rows


def agreement(workers: dict[str, Worker], kind: str) -> tuple[dict[str, Any], dict[str, Worker]]:
    """How far each runtime's answers are from the engine's, and the workers that may be timed."""
    own = workers["dovetail"]
    rows: dict[str, Any] = {"tolerance": RELATIVE_TOLERANCE if kind == "float32" else INTEGER_TOLERANCE}
    timed = {}
    for name, worker in workers.items():
        largest = relative_difference(own.outputs, worker.outputs, quantised=False)
        most = most_differ_by(own.outputs, worker.outputs)
        rows[name] = worker.facts | {"difference": most, "largest_difference": largest}
        if (largest if kind == "float32" else most) <= rows["tolerance"]:
            timed[name] = worker
    return rows, timed


def in_turns(timed: Mapping[str, Worker], rounds: int) -> dict[str, list[list[float]]]:
    """The seconds of the calls in each burst: every worker has one a round, in this order and backwards by turns."""
    bursts: dict[str, list[list[float]]] = {name: [] for name in timed}
    for turn in range(rounds):
        for name in sorted(timed, reverse=bool(turn % 2)):
            bursts[name].append(timed[name].burst())
    return bursts


def ratios(own: list[list[float]], others: list[list[float]]) -> np.ndarray:
    """How many times as long the others took, burst by burst."""
    return np.array([np.median(other) / np.median(mine) for mine, other in zip(own, others, strict=True)])


def most_differ_by(expected: np.ndarray, found: np.ndarray) -> float:
    """What nine of ten images differ by at most, relative to the largest value that is expected."""
    if expected.shape != found.shape:
        return float("inf")
    each = np.abs(expected - found).reshape(len(expected), -1).max(1)
    return float(np.percentile(each, 90, method="higher") / max(np.abs(expected).max(), 1e-6))


def spread(name: str, values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {name: round(float(middle), 4), f"{name}_low": round(float(low), 4), f"{name}_high": round(float(high), 4)}


def picture(results: Rows) -> None:
    """How many times as long other runtimes take as the engine, with the spread of the bursts' ratios."""
    matplotlib.use("Agg")
    peers = [
        name
        for name in OPENINGS
        if name != "dovetail" and any("ratio" in row.get(name, {}) for row in results.values())
    ]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.34 * len(results)))
    for offset, peer in enumerate(peers):
        known = [(y, row[peer]) for y, row in enumerate(results.values()) if "ratio" in row.get(peer, {})]
        middle = np.array([row["ratio"] for _, row in known])
        sides = np.abs(np.array([[row["ratio_low"], row["ratio_high"]] for _, row in known]).T - middle)
        axes.errorbar(middle, [y + 0.2 * offset for y, _ in known], xerr=sides, fmt="o", label=peer, markersize=4)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel("times as long as the engine (median, 10th to 90th percentile)\nright of 1 the engine is faster")
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all that are not recorded, if none is given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--python", action="append", default=[], help="RUNTIME=PATH of the interpreter that has it")
    parser.add_argument("--list", action="store_true", help="only show what there is")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pythons = dict.fromkeys(OPENINGS, sys.executable) | dict(pair.split("=", 1) for pair in arguments.python)
    results = recorded(RESULTS)
    for case in [] if arguments.list else arguments.cases or [case for case in CASES if case not in results]:
        row = run(case, arguments.threads, arguments.rounds, pythons)
        results = record(RESULTS, {case: row})
        Console(width=160).print(case, row)
    picture(results)


if __name__ == "__main__":
    main()
