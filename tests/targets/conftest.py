"""A small network with one sparse layer, and the file it becomes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dovetail.formats import Layout
from dovetail.runtime import Artefact, freeze


@pytest.fixture(scope="session")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 300), nn.Linear(300, 10))
    with torch.no_grad():
        weight = model[3].weight
        weight *= torch.rand_like(weight) < 0.05
    return model.eval()


@pytest.fixture(scope="session")
def inputs() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def original(network: nn.Module, inputs: NDArray[np.float32]) -> Artefact:
    return freeze(network, torch.from_numpy(inputs))


@pytest.fixture(scope="session")
def artefact(network: nn.Module, inputs: NDArray[np.float32]) -> Artefact:
    return freeze(network, torch.from_numpy(inputs), layouts={"3.weight": Layout("smallest")})
