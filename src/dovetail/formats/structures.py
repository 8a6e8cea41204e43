"""The formats that say where the elements are."""

from __future__ import annotations

from dovetail.formats.bitmap import Bitmap
from dovetail.formats.block_csc import BlockCSC
from dovetail.formats.dense import Dense
from dovetail.formats.format import Format
from dovetail.formats.relative_index import RelativeIndex

STRUCTURES: tuple[type[Format], ...] = (Dense, Bitmap, RelativeIndex, BlockCSC)
