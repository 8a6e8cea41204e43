"""Carrying out a recipe: what it reaches, what --max-drop undoes, and that a killed run ends where it would have."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dovetail.compression import Compressed, compress, plans
from dovetail.data import Dataset, Split, load_dataset
from dovetail.errors import DataError, RecipeError
from dovetail.methods.constraint import bake, constraints
from dovetail.networks import load_model
from dovetail.recipe import Recipe, of_method, parse

RECIPE = parse(
    """
    remaining = "float16"
    [[step]]
    method = "magnitude"
    sparsity = 0.6
    rounds = 2
    allocation = "uniform"
    training = { epochs = 2, images = 640, learning_rate = 0.01, distillation = 0.3 }
    [[step]]
    method = "weight_sharing"
    bits = 4
    from_bits = 5
    training = { epochs = 1, images = 640, optimizer = "adamw", learning_rate = 1e-4 }
    [[step]]
    method = "entropy_coding"
    """,
    "test.toml",
)


def network() -> nn.Module:
    return load_model("resnet8_fashion").module


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("fashion_mnist_sample")


@pytest.fixture(scope="module")
def compressed(dataset: Dataset) -> Compressed:
    return compress(network(), dataset, RECIPE, seed=3)


def test_reaches_what_the_recipe_asks_for(compressed: Compressed) -> None:
    weights = dict(bake(compressed.model).named_parameters())
    held = {name for name, _ in constraints(compressed.model)}
    zeros = sum(int((weights[name] == 0).sum()) for name in held)
    assert zeros / sum(weights[name].numel() for name in held) == pytest.approx(0.6, abs=0.01)
    assert all(len(weights[name].unique()) <= 16 for name in held)


def test_the_history_tells_every_round(compressed: Compressed) -> None:
    assert [(r.method, r.stage) for r in compressed.history] == [
        ("magnitude", 0), ("magnitude", 1), ("weight_sharing", 0), ("weight_sharing", 1), ("entropy_coding", 0),
    ]  # fmt: skip
    sizes = [r.stored_bytes for r in compressed.history]
    assert sizes == sorted(sizes, reverse=True)
    assert compressed.history[-1].score > compressed.provenance["baseline_score"] - 0.1


class Broken(Split):
    """A split of one's own, of no numbers."""

    def __len__(self) -> int:
        return 100

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(indices), 1, 28, 28), torch.nan), torch.zeros(len(indices), dtype=torch.int64)


@pytest.mark.parametrize("method", ["magnitude", "ptq", "bwnh"])
def test_data_that_are_no_numbers_are_refused_before_anything_is_done(dataset: Dataset, method: str) -> None:
    with pytest.raises(DataError, match="100 of 100 inputs hold NaN or infinity"):
        compress(network(), replace(dataset, train=Broken()), of_method(method).without_training())


def test_leaves_the_given_model_alone(dataset: Dataset) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compress(model, dataset, RECIPE, seed=3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_weights(compressed: Compressed, dataset: Dataset) -> None:
    again = compress(network(), dataset, RECIPE, seed=3)
    assert_same(again.model.state_dict(), compressed.model.state_dict())
    assert again.provenance == compressed.provenance


def test_a_round_that_loses_too_much_is_undone(dataset: Dataset) -> None:
    harsh = parse(
        """
        [[step]]
        method = "magnitude"
        sparsity = 0.999
        rounds = 4
        allocation = "uniform"
        [[step]]
        method = "entropy_coding"
        """,
        "harsh.toml",
    )
    result = compress(network(), dataset, harsh, max_drop=2.0)
    lost = [100 * (result.provenance["baseline_score"] - r.score) for r in result.history]
    for entry, drop in zip(result.history, lost, strict=True):
        assert entry.kept == (drop <= 2.0)
    undone = [r for r in result.history if not r.kept]
    assert len(undone) == 1 and undone[0].method == "magnitude"
    assert result.history[-1].method == "entropy_coding" and result.history[-1].kept


def test_a_plan_can_be_seen_without_carrying_it_out(dataset: Dataset) -> None:
    scanned = parse('[[step]]\nmethod = "magnitude"\nrounds = 2\n[[step]]\nmethod = "entropy_coding"', "scanned.toml")
    shown = plans(network(), dataset, scanned)
    assert [method.name for method, _ in shown] == ["magnitude", "entropy_coding"]
    assert len({row["kept"][0] for row in shown[0][1].values()}) > 5
    assert all(len(row["kept"]) == 2 for row in shown[0][1].values())


def test_a_folder_with_another_run_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    only_coding = Recipe(name="coding", steps=RECIPE.steps[-1:])
    compress(network(), dataset, only_coding, folder=str(tmp_path), seed=1)
    with pytest.raises(RecipeError, match=r"holds a run that differs in seed;"):
        compress(network(), dataset, only_coding, folder=tmp_path, seed=2)


def test_a_killed_run_ends_in_the_same_file(tmp_path: Path) -> None:
    """SIGKILL after each file that the command writes, and at moments between; then the same artefact, bit for bit."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        """
        [[step]]
        method = "magnitude"
        rounds = 1
        training = { epochs = 2, images = 256, distillation = 0.3 }
        [[step]]
        method = "weight_sharing"
        training = { epochs = 1, images = 256, optimizer = "adamw", learning_rate = 1e-4 }
        """
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [
        *(sys.executable, "-m", "dovetail", "compress", "resnet8_fashion", "--recipe", str(recipe)),
        *("--data", "fashion_mnist_sample", "--target", "energy_45nm", "--threads", "1", "--out"),
    ]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    kills = 0
    while not (killed / "report.html").exists():
        process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = written(killed)
        while process.poll() is None and written(killed) == before:
            time.sleep(0.01)
        time.sleep(0.01 * kills**2)  # later each time, so that it dies while planning, training and writing
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
    assert kills > 4
    assert (killed / "model.dvt").read_bytes() == (whole / "model.dvt").read_bytes()


def written(folder: Path) -> list[tuple[str, int]]:
    """The finished files below a folder and when they were written."""
    suffixes = (".safetensors", ".dvt", ".json", ".html")
    files = [file for file in folder.glob("**/*") if file.suffix in suffixes]
    return sorted((file.name, file.stat().st_mtime_ns) for file in files if file.exists())


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
