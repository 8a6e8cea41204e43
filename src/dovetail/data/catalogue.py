"""The data sets that have a name, and the way to any data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dovetail.data.cifar10 import cifar10
from dovetail.data.dataset import Dataset
from dovetail.data.fashion_sample import fashion_mnist_sample
from dovetail.data.image_folder import image_folder
from dovetail.data.mnist import fashion_mnist, mnist
from dovetail.data.noise import noise
from dovetail.errors import DataError

DATASETS: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "fashion_mnist_sample": fashion_mnist_sample,
    "cifar10": cifar10,
    "noise": noise,
}
"""Loaders by name; the first line of each one's docstring says what it is."""


def load_dataset(name_or_folder: str, input_shape: tuple[int, ...] | None = None) -> Dataset:
    """A data set by its name in `DATASETS`, or the images in a folder, made to fit `input_shape` (C, H, W).

    A folder's images, and noise, become (3, 224, 224) if no shape is given. Raises DataError if the files are missing
    (it says which ones to put where) or damaged, if there is no such data set, or if it has another shape.
    """
    if name_or_folder == "noise" and input_shape is not None:
        return noise(input_shape)
    if name_or_folder in DATASETS:
        dataset = DATASETS[name_or_folder]()
        if input_shape is not None and tuple(input_shape) != dataset.input_shape:
            raise DataError(
                f"data set {dataset.name} has images of {dataset.input_shape} (channels, height, width), "
                f"but the network takes {tuple(input_shape)}: choose another of the two"
            )
        return dataset
    if Path(name_or_folder).is_dir():
        return image_folder(Path(name_or_folder), input_shape or (3, 224, 224))
    if Path(name_or_folder).exists():
        raise DataError(f"{name_or_folder} is a file: give the folder that it is in")
    raise DataError(f"there is no data set or folder {name_or_folder!r}: the data sets are {', '.join(DATASETS)}")
