"""A small part of Fashion-MNIST that is shipped in the package, so that examples run without a download.

Data: Copyright 2017 Zalando SE, MIT licence (in the folder fashion_mnist_sample).

The rule: of each of the ten classes, in the official order,
    train        the first 400 of training images 1 to 55,000
    validation   the first 100 of training images 55,001 to 60,000 (not seen by a network trained on fashion_mnist)
    test         the first 200 of the test images
Each split is a PNG sheet of 28 x 28 pictures, 50 a row, class after class; `write_sheets(FOLDER)` makes them again from
the official files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dovetail.data.dataset import Dataset, Split, SplitName, TensorSplit
from dovetail.data.mnist import fashion_dataset, fashion_mnist

FOLDER = Path(__file__).parent / "fashion_mnist_sample"
PER_CLASS: dict[SplitName, int] = {"train": 400, "validation": 100, "test": 200}
CLASSES, SIDE, COLUMNS = 10, 28, 50


def fashion_mnist_sample() -> Dataset:
    """Pieces of clothing, the part that is shipped: 4,000 + 1,000 + 2,000 grey images of 28 x 28."""
    train, validation, test = (_read(split) for split in PER_CLASS)
    return fashion_dataset("fashion_mnist_sample", train, validation, test)


def _read(split: SplitName) -> TensorSplit:
    """A split in turns: class 0, 1, ... 9, 0, 1, ..., so that any first few hundred are balanced."""
    with Image.open(FOLDER / f"{split}.png") as sheet:
        images = from_sheet(np.asarray(sheet)).reshape(CLASSES, PER_CLASS[split], 1, SIDE, SIDE)
    in_turns = np.ascontiguousarray(images.swapaxes(0, 1)).reshape(-1, 1, SIDE, SIDE)
    return TensorSplit(torch.from_numpy(in_turns), torch.arange(CLASSES).repeat(PER_CLASS[split]))


def to_sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (rows * COLUMNS, SIDE, SIDE) side by side: (rows * SIDE, COLUMNS * SIDE)."""
    return images.reshape(-1, COLUMNS, SIDE, SIDE).swapaxes(1, 2).reshape(-1, COLUMNS * SIDE)


def from_sheet(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images of a sheet again."""
    return sheet.reshape(-1, SIDE, COLUMNS, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def choose(whole: Split, per_class: int) -> NDArray[np.uint8]:
    """The first `per_class` images of each class, class after class: (CLASSES * per_class, SIDE, SIDE)."""
    images, labels = whole.batch(torch.arange(len(whole)))
    chosen = torch.cat([torch.nonzero(labels == label)[:per_class, 0] for label in range(CLASSES)])
    return images[chosen, 0].numpy()


def write_sheets(folder: Path) -> None:
    """Make the sheets from the official files."""
    whole = fashion_mnist()
    for split, per_class in PER_CLASS.items():
        sheet = to_sheet(choose(whole.split(split), per_class))
        Image.fromarray(sheet).save(folder / f"{split}.png", optimize=True)
