"""Every format, and the one way back from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from dovetail.formats.entropy import Entropy
from dovetail.formats.format import Format, RawSource
from dovetail.formats.header import Header, read_choice
from dovetail.formats.structures import STRUCTURES
from dovetail.formats.values import VALUES

FORMATS: tuple[type[Format], ...] = (*VALUES, *STRUCTURES, Entropy)

_BY_NAME = {format.name: format for format in FORMATS}


def from_arrays(header: Header, arrays: Mapping[str, NDArray[Any]]) -> Format:
    """The format that wrote `header` and `arrays`. Raises FormatError on anything missing, damaged or inconsistent."""
    return _BY_NAME[read_choice(header, "format", tuple(_BY_NAME))].read(header, RawSource(arrays))
