"""What an artefact computes, for the targets that model it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dovetail.runtime import Artefact, to_torch
from dovetail.runtime.grids import weight_codes
from dovetail.targets.target import Inputs
from dovetail.workload import Workload, trace


def artefact_workload(artefact: Artefact, inputs: Inputs) -> Workload:
    """The operations of an artefact on the first of `inputs` (N, ...), with measured densities of activations.

    Weights have the bits and the density that they are stored with. Layers whose weights and inputs are quantised
    compute with integers.
    """
    module = to_torch(artefact)
    workload = trace(module, torch.from_numpy(inputs[:1]))
    paths = {name: path for path, name in module.meta["initialisers"].items()}
    # What is joined with another tensor before it is read, as biases of recurrent layers are, goes by the other's name.
    read = {constant.name for constant in workload.constants}
    named = {path: name for name in artefact.tensors if (path := paths.get(name, name)) in read}
    # A tensor without axes is a number in the operation that takes it.
    stored = {path: artefact.tensors[name] for path, name in named.items() if artefact.tensors[name].shape}
    workload = workload.with_weights(stored)
    return workload.with_integers(*_widths(artefact, named))


def _widths(artefact: Artefact, named: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """By the names of the weights whose values are evenly spaced: their bits, and those of what their layers read.

    `named` has the artefact's names by the workload's.
    """
    weights = {
        path: int(max(1, found[0].max(initial=0), -1 - found[0].min(initial=0))).bit_length() + 1
        for path, name in named.items()
        if (found := weight_codes(artefact.tensors[name])) is not None
    }
    read = {path: int(row["bits"]) for path in weights if (row := _activation(artefact, named[path])) is not None}
    return weights, read


def _activation(artefact: Artefact, weight: str) -> Mapping[str, Any] | None:
    row = artefact.activations.get(weight.rpartition(".")[0])
    return row if isinstance(row, dict) else None
