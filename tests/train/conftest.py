import pytest
import torch
from torch import nn

from dovetail.data import Dataset, load_dataset


@pytest.fixture(autouse=True)
def one_thread():
    """Threads share sums differently, so equality to the bit needs their number fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fashion() -> Dataset:
    return load_dataset("fashion_mnist_sample")


@pytest.fixture
def network() -> nn.Module:
    """Small, with everything that has a state of its own: batch normalisation, dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
    )
