"""Every format, and the one way back from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.composites import COMPOSITES
from dovetail.formats.entropy import Entropy
from dovetail.formats.format import Format, RawSource
from dovetail.formats.header import Header, read_choice
from dovetail.formats.structures import STRUCTURES
from dovetail.formats.values import VALUES

FORMATS: tuple[type[Format], ...] = (*VALUES, *STRUCTURES, *COMPOSITES, Entropy)

_BY_NAME = {format.name: format for format in FORMATS}


def from_arrays(header: Header, arrays: Mapping[str, NDArray[Any]]) -> Format:
    """The format that wrote `header` and `arrays`. Raises FormatError on anything missing, damaged or inconsistent."""
    if not isinstance(header, Mapping):
        raise FormatError(f"a format's header should be a mapping, found {type(header).__name__}")
    format = _BY_NAME[read_choice(header, "format", tuple(_BY_NAME))].read(header, RawSource(arrays))
    expected = format.streams().keys() | format.tables().keys()
    if arrays.keys() != expected:
        raise FormatError(f"{format.describe()} stores the arrays {sorted(expected)}, found {sorted(arrays)}")
    return format
