"""Networks compressed and run by us, beside the whole ones in int8 in every runtime.

    python benchmarks/compressed.py [RECIPE/BATCH ...] [--threads 1] [--work FOLDER] [--list]

CIFAR-10, the given weights. recipes/RECIPE.toml, whose name begins with the network's, compresses and retrains; a run
that was interrupted goes on where it was. The peers' setting is the whole network in int8, by `ptq` on the same images,
which loses about as little; they run ours too, as standard ONNX. Accuracy is that of the files in the engine on the
10,000 test images. Every runtime is a process of its own on one thread, answers are compared first, and all take turns
(see engine.py). `ratio`: how many times as long as our engine with our compression takes. Records
results/compressed.json.

ResNet-20 in blocks was raced three times at batch 1: the best whole network of the others took 2.36, 2.22 (recorded)
and 2.20 times as long. With half of the multiplications left (1 round of 20 epochs) it had 91.11 %, with 0.45 (2 rounds
of 9) 91.10. ResNet-56 in blocks had 92.53 % after 1 round of 15 epochs, and 92.70 after 2 of 7 with 0.47 left.

Tried for ResNet-20, not kept: one residual branch out (6 epochs), then channels at 0.75 (20 epochs): 90.99 %, and no
faster (1.6 times OpenVINO's whole network where the recorded one had 1.8, in the same run): stage 1, which takes half
of the time, stays whole in both.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import Worker, agreement, in_turns, ratios, spread, start
from records import Options, Rows, given, run_cases
from rich.progress import Progress
from rich.table import Table

from dovetail.compression import compress
from dovetail.data import Dataset, load_dataset
from dovetail.methods import Ptq
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import Artefact, freeze, load, to_qdq, to_torch
from dovetail.targets.timing import machine
from dovetail.train import score
from dovetail.workload import trace

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "compressed.json"
RECIPES = ("resnet20_blocks", "resnet20_channels", "resnet56_blocks", "resnet56_depth")
CASES = [f"{recipe}/{batch}" for recipe in RECIPES for batch in (1, 32)]
WHOLE = Recipe(name="int8", steps=(RecipeStep(method=Ptq()),))
RUNTIMES = ("dovetail", "onnxruntime", "openvino")
ROUNDS = 25


def run(case: str, options: Options) -> dict[str, Any]:
    name, batch = case.split("/")
    network = name.partition("_")[0]
    dataset, recipe = load_dataset("cifar10"), Recipe.load(HERE / "recipes" / f"{name}.toml")
    resumed = (options.work / name).exists()
    files = {
        "compressed": made(network, recipe, dataset, options.work / name, options.seed),
        "whole": made(network, WHOLE, dataset, options.work / f"{network}_whole", options.seed),
    }
    rows = {kind: described(file, dataset) for kind, file in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs.npy")
        np.save(inputs, dataset.example(int(batch)).numpy())
        workers = {kind: started(file, inputs, options.threads) for kind, file in files.items()}
        try:
            race(rows, workers)
        finally:
            for worker in (worker for group in workers.values() for worker in group.values()):
                worker.process.communicate("")
    return {
        "recipe": recipe.text,
        "resumed": resumed,  # then the seconds are those of the last part only
        "accuracy_original": score(given(network), dataset),
        **rows,
        **machine(),
    }


def made(network: str, recipe: Recipe, dataset: Dataset, folder: Path, seed: int) -> Path:
    """The artefact that a recipe gives."""
    with Progress() as progress:
        found = compress(given(network), dataset, recipe, seed=seed, folder=folder, progress=progress)
    file = folder / "model.dvt"
    freeze(found.model, dataset.example(), remaining=found.remaining, provenance=found.provenance).save(file)
    return file


def described(file: Path, dataset: Dataset) -> dict[str, Any]:
    session = load(file, threads=1)
    work = trace(to_torch(Artefact.load(file)), dataset.example())
    accuracy = score(lambda inputs: torch.from_numpy(session(inputs.numpy())), dataset)
    return {
        "accuracy": accuracy,
        "macs": work.macs,
        "nonzero_macs": work.nonzero_macs,
        "bytes": file.stat().st_size,
    }


def started(file: Path, inputs: Path, threads: int) -> dict[str, Worker]:
    """A process for every runtime; the peers run what becomes of the file as standard ONNX."""
    standard = file.with_suffix(".onnx")
    standard.write_bytes(to_qdq(Artefact.load(file))[0].SerializeToString())
    files = {**dict.fromkeys(RUNTIMES, standard), "dovetail": file}
    found = {name: start(name, sys.executable, file, inputs, threads, "") for name, file in files.items()}
    for name, worker in found.items():
        if isinstance(worker, str):
            raise SystemExit(f"{name} does not run {file.name}: {worker}")
    return {name: worker for name, worker in found.items() if isinstance(worker, Worker)}


def race(rows: dict[str, dict[str, Any]], workers: dict[str, dict[str, Worker]]) -> None:
    """Adds to the rows what each runtime takes; ratios are to our engine with our compression, in the same turn."""
    timed: dict[tuple[str, str], Worker] = {}
    for kind, group in workers.items():
        answers, agreeing = agreement(group, "int8")
        rows[kind] |= answers
        timed |= {(kind, name): worker for name, worker in agreeing.items()}
    bursts = in_turns(timed, ROUNDS)
    for (kind, name), own in bursts.items():
        rows[kind][name] |= spread("ms", 1e3 * np.concatenate(own))
        rows[kind][name] |= spread("ratio", ratios(bursts["compressed", "dovetail"], own))


def table(results: Rows) -> Table:
    shown = Table(title="CIFAR-10, one thread: milliseconds, and how many times as long as ours compressed")
    for column in ("recipe/batch", "", "accuracy %", "drop", *RUNTIMES):
        left = column in ("recipe/batch", "")
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for case, row in results.items():
        for kind in ("compressed", "whole"):
            own = row[kind]
            times = (own[name] for name in RUNTIMES)
            shown.add_row(
                case, kind, f"{100 * own['accuracy']:.2f}", f"{100 * (row['accuracy_original'] - own['accuracy']):.2f}",
                *(f"{t['ms']:.3f}  {t['ratio']:.2f} ({t['ratio_low']:.2f}-{t['ratio_high']:.2f})" if "ms" in t else
                  "differs" for t in times),
            )  # fmt: skip
    return shown


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run, table=table)
