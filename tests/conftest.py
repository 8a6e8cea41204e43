"""What every test may ask for: the data sets that do not come with the package, and a small chip."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from .tiny_chip import tiny, tiny_text

__all__ = ["tiny", "tiny_text"]

hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


def data_folder(part: str) -> str:
    """The name of the data set whose files lie in that part of DOVETAIL_DATA; without them the test is skipped."""
    root = os.environ.get("DOVETAIL_DATA")
    if root is None or not (Path(root) / part).is_dir():
        pytest.skip(f"needs the folder {part} in DOVETAIL_DATA")
    return str(Path(root) / part)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept on disk between runs is neither read nor written by tests, those that start a process included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOVETAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def mnist_folder() -> str:
    return data_folder("mnist")


@pytest.fixture(scope="session")
def fashion_mnist_folder() -> str:
    return data_folder("fashion-mnist")


@pytest.fixture(scope="session")
def cifar10_folder() -> str:
    return data_folder("cifar-10-batches-bin")
