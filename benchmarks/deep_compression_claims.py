"""What the papers say of pruning and weight sharing, put to the test on LeNet-300-100 and LeNet-5 with MNIST.

    python benchmarks/deep_compression_claims.py [--threads 2]

Han, Pool, Tran, Dally (NeurIPS 2015): pruning and retraining by turns beats pruning at once; the weights that survive
are better kept than drawn anew; the first convolution is the most sensitive. Han, Mao, Dally (ICLR 2016): k-means that
starts from evenly spaced values beats one that starts from random ones at 2 and 3 bits. (Of pruned weights, that is: on
the dense LeNet-5 the random start was as good, 97.8 against 97.7 % at 2 bits, for there is no gap around zero.)

Each figure is test accuracy in percent over the seeds; results/deep_compression_claims.json records them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean, stdev

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dovetail.compression import compress
from dovetail.data import load_dataset
from dovetail.machine import processor
from dovetail.methods import Magnitude, Method, WeightSharing
from dovetail.methods.constraint import constraints
from dovetail.methods.prune.magnitude import Mask
from dovetail.methods.prune.sensitivity import KEPT_FRACTIONS, scan
from dovetail.networks import load_model
from dovetail.planning import planning_context
from dovetail.recipe import Recipe, RecipeStep
from dovetail.train import Training, score, train

RESULTS = Path(__file__).parent / "results" / "deep_compression_claims.json"
PRUNING_SEEDS, SHARING_SEEDS = range(3), range(5)
SPARSITY = 0.97
MNIST = load_dataset("mnist")


def reached(model: nn.Module, method: Method, training: Training | None, seed: int) -> tuple[float, nn.Module]:
    """Test accuracy in percent after one step, and the model."""
    recipe = Recipe(name="claim", steps=(RecipeStep(method=method, training=training),))
    compressed = compress(model, MNIST, recipe, seed=seed).model
    return 100 * score(compressed, MNIST), compressed


def redrawn(pruned: nn.Module, training: Training, seed: int) -> float:
    """Test accuracy in percent of the same masks with weights drawn anew, trained as long."""
    torch.manual_seed(seed)
    for module in pruned.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.parametrizations.weight.original, a=5**0.5)
            nn.init.zeros_(module.bias)
    assert any(isinstance(constraint, Mask) for _, constraint in constraints(pruned))
    train(pruned, MNIST, training, seed=seed)
    return 100 * score(pruned, MNIST)


def pruning() -> dict[str, list[float]]:
    once = Training(epochs=6, learning_rate=0.05)
    thrice = Training(epochs=2, learning_rate=0.05)
    found: dict[str, list[float]] = {"in three rounds": [], "at once": [], "at once, weights drawn anew": []}
    dense = load_model("lenet_300_100").module
    for seed in PRUNING_SEEDS:
        found["in three rounds"].append(reached(dense, Magnitude(sparsity=SPARSITY, rounds=3), thrice, seed)[0])
        accuracy, model = reached(dense, Magnitude(sparsity=SPARSITY, rounds=1), once, seed)
        found["at once"].append(accuracy)
        found["at once, weights drawn anew"].append(redrawn(model, once, seed))
    return found


def sharing() -> dict[str, list[float]]:
    """Of a pruned network, before fine-tuning; only the random start varies, so the others are one figure."""
    found: dict[str, list[float]] = {}
    training = Training(epochs=2, learning_rate=0.02)
    _, pruned = reached(load_model("lenet5").module, Magnitude(sparsity=0.92, rounds=2), training, 0)
    for bits in (2, 3):
        for start in ("linear", "density", "random"):
            seeds = SHARING_SEEDS if start == "random" else range(1)
            found[f"{bits} bits, {start} start"] = [
                reached(pruned, WeightSharing(bits=bits, initialisation=start, seed=seed), None, seed)[0]
                for seed in seeds
            ]
    return found


def sensitivity() -> dict[str, dict[str, float]]:
    """Rise of the loss when a layer alone keeps a tenth of its weights."""
    found = {}
    for network, data in (("lenet5", "mnist"), ("resnet8_fashion", "fashion_mnist")):
        model, dataset = load_model(network).module, load_dataset(data)
        names = [
            f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        curves = scan(model, names, planning_context(dataset, model))
        found[network] = {name: round(curve[KEPT_FRACTIONS.index(0.1)], 4) for name, curve in curves.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    torch.set_num_threads(parser.parse_args().threads)
    started = time.time()
    figures = {f"LeNet-300-100, {SPARSITY:.1%} pruned {k}": v for k, v in pruning().items()}
    figures |= {f"LeNet-5, 92% pruned, {k}": v for k, v in sharing().items()}
    rises = sensitivity()
    shown = Table(title="Test accuracy, %")
    for column in ("", "mean", "deviation", "seeds"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, values in figures.items():
        shown.add_row(name, f"{mean(values):.2f}", f"{stdev(values):.2f}" if len(values) > 1 else "", str(len(values)))
    Console().print(shown, {network: max(rise, key=rise.get) for network, rise in rises.items()})
    record = {
        "accuracy_percent": figures,
        "rise_of_the_loss_at_a_tenth_kept": rises,
        "seconds": round(time.time() - started),
        "threads": torch.get_num_threads(),
        "machine": processor(),
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
