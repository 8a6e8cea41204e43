"""Changing an ONNX graph: who makes and who reads a value, its constants, new names, and putting all in order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from dovetail.runtime.constants import OpenModel, evaluate

Array = NDArray[Any]


class Editor:
    """A graph whose nodes may be added and rewired in any order; `finish` writes them back, sorted, without dead ones.

    What a subgraph (of If or Loop) reads is read by the node that holds it, and is never rewired.
    """

    def __init__(self, model: OpenModel) -> None:
        self._model = model.proto
        graph = self._model.graph
        self._nodes: dict[int, NodeProto] = {}
        self._makers: dict[str, NodeProto] = {}
        self._readers: defaultdict[str, dict[int, NodeProto]] = defaultdict(dict)
        self.constants = model.constants
        self.ends = {value.name for value in graph.output}
        self._taken = {*self.constants, *(value.name for value in (*graph.input, *graph.output))}
        for node in graph.node:
            self._enter(node)
            self._taken.update(_inputs(node), _outputs(node))

    @property
    def nodes(self) -> list[NodeProto]:
        """Those of the graph, in its order, and then what was added."""
        return list(self._nodes.values())

    def producer(self, value: str) -> NodeProto | None:
        """The node that makes a value; None for inputs and constants."""
        return self._makers.get(value)

    def readers(self, value: str) -> list[NodeProto]:
        return list(self._readers[value].values())

    def only_reader(self, value: str) -> NodeProto | None:
        """The node that reads a value, if nothing else does."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self.ends else None

    def scalar(self, name: str) -> float | None:
        """The number that a constant of one element holds."""
        single = name in self.constants and math.prod(self.constants.shape(name)) == 1
        return float(self.constants[name].reshape(-1)[0]) if single else None

    def fold_numbers(self) -> None:
        """Make constants of what is computed from single numbers or rows of numbers only, as a learned step's magnitude
        or a scale for each channel is."""
        for node in self.nodes:
            names = [name for name in node.input if name]
            if names and all(map(self._is_row, names)) and not self._ends(node):
                self.constants.update(evaluate(node, {name: self.constants[name] for name in names}, self._model))
                self._leave(node)

    def _is_row(self, name: str) -> bool:
        """Whether a value is constant, and one number or one row of them."""
        return name in self.constants and math.prod(shape := self.constants.shape(name)) == max(shape, default=1)

    def _ends(self, node: NodeProto) -> bool:
        """Whether a node cannot be done without: it gives an output, is random, or holds a subgraph."""
        return not self.ends.isdisjoint(node.output) or "Random" in node.op_type or any(_inner(node))

    def constant(self, array: Array, hint: str) -> str:
        """The name of a new constant."""
        name = self._fresh(hint)
        self.constants[name] = array
        return name

    def add(self, operator: str, inputs: Iterable[str], hint: str, **attributes: Any) -> str:
        """The name of the output of a new node."""
        name = self._fresh(hint)
        self._enter(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def feed(self, node: NodeProto, inputs: Iterable[str]) -> None:
        """Let a node read `inputs`."""
        self._forget_reads(node)
        node.input[:] = list(inputs)
        self._note_reads(node)

    def redirect(self, old: str, new: str, readers: Iterable[NodeProto]) -> None:
        """Let `readers` read `new` in place of `old`."""
        for node in readers:
            self.feed(node, [new if name == old else name for name in node.input])

    def replace(self, old: str, new: str) -> str:
        """Let `new` take the place of `old` everywhere; the name that it has then, `old` at the graph's output.

        What only `old` was computed for is gone then.
        """
        self.redirect(old, new, self.readers(old))
        if old not in self.ends:
            self._discard(old)
            return new
        former, maker = self.producer(old), self.producer(new)
        assert former is not None and maker is not None
        self._rename(former, old, self._fresh(old))
        self._rename(maker, new, old)
        self.redirect(new, old, self.readers(new))
        return old

    def _discard(self, value: str) -> None:
        """Take away the node that makes a value that nothing reads, and what then is not read either."""
        pending = [value]
        while pending:
            node = self.producer(pending.pop())
            if node is not None and not any(name in self.ends or self.readers(name) for name in node.output):
                self._leave(node)
                pending += _inputs(node)

    def finish(self) -> None:
        """Write the nodes that the output depends on back to the graph, each after what it reads; drop constants that
        none of them reads."""
        order: list[NodeProto] = []
        done: set[str] = set()
        pending = sorted(self.ends)
        while pending:
            node = self.producer(pending[-1])
            reads = () if node is None else _inputs(node)
            missing = [name for name in reads if name in self._makers and name not in done]
            if missing and pending[-1] not in done:
                pending += missing
                continue
            if node is not None and pending[-1] not in done:
                order.append(node)
                done.update(node.output)
            pending.pop()
        used = {name for node in order for name in _inputs(node)} | self.ends
        for name in self.constants.keys() - used:
            del self.constants[name]
        self._model.graph.ClearField("node")
        self._model.graph.node.extend(order)

    def _enter(self, node: NodeProto) -> None:
        self._nodes[id(node)] = node
        self._makers.update((name, node) for name in node.output if name)
        self._note_reads(node)

    def _leave(self, node: NodeProto) -> None:
        del self._nodes[id(node)]
        for name in filter(None, node.output):
            self._makers.pop(name, None)
        self._forget_reads(node)

    def _note_reads(self, node: NodeProto) -> None:
        for name in filter(None, _inputs(node)):
            self._readers[name][id(node)] = node

    def _forget_reads(self, node: NodeProto) -> None:
        for name in filter(None, _inputs(node)):
            self._readers[name].pop(id(node), None)

    def _rename(self, node: NodeProto, old: str, new: str) -> None:
        node.output[:] = [new if name == old else name for name in node.output]
        self._makers[new] = self._makers.pop(old)

    def _fresh(self, hint: str) -> str:
        name = next(name for name in chain([hint], (f"{hint}_{i}" for i in count(1))) if name not in self._taken)
        self._taken.add(name)
        return name


def computed(node: NodeProto, constants: Mapping[str, Array]) -> Array | None:
    """What a cast or product of constants comes to; None of other nodes."""
    if node.op_type not in ("Cast", "Mul") or any(name not in constants for name in node.input):
        return None
    (result,) = ReferenceEvaluator(node).run(None, {name: constants[name] for name in node.input})
    return np.asarray(result)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def per_output(constant: Array | None, outputs: int, places: int) -> NDArray[np.float64] | None:
    """One number for each output from a constant that is broadcast to (N, outputs, *places); None if it is not so."""
    if constant is None or constant.size not in (1, outputs):
        return None
    if (
        constant.size == outputs
        and outputs > 1
        and constant.shape[max(constant.ndim - places - 1, 0) :][:1] != (outputs,)
    ):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (outputs,))


def _inputs(node: NodeProto) -> Iterator[str]:
    """What a node reads, and all that the nodes of its subgraphs read."""
    yield from node.input
    for inner in _inner(node):
        yield from _inputs(inner)


def _outputs(node: NodeProto) -> Iterator[str]:
    yield from node.output
    for inner in _inner(node):
        yield from _outputs(inner)


def _inner(node: NodeProto) -> Iterator[NodeProto]:
    for part in node.attribute:
        if part.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            for graph in (part.g, *part.graphs):
                yield from graph.node
