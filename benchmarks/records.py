"""What the benchmarks share: networks whose weights are given, files of results, and the loop over cases."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from dovetail.machine import processor
from dovetail.networks import load_model

Rows = dict[str, dict[str, Any]]


def over_seeds(accuracies: Sequence[float]) -> dict[str, Any]:
    """What is recorded of a training that was repeated with other seeds."""
    error = stdev(accuracies) / len(accuracies) ** 0.5
    return {"accuracies": list(accuracies), "mean": mean(accuracies), "standard_error": error}


class Options(NamedTuple):
    """What was asked for on the command line; files that are worth keeping lie in `work`."""

    threads: int
    seed: int
    work: Path


def given(network: str) -> nn.Module:
    """The network with the CIFAR-10 weights that the data folder has for it."""
    weights = Path(os.environ["DOVETAIL_DATA"], "weights", f"{network}_cifar10.safetensors")
    return load_model(network, weights).module.eval()


def recorded(file: Path) -> Rows:
    return dict(json.loads(file.read_text())) if file.exists() else {}


def record(file: Path, rows: Rows) -> Rows:
    """Everything recorded in the file, these rows among it. Other processes may have added to it meanwhile."""
    results = dict(sorted((recorded(file) | rows).items()))
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(file)
    return results


def run_cases(
    file: Path,
    description: str,
    cases: Sequence[str],
    run: Callable[[str, Options], dict[str, Any]],
    *,
    threads: int = 1,
    table: Callable[[Rows], Any] = dict,
) -> Rows:
    """The whole of a benchmark: runs the cases that are named on the command line, or all that are not recorded.

    Each is recorded as soon as it is done, with threads, seed, seconds and machine. Returns and shows all there are.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases)}; all that are not recorded")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(__file__).parents[1] / "out" / file.stem, help="for files")
    parser.add_argument("--list", action="store_true", help="only show what there is")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    results, console = recorded(file), Console(width=120)
    for case in [] if asked.list else asked.cases or [case for case in cases if case not in results]:
        started = time.time()
        torch.manual_seed(asked.seed)
        row = run(case, Options(asked.threads, asked.seed, asked.work))
        about = {"threads": asked.threads, "seed": asked.seed, "seconds": round(time.time() - started)}
        results = record(file, {case: about | {"machine": processor()} | row})
        console.print(table({case: results[case]}))
    console.print(table(results))
    return results
