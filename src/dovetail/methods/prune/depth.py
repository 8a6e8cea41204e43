"""Removing whole residual branches, under a budget.

Veit, Wilber, Belongie. Residual Networks Behave Like Ensembles of Relatively Shallow Networks. NIPS 2016.
arXiv:1605.06431 (a trained residual network stands the loss of single blocks); Wang, Wu. Practical Network Acceleration
with Tiny Sets. CVPR 2023. arXiv:2202.07861 (for the same latency dropping blocks loses less than dropping filters).

Departs from the latter in what a branch is judged by: the rise of the loss without it for what it saves, measured anew
after each removal, not how well its output could be recovered.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from dovetail.errors import RecipeError
from dovetail.methods.budget import Budget
from dovetail.methods.graph import is_relu, symbolic
from dovetail.methods.junctions import is_sum
from dovetail.methods.layers import parameters
from dovetail.methods.method import Context, Kind, Method, Plan, weight_tensors
from dovetail.methods.reconstruction import settle_norms

TIE = 1e-6
"""What is added to every rise of the loss, so that of branches that lose nothing the one that saves most goes first."""


@dataclass(frozen=True)
class Branch:
    """A term of the sum `total` that the network can do without: `shortcut`, the other one, takes the sum's place."""

    total: fx.Node
    shortcut: fx.Node


@dataclass(frozen=True, kw_only=True)
class Depth(Method):
    """Removes residual branches, so that a budget is met; the layers that stay are as they were."""

    name: ClassVar[str] = "depth"
    kind: ClassVar[Kind] = "shrink"

    budget: Budget = field(default_factory=lambda: Budget(macs=0.5))
    """What the network may cost in the end."""

    settle: bool = True
    """Whether to take the batch statistics anew where the outputs come closer to the original's by it."""

    def plan(self, model: nn.Module, context: Context) -> Plan:
        network = symbolic(copy.deepcopy(model).eval())
        found = branches(network, context.example)
        candidates = {name: found[name] for name in self.chosen(list(found))}
        quantity = self.budget.quantity
        whole = context.cost(network, quantity)
        least = context.cost(without(network, candidates.values()), quantity)
        wanted = self.budget.fraction * whole
        if least > wanted:
            raise RecipeError(
                f"the budget {quantity} = {self.budget.fraction:g} cannot be met: {least / whole:.3f} is "
                "what is left without the chosen branches"
            )
        saved = {name: whole - context.cost(without(network, [each]), quantity) for name, each in candidates.items()}
        removed = self._greedy(network, candidates, saved, wanted, context)
        return {name: _row(network, each, removed.get(name), context) for name, each in candidates.items()}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        network = symbolic(model.eval())
        found = branches(network, context.example)
        result = without(network, [found[name] for name, row in plan.items() if row["setting"] == "removed"])
        if self.settle:
            settle_norms(result, context)
        return result

    def _greedy(
        self,
        network: fx.GraphModule,
        candidates: Mapping[str, Branch],
        saved: Mapping[str, float],
        wanted: float,
        context: Context,
    ) -> dict[str, float]:
        """The branches that go, and what the loss rises by without each alone.

        Always the one goes that loses least for what it saves. All that are left are measured again after each, as
        often as can be afforded; then the last rises are kept to.
        """
        judge = context.probe or partial(_lost_weight, network)
        scans = context.probes(network, len(candidates))
        removed: dict[str, Branch] = {}
        alone: dict[str, float] = {}
        rises: dict[str, float] = {}
        while context.cost(rest := without(network, removed.values()), self.budget.quantity) > wanted:
            gone = list(removed.values())
            there = needed(network, gone)
            left = {name: each for name, each in candidates.items() if name not in removed and each.total in there}
            if not left:
                break  # a latency that was measured a second time
            if len(removed) < scans:
                loss = judge(rest)
                rises = {name: judge(without(network, [*gone, each])) - loss for name, each in left.items()}
                alone = alone or rises
            name = min(left, key=lambda name: (max(0.0, rises[name]) + TIE) / max(saved[name], 1e-30))
            removed[name] = candidates[name]
        return {name: alone[name] for name in removed}


def branches(network: fx.GraphModule, example: Tensor) -> dict[str, Branch]:
    """The residual branches of a network, by the path of their first layer with a weight.

    A branch is a term of a sum, of the sum's shape as the other term is, without which layers with weights are of no
    use; of two such terms the one with more weights. The other must depend on the network's input.
    """
    with torch.no_grad():
        ShapeProp(network).propagate(example[:1])
    live = _depending_on_input(network.graph)
    layers = _weighted(network, needed(network, []))
    found: dict[str, Branch] = {}
    for node in network.graph.nodes:
        terms = [term for term in node.args if isinstance(term, fx.Node)]
        if not is_sum(node) or len(terms) != 2 or node.kwargs or not _of_one_shape(node, *terms):
            continue
        options = []
        for shortcut in (term for term in terms if term in live):
            branch = Branch(node, shortcut)
            left = _weighted(network, needed(network, [branch]))
            if lost := [path for path in layers if path not in left]:
                options.append((sum(layers[path] for path in lost), lost[0], branch))
        if options:
            _, name, branch = max(options, key=lambda option: option[0])
            found.setdefault(name, branch)
    return found


def without(network: fx.GraphModule, removed: Iterable[Branch]) -> fx.GraphModule:
    """The network without these branches; it shares the layers that are left with `network`.

    A ReLU that now follows on another goes too, and so do layers that do nothing.
    """
    gone = list(removed)
    there, instead = needed(network, gone), {branch.total: branch.shortcut for branch in gone}
    modules = dict(network.named_modules())
    graph, places = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in network.graph.nodes:
        if node in instead and instead[node] in places:
            place = places[instead[node]]
            read_again = any(user in there for user in instead[node].users)  # and what follows might write into it
            places[node] = graph.call_function(torch.clone, (place,)) if read_again else place
        elif node in there or node.op == "placeholder":
            read = [places[source] for source in node.all_input_nodes]
            idle = node.op == "call_module" and isinstance(modules[node.target], nn.Identity)
            if idle or (is_relu(node, modules) and is_relu(read[0], modules)):
                places[node] = read[0]
            else:
                places[node] = graph.node_copy(node, lambda source: places[source])
    result = fx.GraphModule(network, graph)
    result.meta.update(network.meta)
    return result


def needed(network: fx.GraphModule, removed: Sequence[Branch]) -> set[fx.Node]:
    """The nodes from which the output is computed where these branches are left out."""
    instead = {branch.total: branch.shortcut for branch in removed}
    found: set[fx.Node] = set()
    waiting = [node for node in network.graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        while node in instead:
            node = instead[node]
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _depending_on_input(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _weighted(network: fx.GraphModule, nodes: Collection[fx.Node]) -> dict[str, int]:
    """The layers with weights of two dimensions or more that these nodes call, in order, and their parameters."""
    weighted = {path for path, _ in weight_tensors(network)}
    called = [str(node.target) for node in network.graph.nodes if node.op == "call_module" and node in nodes]
    return {
        path: parameters(network.get_submodule(path))
        for path in called
        if any(own == path or own.startswith(path + ".") for own in weighted)
    }


def _of_one_shape(*nodes: fx.Node) -> bool:
    shapes = {getattr(node.meta.get("tensor_meta"), "shape", None) for node in nodes}
    return len(shapes) == 1 and None not in shapes


def _lost_weight(network: nn.Module, rest: nn.Module) -> float:
    """Which share of the squares of a network's weights `rest` has lost: what stands for the loss without data."""
    left, whole = (sum(float(w.square().sum()) for _, w in weight_tensors(each)) for each in (rest, network))
    return 1 - left / whole


def _row(network: fx.GraphModule, branch: Branch, rise: float | None, context: Context) -> dict[str, Any]:
    """What becomes of a branch; its MACs and parameters are what the network alone without it saves."""
    rest = without(network, [branch])
    saved = {name: round(context.cost(network, name) - context.cost(rest, name)) for name in ("macs", "params")}
    row: dict[str, Any] = {"setting": "kept" if rise is None else "removed"}
    row |= {name: [amount, amount if rise is None else 0] for name, amount in saved.items()}
    return row if rise is None else row | {"loss_rise": rise}
