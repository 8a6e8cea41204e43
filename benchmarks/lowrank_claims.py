"""What Zhang et al. say of low rank without retraining, put to the test on ResNets and a VGG-like network for CIFAR-10.

    python benchmarks/lowrank_claims.py [resnet20 resnet56 vgg] [--speedups 3 4] [--seeds 0 1 2] [--images 300]
                                        [--selection energy] [--threads 1]

Zhang, Zou, He, Sun (TPAMI 2016, arXiv:1505.06798): with the same ranks, reconstructing the responses after the ReLU,
asymmetrically, is better than doing so linearly, that is better than reconstructing symmetrically, and all are better
than the SVD of the weights. Accuracy in percent on the first 2,000 test images; nothing is retrained. The seed draws
the unlabelled training images that the responses are taken from, and the ranks with them.

A killed run goes on where it was: every figure is written to results/lowrank_claims.json as it is found. The VGG-like
network is trained first (kept in out/lowrank_claims), which takes about two minutes on one core and is no record.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from records import given, record, recorded
from rich.console import Console
from rich.table import Table
from torch import nn
from vgg import trained

from dovetail.data import load_dataset
from dovetail.machine import processor
from dovetail.methods import Nonlinear
from dovetail.methods.budget import Budget
from dovetail.methods.method import Context, Plan
from dovetail.planning import planning_context
from dovetail.train import Training
from dovetail.workload.trace import trace

RESULTS = Path(__file__).parent / "results" / "lowrank_claims.json"
WORK = Path("out/lowrank_claims")
CIFAR = load_dataset("cifar10")
TEST_IMAGES = 2000
VARIANTS = {
    "weight svd": Nonlinear(reconstruct=False),
    "linear, symmetric": Nonlinear(asymmetric=False, nonlinear=False),
    "linear, asymmetric": Nonlinear(nonlinear=False),
    "nonlinear, asymmetric": Nonlinear(),
}
VGG_WIDTHS = ((24, 24), (48, 48), (96, 96))
VGG_TRAINING = Training(epochs=5, learning_rate=0.1, warmup_epochs=0.5, weight_decay=5e-4, images=15000)


def network(name: str) -> nn.Module:
    return trained(VGG_WIDTHS, VGG_TRAINING, WORK) if name == "vgg" else given(name)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    model.eval()
    right = sum(
        int((model(x).argmax(1) == labels).sum()) for x, labels in CIFAR.batches("test", 250, limit=TEST_IMAGES)
    )
    return 100 * right / TEST_IMAGES


def case(name: str, model: nn.Module, speedup: float, seed: int, arguments: argparse.Namespace) -> None:
    """All variants of one network at one speed-up, but for those that the record has."""
    key = f"{name}, {speedup:g}x, {arguments.selection}, {arguments.images} images, seed {seed}"
    entry: dict[str, Any] = recorded(RESULTS).get(key, {})
    if set(VARIANTS) <= set(entry.get("accuracy_percent", {})):
        return
    context = drawn(model, seed, arguments.images)
    started = time.time()
    plan: Plan = Nonlinear(budget=Budget(macs=1 / speedup), selection=arguments.selection).plan(model, context)
    entry = entry or {
        "original_percent": accuracy(model), "accuracy_percent": {}, "seconds": {}, "threads": arguments.threads,
        "machine": processor(), "planning_seconds": round(time.time() - started, 1),
    }  # fmt: skip
    before = trace(model, context.example).macs
    for label, method in VARIANTS.items():
        if label in entry["accuracy_percent"]:
            continue
        started = time.time()
        smaller = method.apply(copy.deepcopy(model), plan, 0, context)
        entry["seconds"][label] = round(time.time() - started, 1)
        entry["accuracy_percent"][label] = accuracy(smaller)
        entry["macs_fraction"] = round(trace(smaller, context.example).macs / before, 4)
        record(RESULTS, {key: entry})


def drawn(model: nn.Module, seed: int, images: int) -> Context:
    inputs = torch.cat([x for x, _ in CIFAR.batches("train", 250, seed=seed, limit=images)])
    return replace(planning_context(CIFAR, model), inputs=inputs)


def show() -> None:
    """The mean over the seeds, and whether the order is the paper's."""
    table = Table(title=f"CIFAR-10, first {TEST_IMAGES} test images, %, not retrained")
    for column in ("", "original", *VARIANTS, "seeds", "in the paper's order"):
        table.add_column(column, justify="right" if column else "left")
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, entry in recorded(RESULTS).items():
        if len(entry["accuracy_percent"]) == len(VARIANTS):
            groups.setdefault(key.rpartition(", seed")[0], []).append(entry)
    for name, entries in groups.items():
        means = [mean(entry["accuracy_percent"][label] for entry in entries) for label in VARIANTS]
        ordered = all(worse <= better for worse, better in pairwise(means))
        original = entries[0]["original_percent"]
        table.add_row(
            name, f"{original:.2f}", *(f"{value:.2f}" for value in means), str(len(entries)), "yes" if ordered else "NO"
        )
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56", "vgg"])
    parser.add_argument("--speedups", nargs="*", type=float, default=[3, 4])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--selection", choices=("measured", "energy"), default="energy")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        model = network(name)
        for speedup in arguments.speedups:
            for seed in arguments.seeds:
                case(name, model, speedup, seed, arguments)
    show()


if __name__ == "__main__":
    main()
