"""Methods chain: whatever stands in a legal order gives one file that computes what the module computes.

Every legal chain of up to three methods in the order of their kinds, or an even sample of them: the session of the
frozen artefact answers as the module does, and the parts sum to the file.
"""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.compression import preview
from dovetail.data import Dataset, TensorSplit
from dovetail.data.task import Classification
from dovetail.errors import RecipeError
from dovetail.methods import METHODS, Method
from dovetail.methods.budget import Budget
from dovetail.recipe import Recipe, RecipeStep, check_chain
from dovetail.runtime import Session, freeze

MOST = 40
LONGEST = 3


class Residual(nn.Module):
    """Two convolutions and a way around them, a depthwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=1, stride=2)
        self.bn3 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc(x.flatten(1))


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().eval()
    for norm in (model.bn1, model.bn2, model.bn3):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model


@cache
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorSplit:
        images = torch.randint(0, 256, (count, 2, 8, 8), dtype=torch.uint8, generator=generator)
        return TensorSplit(images, torch.randint(0, 4, (count,), generator=generator))

    return Dataset(name="squares", task=Classification(), train=split(64), validation=split(32), test=split(8),
                   input_shape=(2, 8, 8), classes=("a", "b", "c", "d"), mean=(0.5,), std=(0.5,))  # fmt: skip


def chains() -> list[tuple[str, ...]]:
    """The legal ones, without repetition; spread evenly if there are many. Every method stands in one at least."""
    found = [(name,) for name in METHODS]
    several = [
        chain for length in range(2, LONGEST + 1) for chain in itertools.permutations(METHODS, length) if legal(chain)
    ]
    step = max(1, -(-len(several) // (MOST - len(found))))
    return found + several[::step]


def legal(chain: tuple[str, ...]) -> bool:
    """Whether the order is legal, and a second method of a kind would find channels and layers that the first left."""
    try:
        check_chain([METHODS[name]() for name in chain])
    except RecipeError:
        return False
    kinds = [METHODS[name].kind for name in chain]
    return kinds.count("shrink") <= 1 and kinds.count("rebuild") <= 1


def mild(name: str) -> Method:
    """The method with a budget that is within reach after any other."""
    method = METHODS[name]()
    return replace(method, budget=Budget(macs=0.97)) if getattr(method, "budget", None) else method


@pytest.mark.parametrize("chain", chains(), ids=" > ".join)
def test_a_legal_chain_gives_one_file_that_computes_the_same(chain: tuple[str, ...]) -> None:
    recipe = Recipe(name="chain", steps=tuple(RecipeStep(method=mild(name)) for name in chain))
    model = preview(network(), dataset(), recipe).model
    artefact = freeze(model, dataset().example())
    inputs = dataset().example(8)
    with torch.no_grad():
        expected = model(inputs).numpy()
    np.testing.assert_allclose(Session(artefact, threads=1)(inputs.numpy()), expected, atol=1e-4, rtol=1e-4)
    assert sum(artefact.parts().values()) == len(artefact.to_bytes())
