"""The idx format of MNIST: a big-endian header, then unsigned bytes (LeCun, yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import DataError

UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, *, name: str) -> NDArray[np.uint8]:
    """The array in `content`; DataError, naming the file, if it is not an idx file of bytes or has the wrong length."""
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
