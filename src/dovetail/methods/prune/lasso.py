"""Channel pruning by LASSO and least squares.

He, Zhang, Sun. Channel Pruning for Accelerating Very Deep Neural Networks. ICCV 2017. arXiv:1707.06168

    min over b, W of  1/(2N) ||Y - sum_i b_i X_i W_i^T||^2 + lambda ||b||_1,   ||b||_0 <= c'

X_i (N x k^2) are the patches of channel i at N sampled positions, W_i (T x k^2) the weights that read it, Y (N x T) the
layer's responses. With W fixed this is a LASSO in b on Z_i = X_i W_i^T (each W_i first scaled to norm 1); lambda grows
until c' channels are left. With b fixed, W is solved by least squares for the original's responses, from inputs of the
pruned network; at the end of a residual branch the target has the shortcut's error added (`channels.repair`).

Departs from the paper: coupled channels are one unit, and the responses of all layers that read it are fitted together,
each divided by its energy; the selection sees inputs of the network as it is before the round, only the least squares
those of the pruned one; how many channels each group keeps follows from the budget (see `channels`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.methods.channels.channels import Channels, least_important, with_removed
from dovetail.methods.channels.groups import Dependencies, Group, dependencies
from dovetail.methods.channels.importance import scores
from dovetail.methods.method import Context, Plan
from dovetail.methods.responses import patches

ROWS = 400
"""Sampled positions of each layer (the authors' code takes at most so many)."""

SWEEPS = 200
HALVINGS = 20


@dataclass(frozen=True, kw_only=True)
class Lasso(Channels):
    """Removes the channels that a LASSO on the layers' responses leaves out."""

    name: ClassVar[str] = "lasso"

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        order = scores(model, context.example, context.inputs, self.importance)
        if context.inputs is not None:
            network = copy.deepcopy(model).eval()
            found = dependencies(network, context.example)
            for name, row in plan.items():
                keep, group = row["kept"][stage], found.groups[name]
                if keep < group.size and (readers := _readers(found, group)):
                    gram, correlation, norms = _normal_equations(network, found, group, readers, context.inputs)
                    order[name] = select(gram, correlation, keep, norms)
        return with_removed(plan, stage, {name: least_important(order[name], row["kept"][stage])
                                          for name, row in plan.items()})  # fmt: skip


def lasso(gram: Tensor, correlation: Tensor, penalty: float, start: Tensor | None = None) -> Tensor:
    """b (c) that minimises b^T G b / 2 - r^T b + penalty ||b||_1, by coordinate descent.

    For 1/(2N) ||y - Z b||^2 + penalty ||b||_1, G (c, c) is Z^T Z / N and r (c) is Z^T y / N.
    """
    b = torch.zeros_like(correlation) if start is None else start.clone()
    diagonal = gram.diagonal().clamp_min(1e-30)
    for _ in range(SWEEPS):
        before = b.clone()
        for i in range(len(b)):
            rest = correlation[i] - gram[i] @ b + gram[i, i] * b[i]
            b[i] = rest.sign() * (rest.abs() - penalty).clamp_min(0) / diagonal[i]
        if (b - before).abs().max() <= 1e-7 * b.abs().max().clamp_min(1e-30):
            break
    return b


def select(gram: Tensor, correlation: Tensor, keep: int, norms: Tensor) -> Tensor:
    """Scores (c) whose `keep` highest are the units that the LASSO keeps.

    The penalty is found by bisection such that at least `keep` units have b != 0, of which the largest |b| stay;
    `norms` (c) are those of the weights by which the units are read: the penalty is on b times the norm.
    """
    g, r = gram / norms[:, None] / norms, correlation / norms
    low, high = 0.0, float(r.abs().max())
    found = b = lasso(g, r, 0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        b = lasso(g, r, middle, b)
        count = int((b != 0).sum())
        if count >= keep:
            low, found = middle, b
        else:
            high = middle
        if count == keep:
            break
    return found.abs()


def _readers(found: Dependencies, group: Group) -> list[str]:
    layers = {path: found.model.get_submodule(path) for path in group.consumers}
    return [path for path, layer in layers.items()
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)]  # fmt: skip


@torch.no_grad()
def _normal_equations(
    network: nn.Module, found: Dependencies, group: Group, readers: list[str], inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Z^T Z / N and Z^T y / N of all readers, each divided by its energy; the norm of what reads each unit."""
    gram = torch.zeros(group.size, group.size, dtype=torch.float64)
    correlation, squares = torch.zeros(group.size, dtype=torch.float64), torch.zeros(group.size, dtype=torch.float64)
    for path in readers:
        weight = network.get_submodule(path).get_parameter("weight").detach().flatten(1).double()
        seen = patches(network, path, inputs[:ROWS], positions=1).double()
        channels = len(found.walk.ports[path, "in"])
        w, x = weight.view(len(weight), channels, -1), seen.view(len(seen), channels, -1)
        parts = []
        for unit in group.members[path, "in"]:
            index = torch.from_numpy(unit)
            parts.append((x[:, index].flatten(1) @ w[:, index].flatten(1).T).flatten())
        z = torch.stack(parts, 1).view(len(x), len(w), -1)
        z = (z - z.mean(0)).flatten(0, 1)
        energy = z.sum(1).square().mean().clamp_min(1e-30)
        gram += z.T @ z / len(z) / energy
        correlation += z.T @ z.sum(1) / len(z) / energy
        squares += torch.stack([w[:, torch.from_numpy(u)].square().sum() for u in group.members[path, "in"]])
    return gram, correlation, squares.sqrt().clamp_min(1e-12)
