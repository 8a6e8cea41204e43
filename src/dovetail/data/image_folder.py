"""A user's own images, in a folder. They are decoded when a batch asks for them.

A folder holds either `train` and `test` (and perhaps `validation`), each one as below, or just one set of images:
    labels.txt         lines `file label`; labels are class numbers, or else names
    CLASS/*.jpg        one sub-folder per class
    *.jpg              images alone: the task is then to match the original network's outputs
A single set is shuffled (always in the same way) and halved into training and test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dovetail.data.augment import ShiftAndFlip
from dovetail.data.dataset import Dataset, Slice, Split, hold_out
from dovetail.data.noise import channels_come_last
from dovetail.data.task import Classification, MatchOutputs
from dovetail.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
LABELS = "labels.txt"
UNLABELLED = -1
MOST_CLASSES = 100_000
CROP = 0.875  # the share of the shorter side that the central crop keeps, as ImageNet networks are evaluated
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class FolderSplit(Split):
    """Image files with their class numbers."""

    paths: tuple[Path, ...] = field(repr=False)
    targets: Tensor = field(repr=False)
    input_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        with ThreadPoolExecutor() as pool:  # decoding runs outside Python's lock
            images = list(pool.map(lambda index: read_image(self.paths[index], self.input_shape), indices.tolist()))
        return torch.from_numpy(np.stack(images)), self.targets[indices]


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The image at `path`, resized and cropped in the middle to `shape` (C, H, W); C is 1 for grey or 3 for colour."""
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}): replace or remove it") from error
    scale = max(height / image.height, width / image.width) / CROP
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.uint8)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def image_folder(folder: Path, input_shape: tuple[int, ...] = (3, 224, 224)) -> Dataset:
    """The data set in `folder`, for a network that takes (C, H, W) or (H, W, C).

    DataError says what is wrong with the folder.
    """
    last = channels_come_last(input_shape)
    if last:
        input_shape = (input_shape[2], *input_shape[:2])
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise DataError(f"images are made into (1, H, W) or (3, H, W), not {input_shape}: give such an input shape")
    channels, height, width = input_shape
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        listings = {name: list_images(folder / name) for name in ("train", "test")}
        if (folder / "validation").is_dir():
            listings["validation"] = list_images(folder / "validation")
    else:
        listings = {"all": list_images(folder)}
    labels = [label for listing in listings.values() for label in listing.values()]
    if None in labels and any(label is not None for label in labels):
        raise DataError(f"some images in {folder} have labels and some have none: label all or none")
    numbers, classes = number_classes({label for label in labels if label is not None})
    splits = {
        name: FolderSplit(
            tuple(listing),
            torch.tensor([UNLABELLED if label is None else numbers[label] for label in listing.values()]),
            (channels, height, width),
        )
        for name, listing in listings.items()
    }
    train, validation, test = _three_splits(splits)
    colour = channels == 3
    return Dataset(
        name=folder.resolve().name,
        task=Classification() if classes else MatchOutputs(),
        train=train,
        validation=validation,
        test=test,
        input_shape=(channels, height, width),
        classes=classes,
        mean=IMAGENET_MEAN if colour else (0.5,),
        std=IMAGENET_STD if colour else (0.5,),
        augment=ShiftAndFlip(shift=height // 32, flip=colour),
        channels_last=last,
    )


def pictures(path: Path, input_shape: tuple[int, ...], like: Dataset | None = None) -> tuple[Dataset, tuple[Path, ...]]:
    """All pictures of a folder (or one, if `path` is a picture) as test images, in the order of their paths.

    They are normalised, and classes are called, as in the data set `like`; without one as in any folder of images.
    """
    paths = (path,) if path.is_file() else tuple(list_images(path, least=1))
    last = channels_come_last(input_shape)
    shape = (input_shape[2], *input_shape[:2]) if last else input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"pictures are made into (1, H, W) or (3, H, W), not {input_shape}: give a .npy file instead")
    split = FolderSplit(paths, torch.full((len(paths),), UNLABELLED), (shape[0], shape[1], shape[2]))
    if like is not None:
        return replace(like, train=split, validation=split, test=split), paths
    colour = shape[0] == 3
    dataset = Dataset(
        name=path.resolve().name,
        task=MatchOutputs(),
        train=split,
        validation=split,
        test=split,
        input_shape=shape,
        classes=(),
        mean=IMAGENET_MEAN if colour else (0.5,),
        std=IMAGENET_STD if colour else (0.5,),
        channels_last=last,
    )
    return dataset, paths


def list_images(folder: Path, least: int = 2) -> dict[Path, str | None]:
    """The images of one set with their labels, sorted by path; labels are None if there are none."""
    if (folder / LABELS).is_file():
        listing = read_labels(folder / LABELS)
    else:
        alone = [(path, None) for path in folder.iterdir()]
        classed = [(path, parent.name) for parent in folder.iterdir() if parent.is_dir() for path in parent.iterdir()]
        listing = {path: label for path, label in [*alone, *classed] if path.suffix.lower() in SUFFIXES}
    if len(listing) < least:
        held = "1 image" if len(listing) == 1 else f"{len(listing)} images"
        needed = "1 is" if least == 1 else f"{least} are"
        raise DataError(
            f"{folder} holds {held}, at least {needed} needed ({', '.join(sorted(SUFFIXES))}): "
            f"put them into it, or into one sub-folder per class, or list them in {LABELS}"
        )
    return dict(sorted(listing.items()))


def read_labels(path: Path) -> dict[Path, str | None]:
    """What a labels.txt lists, each image beside it. DataError names the line that is wrong."""
    listing: dict[Path, str | None] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        file, _, label = line.strip().rpartition(" ")
        if not file or not (path.parent / file).is_file():
            raise DataError(f"{path}, line {number}: expected `file label` with a file that is there, found {line!r}")
        listing[path.parent / file.strip()] = label
    return listing


def number_classes(labels: set[str]) -> tuple[Mapping[str, int], tuple[str, ...]]:
    """The class number of each label and the name of each class: numbers are taken as they are, names are sorted."""
    if all(label.isascii() and label.isdigit() for label in labels):
        count = max((int(label) + 1 for label in labels), default=0)
        if count > MOST_CLASSES:
            raise DataError(f"class numbers go up to {MOST_CLASSES - 1}, found {count - 1}: use names instead")
        return {label: int(label) for label in labels}, tuple(str(number) for number in range(count))
    names = tuple(sorted(labels))
    return {name: number for number, name in enumerate(names)}, names


def _three_splits(splits: Mapping[str, FolderSplit]) -> tuple[Split, Split, Split]:
    """Training, validation and test images, of those that the folder has apart or of a single set."""
    if "all" in splits:
        whole = splits["all"]
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
        half = len(whole) // 2
        train, validation = hold_out(Slice(whole, order[:half]))
        return train, validation, Slice(whole, order[half:])
    if "validation" in splits:
        return splits["train"], splits["validation"], splits["test"]
    train, validation = hold_out(splits["train"])
    return train, validation, splits["test"]
