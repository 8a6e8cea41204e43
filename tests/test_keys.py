"""The keys of a table are held against the dataclass it becomes, and each mistake is named with its path."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from dovetail.keys import hint, problems, words


@dataclass
class Part:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass
class Whole:
    name: str
    parts: tuple[Part, ...] = ()
    main: Part | None = None
    share: float | None = None
    weights: tuple[float, ...] = ()
    named: Mapping[Literal["x", "y"], int] = field(default_factory=dict)
    anything: Mapping[str, Any] = field(default_factory=dict)
    computed: int = field(default=0, init=False)


GOOD: dict[str, Any] = {
    "name": "n",
    "parts": [{"size": 1}, {"size": 2, "kind": "b"}],
    "main": {"size": 3},
    "share": 1,
    "weights": [1, 0.5],
    "named": {"x": 1},
    "anything": {"z": [1, "two"]},
}


def test_what_is_right_has_no_problems() -> None:
    assert list(problems(GOOD, Whole)) == []
    assert list(problems({"name": "n"}, Whole)) == []


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"nam": "m"}, "nam", "is unknown; did you mean 'name'?"),
        ({"computed": 1}, "computed", "is unknown; known are name, parts"),
        ({"parts": [{"size": 1}, {}]}, "parts[1].size", "is missing; it must be a whole number"),
        ({"parts": [{"size": 1, "sizes": 2}]}, "parts[0].sizes", "is unknown; did you mean 'size'?"),
        ({"parts": [{"size": 1, "kind": "c"}]}, "parts[0].kind", "must be one of a, b, got 'c'"),
        ({"parts": {"size": 1}}, "parts", "must be a list of tables, got {'size': 1}"),
        ({"parts": [1]}, "parts", "must be a list of tables, got [1]"),
        ({"main": {"size": "1"}}, "main.size", "must be a whole number, got '1'"),
        ({"main": 3}, "main", "must be a table, got 3"),
        ({"share": True}, "share", "must be a number, got True"),
        ({"share": float("inf")}, "share", "must be a number, got inf"),
        ({"weights": ["1"]}, "weights", "must be a list, each a number, got ['1']"),
        ({"named": {"z": 1}}, "named", "must be a table whose keys are one of x, y and values a whole number, got"),
    ],
)
def test_a_mistake_is_named_with_its_path(change: dict[str, Any], path: str, reason: str) -> None:
    ((found, said),) = problems(GOOD | change, Whole)
    assert found == path and said.startswith(reason)


def test_words_for_readers() -> None:
    assert words(int | float | None) == "a whole number or a number"
    assert words(complex) == str(complex)
    assert hint("zzz", ["a", "b"]) == "; known are a, b"
