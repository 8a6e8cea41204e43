"""What is said of retraining factored networks, on the given ResNet-20: is it so?

    python benchmarks/structure_claims.py [CASE ...] [--work FOLDER] [--list]

penni/alternating/SEED, penni/joint/SEED: PENNI at a fifth of the MACs, coefficients and basis trained in turns or at
once, each round for EPOCHS epochs. (Li et al. PENNI. ICML 2020, arXiv:2005.07133: turns are better.)

Accuracy on the 10,000 test images. Records results/structure_claims.json. A killed run goes on where it was; its
seconds are those of the last part.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from records import Options, Rows, given, run_cases
from rich.progress import Progress
from rich.table import Table
from structure import TRAINING

from dovetail.compression import compress
from dovetail.data import load_dataset
from dovetail.methods import Penni
from dovetail.methods.budget import Budget
from dovetail.recipe import Recipe, RecipeStep
from dovetail.train import score

RESULTS = Path(__file__).parent / "results" / "structure_claims.json"
EPOCHS, SEEDS = 2, range(3)
WAYS = ("penni/alternating", "penni/joint")
CASES = [f"{way}/{seed}" for seed in SEEDS for way in WAYS]


def run(case: str, options: Options) -> dict[str, Any]:
    way, seed = case.rsplit("/", 1)
    original, dataset = given("resnet20"), load_dataset("cifar10")
    method = Penni(budget=Budget(macs=1 / 5), alternating=way == "penni/alternating")
    recipe = Recipe(name=way, steps=(RecipeStep(method=method, training=replace(TRAINING, epochs=EPOCHS)),))
    folder = options.work / case.replace("/", "-")
    with Progress() as progress:
        model = compress(original, dataset, recipe, seed=int(seed), folder=folder, progress=progress).model
    accuracies = {"accuracy": score(model, dataset), "accuracy_original": score(original, dataset)}
    return accuracies | {"seed": int(seed), "settings": repr(method)}


def table(results: Rows) -> Table:
    shown = Table("trained", "accuracies %", "mean %")
    for way in WAYS:
        accuracies = [100 * row["accuracy"] for case, row in results.items() if case.startswith(way)]
        if accuracies:
            shown.add_row(way, ", ".join(f"{accuracy:.2f}" for accuracy in accuracies), f"{mean(accuracies):.2f}")
    return shown


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run, table=table)
