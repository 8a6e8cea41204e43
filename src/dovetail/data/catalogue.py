"""The data sets that have a name, and the way to any of them."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.data.cifar10 import cifar10
from dovetail.data.dataset import Dataset
from dovetail.data.mnist import fashion_mnist, mnist
from dovetail.errors import DataError

DATASETS: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}


def load_dataset(name_or_folder: str, input_shape: tuple[int, int, int] | None = None) -> Dataset:
    """A data set by its name in `DATASETS`."""
    if name_or_folder in DATASETS:
        return DATASETS[name_or_folder]()
    raise DataError(f"{name_or_folder} is neither a data set ({', '.join(DATASETS)}) nor a folder of images")
