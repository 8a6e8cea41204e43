"""Deep Compression of whole networks: the real file against float32, accuracy measured from the decoded file.

    python benchmarks/deep_compression.py [CASE ...] [--threads 2] [--work FOLDER]

Checks on the way that the exported ONNX file predicts the same on the whole test set. Prints the table, and records it
in results/deep_compression.json with machine, seed and time. A case that was interrupted goes on where it was; one that
is recorded is run again only if it is named.

Published (Han, Mao, Dally, ICLR 2016, table 1, MNIST): LeNet-300-100 1070 -> 27 KB, 40x, 1.64 -> 1.58% error;
LeNet-5 1720 -> 44 KB, 39x, 0.80 -> 0.74% error.

ResNet-20: recipes/resnet20.toml is the last of three settings tried. 75% pruned in four rounds of 10 epochs (learning
rate 0.02) gave 17.5x at 0.61 points, 70% in two rounds of 12 epochs (0.03) 15.4x at 0.64; the recorded one retrains
more gently (0.01, distillation 0.9).
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession
from records import record, recorded
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dovetail.compression import Compressed, compress
from dovetail.data import load_dataset
from dovetail.formats import Layout
from dovetail.machine import processor
from dovetail.methods.constraint import bake, layouts
from dovetail.networks import load_model
from dovetail.recipe import Recipe
from dovetail.runtime import Artefact, Session, export_onnx, freeze
from dovetail.train import score

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "deep_compression.json"


@dataclass(frozen=True)
class Case:
    network: str
    dataset: str
    weights: str | None = None
    """Of the folder DOVETAIL_DATA/weights; None for the weights in the package."""


CASES = {
    "lenet_300_100": Case("lenet_300_100", "mnist"),
    "lenet5": Case("lenet5", "mnist"),
    "resnet20": Case("resnet20", "cifar10", "resnet20_cifar10.safetensors"),
}


def run(name: str, seed: int, threads: int, work: Path) -> dict[str, object]:
    case = CASES[name]
    weights = Path(os.environ["DOVETAIL_DATA"], "weights", case.weights) if case.weights else None
    model = load_model(case.network, weights).module
    dataset = load_dataset(case.dataset)
    recipe = Recipe.load(HERE / "recipes" / f"{name}.toml")
    torch.set_num_threads(threads)
    resumed, started = (work / name / "state.safetensors").exists(), time.time()
    with Progress() as progress:
        compressed = compress(
            model, dataset, recipe, name=case.network, seed=seed, folder=work / name, progress=progress
        )
    seconds = time.time() - started
    artefact = freeze(
        compressed.model, dataset.example(), remaining=compressed.remaining, provenance=compressed.provenance
    )
    path = work / f"{name}.dvt"
    artefact.save(path)
    session = Session(Artefact.load(path))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = path.stat().st_size
    assert size == sum(artefact.parts().values())
    before = score(model, dataset, "test")
    after = score(lambda inputs: torch.from_numpy(session(inputs.numpy())), dataset, "test")
    export_onnx(session.artefact, path.with_suffix(".onnx"))
    exported = InferenceSession(path.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
    for inputs, _ in dataset.batches("test", 500):
        (theirs,) = exported.run(None, {exported.get_inputs()[0].name: inputs.numpy()})
        assert np.array_equal(theirs.argmax(1), session(inputs.numpy()).argmax(1)), "the ONNX file predicts otherwise"
    pruned, shared = stages(compressed)
    return {
        "network": case.network,
        "dataset": case.dataset,
        "parameters": parameters,
        "float32_bytes": 4 * parameters,
        "pruned_bytes": pruned,
        "pruned_and_shared_bytes": shared,
        "file_bytes": size,
        "ratio": round(4 * parameters / size, 2),
        "accuracy_before": before,
        "accuracy_after": after,
        "drop_in_points": round(100 * (before - after), 3),
        "weights_kept": kept(compressed),
        "parts": dict(sorted(artefact.parts().items(), key=lambda part: -part[1])),
        "recipe": recipe.text,
        "history": compressed.provenance["history"],
        "seed": seed,
        "threads": threads,
        "seconds": round(seconds),
        "resumed": resumed,  # then the seconds are those of the last part only
        "machine": processor(),
    }


def stages(compressed: Compressed) -> tuple[int, int]:
    """Bytes of all weights if only pruned (32-bit values), and if pruned and shared, without entropy coding."""
    plain = {name: weight.detach().numpy() for name, weight in bake(compressed.model).named_parameters()}
    final = layouts(compressed.model)
    pruned = sum(Layout(structure="smallest").encode(weight).bits for weight in plain.values())
    shared = sum(replace(final.get(n, Layout()), entropy="none").encode(weight).bits for n, weight in plain.items())
    return pruned // 8, shared // 8


def kept(compressed: Compressed) -> dict[str, float]:
    """The fraction of each constrained weight that is not zero."""
    plain = dict(bake(compressed.model).named_parameters())
    return {name: round(float((plain[name] != 0).float().mean()), 4) for name in layouts(compressed.model)}


def table(results: dict[str, dict[str, object]]) -> Table:
    shown = Table(title="Deep Compression, real files")
    for column in ("network", "float32 KB", "pruned", "+ shared", "file KB", "ratio", "before %", "after %", "minutes"):
        shown.add_column(column, justify="right")
    for name, row in results.items():
        whole = row["float32_bytes"]
        shown.add_row(
            name, f"{whole / 1e3:.0f}", f"{whole / row['pruned_bytes']:.1f}x",
            f"{whole / row['pruned_and_shared_bytes']:.1f}x", f"{row['file_bytes'] / 1e3:.1f}", f"{row['ratio']:.1f}x",
            f"{100 * row['accuracy_before']:.2f}", f"{100 * row['accuracy_after']:.2f}", f"{row['seconds'] / 60:.0f}",
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all that are not recorded")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "deep_compression")
    options = parser.parse_args()
    results = recorded(RESULTS)
    for name in options.cases or [case for case in CASES if case not in results]:
        result = run(name, options.seed, options.threads, options.work)
        results = record(RESULTS, {name: result})
    Console().print(table(results))


if __name__ == "__main__":
    main()
