"""Taking channels out of a network, and setting them to zero in it instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.channels.attention import Attention
from dovetail.methods.channels.groups import Dependencies, kept
from dovetail.methods.channels.labels import Array
from dovetail.methods.channels.rewrite import Rewrite
from dovetail.methods.channels.rules import CONVOLUTIONS, TRANSPOSED

Removed = Mapping[str, Iterable[int]]
"""Positions of units, by the name of their group."""


def remove(found: Dependencies, removed: Removed) -> nn.Module:
    """Take these units out of the network, whose layers are changed in place; `found` is of no use afterwards.

    Returns the network itself, or, where sizes or positions of channels stand in its code (a padded shortcut, a split,
    heads), its rewritten graph, which shares its layers. Names in the state_dict stay as they are.

    Raises:
        ModelError: no unit of a group would be left.
    """
    _check(found, removed)
    classes = found.classes(removed)
    if not classes:
        return found.model
    rewrite = Rewrite(found.walk, classes)
    assert not rewrite.failures, rewrite.failures
    result = rewrite.graph() if rewrite.changes else found.model
    # Judged before anything is cut: a grouped layer may be left with one input a group, which makes it none.
    depthwise = {path for path, _ in found.walk.ports if _is_depthwise(found.model.get_submodule(path))}
    for (path, role), ids in found.walk.ports.items():
        gone = found.indices((path, role), classes)
        if len(gone):
            _shrink(result, found.model, path, role, kept(len(ids), gone), path in depthwise)
    for name, labels in found.walk.tensors.items():
        for axis in range(len(labels.shape)):
            stays = rewrite.stays(labels, axis)
            if len(stays) < labels.shape[axis]:
                path, _, tensor = name.rpartition(".")
                _select(result.get_submodule(path), tensor, axis, torch.tensor(stays))
    return result


def mask(found: Dependencies, removed: Removed) -> None:
    """Make every layer that reads these units read zeros: the network then computes what it would without them."""
    _check(found, removed)
    classes = found.classes(removed)
    for path, role in found.walk.ports:
        gone = found.indices((path, role), classes)
        if len(gone):
            _silence(found.model.get_submodule(path), role, gone)


def _check(found: Dependencies, removed: Removed) -> None:
    for name, positions in removed.items():
        given = set(positions)
        size = found.groups[name].size if name in found.groups else 0
        if size and len(given) >= size:
            raise ModelError(f"all {size} units of {name} would go; at least one must stay")


@torch.no_grad()
def _silence(layer: nn.Module, role: str, gone: Array) -> None:
    index = torch.from_numpy(gone)
    if role not in ("in", "heads"):
        return
    weight: Any = layer.get_parameter("out_proj.weight" if role == "heads" else "weight")
    if role == "heads":
        weight[:, _head_rows(layer, index)] = 0
    elif isinstance(layer, TRANSPOSED):
        weight[index] = 0
    else:
        groups = getattr(layer, "groups", 1)
        if groups == 1:
            weight[:, index] = 0
        elif weight.shape[1] > 1:  # of every group the same places; depthwise ones go with their outputs
            weight[:, torch.unique(index % weight.shape[1])] = 0


def _shrink(result: nn.Module, model: nn.Module, path: str, role: str, stays: Tensor, depthwise: bool) -> None:
    layer: Any = result.get_submodule(path)
    if role == "heads":
        if isinstance(layer, nn.MultiheadAttention):
            layer = Attention(layer)
            result.set_submodule(path, layer)
            if result is not model:
                model.set_submodule(path, layer)
        _shrink_heads(layer, stays)
    elif role == "follow":
        names = [name for name, tensor in (*layer.named_parameters(), *layer.named_buffers()) if tensor.ndim == 1]
        for name in names:
            _select(layer, name, 0, stays)
        setattr(layer, "num_parameters" if isinstance(layer, nn.PReLU) else "num_features", len(stays))
    elif isinstance(layer, nn.Embedding):
        _select(layer, "weight", 1, stays)
        layer.embedding_dim = len(stays)
    elif isinstance(layer, nn.Linear):
        _select(layer, "weight", 0 if role == "out" else 1, stays)
        setattr(layer, "out_features" if role == "out" else "in_features", len(stays))
    else:
        _shrink_convolution(layer, role, stays, depthwise)
    if role == "out" and getattr(layer, "bias", None) is not None:
        _select(layer, "bias", 0, stays)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, CONVOLUTIONS + TRANSPOSED) and layer.groups == layer.in_channels > 1


def _shrink_convolution(layer: Any, role: str, stays: Tensor, depthwise: bool) -> None:
    assert isinstance(layer, CONVOLUTIONS + TRANSPOSED)
    whole = (role == "out") != isinstance(layer, TRANSPOSED)  # this axis of the weight has all groups' channels
    places = layer.weight.shape[0 if whole else 1]
    if whole:
        _select(layer, "weight", 0, stays)
    elif not depthwise:
        _select(layer, "weight", 1, stays[stays < places])
    if role == "out":
        layer.out_channels = len(stays)
    else:
        layer.in_channels = len(stays)
        layer.groups = len(stays) if depthwise else layer.groups


def _head_rows(layer: Any, heads: Tensor) -> Tensor:
    size = int(layer.head_dim)
    return (heads[:, None] * size + torch.arange(size)).flatten()


def _shrink_heads(layer: Attention, stays: Tensor) -> None:
    rows = _head_rows(layer, stays)
    size = len(layer.in_proj_weight) // 3
    packed = torch.cat([rows + i * size for i in range(3)])
    _select(layer, "in_proj_weight", 0, packed)
    if layer.in_proj_bias is not None:
        _select(layer, "in_proj_bias", 0, packed)
    _select(layer.out_proj, "weight", 1, rows)
    layer.out_proj.in_features = len(rows)
    layer.num_heads = len(stays)


def _select(module: nn.Module, name: str, axis: int, stays: Tensor) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(axis, stays.to(old.device)).clone()
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def example_removal(found: Dependencies, fraction: float, seed: int = 0) -> dict[str, list[int]]:
    """Random units to remove, this fraction of each group but at least one of each stays."""
    generator = np.random.default_rng(seed)
    result = {}
    for name, group in found.groups.items():
        count = min(round(fraction * group.size), group.size - 1)
        if count:
            result[name] = sorted(int(i) for i in generator.permutation(group.size)[:count])
    return result
