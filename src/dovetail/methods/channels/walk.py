"""One run of a network's graph in which every tensor carries channel labels.

Functions that only move data are run on the labels themselves, so that they need no rules of their own. Layers and
arithmetic follow `rules`, found by `rule_tables`. Anything unknown freezes what goes into it, and the reason is kept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.methods.channels import rule_tables
from dovetail.methods.channels.labels import Array, Classes, Labels, compact, constant, from_tensor
from dovetail.methods.method import tied

Kind = Literal["plain", "moves", "pads", "routes", "computes"]
"""What a node does: no channels in its result; moves data; pads; is a Route; anything else."""

LARGEST_PARAMETER = 1 << 18
"""Elements up to which a tensor that the network's code reads directly is followed."""

FAILURES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError,
            NotImplementedError)  # fmt: skip


class Walk(fx.Interpreter):
    """Runs a graph; afterwards it knows the labels of every value and of every axis of a weight."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.tied = tied(graph)
        self.classes = Classes()
        self.labels: dict[fx.Node, Any] = {}
        """Labels, or a tuple of them, for each node; None for nodes without channels."""
        self.plain: dict[fx.Node, Any] = {}
        """The values of nodes without channels, such as sizes."""
        self.kinds: dict[fx.Node, Kind] = {}
        self.ports: dict[tuple[str, str], Array] = {}
        """Labels of the channels of a module, by its path and "out", "in", "follow" or "heads"."""
        self.tensors: dict[str, Labels] = {}
        """Labels of tensors that the network's code reads directly, by name."""

    def of(self, example: Tensor) -> Walk:
        """Run it on one input (1, ...); ModelError where it does not run."""
        try:
            with torch.no_grad():
                self.run(example)
        except FAILURES as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"the network does not run on input of shape {tuple(example.shape)}: {reason}") from error
        self._close()
        return self

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.kinds[n] = "computes"
        if not _has_channels(value):
            self.labels[n], self.plain[n] = None, value
            self.kinds[n] = "plain"
            if n.op == "output" or isinstance(value, float | Tensor):
                self.freeze_inputs(n, f"{describe(n)} reads it")
            return value
        self.labels[n] = self._labels(n, value)
        return value

    def _labels(self, n: fx.Node, value: Any) -> Any:
        if n.op == "placeholder":
            return blank(value)
        if n.op == "output":
            self.freeze_inputs(n, "it is an output of the network")
            return blank(value)
        if n.op == "get_attr":
            return self.read(str(n.target), value)
        if n.op == "call_module":
            return self._module(n, value)
        name = function_name(n)
        if name in rule_tables.PASSES:
            return self.source(n)
        if name in rule_tables.MOVES:
            return self._move(n)
        rule = rule_tables.FUNCTIONS.get(name)
        return self.unknown(n, value) if rule is None else rule(self, n, value)

    def _module(self, n: fx.Node, value: Any) -> Any:
        path, module = str(n.target), self.fetch_attr(str(n.target))
        if parametrize.is_parametrized(module):
            return self.unknown(n, value, f"the weight of {path} is parametrized, by a method or its own code")
        if path in self.tied:
            return self.unknown(n, value, f"{path} shares a parameter with another layer")
        if not n.all_input_nodes:
            held = [name for name, tensor in module.named_buffers() if tensor.shape == value.shape]
            return self.read(f"{path}.{held[0]}", value) if held else blank(value)
        if isinstance(module, rule_tables.MOVING_MODULES):
            return self._move(n)
        for kinds, rule in rule_tables.MODULES:
            if isinstance(module, kinds):
                return rule(self, n, value)
        return self.unknown(n, value, f"{path} is a {type(module).__name__}, for which there is no rule")

    def _move(self, n: fx.Node) -> Any:
        self.kinds[n] = "moves"
        found = self.execute(n, self._on_labels)
        return mapped(found, lambda leaf: from_tensor(leaf) if isinstance(leaf, Tensor) else leaf)

    def _on_labels(self, n: fx.Node) -> Any:
        labels = self.labels[n]
        if labels is None:
            return self.plain[n]
        return mapped(labels, lambda leaf: leaf.tensor() if isinstance(leaf, Labels) else leaf)

    def execute(self, n: fx.Node, argument: Callable[[fx.Node], Any]) -> Any:
        """What a node gives, for other arguments than the network's."""
        args, kwargs = fx.node.map_arg(n.args, argument), fx.node.map_arg(n.kwargs, argument)
        if n.op == "call_module":
            return self.fetch_attr(str(n.target))(*args, **kwargs)
        if n.op == "call_method":
            return getattr(args[0], str(n.target))(*args[1:], **kwargs)
        assert callable(n.target)
        return n.target(*args, **kwargs)

    def read(self, name: str, value: Any) -> Any:
        """Labels of a tensor of the network that its code reads, one for each element."""
        if not isinstance(value, Tensor) or value.numel() < 2 or value.numel() > LARGEST_PARAMETER:
            return blank(value)
        if name not in self.tensors:
            ids = self.classes.fresh(value.numel()).reshape(value.shape)
            self.tensors[name] = Labels(ids, tuple(value.shape))
        return self.tensors[name]

    def source(self, n: fx.Node) -> Any:
        """The labels of a node's first argument."""
        first = n.args[0] if n.args else n.kwargs.get("input")
        return self.labels[first] if isinstance(first, fx.Node) else None

    def argument(self, n: fx.Node, position: int, name: str, default: Any = None) -> Any:
        """The value of an argument that holds no channels."""
        found = n.args[position] if position < len(n.args) else n.kwargs.get(name, default)
        return fx.node.map_arg(found, self.plain.get)

    def unknown(self, n: fx.Node, value: Any, reason: str = "") -> Any:
        """Freeze what goes in; what comes out has no channels."""
        reason = reason or f"there is no rule for {describe(n)}"
        self.freeze_inputs(n, reason)
        return self.frozen(value, reason)

    def frozen(self, value: Any, reason: str) -> Any:
        """Labels for every tensor in a value that comes out of something that is not understood."""
        ids = self.classes.fresh(1)
        self.classes.freeze(ids, reason)

        def stuck(leaf: Any) -> Any:
            return Labels(ids.reshape((1,) * leaf.ndim), tuple(leaf.shape)) if isinstance(leaf, Tensor) else leaf

        return mapped(value, stuck)

    def freeze_inputs(self, n: fx.Node, reason: str) -> None:
        for node in n.all_input_nodes:
            for labels in leaves(self.labels.get(node)):
                self.classes.freeze(labels.ids, reason)

    def varies(self, labels: Labels, axis: int) -> bool:
        """Whether the channel depends on the position along this axis."""
        ids = labels.ids
        if ids.shape[axis] == 1:
            return False
        roots = self.classes.roots(ids)
        return bool((roots != roots.take([0], axis)).any())

    def port(self, path: str, role: str, count: int) -> Array:
        """The labels of a module's channels, the same at every call of it."""
        if (path, role) not in self.ports:
            self.ports[path, role] = self.classes.fresh(count)
        return self.ports[path, role]

    def merge(self, labels: Labels, axis: int) -> Array:
        """The labels along one axis, after making all others of the same position one class with them."""
        vector = labels.vector(axis)
        shape = [1] * len(labels.shape)
        shape[axis] = -1
        if labels.ids.size > labels.ids.shape[axis]:
            self.classes.union(labels.ids, vector.reshape(shape) if labels.ids.shape[axis] > 1 else vector[:1])
        return vector

    def _close(self) -> None:
        """Make classes such that what is left of every tensor is a box: whole slices along one axis each."""
        changed = True
        while changed:
            changed = False
            for labels in (*self.tensors.values(), *(x for found in self.labels.values() for x in leaves(found))):
                roots = compact(self.classes.roots(labels.ids))
                wide = [axis for axis in range(roots.ndim) if roots.shape[axis] > 1]
                if len(wide) > 1:
                    shortest = min(wide, key=lambda axis: (roots.shape[axis], axis))
                    self.classes.union(roots, roots.take([0], shortest))
                    changed = True


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The value with a function applied to every part that is no tuple or list."""
    if isinstance(value, tuple | list):
        return tuple(mapped(part, function) for part in value)
    return function(value)


def blank(value: Any) -> Any:
    """Labels without channels for every tensor in a value."""
    return mapped(value, lambda leaf: constant(leaf.shape) if isinstance(leaf, Tensor) else leaf)


def leaves(found: Any) -> Iterable[Labels]:
    """The labels in a node's labels."""
    if isinstance(found, Labels):
        yield found
    elif isinstance(found, tuple | list):
        for part in found:
            yield from leaves(part)


def _has_channels(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_has_channels(part) for part in value)
    return isinstance(value, Tensor) and value.is_floating_point()


def function_name(n: fx.Node) -> str:
    """ "conv.name" with the room of an ONNX function, else the name of a torch function, operator or method."""
    if n.op == "call_method":
        return str(n.target)
    module = getattr(n.target, "__module__", None) or ""
    name = getattr(n.target, "__name__", str(n.target))
    if n.target in (operator.matmul, torch.matmul):
        return "matmul"
    if module.startswith("dovetail.workload.onnx."):
        return f"{module.rpartition('.')[2]}.{name}"
    return str(name).strip("_") if not name.startswith("__") else str(name)


def describe(n: fx.Node) -> str:
    """A node in words."""
    if n.op == "call_module":
        return f"the module {n.target}"
    return f"{function_name(n)}() at {n.name}"
