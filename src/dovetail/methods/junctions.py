"""Where a layer's output meets what is not affine, and the values there."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from dovetail.errors import ModelError
from dovetail.methods.graph import called_once, is_norm, is_relu, only_user, symbolic
from dovetail.methods.responses import outputs, values

SUMS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Junction:
    """Up to where a layer's output stays affine in it: through a batch normalisation (`norm`, its path), through the
    sum with a shortcut, and up to a ReLU (`relu`). `own` and `last` name the values before and after that sum."""

    norm: str | None
    own: str
    last: str
    relu: bool


def junctions(network: fx.GraphModule) -> dict[str, Junction]:
    """The junction of each module called exactly once, by its path."""
    modules = dict(network.named_modules())
    result: dict[str, Junction] = {}
    for path, own in called_once(network).items():
        norm, following = None, only_user(own)
        if following is not None and is_norm(following, modules):
            own, norm, following = following, str(following.target), only_user(following)
        last = own
        if following is not None and is_sum(following):
            last, following = following, only_user(following)
        result[path] = Junction(norm, own.name, last.name, following is not None and is_relu(following, modules))
    return result


@dataclass(frozen=True)
class Responses:
    """What a layer answers at sampled positions, after the batch normalisation that follows it (n, T)."""

    own: Tensor
    offset: Tensor
    """What is added before the ReLU, or zero."""
    relu: bool


def responses(model: nn.Module, paths: Sequence[str], inputs: Tensor) -> dict[str, Responses]:
    """The responses of these layers. Where the graph cannot be read there is no ReLU and no batch normalisation."""
    training = model.training
    network = _graph(model.eval())
    found = junctions(network) if network is not None else {}
    known = [path for path in paths if path in found]
    sources = {name: path for path in known for name in (found[path].own, found[path].last)}
    names = list(sources)
    sampled = {}
    if network is not None and known:
        layers = [model.get_submodule(path) for path in sources.values()]
        sampled = dict(zip(names, values(computing(network, names), layers, inputs), strict=True))
    others = outputs(model, [path for path in paths if path not in found], inputs) if len(known) < len(paths) else {}
    model.train(training)
    result = {path: Responses(y, torch.zeros_like(y), relu=False) for path, y in others.items()}
    for path in known:
        own, last = sampled[found[path].own], sampled[found[path].last]
        if own.shape == last.shape:
            result[path] = Responses(own, last - own, found[path].relu)
        else:  # a sum of tensors of different shapes
            result[path] = Responses(own, torch.zeros_like(own), relu=False)
    return result


def _graph(model: nn.Module) -> fx.GraphModule | None:
    try:
        return symbolic(model)
    except ModelError:
        return None


def computing(network: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """The part of the network that computes the values of these nodes; it returns copies of them, as a tuple.

    Copies, because what follows may write into a value. The modules are shared with `network`.
    """
    graph = fx.Graph()
    counterparts: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(network.graph, counterparts)
    copies = {}
    for node, counterpart in counterparts.items():
        if node.name in names:
            with graph.inserting_after(counterpart):
                copies[node.name] = graph.call_function(torch.clone, (counterpart,))
    graph.output(tuple(copies[name] for name in names))
    part = fx.GraphModule(network, graph)
    part.graph.eliminate_dead_code()
    part.recompile()
    return part


def is_sum(node: fx.Node) -> bool:
    """Whether the node adds, be it two values or a value and a constant."""
    if node.op == "call_method":
        return node.target in ("add", "add_")
    return node.op == "call_function" and node.target in SUMS


def norm_after(model: nn.Module, path: str) -> tuple[Tensor, Tensor]:
    """g and c (T) of the batch normalisation g y + c that follows the layer at `path`; ones and zeros without."""
    network = _graph(model)
    junction = junctions(network).get(path) if network is not None else None
    if junction is not None and junction.norm is not None:
        return affine(model.get_submodule(junction.norm))
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return torch.ones(len(weight)).double(), torch.zeros(len(weight)).double()


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """g and c of a batch normalisation in eval mode, in double precision."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if norm.affine:
        scale, shift = scale * norm.weight.detach().double(), norm.bias.detach().double()
    return scale, shift - scale * norm.running_mean.double()


def inverted(scale: Tensor) -> Tensor:
    """1 / scale, and 0 for channels that the normalisation has switched off."""
    alive = scale.abs() > 1e-8 * scale.abs().max()
    return torch.where(alive, 1 / torch.where(alive, scale, 1.0), 0.0)
