"""CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 in ten classes, in the binary version.

Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
A record is 1 label byte and 3,072 pixels (the red, green and blue planes, row by row); 10,000 records a file.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dovetail.data.augment import ShiftAndFlip
from dovetail.data.dataset import Dataset, TensorSplit, hold_out
from dovetail.data.sources import download, locate
from dovetail.data.task import Classification
from dovetail.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
FILES = (*TRAIN_FILES, TEST_FILE)
RECORD_BYTES = 1 + 3 * 32 * 32
RECORDS = 10_000
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


def read_records(path: Path, records: int) -> NDArray[np.uint8]:
    """The records (records, 3073) of one file; DataError if it has another length or a label above 9."""
    content = np.fromfile(path, np.uint8)
    if content.size != records * RECORD_BYTES:
        raise DataError(f"{path} is damaged: {records * RECORD_BYTES} bytes expected, {content.size} found")
    table = content.reshape(records, RECORD_BYTES)
    if table[:, 0].max() >= len(CLASSES):
        raise DataError(f"{path} is damaged: labels are 0 to 9, found {table[:, 0].max()}")
    return table


def _split(*paths: Path) -> TensorSplit:
    table = torch.from_numpy(np.concatenate([read_records(path, RECORDS) for path in paths]))
    return TensorSplit(table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].to(torch.int64))


def _fetch(folder: Path) -> None:
    archive = download(URL, folder)
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest != MD5:
            raise DataError(f"{URL} has changed or was damaged on the way: its md5 should be {MD5}, but is {digest}")
        with tarfile.open(archive) as tar:
            for name in FILES:
                member = tar.extractfile(f"{FOLDER}/{name}")
                assert member is not None  # the checksum says it is the archive that we know
                part = folder / f".{name}.part"
                part.write_bytes(member.read())
                os.replace(part, folder / name)
    finally:
        archive.unlink(missing_ok=True)


def cifar10() -> Dataset:
    """Animals and vehicles: 45,000 + 5,000 + 10,000 colour photographs of 32 x 32.

    Inputs are scaled by ImageNet's mean and deviation, as the published CIFAR ResNets expect.
    """
    folder = locate("cifar10", FOLDER, FILES, _fetch)
    train, validation = hold_out(_split(*(folder / name for name in TRAIN_FILES)))
    return Dataset(
        name="cifar10",
        task=Classification(),
        train=train,
        validation=validation,
        test=_split(folder / TEST_FILE),
        input_shape=(3, 32, 32),
        classes=CLASSES,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augment=ShiftAndFlip(shift=4, flip=True),
    )
