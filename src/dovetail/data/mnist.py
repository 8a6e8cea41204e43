"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 in ten classes, as four gzipped idx files.

LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition. Proc. IEEE 1998.
Xiao, Rasul, Vollgraf. Fashion-MNIST. 2017. arXiv:1708.07747 (Copyright 2017 Zalando SE, MIT licence)
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from dovetail.data.augment import ShiftAndFlip
from dovetail.data.dataset import Dataset, TensorSplit, hold_out
from dovetail.data.idx import parse_idx
from dovetail.data.sources import cache_folder, download, find_folder, missing, offline
from dovetail.data.task import Classification
from dovetail.errors import DataError

DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class IdxSource:
    """Where the four files of an MNIST-like set come from.

    `sha256` is of each file's content after gunzip: the same idx file is in circulation under several compressions.
    """

    name: str
    folder: str
    url: str
    sha256: dict[str, str]

    def read(self, file: str, path: Path) -> bytes:
        """The checked idx content of `path`, one of this source's files."""
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged ({error}): fetch it again from {self.url}{file}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256[file]:
            raise DataError(f"{path} is not the official {file} of {self.name}: fetch it again from {self.url}{file}")
        return content

    def locate(self) -> Path:
        """The folder that holds the four files, downloaded if need be."""
        files = tuple(self.sha256)
        found = find_folder(self.folder, files)
        if found is not None:
            return found
        if offline():
            raise missing(self.name, self.folder, files, "DOVETAIL_OFFLINE is set")
        folder = cache_folder() / self.folder
        try:
            for file in files:
                if not (folder / file).is_file():
                    self._fetch(file, folder)
        except OSError as error:
            raise missing(self.name, self.folder, files, f"cannot be downloaded ({error})") from error
        return folder

    def _fetch(self, file: str, folder: Path) -> None:
        part = download(self.url + file, folder)
        try:
            self.read(file, part)
            os.replace(part, folder / file)
        finally:
            part.unlink(missing_ok=True)


MNIST = IdxSource(
    "mnist",
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
FASHION_MNIST = IdxSource(
    "fashion_mnist",
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


def _split(source: IdxSource, folder: Path, prefix: str) -> TensorSplit:
    images_file, labels_file = (file for file in source.sha256 if file.startswith(prefix))
    images = parse_idx(source.read(images_file, folder / images_file), name=images_file)
    labels = parse_idx(source.read(labels_file, folder / labels_file), name=labels_file)
    return TensorSplit(torch.from_numpy(images)[:, None], torch.from_numpy(labels).to(torch.int64))


def mnist() -> Dataset:
    """Handwritten digits."""
    folder = MNIST.locate()
    train, validation = hold_out(_split(MNIST, folder, "train"))
    return Dataset(
        name="mnist",
        task=Classification(),
        train=train,
        validation=validation,
        test=_split(MNIST, folder, "t10k"),
        input_shape=(1, 28, 28),
        classes=DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        augment=ShiftAndFlip(shift=2, flip=False),
    )


def fashion_mnist() -> Dataset:
    """Pictures of clothes."""
    folder = FASHION_MNIST.locate()
    train, validation = hold_out(_split(FASHION_MNIST, folder, "train"))
    return Dataset(
        name="fashion_mnist",
        task=Classification(),
        train=train,
        validation=validation,
        test=_split(FASHION_MNIST, folder, "t10k"),
        input_shape=(1, 28, 28),
        classes=FASHION,
        mean=(0.2860,),
        std=(0.3530,),
        augment=ShiftAndFlip(shift=2, flip=True),
    )
