"""Taking channels out in one call, and making what reads them answer as before, from unlabelled inputs.

He, Zhang, Sun. Channel Pruning for Accelerating Very Deep Neural Networks. ICCV 2017. arXiv:1707.06168: every layer
that has lost inputs is fitted anew by least squares, from the first to the last, its inputs taken from the pruned
network and its targets from the network before (section 3.1). Where its output is added to a shortcut, what the
shortcut has lost is added to its target (section 3.3, "last layer of residual branch").

Batch statistics are left as they are: the layers are fitted to give what these expect.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.methods.channels.groups import dependencies, kept
from dovetail.methods.channels.removal import Removed, remove
from dovetail.methods.graph import symbolic
from dovetail.methods.junctions import junctions, responses
from dovetail.methods.method import Context
from dovetail.methods.reconstruction import RIDGE, regress
from dovetail.methods.responses import outputs, patches

LEAST_SCALE = 0.1
"""Channels whose normalisation scales by less than this part of the mean are not asked to repair a shortcut."""


def take_out(model: nn.Module, removed: Removed, context: Context, *, reconstruct: bool) -> nn.Module:
    """Remove these units and, with inputs and `reconstruct`, fit the layers that read them.

    The names in the state_dict stay, but for a bias where a layer that is fitted has neither one nor a normalisation.
    """
    if not any(list(units) for units in removed.values()):
        return model
    found = dependencies(model, context.example)
    classes = found.classes(removed)
    losing: dict[str, Tensor] = {}
    gone: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    for path, role in found.walk.ports:
        layer = model.get_submodule(path)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            constants[path] = torch.from_numpy(found.indices((path, "follow"), classes))
        simple = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if role == "in" and simple and len(found.indices((path, role), classes)):
            size = len(found.walk.ports[path, "out"])
            losing[path] = kept(size, found.indices((path, "out"), classes))
            gone[path] = torch.from_numpy(found.indices((path, "in"), classes))
    before = copy.deepcopy(model).eval()
    following = {path: junction.norm for path, junction in junctions(symbolic(before)).items()}
    result = remove(found, removed).eval()
    if not reconstruct:
        return result
    if context.inputs is None:
        _fold(result, before, losing, following, gone, constants, context.example)
        return result
    for path in losing:  # also where only the structure matters
        layer = result.get_submodule(path)
        if layer.bias is None and following.get(path) is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
    if not context.rebuilding:
        _fit(result, before, losing, following, context.inputs)
    return result


def _fit(
    model: nn.Module, before: nn.Module, losing: dict[str, Tensor], following: dict[str, str | None], inputs: Tensor
) -> None:
    targets, wanted = outputs(before, losing, inputs), responses(before, list(losing), inputs)
    for path, stays in losing.items():
        layer: Any = model.get_submodule(path)
        norm: Any = model.get_submodule(following[path]) if following.get(path) else None  # type: ignore[arg-type]
        target = targets[path][:, stays]
        if wanted[path].offset.any():
            shortcut = responses(model, [path], inputs)[path].offset
            target = _compensated(target, (wanted[path].own + wanted[path].offset)[:, stays] - shortcut, norm)
        seen = patches(model, path, inputs)
        weight, bias = regress(seen, target, layer.weight.detach().flatten(1), RIDGE)
        layer.weight.data.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.data.copy_(bias)
        else:
            norm.running_mean.data.sub_(bias)


@torch.no_grad()
def _fold(
    model: nn.Module,
    before: nn.Module,
    losing: dict[str, Tensor],
    following: dict[str, str | None],
    gone: dict[str, Tensor],
    constants: dict[str, Tensor],
    example: Tensor,
) -> None:
    """Without data: what a removed channel gives if its scale is taken for zero goes into what reads it."""
    before = copy.deepcopy(before)
    for path, channels in constants.items():
        norm: Any = before.get_submodule(path)
        if norm.weight is not None:
            norm.weight[channels] = 0
    seen = {path: patches(before, path, example) for path in losing}
    for path, stays in losing.items():
        old: Any = before.get_submodule(path)
        weight = old.weight.flatten(1).view(len(old.weight), old.weight.shape[1], -1)[stays][:, gone[path]]
        given = seen[path].view(len(seen[path]), old.weight.shape[1], -1)[:, gone[path]]
        missing = torch.einsum("tck,nck->t", weight, given) / len(given)
        layer: Any = model.get_submodule(path)
        if layer.bias is not None:
            layer.bias += missing
        elif following.get(path):
            model.get_submodule(following[path]).get_buffer("running_mean").sub_(missing)  # type: ignore[arg-type]


def _compensated(target: Tensor, rest: Tensor, norm: Any) -> Tensor:
    """What must come out of the layer so that, after its normalisation, it is `rest`."""
    if norm is None:
        return rest
    deviation = (norm.running_var + norm.eps).sqrt()
    scale = norm.weight.detach() / deviation
    wanted = (rest - norm.bias.detach()) / torch.where(scale == 0, 1.0, scale) + norm.running_mean
    return torch.where(scale.abs() > LEAST_SCALE * scale.abs().mean(), wanted, target)
