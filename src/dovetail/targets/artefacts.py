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
    # A tensor without axes is a number in the operation that takes it.
    stored = {name: tensor for name, tensor in artefact.tensors.items() if tensor.shape}
    workload = trace(to_torch(artefact), torch.from_numpy(inputs[:1])).with_weights(stored)
    return workload.with_integers(*_widths(artefact))


def _widths(artefact: Artefact) -> tuple[dict[str, int], dict[str, int]]:
    """By the names of the weights whose values are evenly spaced: their bits, and those of what their layers read."""
    weights = {
        name: int(max(1, found[0].max(initial=0), -1 - found[0].min(initial=0))).bit_length() + 1
        for name, tensor in artefact.tensors.items()
        if (found := weight_codes(tensor)) is not None
    }
    read = {name: int(row["bits"]) for name in weights if (row := _activation(artefact, name)) is not None}
    return weights, read


def _activation(artefact: Artefact, weight: str) -> Mapping[str, Any] | None:
    row = artefact.activations.get(weight.rpartition(".")[0])
    return row if isinstance(row, dict) else None
