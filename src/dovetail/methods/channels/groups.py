"""Which channels of a network must go together, and which must stay and why.

A network computes the same without a channel if everything that reads it reads a zero instead. What ties channels to
each other: a sum ties those that meet in it, a convolution with groups those at the same place of every group,
attention those of one head, a flattening every position of a channel. `dependencies` finds all this by one run of the
network's graph with labelled channels (`walk`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.channels.labels import Array, Labels
from dovetail.methods.channels.rewrite import Rewrite
from dovetail.methods.channels.walk import Walk, leaves
from dovetail.methods.graph import symbolic

Port = tuple[str, str]
"""The path of a module and what it does there: "out" begins channels, "in" ends them, "follow" has numbers for each,
"heads" counts heads of attention."""


@dataclass(frozen=True)
class Group:
    """Interchangeable units, each one or more channels that go together; all pass through the same layers."""

    name: str
    """The path of the first layer that produces them, numbered where it produces several groups."""
    units: tuple[int, ...]
    """The class of each unit, in the order of the first producer's channels."""
    members: Mapping[Port, tuple[Array, ...]] = field(repr=False)
    """For each port, which of its channels each unit holds."""

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.units)

    @property
    def producers(self) -> list[str]:
        """Paths of the layers whose outputs they are."""
        return [path for path, role in self.members if role in ("out", "heads")]

    @property
    def consumers(self) -> list[str]:
        """Paths of the layers whose inputs they are."""
        return [path for path, role in self.members if role == "in"]

    def __str__(self) -> str:
        each = {len(indices) for members in self.members.values() for indices in members}
        bundle = "" if each == {1} else f" of up to {max(each)} channels"
        followers = [path for path, role in self.members if role == "follow"]
        text = f"{self.name}: {self.size} units{bundle}, from {', '.join(self.producers)}"
        text += f", through {', '.join(followers)}" if followers else ""
        return text + (f", to {', '.join(self.consumers)}" if self.consumers else "")


class Dependencies:
    """The groups of a network, and what is frozen. Printing it lists both."""

    def __init__(self, model: nn.Module, walk: Walk) -> None:
        self.model, self.walk = model, walk
        self.groups = {group.name: group for group in _groups(walk)}

    @property
    def frozen(self) -> dict[str, dict[str, int]]:
        """For each layer with output channels that must stay: the reasons, and how many channels each concerns."""
        result: dict[str, dict[str, int]] = {}
        removable = {unit for group in self.groups.values() if group.size > 1 for unit in group.units}
        for (path, role), ids in self.walk.ports.items():
            if role not in ("out", "heads"):
                continue
            counts: dict[str, int] = defaultdict(int)
            for root in self.walk.classes.roots(ids).tolist():
                if root not in removable:
                    counts[self.walk.classes.reason(root) or "all its channels go together"] += 1
            if counts:
                result[path] = dict(counts)
        return result

    def __str__(self) -> str:
        lines = [str(group) for group in self.groups.values() if group.size > 1]
        for path, reasons in self.frozen.items():
            lines += [f"{path}: {count} channels stay: {reason}" for reason, count in reasons.items()]
        return "\n".join(lines)

    def classes(self, removed: Mapping[str, Iterable[int]]) -> set[int]:
        """The classes of the units at these positions of the named groups."""
        found: set[int] = set()
        for name, positions in removed.items():
            if name not in self.groups:
                raise ModelError(f"there is no group of channels {name!r}; there are {list(self.groups)}")
            found |= {self.groups[name].units[position] for position in positions}
        return found

    def indices(self, port: Port, classes: set[int]) -> Array:
        """Which channels of a port belong to these classes."""
        return np.flatnonzero(np.isin(self.walk.classes.roots(self.walk.ports[port]), list(classes)))


def dependencies(model: nn.Module, example: Tensor) -> Dependencies:
    """Find the groups of `model`, from one run of its graph on `example` (1, ...), in eval mode; it is left alone.

    Raises:
        ModelError: the graph cannot be read, or does not run on the example.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        graph = symbolic(model)
        walk = Walk(graph).of(example[:1].to(_type(model)))
    finally:
        for module, mode in training.items():
            module.training = mode
    while True:  # what cannot be rewritten is frozen; this may undo other groups
        found = Dependencies(model, walk)
        tried = {group.units[0] for group in found.groups.values() if group.size > 1}
        failed = Rewrite(walk, tried).failures
        if not failed:
            return found
        for node, reason in failed.items():
            for near in (node, *node.all_input_nodes):
                for labels in leaves(walk.labels[near]):
                    walk.classes.freeze(labels.ids, reason)


def _type(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _groups(walk: Walk) -> list[Group]:
    touched: dict[int, list[Any]] = defaultdict(list)
    members: dict[int, dict[Port, Array]] = defaultdict(dict)
    for port, ids in walk.ports.items():
        roots = walk.classes.roots(ids)
        for root in np.unique(roots).tolist():
            touched[root].append(port)
            members[root][port] = np.flatnonzero(roots == root)
    for name, labels in _everywhere(walk):
        for root in np.unique(walk.classes.roots(labels.ids)).tolist():
            touched[root].append(name)
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for root, ports in members.items():
        if walk.classes.reason(root) is None and any(role in ("out", "heads") for _, role in ports):
            alike[tuple(touched[root])].append(root)
    result, seen = [], dict[str, int]()
    for alike_roots in alike.values():
        passed = list(members[alike_roots[0]])
        first = next(port for port in passed if port[1] in ("out", "heads"))
        order = sorted(alike_roots, key=lambda root: int(members[root][first][0]))
        seen[first[0]] = seen.get(first[0], 0) + 1
        name = first[0] if seen[first[0]] == 1 else f"{first[0]}#{seen[first[0]]}"
        by_port = {port: tuple(members[root][port] for root in order) for port in passed}
        result.append(Group(name, tuple(order), by_port))
    return result


def _everywhere(walk: Walk) -> Iterable[tuple[str, Labels]]:
    """Every labelled value: units that differ in where they go are not interchangeable, lest one value lose all."""
    yield from walk.tensors.items()
    for node, found in walk.labels.items():
        for i, labels in enumerate(leaves(found)):
            yield f"{node.name}/{i}", labels


def kept(size: int, removed: Sequence[int] | Array) -> Tensor:
    """The positions that stay."""
    stays = np.ones(size, dtype=bool)
    stays[np.asarray(removed, dtype=np.int64)] = False
    return torch.from_numpy(np.flatnonzero(stays))
