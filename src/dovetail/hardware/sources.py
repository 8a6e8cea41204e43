"""Whether every number of a chip file says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Table = Mapping[str, Any]


def unsourced(tables: Table) -> Iterator[tuple[str, str]]:
    """The path of every number of a chip file that no source speaks of, and the rest of a sentence about it.

    A source speaks of the numbers of the table it stands in, and of all tables in that: of those that its `keys` name
    ("bytes", or with the way to it "memory.bytes"), or of all if it has none. Keys that name nothing are told too.
    """
    paths = [path for path, _ in _leaves(tables, "")]
    for where, source in _sources(tables, ""):
        within = [path for path in paths if path.startswith(where)]
        for key in source.get("keys", ()):
            if not any(_names(key, path, where) for path in within):
                yield f"{where}source", f"names the key {key!r}, which is not there"
    for path, value in _leaves(tables, ""):
        if isinstance(value, int | float) and not isinstance(value, bool):
            known = ((where, source) for where, source in _sources(tables, "") if path.startswith(where))
            if not any(_speaks_of(source, path, where) for where, source in known):
                yield path, "has no source; add a [[source]] that says where the number comes from, with its status"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Everything that is no table or list, by its path; sources themselves are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "source":
                yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _sources(value: Any, path: str) -> Iterator[tuple[str, Table]]:
    """Every source with the path of its table, as the beginning of its numbers' paths."""
    if isinstance(value, Mapping):
        yield from ((path, source) for source in value.get("source", ()))
        for key, inner in value.items():
            if key not in ("source", "settings"):  # what settings hold, only their model knows
                yield from _sources(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _sources(inner, f"{path.rstrip('.')}[{index}].")


def _speaks_of(source: Table, path: str, where: str) -> bool:
    keys = source.get("keys", ())
    return not keys or any(_names(key, path, where) for key in keys)


def _names(key: str, path: str, where: str) -> bool:
    """Whether `key` is a part of the way from `where` to the number."""
    way, named = (re.sub(r"\[\d+\]", "", part) for part in (path.removeprefix(where), key))
    return f".{named}." in f".{way}."
