"""What the model of one kind of chip knows by name beyond what every chip has, and what it makes of zeros."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dovetail import keys
from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.layer import OPERANDS


@dataclass(frozen=True)
class Setting:
    """One of a chip's `settings`: what is expected, in words, and whether a value is that."""

    expected: str
    fits: Callable[[Any], bool]
    optional: bool = False


def whole(least: int) -> Setting:
    return Setting(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def number(least: float) -> Setting:
    return Setting(
        f"a number of at least {least:g}",
        lambda value: type(value) in (int, float) and least <= value < math.inf,
    )


FLAG = Setting("true or false", lambda value: isinstance(value, bool), optional=True)
SOME_OPERANDS = Setting(
    f"a list of some of {', '.join(OPERANDS)}",
    lambda value: isinstance(value, list | tuple) and all(one in OPERANDS for one in value),
    optional=True,
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """`dimensions` and `memories`: the names that there must be, and no others; of any names if None.

    `zeros`: whether the model counts what `gates`, `skips` and `compressed` save.
    """

    dimensions: tuple[str, ...] | None = None
    memories: tuple[str, ...] | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    zeros: bool = False


def require(chip: Chip, parts: Parts) -> None:
    """
    Raises:
        TargetError: the chip has not the parts that the model of its kind needs, or some that mean nothing to it.
    """
    for problem in _problems(chip, parts):
        raise TargetError(f"Chip {chip.name!r} of kind {chip.kind!r}: {problem}")


def _problems(chip: Chip, parts: Parts) -> Iterator[str]:
    names = {"dimensions": [one.name for one in chip.dimension], "memories": [one.name for one in chip.memory]}
    for what, expected in (("dimensions", parts.dimensions), ("memories", parts.memories)):
        if expected is not None and set(names[what]) != set(expected):
            yield f"its {what} are {', '.join(expected)}, got {', '.join(names[what]) or 'none'}"
    for name, setting in parts.settings.items():
        if name not in chip.settings and not setting.optional:
            yield f"settings.{name} is missing; it is {setting.expected}"
        if name in chip.settings and not setting.fits(chip.settings[name]):
            yield f"settings.{name} is {setting.expected}, got {chip.settings[name]!r}"
    for name in chip.settings:
        if name not in parts.settings:
            yield f"settings.{name} is unknown{keys.hint(name, parts.settings)}"
    if not parts.zeros:
        if chip.arithmetic.gates or chip.arithmetic.skips:
            yield "its model does not count what zeros save: leave out gates and skips"
        for memory in chip.memory:
            if memory.compressed:
                yield f"its model does not count what zeros save: leave out compressed of memory {memory.name!r}"
