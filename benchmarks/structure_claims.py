"""What is said of retraining factored networks, on the given ResNet-20: is it so?

    python benchmarks/structure_claims.py [CASE ...] [--work FOLDER] [--list]

penni/alternating, penni/joint: PENNI at a fifth of the MACs, coefficients and basis trained in turns or at once, each
round for EPOCHS epochs, once for each seed. (Li et al. PENNI. ICML 2020, arXiv:2005.07133: turns are better.)

Accuracy on the 10,000 test images. Records results/structure_claims.json. A killed run goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from records import Options, given, over_seeds, run_cases
from rich.progress import Progress
from structure import TRAINING

from dovetail.compression import compress
from dovetail.data import load_dataset
from dovetail.methods import Penni
from dovetail.methods.budget import Budget
from dovetail.recipe import Recipe, RecipeStep
from dovetail.train import score

RESULTS = Path(__file__).parent / "results" / "structure_claims.json"
EPOCHS, SEEDS = 2, range(3)
CASES = ("penni/alternating", "penni/joint")


def run(case: str, options: Options) -> dict[str, Any]:
    original, dataset = given("resnet20"), load_dataset("cifar10")
    method = Penni(budget=Budget(macs=1 / 5), alternating=case == "penni/alternating")
    recipe = Recipe(name=case, steps=(RecipeStep(method=method, training=replace(TRAINING, epochs=EPOCHS)),))
    accuracies = []
    with Progress() as progress:
        for seed in SEEDS:
            folder = options.work / f"{case.replace('/', '-')}-{seed}"
            model = compress(original, dataset, recipe, seed=seed, folder=folder, progress=progress).model
            accuracies.append(score(model, dataset))
    return {"accuracy_original": score(original, dataset), "settings": repr(method)} | over_seeds(accuracies)


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run)
