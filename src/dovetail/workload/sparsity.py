"""Where the zeros are: in weights or in activations; scattered, in blocks, in groups of n:m, or in whole channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.workload.workload import Workload

BLOCK = 4
"""Rows and columns of a block, and elements of an n:m group."""

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class WeightSparsity:
    """The zeros of one weight. Every figure but `shape` is a fraction.

    An output is one index of the first dimension, an input one of the second, a kernel what is left under one index of
    both, as in the weights of Conv2d and Linear (a transposed convolution has its inputs first).

    `density` is of nonzeros; `structured` are zeros that lie in outputs, inputs or kernels without a nonzero, which a
    smaller dense layer leaves out, `unstructured` the other zeros: the three sum to 1. `zero_outputs`, `zero_inputs`,
    `zero_kernels` (None where kernels are single elements) and `zero_blocks` are the part of those that hold no
    nonzero. Blocks are 4 x 4 in the matrix of outputs by all else, groups four neighbours in its rows, both smaller at
    its edges. `two_of_four` and `one_of_four` are the part of the groups with at most two nonzeros and one: 1.0 means
    that hardware for 2:4 or 1:4 takes the weight as it is.
    """

    shape: tuple[int, ...]
    density: float
    structured: float
    unstructured: float
    zero_outputs: float
    zero_inputs: float
    zero_kernels: float | None
    zero_blocks: float
    two_of_four: float
    one_of_four: float


@dataclass(frozen=True)
class Sparsity:
    """The zeros on both sides of a layer's products: of its weight, and of what that is multiplied with.

    `name` is the weight's in the state_dict; `input_density` the fraction of nonzeros among the inputs of all
    operations that multiply with the weight, None where they have none.
    """

    name: str
    weight: WeightSparsity
    input_density: float | None


def sparsity(model: nn.Module, workload: Workload) -> tuple[Sparsity, ...]:
    """The sparsity of every weight, of two dimensions or more, that `workload`, traced from `model`, multiplies with.

    In the order of execution. Raises ModelError if the workload is of another network, or traced without values.
    """
    inputs: dict[str, list[tuple[int, float]]] = {}
    for operation in workload.operations:
        if not operation.macs:
            continue
        read = [(operand.elements, operand.density) for operand in operation.with_role("input")]
        for name in {operand.name for operand in operation.with_role("weight")}:
            inputs.setdefault(name, []).extend(read)
    weights = {name: _weight(model, name) for name in inputs}
    return tuple(
        Sparsity(name, weight_sparsity(weights[name].detach().float().cpu().numpy()), _mean(inputs[name]))
        for name in inputs
        if weights[name].ndim > 1
    )


def weight_sparsity(weight: NDArray[Any]) -> WeightSparsity:
    """Where the zeros of a weight of two dimensions or more are. Raises ModelError for one of fewer."""
    if weight.ndim < 2:
        raise ModelError(f"A weight of two dimensions or more is expected, this one's shape is {weight.shape}.")
    outputs, inputs = weight.shape[:2]
    nonzero = (weight != 0).reshape(outputs, inputs, math.prod(weight.shape[2:]))
    kernels = nonzero.any(2)
    kept_outputs, kept_inputs = kernels.any(1), kernels.any(0)
    # A kernel of one element is no structure: every zero would be one.
    leftover = kept_outputs[:, None] & kept_inputs
    if nonzero.shape[2] > 1:
        leftover &= kernels
    structured = 1 - _share(leftover) if nonzero.size else 0.0
    density = _share(nonzero)
    matrix = nonzero.reshape(outputs, inputs * nonzero.shape[2])
    groups, blocks = _tiles(matrix, 1).sum((1, 3)), _tiles(matrix, BLOCK).any((1, 3))
    return WeightSparsity(
        shape=weight.shape,
        density=density,
        structured=structured,
        unstructured=max(0.0, 1 - density - structured),
        zero_outputs=1 - _share(kept_outputs),
        zero_inputs=1 - _share(kept_inputs),
        zero_kernels=1 - _share(kernels) if nonzero.shape[2] > 1 else None,
        zero_blocks=1 - _share(np.asarray(blocks)),
        two_of_four=_share(np.asarray(groups <= 2)),
        one_of_four=_share(np.asarray(groups <= 1)),
    )


def _weight(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        weight = getattr(module, attribute)
        # torch.nn.utils.prune keeps the weight of before as `weight_orig` and the pruned one as `weight`.
        weight = getattr(module, attribute.removesuffix("_orig"), weight)
    except AttributeError:
        raise ModelError(f"The workload reads a weight {name!r}, which this network has not; trace this one.") from None
    if weight.is_meta:
        raise ModelError(f"Weight {name!r} is on the meta device and has no values; load the network with its weights.")
    assert isinstance(weight, Tensor)
    return weight


def _tiles(matrix: Booleans, rows: int) -> Booleans:
    """The matrix as (tiles, rows, tiles, BLOCK), filled up with zeros at its edges."""
    padded = np.pad(matrix, ((0, -len(matrix) % rows), (0, -matrix.shape[1] % BLOCK)))
    return padded.reshape(len(padded) // rows, rows, padded.shape[1] // BLOCK, BLOCK)


def _share(flags: Booleans) -> float:
    """The fraction that is true; all of none."""
    return float(flags.mean()) if flags.size else 1.0


def _mean(measured: list[tuple[int, float]]) -> float | None:
    elements = sum(count for count, _ in measured)
    return sum(count * density for count, density in measured) / elements if elements else None
