"""How much each unit of channels matters: what would be lost if every layer that reads it read zeros.

magnitude   sum over producers of ||W_u|| / mean_v ||W_v||                                       needs no data
            (Li et al. Pruning Filters for Efficient ConvNets. ICLR 2017. arXiv:1608.08710, in the L2 norm)
response    sum over readers of ||W_:u||^2 Var(x_u) / sum_v ||W_:v||^2 Var(x_v)                  needs inputs
taylor      E[ (sum over readers of <W_:u, dL/dW_:u>)^2 ]                                        needs inputs
            (Molchanov et al. Importance Estimation for Neural Network Pruning. CVPR 2019. arXiv:1906.10771)

For taylor, L is a random projection of the network's outputs, drawn anew for each input: the expectation is then the
second-order estimate of the squared change of the outputs, and no labels are needed.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dovetail.methods.channels.groups import Dependencies, Port, dependencies
from dovetail.methods.channels.rules import CONVOLUTIONS, TRANSPOSED

Importance = Literal["magnitude", "response", "taylor"]

SAMPLES = 64
"""Inputs of taylor, one backward pass each."""

Scores = dict[str, Tensor]
"""For each group the importance of its units."""


def scores(model: nn.Module, example: Tensor, inputs: Tensor | None, importance: Importance) -> Scores:
    """The importance of every unit of every group; `model` is left alone. Without inputs it is that of magnitudes."""
    model = copy.deepcopy(model).eval()
    found = dependencies(model, example)
    if inputs is None or importance == "magnitude":
        return _summed(found, {port: _norms(found, port) for port in found.walk.ports if port[1] in ("out", "heads")})
    channel_scores = _response(found, inputs) if importance == "response" else _taylor(found, inputs)
    return _summed(found, channel_scores)


def columns(layer: Any, weight: Tensor) -> Tensor:
    """The weights (C, n) by which a layer reads each of its C input channels."""
    if isinstance(layer, TRANSPOSED):
        return weight.flatten(1)
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    w = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return w.transpose(1, 2).reshape(groups * weight.shape[1], -1)


def readers(found: Dependencies) -> dict[Port, tuple[nn.Module, nn.Parameter]]:
    """The layers that read channels, and their weights; depthwise ones only pass them on."""
    result: dict[Port, tuple[nn.Module, nn.Parameter]] = {}
    for path, role in found.walk.ports:
        layer = found.model.get_submodule(path)
        if role == "heads":
            projection = layer.get_submodule("out_proj")
            result[path, role] = projection, projection.get_parameter("weight")
        elif role == "in" and not (isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1):
            result[path, role] = layer, layer.get_parameter("weight")
    return result


def _summed(found: Dependencies, by_port: dict[Port, Tensor]) -> Scores:
    result = {}
    for name, group in found.groups.items():
        total = torch.zeros(group.size)
        for port, members in group.members.items():
            if port in by_port:
                total += torch.stack([by_port[port][torch.from_numpy(unit)].sum() for unit in members])
        result[name] = total
    return result


def _norms(found: Dependencies, port: Port) -> Tensor:
    layer: Any = found.model.get_submodule(port[0])
    if port[1] == "heads":
        norms = _per_head(layer.out_proj.weight.detach().square().sum(0), layer).sqrt()
    else:
        axis = 1 if isinstance(layer, (*TRANSPOSED, nn.Embedding)) else 0
        norms = layer.weight.detach().transpose(0, axis).flatten(1).norm(dim=1)
        norms = norms.repeat(len(found.walk.ports[port]) // len(norms))
    return norms / norms.mean().clamp_min(1e-30)


def _per_head(values: Tensor, layer: Any) -> Tensor:
    return values.reshape(layer.num_heads, -1).sum(1)


@torch.no_grad()
def _response(found: Dependencies, inputs: Tensor) -> dict[Port, Tensor]:
    layers = readers(found)
    variances: dict[Port, Tensor] = {}
    handles = []
    for port, (layer, _) in layers.items():

        def note(layer: nn.Module, args: tuple[Tensor, ...], port: Port = port) -> None:
            x = args[0].movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
            variances[port] = x.var(1)

        handles.append(layer.register_forward_pre_hook(note))
    found.model(inputs[:256])
    for handle in handles:
        handle.remove()
    result = {}
    for port, (layer, weight) in layers.items():
        energy = columns(layer, weight.detach()).square().sum(1)
        energy = energy * variances.get(port, torch.ones(())).to(energy)
        energy = energy / energy.sum().clamp_min(1e-30)
        result[port] = _per_head(energy, found.model.get_submodule(port[0])) if port[1] == "heads" else energy
    return result


def _taylor(found: Dependencies, inputs: Tensor) -> dict[Port, Tensor]:
    layers = readers(found)
    generator = torch.Generator().manual_seed(0)
    squares: dict[Port, Tensor] = {}
    weights = [weight for _, weight in layers.values()]
    for x in torch.split(inputs[:SAMPLES], 1):
        y = found.model(x)
        assert isinstance(y, Tensor)
        gradients = torch.autograd.grad(
            (y * torch.randn(y.shape, generator=generator)).sum(), weights, allow_unused=True
        )
        for (port, (layer, weight)), gradient in zip(layers.items(), gradients, strict=True):
            change = columns(layer, weight.detach() * (0 if gradient is None else gradient)).sum(1)
            change = _per_head(change, found.model.get_submodule(port[0])) if port[1] == "heads" else change
            squares[port] = squares.get(port, torch.zeros(())) + change.square()
    return squares
