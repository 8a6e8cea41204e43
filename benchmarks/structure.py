"""Structure: every method at the same price beside its peers; accuracy against MACs, parameters, bytes and latency.

    python benchmarks/structure.py [POINT ...] [--threads 2] [--work FOLDER] [--list]

A point is NETWORK/METHOD/RATIO, such as resnet20/tucker2/3: the network with a third of its multiply-accumulates left
(those with a zero weight do not count), retrained for EPOCHS on the whole training set, the original as its teacher.
Methods after a plus follow with their defaults. Of PENNI and SmartDeal the numbers of both factors count, of PENNI the
operations of its two steps. Accuracy is that of the file on the 10,000 test images; the latency is ONNX Runtime's, one
image, as the ratio to the original's in paired runs (--latency measures it again, of all points whose file is there:
best on a machine that does nothing else). What is recorded in results/structure.json is not run again unless it is
named; a point that was interrupted goes on where it was. Draws results/structure.png and structure.html.

The points of peers (torch-pruning, nncf magnitude, aimet spatial svd) need their packages: see structure_peers.py.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
import torch
from paired import paired
from records import given, record, recorded
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from structure_peers import PEERS, finished
from torch import nn

from dovetail.compression import compress
from dovetail.data import Dataset, load_dataset
from dovetail.formats import Format, Layout, Product
from dovetail.machine import processor
from dovetail.methods import METHODS, Method
from dovetail.methods.budget import Budget
from dovetail.methods.constraint import bake, constraints, layouts
from dovetail.methods.factorize.penni import nonzero_macs as two_step_macs
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.planning import planning_context
from dovetail.recipe import Recipe, RecipeStep, of_method, paced
from dovetail.runtime import Artefact, Session, freeze
from dovetail.train import Training, score, train
from dovetail.workload import trace

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "structure.json"

EPOCHS = {"resnet20": 8, "resnet56": 20}
"""About ten minutes of one core for ResNet-20, an hour for ResNet-56."""

TRAINING = Training(learning_rate=0.02, distillation=0.9, precision="bfloat16")
"""torch.compile made a step 5 to 15% faster, bfloat16 twice as fast."""

WITHOUT_TRAINING = {"svd", "nonlinear", "tucker2", "cp", "block_term", "channels", "lasso"}
"""Methods that claim to do without retraining: their accuracy before it is recorded too."""

FIELDS_AT: dict[str, Callable[[float], dict[str, Any]]] = {
    "slimming": lambda ratio: {"sparsity": 1 - ratio**-0.5},  # channels in and out both shrink
    "n_m": lambda ratio: {"n": 1, "m": round(ratio)},
    "complementary": lambda ratio: {"overlaid": round(ratio)},
    "smartdeal": lambda ratio: {},
    "block_convolution": lambda ratio: {"blocks": 2},
}
"""What stands for the ratio where a method has no budget. Block convolution removes no MACs: it has one point."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"magnitude in blocks": ("magnitude", {"block": (16, 4)})}
"""Methods set otherwise than by default, under a name of their own."""

METHODS_AT_3 = [name for name, method in METHODS.items() if method.kind in ("shrink", "rebuild", "prune")] + [
    "smartdeal"
]
BEST = ("magnitude", "obd", "penni", "channels", "pattern", "svd")
POINTS = [
    *(f"resnet20/{name}/3" for name in METHODS_AT_3 if name != "block_convolution"),
    "resnet20/block_convolution/1",
    *(f"resnet20/{name}/{ratio}" for name in BEST for ratio in (2, 5)),
    *(f"resnet20/magnitude in blocks/{ratio}" for ratio in (2, 3)),
    *(f"resnet20/torch-pruning/{ratio}" for ratio in (2, 3, 5)),
    *(f"resnet20/nncf magnitude/{ratio}" for ratio in (2, 3, 5)),
    "resnet20/aimet spatial svd/3",
    "resnet20/magnitude+weight_sharing+entropy_coding/3",
    "resnet56/channels/2.6",
    "resnet56/penni/5",
]


@dataclass(frozen=True)
class Point:
    network: str
    method: str
    ratio: float

    @classmethod
    def parse(cls, name: str) -> Point:
        network, method, ratio = name.split("/")
        return cls(network, method, float(ratio))


def method_at(name: str, ratio: float) -> Method:
    """The method, so set that one `ratio`-th of the multiply-accumulates is left."""
    method, settings = VARIANTS.get(name, (name, {}))
    kind = METHODS[method]
    if name in FIELDS_AT:
        return kind(**FIELDS_AT[name](ratio))
    assert any(field.name == "budget" for field in fields(kind)), f"{name} takes no budget"
    return kind(budget=Budget(macs=1 / ratio), **settings)


def run(name: str, seed: int, threads: int, work: Path, progress: Progress) -> dict[str, Any]:
    point = Point.parse(name)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    original, dataset = given(point.network), load_dataset("cifar10")
    folder, started = folder_of(name, work), time.time()
    resumed = folder.exists()
    if point.method in PEERS:
        result = run_peer(point, original, dataset, seed, folder, progress)
    else:
        result = run_ours(point, original, dataset, seed, folder, progress)
    record = {"before_training": result.before} if result.before is not None else {}
    record |= measure(result.model, result.layouts, original, dataset, folder)
    return record | {
        "settings": result.settings,
        "seed": seed,
        "threads": threads,
        "seconds": round(time.time() - started),
        "resumed": resumed,  # then the seconds are those of the last part only
        "machine": processor(),
    }


def folder_of(name: str, work: Path) -> Path:
    return work / name.replace("/", "-").replace(" ", "-")


@dataclass(frozen=True)
class Result:
    model: nn.Module
    layouts: dict[str, Layout]
    before: float | None
    settings: str


def run_ours(
    point: Point, original: nn.Module, dataset: Dataset, seed: int, folder: Path, progress: Progress
) -> Result:
    first, *others = point.method.split("+")
    method, before = method_at(first, point.ratio), None
    if point.method in WITHOUT_TRAINING:
        plain = Recipe(name="untrained", steps=(RecipeStep(method=method),))
        before = score(compress(original, dataset, plain, seed=seed, progress=progress).model, dataset)
    training = paced(replace(TRAINING, epochs=max(1, EPOCHS[point.network] // method.stages)), method)
    steps = (RecipeStep(method=method, training=training), *(step for name in others for step in of_method(name).steps))
    recipe = Recipe(name=point.method, steps=steps)
    model = compress(original, dataset, recipe, seed=seed, folder=folder, progress=progress).model
    return Result(model, layouts(model), before, repr(method))


def run_peer(
    point: Point, original: nn.Module, dataset: Dataset, seed: int, folder: Path, progress: Progress
) -> Result:
    context = planning_context(dataset, original)
    model = PEERS[point.method](copy.deepcopy(original), dataset, context, point.ratio).eval()
    before = score(model, dataset)
    checkpoint = folder / "training.safetensors"
    training = replace(TRAINING, epochs=EPOCHS[point.network])
    train(model, dataset, training, seed=seed, teacher=original, checkpoint=checkpoint, progress=progress)
    plain = finished(model)
    sparse = {name: Layout(structure="smallest") for name, weight in plain.named_parameters() if weight.ndim > 1}
    return Result(plain, sparse, before, point.method)


def measure(
    model: nn.Module, stored: dict[str, Layout], original: nn.Module, dataset: Dataset, folder: Path
) -> dict[str, Any]:
    """What the file holds, computes and predicts, beside the original."""
    example = dataset.example()
    artefact = freeze(model, example, layouts=stored)
    folder.mkdir(parents=True, exist_ok=True)
    artefact.save(folder / "model.dvt")
    session = Session(Artefact.load(folder / "model.dvt"))
    work, whole = trace(bake(model), example), trace(original, example)
    reference = freeze(original, example)
    return {
        "accuracy": score(lambda inputs: torch.from_numpy(session(inputs.numpy())), dataset),
        "accuracy_original": score(original, dataset),
        "macs": work.macs,
        "nonzero_macs": two_step_macs(model, example) if shares_kernels(model) else work.nonzero_macs,
        "macs_original": whole.macs,
        "nonzero_parameters": sum(map(nonzeros, artefact.tensors.values())),
        "parameters_original": sum(weight.numel() for weight in original.parameters()),
        "file_bytes": (folder / "model.dvt").stat().st_size,
        "file_bytes_original": sum(reference.parts().values()),
        "latency": latency(artefact, reference, example.numpy()),
    }


def shares_kernels(model: nn.Module) -> bool:
    return any(isinstance(constraint, SharedKernels) for _, constraint in constraints(model))


def nonzeros(format: Format) -> int:
    """The numbers other than zero that are stored; of a product, those of its factors."""
    if isinstance(format, Product):
        return nonzeros(format.coefficients) + nonzeros(format.basis)
    return int(np.count_nonzero(format.decode()))


def latency(artefact: Artefact, reference: Artefact, image: np.ndarray) -> dict[str, float]:
    """ONNX Runtime, one thread, one image: original against compressed."""
    theirs, ours = (partial(Session(each, threads=1), image) for each in (reference, artefact))
    return paired(theirs, ours, pairs=250)


def measured_again(results: dict[str, dict[str, Any]], work: Path) -> dict[str, dict[str, Any]]:
    """The results with new latencies, of the points whose file is there."""
    found = dict(results)
    for name, row in results.items():
        file, original = folder_of(name, work) / "model.dvt", given(Point.parse(name).network)
        if file.exists():
            example = load_dataset("cifar10").example()
            times = latency(Artefact.load(file), freeze(original, example), example.numpy())
            found[name] = row | {"latency": times}
    return found


def table(results: dict[str, dict[str, Any]]) -> Table:
    shown = Table(title="CIFAR-10, given weights; MACs, parameters and file as parts of the original's")
    for column in ("point", "before training %", "accuracy %", "drop", "MACs", "dense MACs", "parameters", "file",
                   "faster (ONNX Runtime)", "minutes"):  # fmt: skip
        shown.add_column(column, justify="left" if column == "point" else "right")
    for name, row in sorted(results.items(), key=_order):
        speed = row["latency"]
        shown.add_row(
            name, f"{100 * row['before_training']:.2f}" if "before_training" in row else "",
            f"{100 * row['accuracy']:.2f}", f"{100 * (row['accuracy_original'] - row['accuracy']):.2f}",
            f"{row['nonzero_macs'] / row['macs_original']:.3f}", f"{row['macs'] / row['macs_original']:.3f}",
            f"{row['nonzero_parameters'] / row['parameters_original']:.3f}",
            f"{row['file_bytes'] / row['file_bytes_original']:.3f}",
            f"{speed['speedup']:.2f}x ({speed['low']:.2f}-{speed['high']:.2f})", f"{row['seconds'] / 60:.0f}",
        )  # fmt: skip
    return shown


def _order(item: tuple[str, dict[str, Any]]) -> tuple[str, float, float]:
    point = Point.parse(item[0])
    return point.network, point.ratio, -item[1]["accuracy"]


def draw(results: dict[str, dict[str, Any]]) -> None:
    """Accuracy against the four prices: a PNG, and an interactive page."""
    axes = {
        "MACs (nonzero)": lambda row: row["nonzero_macs"] / row["macs_original"],
        "parameters (nonzero)": lambda row: row["nonzero_parameters"] / row["parameters_original"],
        "bytes of the file": lambda row: row["file_bytes"] / row["file_bytes_original"],
        "latency": lambda row: 1 / row["latency"]["speedup"],
    }
    shown = {name: row for name, row in results.items() if name.startswith("resnet20/")}
    methods = list(dict.fromkeys(Point.parse(name).method for name in shown))
    colours = dict(zip(methods, plt.get_cmap("tab20")(np.linspace(0, 1, max(2, len(methods)))), strict=False))
    figure, panels = plt.subplots(2, 2, figsize=(13, 10), sharey=True)
    page = go.Figure()
    for panel, (label, value) in zip(panels.flat, axes.items(), strict=True):
        for method in methods:
            rows = sorted((value(row), 100 * row["accuracy"]) for name, row in shown.items()
                          if Point.parse(name).method == method)  # fmt: skip
            panel.plot(*zip(*rows, strict=True), marker="s" if method in PEERS else "o", label=method,
                       linestyle="--" if method in PEERS else "-", color=colours[method])  # fmt: skip
            page.add_scatter(
                x=[x for x, _ in rows], y=[y for _, y in rows], name=method, mode="lines+markers", text=[method],
                visible=label.startswith("MACs"), meta=label,
            )  # fmt: skip
        panel.set_xlabel(f"{label}, as a part of the original's")
        panel.grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("accuracy, % of 10,000 test images")
    panels[0, 1].legend(fontsize=7, ncols=2)
    figure.suptitle("ResNet-20 on CIFAR-10: what is kept of accuracy for what is kept of the cost (squares: peers)")
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)
    page.update_layout(
        title="ResNet-20 on CIFAR-10", yaxis_title="accuracy, %", xaxis_title="part of the original's",
        updatemenus=[{"buttons": [
            {"label": label, "method": "update", "args": [{"visible": [trace.meta == label for trace in page.data]}]}
            for label in axes
        ]}],
    )  # fmt: skip
    page.write_html(RESULTS.with_suffix(".html"), include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points", nargs="*", metavar="POINT", help="as resnet20/tucker2/3; all that are not recorded")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=HERE.parent / "out" / "structure")
    parser.add_argument("--latency", action="store_true", help="measure the latencies again, and nothing else")
    parser.add_argument("--list", action="store_true", help="only show what there is")
    arguments = parser.parse_args()
    results = recorded(RESULTS)
    if arguments.latency:
        results = record(RESULTS, measured_again(results, arguments.work))
    elif not arguments.list:
        for name in arguments.points or [point for point in POINTS if point not in results]:
            with Progress() as progress:
                row = run(name, arguments.seed, arguments.threads, arguments.work, progress)
            results = record(RESULTS, {name: row})
            Console(width=160).print(table({name: row}))
    if results:
        draw(results)
        Console(width=180).print(table(results))


if __name__ == "__main__":
    main()
