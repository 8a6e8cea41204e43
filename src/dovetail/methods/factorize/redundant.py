"""Channels that no nonzero weight reads, or that none makes, and a network without them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.methods.channels import Dependencies, Group, dependencies, remove
from dovetail.methods.constraint import bake, constrain, constraints
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.methods.method import layer_path
from dovetail.methods.prune.magnitude import Mask

Alive = dict[str, NDArray[np.bool_]]
"""For each layer, which pairs (output, input) have a nonzero weight."""


def redundant(found: Dependencies) -> dict[str, list[int]]:
    """The units that may go, by group: no layer reads them with a nonzero weight, or all that make them have only zero
    weights for them. What goes takes its weights along, which may free others; so until nothing more goes. One unit of
    each group stays."""
    alive: Alive = {}
    for path, module in found.model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            alive[path] = (module.weight.detach() != 0).reshape(*module.weight.shape[:2], -1).any(2).cpu().numpy()
    gone: dict[str, list[int]] = {}
    changed = True
    while changed:
        changed = False
        for name, group in found.groups.items():
            own = gone.setdefault(name, [])
            for unit in range(group.size):
                if unit not in own and len(own) < group.size - 1 and _is_dead(group, unit, alive):
                    own.append(unit)
                    changed = True
                    _take(group, unit, alive)
    return {name: sorted(units) for name, units in gone.items() if units}


def _is_dead(group: Group, unit: int, alive: Alive) -> bool:
    made = [path not in alive or alive[path][rows[unit]].any() for (path, role), rows in group.members.items()
            if role in ("out", "heads")]  # fmt: skip
    read = [path not in alive or alive[path][:, rows[unit]].any() for (path, role), rows in group.members.items()
            if role == "in"]  # fmt: skip
    return not any(made) or not any(read)


def _take(group: Group, unit: int, alive: Alive) -> None:
    for (path, role), rows in group.members.items():
        if path in alive and role == "out":
            alive[path][rows[unit]] = False
        elif path in alive and role == "in":
            alive[path][:, rows[unit]] = False


def without(
    model: nn.Module, example: Tensor, removed: Mapping[str, list[int]], kernels: Mapping[str, list[int]]
) -> nn.Module:
    """The network without these units, and with only these kernels in the bases of the weights named.

    Its weights keep their constraints: SharedKernels and Mask cut down with them, those of another method as they are,
    for they must fit any shape. What a removed channel gave to its readers, a constant if its weights were zero, is
    zero now.
    """
    held = {name: constraint for name, constraint in constraints(model)}
    found = dependencies(bake(model), example)
    classes = found.classes(removed)
    stays = {port: _others(len(ids), found.indices(port, classes)) for port, ids in found.walk.ports.items()}
    result = remove(found, removed)
    for name, constraint in held.items():
        path = layer_path(name)
        layer = result.get_submodule(path)
        if not isinstance(constraint, SharedKernels | Mask):
            constrain(result, name, copy.deepcopy(constraint))
            continue
        assert isinstance(layer, nn.Conv2d)
        rows = stays.get((path, "out"), torch.arange(constraint.mask.shape[0]))
        columns = stays.get((path, "in"), torch.arange(constraint.mask.shape[1]))
        mask = constraint.mask[rows][:, columns]
        if isinstance(constraint, Mask):
            constrain(result, name, Mask(mask))
            continue
        used = torch.tensor(kernels.get(name, list(range(len(constraint.basis)))))
        coefficients = constraint.coefficients.detach()[rows][:, columns][:, :, used]
        cut = SharedKernels(coefficients.clone(), constraint.basis.detach()[used].clone(), constraint.kernel)
        cut.mask.copy_(mask[:, :, used])
        constrain(result, name, cut)
        layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
    return result


def _others(size: int, gone: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.setdiff1d(np.arange(size), gone))
