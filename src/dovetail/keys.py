"""The keys of a TOML file, checked against the dataclasses it is read into: unknown, missing or of another type.

msgspec, which makes the dataclasses, passes over keys it does not know, and does not say what a key may be.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Any: "anything"}


def problems(table: Mapping[str, Any], kind: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """What is wrong with the keys of `table`, which is to become the dataclass `kind`, and of all tables in it.

    Each is the key's path ("memory[2].bytes"; `where` begins it) and the rest of a sentence about it.
    """
    types = get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.init}
    for key in table:
        if key not in known:
            yield _path(where, key), f"is unknown{hint(key, known)}"
    for key, field in known.items():
        if key in table:
            yield from _value(table[key], types[key], _path(where, key))
        elif field.default is MISSING and field.default_factory is MISSING:
            yield _path(where, key), f"is missing; it must be {words(types[key])}"


def hint(name: str, known: Iterable[str]) -> str:
    """What was probably meant by an unknown name, as the end of a sentence."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def words(kind: Any) -> str:
    """What a value of a type is to its reader: "a whole number", "one of I, W, O"."""
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, choices))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(words(choice) for choice in choices if choice is not type(None))
    if get_origin(kind) is tuple:
        inner = choices[0] if choices else Any
        size = "" if not choices or choices[-1] is Ellipsis else f" of {len(choices)}"
        return "a list of tables" if is_dataclass(inner) else f"a list{size}, each {words(inner)}"
    if is_dataclass(kind) or _is_table(kind):
        return f"a table whose keys are {words(choices[0])} and values {words(choices[1])}" if choices else "a table"
    return WORDS.get(kind, str(kind))


def _value(value: Any, kind: Any, where: str) -> Iterator[tuple[str, str]]:
    inner = next((part for part in (kind, *get_args(kind)) if is_dataclass(part)), None)
    if inner is not None and isinstance(value, dict) and get_origin(kind) is not tuple:
        yield from problems(value, inner, where)
    elif inner is not None and isinstance(value, list) and all(isinstance(row, dict) for row in value):
        for index, row in enumerate(value):
            yield from problems(row, inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, f"must be {words(kind)}, got {value}"
    elif (wrong := _unfit(value, kind)) is not None:
        yield where, f"must be {words(kind)}, got {wrong}"


def _unfit(value: Any, kind: Any) -> str | None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return repr(value)
    return None


def _is_table(kind: Any) -> bool:
    return isinstance(origin := get_origin(kind), type) and issubclass(origin, Mapping)


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
