"""Where the sums of a residual network, and what they add, are to be put on grids.

Runtimes add in integers, and convolve in integers what is added, only if the terms and the sum are both quantised. What
the layers behind a sum read is not enough: the shortcut around them reads it too.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.methods.graph import is_norm, is_relu, only_user, returned
from dovetail.methods.junctions import is_sum
from dovetail.workload.onnx import move

MOVES = (functional.pad, functional.dropout, operator.getitem, move.pad, move.slice_)
"""What only chooses among values of its first argument, and zeros."""

BESIDE = "quantised_"
"""How modules begin that stand after a value of a graph which no module gives."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Place:
    """What the module at `path` gives, or what the ReLU makes of it that alone reads it."""

    path: str
    layer: str
    """The path of the layer from which it comes."""
    relu: bool
    readers: tuple[str, ...]
    """The paths of the layers that read it as it is."""


def places(model: nn.Module, paths: Sequence[str]) -> list[Place]:
    """The places for sums with terms that come from a convolution among the layers at `paths`.

    None where the graph cannot be read.
    """
    try:
        network, given = returned(model)
    except ModelError:
        return []
    modules, by_node = dict(network.named_modules()), {node: path for path, node in given.items()}
    found: dict[str, Place] = {}
    for node in _nodes(network, paths, modules):
        value, relu = node, False
        if value not in by_node and is_relu(value, modules) and only_user(before := value.all_input_nodes[0]) is value:
            value, relu = (before, True) if before in by_node else (value, False)
        path = by_node.get(value)
        if path is None and isinstance(model, fx.GraphModule):
            path = BESIDE + value.name
        layer = _layer(value, paths)
        if path is not None and layer is not None:
            readers = tuple(
                str(user.target) for user in node.users if user.op == "call_module" and user.target in paths
            )
            found.setdefault(path, Place(path, layer, relu, readers))
    return list(found.values())


def make_places(model: nn.Module, paths: Iterable[str]) -> None:
    """Let there be a module at each path, of those that `places` names; it is the same network after it."""
    for path in paths:
        if not path.startswith(BESIDE) or not isinstance(model, fx.GraphModule) or hasattr(model, path):
            continue
        node = next(node for node in model.graph.nodes if node.name == path.removeprefix(BESIDE))
        model.add_submodule(path, nn.Identity())
        users = list(node.users)
        with model.graph.inserting_after(node):
            beside = model.graph.call_module(path, (node,))
        for user in users:
            user.replace_input_with(node, beside)
        model.recompile()


def _nodes(network: fx.GraphModule, paths: Sequence[str], modules: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """The nodes of the values, terms before their sum."""
    for node in network.graph.nodes:
        terms = [term for term in node.all_input_nodes if term.op != "get_attr"] if is_sum(node) else []
        if len(terms) < 2 or not any(_is_convolved(term, paths, modules) for term in terms):
            continue
        for term in terms:
            while term.op == "call_function" and term.target in MOVES:
                term = term.all_input_nodes[0]
            if term.op != "placeholder":
                yield term
        following = only_user(node)
        value = following if following is not None and is_relu(following, modules) else node
        reader = only_user(value)
        if reader is None or reader.op != "call_module" or reader.target not in paths:
            yield value


def _is_convolved(node: fx.Node, paths: Sequence[str], modules: dict[str, nn.Module]) -> bool:
    """Whether a value is what a convolution gives, or a normalisation or factors and shifts make of that."""
    while True:
        inputs = [each for each in node.all_input_nodes if each.op != "get_attr"]
        if node.op == "call_module" and isinstance(modules.get(str(node.target)), Convolution):
            return node.target in paths
        passes = is_norm(node, modules) or isinstance(modules.get(str(node.target)), nn.Identity)
        if len(inputs) != 1 or not (passes or node.target in (operator.add, operator.mul)):
            return False
        node = inputs[0]


def _layer(node: fx.Node, paths: Sequence[str]) -> str | None:
    """The path of the last layer before a value."""
    earlier = {node}
    for each in reversed(node.graph.nodes):
        if each in earlier:
            if each.op == "call_module" and each.target in paths:
                return str(each.target)
            earlier.update(each.all_input_nodes)
    return None


def values(model: nn.Module, found: Sequence[Place], inputs: Tensor, most: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By path a sample of about `most` values at each place, and the least and the largest value of all."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(place: Place, y: Tensor) -> None:
        y = y.detach().relu() if place.relu else y.detach()
        flat = y.reshape(len(y), -1)
        each = max(1, most // len(flat))
        chosen = torch.randint(flat.shape[1], (min(each, flat.shape[1]),), generator=torch.Generator().manual_seed(0))
        seen[place.path] = flat[:, chosen].flatten(), torch.stack([y.min(), y.max()])

    handles = [
        model.get_submodule(place.path).register_forward_hook(lambda _, read, y, place=place: note(place, y))
        for place in found
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
