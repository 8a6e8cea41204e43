"""Data sets of four gzipped idx files, as MNIST has them."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dovetail.data.dataset import TensorSplit
from dovetail.data.sources import download, locate
from dovetail.errors import DataError

UNSIGNED_BYTE = 0x08


@dataclass(frozen=True, kw_only=True)
class IdxSource:
    """Where the four files of a data set come from.

    `sha256` is of each file's content after gunzip, because the same content goes about in several compressions.
    """

    name: str
    folder: str
    url: str
    sha256: dict[str, str]

    def splits(self) -> tuple[TensorSplit, TensorSplit]:
        """The official training and test set, downloaded if need be: images (N, 1, H, W) and classes."""
        folder = locate(self.name, self.folder, tuple(self.sha256), self._fetch)
        arrays = [parse_idx(self.read(file, folder / file), name=file) for file in self.sha256]
        train_images, train_labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
        return (
            TensorSplit(train_images[:, None], train_labels.to(torch.int64)),
            TensorSplit(test_images[:, None], test_labels.to(torch.int64)),
        )

    def read(self, file: str, path: Path) -> bytes:
        """The checked idx content of `path`, which should hold this source's `file`."""
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged ({error}): fetch it again from {self.url}{file}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256[file]:
            raise DataError(f"{path} is not the official {file} of {self.name}: fetch it again from {self.url}{file}")
        return content

    def _fetch(self, folder: Path) -> None:
        for file in self.sha256:
            if not (folder / file).is_file():
                part = download(self.url + file, folder)
                try:
                    self.read(file, part)
                    os.replace(part, folder / file)
                finally:
                    part.unlink(missing_ok=True)


def parse_idx(content: bytes, *, name: str) -> NDArray[np.uint8]:
    """The array in an idx file: a big-endian header with the shape, then unsigned bytes in C order.

    Raises DataError, naming the file, if it is anything else or has the wrong length.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(f"{name} is not an idx file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    axes = content[3]
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{name} is truncated: its header of {header} bytes ends after {len(content)}")
    shape = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(f"{name} is damaged: {math.prod(shape)} bytes {shape} expected, {len(content) - header} found")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
