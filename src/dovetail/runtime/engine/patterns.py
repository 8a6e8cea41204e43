"""Functions that exporters write out in small operators, put together again: one node each, which is computed at once.

A pattern is an operator and what it reads: another pattern, a variable, or a number, which stands for a constant of
that number. Operands of sums and products may be in either order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.runtime.engine.node import Grid, Node

Pattern = tuple[Any, ...] | str | float
Found = dict[str, str]
"""The name of the value that each variable stands for."""

COMMUTATIVE = {"Add", "Mul"}

ERF = ("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0)
ERF_TOO = ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)
SIX = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)
DIFFERENCE = ("Sub", "x", ("ReduceMean", "x"))
DEVIATION = ("Sqrt", ("Add", ("ReduceMean", ("Pow", DIFFERENCE, 2.0)), "epsilon"))
SQUARES = ("Squeeze", ("AveragePool", ("Pad", ("Reshape", ("Mul", "x", "x"), "shape"), "pads")), "axis")
RESPONSE = tuple(("Pow", ("Add", ("Mul", mean, "alpha"), "bias"), "beta")
                 for mean in (SQUARES, ("Reshape", SQUARES, "as before")))  # fmt: skip

CHOICE = ("Where", ("GreaterOrEqual", "x", 0.0), "above", "below")

PATTERNS: list[tuple[str, Pattern]] = [
    *(("Gelu", ("Mul", ("Mul", "x", erf), 0.5)) for erf in (ERF, ERF_TOO)),
    *(("Gelu", ("Mul", ("Mul", "x", 0.5), erf)) for erf in (ERF, ERF_TOO)),
    *(("Gelu", ("Mul", "x", ("Mul", erf, 0.5))) for erf in (ERF, ERF_TOO)),
    ("HardSwish", ("Div", ("Mul", "x", SIX), 6.0)),
    ("HardSwish", ("Mul", ("Mul", "x", SIX), 1 / 6)),
    ("HardSwish", ("Mul", "x", ("Div", SIX, 6.0))),
    ("Swish", ("Mul", "x", ("Sigmoid", "x"))),
    ("Swish", ("Mul", "x", ("Sigmoid", ("Mul", "x", 1.0)))),
    ("LayerNormalization", ("Add", ("Mul", ("Div", DIFFERENCE, DEVIATION), "scale"), "shift")),
    *(("LRN", ("Div", "x", response)) for response in RESPONSE),
    ("Where", CHOICE),
    ("Where", ("DequantizeLinear", CHOICE, "scale of codes", "zero")),
]


@dataclass(frozen=True)
class Graph:
    """What makes each value, and the constants."""

    makers: Mapping[str, Node]
    constants: Mapping[str, NDArray[Any]]

    def number(self, name: str) -> float | None:
        constant = self.constants.get(name)
        return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None

    def kind(self, name: str) -> np.dtype[Any]:
        return self.constants[name].dtype

    def matches(self, pattern: Pattern, name: str, found: Found) -> Iterator[tuple[Found, list[Node]]]:
        """Each way in which a value is the pattern, what is `found` already given: all variables, and the nodes."""
        if isinstance(pattern, str):
            if found.get(pattern, name) == name:
                yield found | {pattern: name}, []
        elif isinstance(pattern, float):
            number = self.number(name)
            if number is not None and math.isclose(number, pattern, rel_tol=1e-6):
                yield found, []
        elif (node := self.makers.get(name)) is not None and node.operator == pattern[0]:
            yield from self.reads(pattern[1:], node, found)

    def reads(self, patterns: tuple[Pattern, ...], node: Node, found: Found) -> Iterator[tuple[Found, list[Node]]]:
        inputs = [name for name in node.inputs if name]
        if node.operator == "ReduceMean":
            inputs = inputs[:1]  # its axes are looked at afterwards
        if len(inputs) != len(patterns):
            return
        orders = [inputs, inputs[::-1]] if node.operator in COMMUTATIVE else [inputs]
        for order in orders:
            for variables, nodes in self._all(patterns, order, found):
                yield variables, [*nodes, node]

    def _all(self, patterns: tuple[Pattern, ...], names: list[str], found: Found) -> Iterator[tuple[Found, list[Node]]]:
        if not patterns:
            yield found, []
            return
        for variables, nodes in self.matches(patterns[0], names[0], found):
            for more, others in self._all(patterns[1:], names[1:], variables):
                yield more, [*nodes, *others]


def put_together(nodes: list[Node], constants: Mapping[str, NDArray[Any]]) -> list[Node]:
    """The nodes, with functions instead of their last parts; the other parts stay, whoever else may read them."""
    makers: dict[str, Node] = {}
    graph = Graph(makers, constants)
    result = []
    for node in nodes:
        makers.update((name, node) for name in node.outputs if name)  # as exported: patterns are made of these
        result.append(_function(graph, node) or node)
    return result


def _function(graph: Graph, node: Node) -> Node | None:
    if len(node.outputs) != 1 or node.grid is not None:
        return None
    for operator, pattern in PATTERNS:
        assert isinstance(pattern, tuple)
        if node.operator != pattern[0]:
            continue
        for found, parts in graph.reads(pattern[1:], node, {}):
            attributes = SETTINGS.get(operator, _none)(graph, found, parts)
            if attributes is not None:
                inputs = tuple(found[name] for name in ("x", "scale", "shift") if name in found)
                return Node(operator, inputs, node.outputs, attributes, _protos(parts))
    return None


def _none(graph: Graph, found: Found, parts: list[Node]) -> dict[str, Any]:
    return {}


def _layer_normalisation(graph: Graph, found: Found, parts: list[Node]) -> dict[str, Any] | None:
    epsilon = graph.number(found["epsilon"])
    fixed = found["scale"] in graph.constants and found["shift"] in graph.constants
    return {"epsilon": epsilon, "axis": -1} if epsilon is not None and fixed and _over_the_last(graph, parts) else None


def _local_response(graph: Graph, found: Found, parts: list[Node]) -> dict[str, Any] | None:
    """A mean of squares over neighbouring channels, which lie along the third of five axes."""
    numbers = {name: graph.number(found[name]) for name in ("alpha", "bias", "beta")}
    shape, pads, axis = (
        np.asarray(graph.constants.get(found[name], ())).reshape(-1).tolist() for name in ("shape", "pads", "axis")
    )
    pool, pad = (next(part for part in parts if part.operator == name).attributes for name in ("AveragePool", "Pad"))
    size, *others = pool.get("kernel_shape", (0,))
    plain = not any(pool.get("pads", ())) and set(pool.get("strides", (1,))) == {1} and not pool.get("ceil_mode", 0)
    constant = pad.get("mode", b"constant") == b"constant" and len(pads) == 10
    if None in numbers.values() or len(shape) != 5 or shape[1] != 1 or axis != [1] or not (plain and constant):
        return None
    before, after = pads[2], pads[7]
    if others != [1, 1] or before + after != size - 1 or sum(map(abs, pads)) != before + after:
        return None
    return {"size": size, "before": before, "summed": shape[2:], **numbers}


def _choice(graph: Graph, found: Found, parts: list[Node]) -> dict[str, Any] | None:
    """Two numbers or, with a scale, two codes."""
    above, below = (graph.number(found[name]) for name in ("above", "below"))
    if above is None or below is None or not below < above:
        return None
    if "zero" not in found:
        return {"low": below, "high": above, "grid": None}
    scale, zero, kind = graph.number(found["scale of codes"]), graph.number(found["zero"]), graph.kind(found["zero"])
    if scale is None or zero is None or kind not in (np.int8, np.uint8) or not scale > 0:
        return None
    up = 128 if kind == np.int8 else 0
    grid = Grid(scale, *(int(code) + up for code in (zero, below, above)))
    return {"low": (below - zero) * scale, "high": (above - zero) * scale, "grid": grid}


SETTINGS = {"LayerNormalization": _layer_normalisation, "LRN": _local_response, "Where": _choice}
"""The attributes of a function that has some, or None where it is another one."""


def _protos(parts: Iterable[Node]) -> tuple[Any, ...]:
    return tuple({id(proto): proto for part in parts for proto in part.protos}.values())


def _over_the_last(graph: Graph, parts: list[Node]) -> bool:
    """Whether all means keep their axis, and are over the last one."""
    for part in parts:
        if part.operator == "ReduceMean":
            axes = part.attributes.get("axes")
            if axes is None and len(part.inputs) > 1:
                axes = np.asarray(graph.constants.get(part.inputs[1], ())).reshape(-1).tolist()
            if list(axes or ()) != [-1] or not part.attributes.get("keepdims", 1):
                return False
    return True
