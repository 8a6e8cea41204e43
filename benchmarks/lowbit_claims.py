"""What is said of quantisation without labels, on the given ResNet-20: is it so?

    python benchmarks/lowbit_claims.py [CASE ...] [--list]

renormalisation: weights rounded to the nearest of 4 bits, one scale an output or one a layer; how much of what that
loses do batch statistics from 256 unlabelled images bring back? (He, Cheng. Learning Compression from Limited Unlabeled
Data. ECCV 2018: most of it.) w4a8/...: the recipe with 256 images, with their pixels shuffled, with noise in their
place. Accuracy on the 10,000 test images. Records results/lowbit_claims.json.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import Options, given, run_cases
from torch import Tensor, nn

from dovetail.compression import planning_context
from dovetail.data import Dataset, load_dataset
from dovetail.data.noise import noise
from dovetail.methods.method import weight_tensors
from dovetail.methods.reconstruction import reestimate_norms
from dovetail.recipe import Recipe
from dovetail.train import score

RESULTS = Path(__file__).parent / "results" / "lowbit_claims.json"
IMAGES = 256
HIGHEST = 7
CASES = ("renormalisation", "w4a8/images", "w4a8/shuffled", "w4a8/noise")


def run(case: str, options: Options) -> dict[str, Any]:
    original, dataset = given("resnet20"), load_dataset("cifar10")
    inputs = planning_context(dataset, original).inputs
    assert inputs is not None
    images = inputs[:IMAGES]
    row = {"accuracy_original": score(original, dataset)}
    if case == "renormalisation":
        return row | renormalisation(original, dataset, images)
    return row | {"accuracy": w4a8(original, dataset, calibration(case.partition("/")[2], images))}


def renormalisation(original: nn.Module, dataset: Dataset, images: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    whole = score(original, dataset)
    for kind, per_output in (("an_output", True), ("a_layer", False)):
        model = copy.deepcopy(original)
        for _, weight in weight_tensors(model):
            largest = weight.flatten(1).abs().amax(1) if per_output else weight.abs().max().expand(len(weight))
            scale = (largest / HIGHEST).view(-1, *[1] * (weight.ndim - 1))
            weight.copy_(torch.round(weight / scale) * scale)
        raw = score(model, dataset)
        reestimate_norms(model, images)
        after = score(model, dataset)
        found[kind] = {"raw": raw, "renormalised": after, "recovered": (after - raw) / (whole - raw)}
    return found


def calibration(kind: str, images: Tensor) -> Tensor:
    """The images; the same with the pixels of each in another order; or noise."""
    if kind == "images":
        return images
    if kind == "shuffled":
        order = torch.randperm(images[0, 0].numel(), generator=torch.Generator().manual_seed(0))
        return images.flatten(2)[..., order].view_as(images)
    return noise(tuple(images.shape[1:])).train.batch(torch.arange(len(images)))[0]


def w4a8(original: nn.Module, dataset: Dataset, inputs: Tensor) -> float:
    context = replace(planning_context(dataset, original), inputs=inputs)
    (step,) = Recipe.load("w4a8").steps
    model = copy.deepcopy(original)
    return score(step.method.apply(model, step.method.plan(model, context), 0, context), dataset)


if __name__ == "__main__":
    run_cases(RESULTS, __doc__, CASES, run)
