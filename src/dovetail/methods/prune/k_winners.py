"""k-winners: of the activations only the k largest stay.

Ahmad, Scheinkman. How Can We Be So Dense? The Benefits of Using Highly Sparse Representations. 2019. arXiv:1903.11257.

    duty  <- (1 - a) duty + a [wins]              a = batch / 1000, how often a unit (channel) wins
    b      = exp(boost * (k / n - duty))          in training only
    y_i    = relu(x_i) if b_i relu(x_i) is among the k largest, else 0

Boosting decides who wins, not by how much. Of equals the lower index wins, so that never more than k do. Departs from
the paper: the boost is constant over training.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.methods.graph import give_to, is_relu, symbolic

PERIOD = 1000
"""Inputs over which a unit's duty cycle is averaged."""


class KWinners(nn.Module):
    """In the place of a ReLU on (N, C, ...): keeps `fraction` of the outputs, at least one.

    `scope` is "local" (of the C channels at each position) or "global" (of everything in one input).
    """

    duty: Tensor

    def __init__(self, units: int, fraction: float, scope: str = "local", boost: float = 1.5) -> None:
        super().__init__()
        self.fraction, self.scope, self.boost = fraction, scope, boost
        self.register_buffer("duty", torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        units = [1, -1] + [1] * (x.ndim - 2)
        scores = x.detach()
        if self.training:
            scores = scores * torch.exp(self.boost * (self.fraction - self.duty)).view(units)
        competing = scores if self.scope == "local" else scores.flatten(1)
        count = max(1, round(self.fraction * competing.shape[1]))
        winners = torch.topk(competing, count, dim=1).indices
        wins = torch.zeros_like(competing).scatter(1, winners, 1.0).view(x.shape)
        if self.training:
            with torch.no_grad():
                share = min(1.0, len(x) / PERIOD)
                active = (wins * (x > 0)).transpose(0, 1).flatten(1).mean(1)
                self.duty.lerp_(active.to(self.duty), share)
        return x * wins


def put_in(model: nn.Module, example: Tensor, fraction: float, scope: str, boost: float) -> nn.Module:
    """`model` as a graph in which every ReLU is a KWinners of its own; the other modules are the model's.

    Raises:
        ModelError: the graph cannot be read, or there is no ReLU in it.
    """
    graph = symbolic(model)
    modules = dict(graph.named_modules())
    found = [node for node in graph.graph.nodes if is_relu(node, modules)]
    if not found:
        raise ModelError("k-winners go where ReLUs are, and the network has none")
    shapes = _Shapes(graph)
    with torch.no_grad():
        shapes.run(example[:1])
    for number, node in enumerate(found):
        winners = KWinners(shapes.found[node][1], fraction, scope, boost)
        give_to(graph, node, f"k_winners_{number}", winners.train(model.training))
    graph.recompile()
    return graph


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.shape
        return result
