"""Low bits: every quantisation method on the given ResNet-20, beside its peers, without training and with it.

    python benchmarks/lowbit.py [CASE ...] [--threads 2] [--work FOLDER] [--list]

Rows without training see 1,000 training images without their labels, or none at all ("data-free"). The others are
trained for 8 epochs on the whole training set, shared out among a method's stages, the original as their teacher.
Accuracy is that of the file in ONNX Runtime, on the 10,000 test images. What is recorded in results/lowbit.json is not
run again unless it is named; a row that was interrupted goes on where it was, and its seconds are those of the last
part. Draws results/lowbit.png.

The rows of peers need their packages, in an environment of their own: see lowbit_peers.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from lowbit_peers import PEERS
from records import Options, Rows, given, run_cases
from rich.progress import Progress
from rich.table import Table
from torch import nn

from dovetail.compression import Compressed, compress
from dovetail.data import Dataset, load_dataset
from dovetail.data.noise import noise
from dovetail.methods import METHODS, Method
from dovetail.recipe import Recipe, RecipeStep, paced
from dovetail.runtime import Artefact, Session, freeze
from dovetail.targets import load_target
from dovetail.train import Training, score

RESULTS = Path(__file__).parent / "results" / "lowbit.json"
TRAINING = Training(
    epochs=8, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0, distillation=0.9, precision="bfloat16"
)
COMPILED = replace(TRAINING, compiled=True)


@dataclass(frozen=True)
class Row:
    """A method and how to train it, or a recipe, which says so itself, by its name or file."""

    step: Method | str
    training: Training | None = None
    data_free: bool = False
    seed: int = 0


def method(name: str, **options: Any) -> Method:
    return METHODS[name](**options)


ROWS = {
    "int8": Row("int8"),
    "int8, data-free": Row("int8", data_free=True),
    "w4a8": Row("w4a8"),
    "w4a4": Row("w4a4"),
    "mixed, 4 bits": Row("mixed"),
    "dynamic fixed point 8/8": Row(method("dynamic_fixed_point")),
    "dynamic fixed point 8/4": Row(method("dynamic_fixed_point", linear_bits=4)),
    "bwn, untrained": Row(method("bwn")),
    "bwnh, untrained": Row(method("bwnh")),
    "ffn, untrained": Row(method("ffn")),
    "twn": Row(method("twn"), TRAINING),
    "ttq": Row(method("ttq"), TRAINING),
    "admm ternary": Row(method("admm"), TRAINING),
    "admm ternary, per filter": Row(method("admm", per_filter=True), TRAINING),
    "admm binary": Row(method("admm", grid="binary"), TRAINING),
    "admm binary, per filter": Row(method("admm", grid="binary", per_filter=True), TRAINING),
    "bwn": Row(method("bwn"), TRAINING),
    "bwn, as published": Row(method("bwn", gradient="diagonal", centre=True), TRAINING),
    "bwnh": Row(method("bwnh"), TRAINING),
    "ffn": Row(method("ffn"), TRAINING),
    "lsq 4/4": Row(method("lsq"), TRAINING),
    "qnn 1/2/6": Row(method("qnn", weight_bits=1, activation_bits=2), TRAINING),
    "xnor": Row(method("xnor"), COMPILED),
    "bnn": Row(method("bnn"), COMPILED),
    "binary maps": Row(method("binary_maps"), COMPILED),
    "xnor, another seed": Row(method("xnor"), COMPILED, seed=1),
    "binary maps, another seed": Row(method("binary_maps"), COMPILED, seed=1),
    "escalate": Row(str(Path(__file__).parent / "recipes" / "escalate.toml")),
}  # fmt: skip


def run(name: str, options: Options) -> dict[str, Any]:
    original, dataset = given("resnet20"), load_dataset("cifar10")
    if name in PEERS:
        row = PEERS[name](original, dataset)
    else:
        folder = options.work / name.replace(" ", "-").replace("/", "-")
        with Progress() as progress:
            row = ours(ROWS[name], original, dataset, options.seed + ROWS[name].seed, folder, progress)
    return row | {
        "accuracy_original": score(original, dataset),
        "file_bytes_original": sum(freeze(original, dataset.example()).parts().values()),
        "energy_original": energy(freeze(original, dataset.example()), dataset),
    }


def ours(
    row: Row, original: nn.Module, dataset: Dataset, seed: int, folder: Path, progress: Progress
) -> dict[str, Any]:
    shown = noise(dataset.input_shape) if row.data_free else dataset
    if isinstance(row.step, str):
        recipe = Recipe.load(row.step)
    else:
        training = row.training
        if training is not None:
            training = paced(replace(training, epochs=training.epochs // row.step.stages), row.step)
        recipe = Recipe(name=row.step.name, steps=(RecipeStep(method=row.step, training=training),))
    compressed = compress(original, shown, recipe, seed=seed, folder=folder, progress=progress)
    artefact = freeze(compressed.model, dataset.example())
    artefact.save(folder / "model.dvt")
    session = Session(Artefact.load(folder / "model.dvt"))
    return {
        "accuracy": score(lambda inputs: torch.from_numpy(session(inputs.numpy())), dataset),
        "file_bytes": (folder / "model.dvt").stat().st_size,
        "energy": energy(artefact, dataset),
        "settings": repr(recipe.steps[0].method),
        "costliest": costliest(compressed),
        "seed": seed,
    }


def costliest(compressed: Compressed) -> dict[str, float]:
    """The three layers that alone change the outputs most, before training: by how much, relative to the outputs."""
    rows = [(layer, row) for _, plan in compressed.plans for layer, row in plan.items()]
    errors = {layer: row["output_error"] for layer, row in rows if "output_error" in row}
    return {layer: float(f"{errors[layer]:.3g}") for layer in sorted(errors, key=errors.__getitem__)[:-4:-1]}


def energy(artefact: Artefact, dataset: Dataset) -> float:
    """Of one inference in microjoules, at 45 nm prices: a model."""
    return load_target("energy_45nm").cost(artefact, dataset.example().numpy()).quantities["energy"].value


def table(results: Rows) -> Table:
    shown = Table(title="ResNet-20 on CIFAR-10, given weights; file and energy as parts of the float network's")
    for column in ("row", "accuracy %", "drop", "file", "energy (45 nm, modelled)", "minutes", "costliest layer"):
        shown.add_column(column, justify="left" if column in ("row", "costliest layer") else "right")
    for name, row in sorted(results.items(), key=lambda item: -item[1]["accuracy"]):
        shown.add_row(
            name, f"{100 * row['accuracy']:.2f}", f"{100 * (row['accuracy_original'] - row['accuracy']):.2f}",
            f"{row['file_bytes'] / row['file_bytes_original']:.3f}" if "file_bytes" in row else "",
            f"{row['energy'] / row['energy_original']:.2f}" if "energy" in row else "", f"{row['seconds'] / 60:.0f}",
            next(iter(row.get("costliest", {})), ""),
        )  # fmt: skip
    return shown


def draw(results: Rows) -> None:
    """Errors against the size of the file."""
    figure, panel = plt.subplots(figsize=(10, 6))
    having = {name: row for name, row in results.items() if "file_bytes" in row}
    order = sorted(having.items(), key=lambda item: -item[1]["accuracy"])
    for index, (name, row) in enumerate(order):
        colour, marker = plt.get_cmap("tab10")(index % 10), "s" if name in PEERS else "oDv^"[index // 10 % 4]
        x, y = row["file_bytes"] / row["file_bytes_original"], 100 * (1 - row["accuracy"])
        panel.plot(x, y, marker, color=colour, alpha=0.8, label=f"{name}: {100 - y:.2f} %")
    panel.set_xlabel("file, as a part of the float network's")
    panel.set_ylabel("errors, % of 10,000 test images")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")
    panel.invert_yaxis()
    panel.set_title("ResNet-20 on CIFAR-10 (squares: peers)")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8, title="accuracy", bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    draw(run_cases(RESULTS, __doc__, [*ROWS, *PEERS], run, threads=os.cpu_count() or 1, table=table))
