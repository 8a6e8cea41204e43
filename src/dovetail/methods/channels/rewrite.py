"""Adapting a network's graph after channels have gone: sizes and positions that are written in its code.

Every node that moves data is run on what is left of its labels. Where the result is not what is left of its own, the
sizes in its code no longer fit: reshapes get the new sizes, and what takes or pads channels by position becomes a
`Route` that picks the channels by index.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from dovetail.methods.channels import rules
from dovetail.methods.channels.labels import Labels
from dovetail.methods.channels.route import Route
from dovetail.methods.channels.walk import FAILURES, Walk, describe, function_name, mapped

RESHAPES = ("view", "reshape", "move.reshape", "unflatten", "expand", "move.expand")
ROUTE = "route"


class _Impossible(Exception):  # noqa: N818 (no error of a user's)
    """A node that cannot be adapted."""


class Rewrite:
    """Tries the graph on what is left of all labels; `failures` are nodes that cannot be adapted, and why.

    `changes` says whether anything must be adapted, and `graph()` gives the adapted graph.
    """

    def __init__(self, walk: Walk, removed: set[int]) -> None:
        self.walk = walk
        self.removed = np.array(sorted(removed), dtype=np.int64)
        self.left: dict[fx.Node, Any] = {}
        self.failures: dict[fx.Node, str] = {}
        self.arguments: dict[fx.Node, tuple[Any, ...]] = {}
        """New arguments of nodes."""
        self.routes: dict[fx.Node, tuple[fx.Node, Route, int | None]] = {}
        """Nodes whose result is to be that of a Route: on which node's, and an index to select first or None."""
        for node in walk.labels:
            self._visit(node)

    @property
    def changes(self) -> bool:
        """Whether the graph must be adapted."""
        return bool(self.arguments or self.routes)

    def graph(self) -> fx.GraphModule:
        """The adapted graph, sharing the network's modules."""
        source = self.walk.module
        assert isinstance(source, fx.GraphModule)
        result, places = fx.Graph(), dict[fx.Node, fx.Node]()
        routes: dict[str, Route] = {}
        free = (name for i in itertools.count() if not hasattr(source, name := f"{ROUTE}{i}"))
        for node in source.graph.nodes:
            if node in self.routes:
                before, route, _ = self.routes[node]
                name = next(free)
                routes[name] = route
                place = places[before] if before is not node else self._copy(result, node, places)
                places[node] = result.call_module(name, (place,))
            else:
                places[node] = self._copy(result, node, places)
        for name, route in routes.items():
            source.add_module(name, route.to(_device(source)))
        module = fx.GraphModule(source, result)
        module.graph.eliminate_dead_code()
        module.recompile()
        module.meta.update(source.meta)
        return module

    def keep(self, labels: Labels) -> Tensor:
        """What is left of a tensor's labels."""
        gone = np.isin(self.walk.classes.roots(labels.ids), self.removed)
        ids, shape = labels.ids, list(labels.shape)
        for axis in range(ids.ndim):
            if ids.shape[axis] > 1:
                others = tuple(i for i in range(ids.ndim) if i != axis)
                stays = np.flatnonzero(~gone.all(others))
                ids, gone = ids.take(stays, axis), gone.take(stays, axis)
                shape[axis] = len(stays)
        assert not gone.any(), "what is left of a tensor is not a box"
        return Labels(ids, tuple(shape)).tensor()

    def stays(self, labels: Labels, axis: int) -> list[int]:
        """The positions along one axis that are left."""
        gone = np.isin(self.walk.classes.roots(labels.ids), self.removed)
        if labels.ids.shape[axis] == 1:
            return list(range(labels.shape[axis]))
        others = tuple(i for i in range(gone.ndim) if i != axis)
        return [int(position) for position in np.flatnonzero(~gone.all(others))]

    def _copy(self, result: fx.Graph, node: fx.Node, places: dict[fx.Node, fx.Node]) -> fx.Node:
        copied = result.node_copy(node, lambda old: places[old])
        if node in self.arguments:
            copied.args = fx.node.map_arg(self.arguments[node], lambda old: places[old])
            if node.op == "call_module":  # an nn.Unflatten
                copied.op, copied.target = "call_method", "reshape"
            copied.kwargs = {key: value for key, value in copied.kwargs.items() if key in ("allowzero",)}
        return copied

    def _visit(self, n: fx.Node) -> None:
        labels = self.walk.labels[n]
        if labels is None:
            self.left[n] = self._plain(n)
            return
        expected = mapped(labels, lambda leaf: self.keep(leaf) if isinstance(leaf, Labels) else leaf)
        self.left[n] = expected
        try:
            if self.walk.kinds[n] == "moves":
                self._check_moves(n, expected)
            elif self.walk.kinds[n] == "pads":
                self._check_pads(n)
            elif self.walk.kinds[n] == "routes":
                self._check_routes(n)
            elif n.op in ("call_function", "call_method"):
                self._check_numbers(n)
        except _Impossible as error:
            self.failures[n] = str(error)

    def _plain(self, n: fx.Node) -> Any:
        """A size computed anew; what depends on more than sizes stays."""
        old = self.walk.plain[n]
        if n.op not in ("call_function", "call_method") or isinstance(old, Tensor) or old is None:
            return old
        try:
            return self.walk.execute(n, self.left.__getitem__)
        except FAILURES:
            return old

    def _check_numbers(self, n: fx.Node) -> None:
        """A size that enters arithmetic keeps its old value."""

        def number(node: fx.Node) -> Any:
            old = self.walk.plain.get(node)
            changed = isinstance(old, int | float) and not _same(old, self.left[node])
            return old if changed else node

        args = fx.node.map_arg(n.args, number)
        if any(isinstance(old, fx.Node) and new is not old for old, new in zip(n.args, args, strict=True)):
            self.arguments[n] = args

    def _check_moves(self, n: fx.Node, expected: Any) -> None:
        arguments = [node for node in n.all_input_nodes]
        if any(node in self.failures for node in arguments):
            return
        try:
            found = self.walk.execute(n, self.left.__getitem__)
        except FAILURES:
            found = None
        if _same(found, expected):
            return
        name = function_name(n) if n.op != "call_module" else type(self.walk.fetch_attr(str(n.target))).__name__
        if name in (*RESHAPES, "Unflatten") and isinstance(expected, Tensor):
            self._resize(n, name, expected)
        elif isinstance(expected, tuple | list):
            self._route_parts(n, expected)
        else:
            self._route_positions(n, expected)

    def _resize(self, n: fx.Node, name: str, expected: Tensor) -> None:
        """Write the sizes that are left."""
        given = n.args[1:] if name in ("view", "reshape", "expand") and len(n.args) != 2 else n.args[1:2]
        flat = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
        sizes: list[Any] = list(expected.shape)
        if name in ("view", "reshape", "expand", "move.reshape") and len(flat) == expected.ndim:
            values = [self.left[size] if isinstance(size, fx.Node) else size for size in flat]
            keeps = (-1, 0) if name == "move.reshape" else (-1,)
            sizes = [
                size if value in (*keeps, left) else left
                for size, value, left in zip(flat, values, expected.shape, strict=True)
            ]
        if sizes[0] == expected.shape[0] and not isinstance(sizes[0], fx.Node) and -1 not in sizes:
            sizes[0] = -1  # the batch is not the example's
        target = n.args[0]
        self.arguments[n] = (target, sizes) if name.startswith("move.") else (target, *sizes)
        if name == "unflatten":
            raise _Impossible(f"{describe(n)} has sizes that cannot be adapted")

    def _route_parts(self, n: fx.Node, expected: Any) -> None:
        """Each part of a split that somebody reads is picked from the whole."""
        whole = n.args[0]
        if not isinstance(whole, fx.Node) or any(not _is_part(user) for user in n.users):
            raise _Impossible(f"{describe(n)} has parts that cannot be adapted")
        parts = self._on_positions(n, whole)
        for user in n.users:
            axis, positions = self._axis(whole, parts[user.args[1]], self.walk.labels[user])
            self.routes[user] = (whole, self._route(whole, user, axis, axis, positions), None)

    def _route_positions(self, n: fx.Node, expected: Tensor) -> None:
        """What takes positions along the channels: the other axes as before, then a Route."""
        whole = n.args[0]
        if not isinstance(whole, fx.Node) or n in self.routes:
            raise _Impossible(f"{describe(n)} cannot be adapted")
        if n.target is operator.getitem and isinstance(n.args[1], tuple):
            self._route_item(n, whole, n.args[1])
            return
        axis, positions = self._axis(whole, self._on_positions(n, whole), self.walk.labels[n])
        self.routes[n] = (whole, self._route(whole, n, axis, axis, positions), None)

    def _route_item(self, n: fx.Node, whole: fx.Node, items: tuple[Any, ...]) -> None:
        labels = self.walk.labels[whole]
        if any(item is Ellipsis for item in items):
            place = items.index(Ellipsis)
            fill = (slice(None),) * (len(labels.shape) - len(items) + 1)
            items = (*items[:place], *fill, *items[place + 1 :])
        if any(isinstance(item, Tensor | list) or item is None for item in items):
            raise _Impossible(f"{describe(n)} takes channels in a way that cannot be adapted")
        new = list(items)
        for axis, item in enumerate(items):
            stays = self.stays(labels, axis)
            if len(stays) == labels.shape[axis]:
                continue
            plain = fx.node.map_arg(item, self.walk.plain.__getitem__)
            if isinstance(plain, int):
                new[axis] = stays.index(plain % labels.shape[axis])
            else:
                new[axis] = slice(None)
                positions = list(range(*plain.indices(labels.shape[axis])))
                after = axis - sum(isinstance(other, int) for other in items[:axis])
                self.routes[n] = (n, self._route(whole, n, axis, after, positions), None)
        self.arguments[n] = (whole, tuple(new))

    def _check_pads(self, n: fx.Node) -> None:
        x, y = n.args[0], self.walk.labels[n]
        assert isinstance(x, fx.Node)
        labels = self.walk.labels[x]
        amounts = rules.pad_amounts(self.walk, n, len(labels.shape)) or {}
        for axis, (before, _) in amounts.items():
            old, new = self.stays(labels, axis), self.stays(y, axis)
            if y.ids.shape[axis] == 1 or (len(old) == labels.shape[axis] and len(new) == y.shape[axis]):
                continue
            positions = [p - before if 0 <= p - before < labels.shape[axis] else -1 for p in range(y.shape[axis])]
            rest = {other: amount for other, amount in amounts.items() if other != axis and any(amount)}
            fill = self.walk.argument(n, 2 if rules.is_onnx(n) else 3, "value", 0.0) or 0.0
            route = self._route(x, n, axis, axis, positions, float(fill))
            if not rest:
                self.routes[n] = (x, route, None)
                continue
            flat = [
                side for each in range(len(labels.shape)) for side in rest.get(len(labels.shape) - 1 - each, (0, 0))
            ]
            if rules.is_onnx(n):
                raise _Impossible(f"{describe(n)} pads channels and positions at once")
            self.routes[n] = (n, route, None)
            self.arguments[n] = (x, flat, "constant", fill)

    def _check_routes(self, n: fx.Node) -> None:
        """A Route of an earlier removal picks from what is left."""
        old, x, y = self.walk.fetch_attr(str(n.target)), n.args[0], self.walk.labels[n]
        assert isinstance(old, Route) and isinstance(x, fx.Node)
        before = self.walk.labels[x]
        if len(self.stays(before, old.axis)) < before.shape[old.axis] or len(self.stays(y, old.axis)) < len(old.index):
            self.routes[n] = (x, self._route(x, n, old.axis, old.axis, old.index.tolist(), old.value), None)

    def _on_positions(self, n: fx.Node, whole: fx.Node) -> Any:
        """What a node makes of the positions of all elements of its first input."""
        shape = self.walk.labels[whole].shape
        positions = torch.arange(float(np.prod(shape)), dtype=torch.float64).reshape(shape)
        value = lambda node: positions if node is whole else self.walk._on_labels(node)  # noqa: E731
        return self.walk.execute(n, value)

    def _axis(self, whole: fx.Node, taken: Tensor, result: Labels) -> tuple[int, list[int]]:
        """The axis along which a node takes positions, and which; _Impossible if it does anything else."""
        shape = self.walk.labels[whole].shape
        if taken.ndim != len(shape):
            raise _Impossible("its axes change")
        coordinates = np.unravel_index(taken.numpy().astype(np.int64), shape)
        wide = [axis for axis in range(len(shape)) if self.walk.labels[whole].ids.shape[axis] > 1]
        if len(wide) != 1:
            raise _Impossible("channels lie along several axes")
        for axis, index in enumerate(coordinates):
            size = [1] * taken.ndim
            size[axis] = -1
            expected = np.arange(shape[axis]).reshape(size)
            if axis != wide[0] and (taken.shape[axis] != shape[axis] or (index != expected).any()):
                raise _Impossible("positions are taken along several axes")
        line = np.moveaxis(coordinates[wide[0]], wide[0], -1)
        if (line != line.reshape(-1, line.shape[-1])[0]).any():
            raise _Impossible("channels are mixed with positions")
        return wide[0], [int(position) for position in line.reshape(-1, line.shape[-1])[0]]

    def _route(self, x: fx.Node, y: fx.Node, axis: int, after: int, positions: list[int], value: float = 0.0) -> Route:
        """Picks what is left of `y` from what is left of `x`, given which position of x each of y was."""
        rank = {old: new for new, old in enumerate(self.stays(self.walk.labels[x], axis))}
        wanted = [positions[place] for place in self.stays(self.walk.labels[y], after)]
        if any(position >= 0 and position not in rank for position in wanted):
            raise _Impossible(f"{describe(y)} reads channels that have gone")
        return Route(after, [rank[position] if position >= 0 else -1 for position in wanted], value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, tuple | list):
        return isinstance(a, tuple | list) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(b, Tensor):
        return isinstance(a, Tensor) and a.shape == b.shape and bool((a == b).all())
    return bool(type(a) is type(b) and np.all(a == b))


def _is_part(n: fx.Node) -> bool:
    return n.op == "call_function" and n.target is operator.getitem and isinstance(n.args[1], int)


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
