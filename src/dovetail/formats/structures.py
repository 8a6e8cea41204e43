"""The formats that say where the elements are."""

from __future__ import annotations

from dovetail.formats.bitmap import Bitmap
from dovetail.formats.block_csc import BlockCSC
from dovetail.formats.dense import Dense
from dovetail.formats.format import Source, Structure
from dovetail.formats.header import Header, read_choice
from dovetail.formats.kernel_patterns import KernelPatterns
from dovetail.formats.n_m import NM
from dovetail.formats.relative_index import RelativeIndex

STRUCTURES: tuple[type[Structure], ...] = (Dense, Bitmap, RelativeIndex, BlockCSC, NM, KernelPatterns)

_BY_NAME = {structure.name: structure for structure in STRUCTURES}


def read_structure(header: Header, source: Source) -> Structure:
    """The structure that `header` names, read from `source`."""
    return _BY_NAME[read_choice(header, "format", tuple(_BY_NAME))].read(header, source)
