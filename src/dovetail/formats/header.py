"""Reading what a format wrote in its header, checked: a header may come from a damaged file."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dovetail.errors import FormatError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Header = Mapping[str, Json]

MAX_ELEMENTS = 1 << 31
"""No tensor has more; a header that claims more is damaged."""


def read_shape(header: Header) -> tuple[int, ...]:
    """The header's "shape", checked."""
    shape = header.get("shape")
    if not isinstance(shape, list) or len(shape) > 32:
        raise FormatError(f"the header's shape should be a list of sizes, found {shape!r}")
    sizes = tuple(read_int({"size": size}, "size", 0, MAX_ELEMENTS) for size in shape)
    if math.prod(max(size, 1) for size in sizes) > MAX_ELEMENTS:
        raise FormatError(f"the header's shape {sizes} has more than {MAX_ELEMENTS} elements: the header is damaged")
    return sizes


def read_int(header: Header, key: str, low: int, high: int) -> int:
    """The header's integer `key`, within low..high."""
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FormatError(f"the header's {key} should be an integer in {low}..{high}, found {value!r}")
    return value


def read_choice(header: Header, key: str, choices: tuple[str, ...]) -> str:
    """The header's string `key`, one of `choices`."""
    value = header.get(key)
    if not isinstance(value, str) or value not in choices:
        raise FormatError(f"the header's {key} should be one of {', '.join(choices)}, found {value!r}")
    return value


def read_header(header: Header, key: str) -> Header:
    """The nested header under `key`."""
    value = header.get(key)
    if not isinstance(value, dict):
        raise FormatError(f"the header's {key} should be a nested header, found {value!r}")
    return value
