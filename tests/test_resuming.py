"""A run that ends at any of its saves goes on to the same bits, also where layers were replaced or shrunk meanwhile."""

from functools import partial
from pathlib import Path

import pytest
import torch
from tests.around import Around
from torch import nn

from dovetail import compression
from dovetail.compression import Compressed, compress
from dovetail.data import Dataset, TensorSplit
from dovetail.data.task import Classification, MatchOutputs, Task
from dovetail.evaluation import evaluate
from dovetail.methods import METHODS, Penni
from dovetail.recipe import Recipe, RecipeStep
from dovetail.runtime import freeze
from dovetail.train import Training

CHAINS = [("svd", "magnitude"), ("tucker2",), ("penni",), ("channels",), ("channels", "svd", "weight_sharing")]
CHAINS += [("slimming",), ("depth", "channels"), ("lasso", "magnitude"), ("smartdeal",), ("penni that shrinks",)]
KNOWN = {**METHODS, "penni that shrinks": partial(Penni, threshold=1.5)}
BRIEF = Training(epochs=2, batch_size=16, learning_rate=0.01, distillation=0.5)


class Killed(BaseException):
    """As if the process had ended."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        Around(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)), nn.Conv2d(12, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4),
    ).eval()  # fmt: skip


def dataset(task: Task) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return TensorSplit(images, torch.randint(0, 4, (count,), generator=generator))

    return Dataset(name="squares", task=task, train=split(48), validation=split(32), test=split(16),
                   input_shape=(1, 8, 8), classes=("a", "b", "c", "d"), mean=(0.5,), std=(0.5,))  # fmt: skip


def recipe(chain: tuple[str, ...]) -> Recipe:
    return Recipe(name="chain", steps=tuple(RecipeStep(method=KNOWN[name](), training=BRIEF) for name in chain))


@pytest.mark.parametrize("chain", CHAINS, ids=" > ".join)
def test_a_run_killed_at_every_save_ends_in_the_same_bits(
    chain: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(Classification())
    whole = compress(network(), data, recipe(chain), seed=5)
    save, kills = compression.save_state, 0

    def save_and_die(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        raise Killed

    monkeypatch.setattr(compression, "save_state", save_and_die)
    resumed: Compressed | None = None
    while resumed is None:
        try:
            resumed = compress(network(), data, recipe(chain), seed=5, folder=tmp_path)
        except Killed:
            kills += 1
        assert kills < 50
    assert kills >= 2 * len(chain)
    found, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    record = evaluate(
        freeze(resumed.model, data.example(), provenance=resumed.provenance), data, [], original=network()
    )
    assert record.work is not None and record.original_work is not None
    assert record.work.macs <= record.original_work.macs and record.speed


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.kind in ("shrink", "rebuild")])
def test_layers_are_replaced_without_labels_too(name: str) -> None:
    data = dataset(MatchOutputs())
    small = compress(network(), data, recipe((name,)).without_training())
    assert small.history[0].score >= 0
    assert small.provenance["recipe_changes"] == ["--no-training"]
