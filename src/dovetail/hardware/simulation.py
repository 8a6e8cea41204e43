"""A network on a chip: each layer that differs is given to the model of the chip's kind, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, get_args

from dovetail import keys
from dovetail.errors import TargetError
from dovetail.hardware import angel_eye, diannao, row_stationary, spatial, systolic, tpu
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import ChipCost, LayerCost, Objective, as_multiplied
from dovetail.hardware.layer import MAPPED, OPERANDS, Layer, layers
from dovetail.workload import Workload


class Model(Protocol):
    """What a layer costs on a chip of one kind, for each of `layers`."""

    def __call__(self, chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
        """Raises a TargetError that names the layer and the memory where something does not fit."""


MODELS: dict[str, Model] = {
    "angel_eye": angel_eye.layer_costs,
    "diannao": diannao.layer_costs,
    "row_stationary": row_stationary.layer_costs,
    "spatial": spatial.layer_costs,
    "systolic": systolic.layer_costs,
    "tpu": tpu.layer_costs,
}
"""By the kind of a chip."""


def simulate(
    chip: Chip,
    workload: Workload,
    *,
    batch: int = 1,
    objective: Objective = "energy",
    bits: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ChipCost:
    """What `workload`, a trace of one input, costs on `chip`, layer after layer.

    Args:
        batch: how many inputs the chip takes at once; the cost is that of all of them.
        objective: what the mapping of each layer is to have least of, where the chip leaves a choice.
        bits: compute with integers of so many bits; None takes every operand as wide as the workload says.
        seconds: how long to search for the mapping of each different layer, on chips of kind "spatial"; None searches
            to the end. What was found so is not kept on disk.
        progress: told how many of how many different layers are done.

    Raises:
        TargetError: the chip's kind is unknown, or a layer does not fit; it names the layer and what is missing.
    """
    model = model_of(chip)
    if seconds is not None:
        if chip.kind != "spatial" or not seconds > 0:
            raise TargetError(
                f"A limit of seconds is more than 0, and for chips of kind 'spatial', whose mappings are searched for; "
                f"got {seconds:g} for {chip.name!r} of kind {chip.kind!r}"
            )
        model = partial(spatial.layer_costs, seconds=seconds)
    if batch < 1 or (bits is not None and bits < 1):
        raise TargetError(f"A simulation takes at least one input and one bit, got batch={batch}, bits={bits}")
    if objective not in get_args(Objective):
        raise TargetError(f"The objective is one of {', '.join(get_args(Objective))}, got {objective!r}")
    found = layers(workload, batch=batch, bits=bits)
    if not found:
        raise TargetError("The network has no convolution, matrix product or attention, so there is nothing to map")
    computed = [as_multiplied(chip, layer) for layer in found]
    different = _different(computed)
    solved = []
    for done, layer in enumerate(different):
        if progress is not None:
            progress(done, len(different))
        (cost,) = model(chip, [layer], objective)
        solved.append(cost)
    known = list(zip(different, solved, strict=True))
    costs = (
        replace(next(cost for other, cost in known if wide.same_shape(other)), layer=layer)
        for layer, wide in zip(found, computed, strict=True)
    )
    return ChipCost(chip, tuple(costs), batch, _left_out(workload))


def model_of(chip: Chip) -> Model:
    """The model that reads chips of this kind.

    Raises:
        TargetError: there is none.
    """
    if chip.kind not in MODELS:
        raise TargetError(f"Chip {chip.name!r}: kind {chip.kind!r} is unknown{keys.hint(chip.kind, MODELS)}")
    return MODELS[chip.kind]


def samples(chip: Chip) -> tuple[Layer, ...]:
    """A small convolution, as wide as the chip computes, and a small matrix product for each operation that it has."""
    products = (
        Layer(
            f"a matrix product of {each.input_bits} by {each.weight_bits} bits",
            {"K": 100, "C": 64},
            bits={"I": each.input_bits, "W": each.weight_bits, "O": each.input_bits},
        )
        for each in chip.arithmetic.operation
    )
    bits = dict.fromkeys(OPERANDS, chip.widest)
    return Layer("a convolution", {"K": 16, "C": 8, "P": 14, "Q": 14, "R": 3, "S": 3}, bits=bits), *products


def check(chip: Chip) -> tuple[LayerCost, ...]:
    """What `samples` cost.

    Raises:
        TargetError: the chip's kind is unknown, an energy that they need is missing, or one does not fit.
    """
    return model_of(chip)(chip, samples(chip))


def _different(found: Sequence[Layer]) -> list[Layer]:
    """One of each layers that cost the same."""
    kept: list[Layer] = []
    for layer in found:
        if not any(layer.same_shape(other) for other in kept):
            kept.append(layer)
    return kept


def _left_out(workload: Workload) -> tuple[str, ...]:
    """Operations without loops to map, which chips do on the way: "2 activation: relu1, relu2"."""
    names: dict[str, list[str]] = {}
    for operation in workload.operations:
        if operation.kind not in MAPPED:
            names.setdefault(operation.kind, []).append(operation.name or operation.operator)
    return tuple(f"{len(found)} {kind}: {', '.join(dict.fromkeys(found))}" for kind, found in names.items())
