"""Layers on chips of kind "spatial": loops spread over an array, each layer by the best mapping that the mapper finds.

What was found is kept on disk, by content: the same layer on the same chip is solved once, whatever its name. Only
mappings and bounds are kept; counts and prices are always computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import LayerCost, Objective, price
from dovetail.hardware.counts import count
from dovetail.hardware.layer import Layer
from dovetail.hardware.mapper import VERSION, best_mapping, value_of
from dovetail.hardware.mapping import Mapping, problems
from dovetail.hardware.parts import FLAG, SOME_OPERANDS, Parts, require
from dovetail.machine import cache_folder, keep

PARTS = Parts(settings={"halo_reuse": FLAG, "latched": SOME_OPERANDS}, zeros=True)


@dataclass(frozen=True)
class _Entry:
    mapping: Mapping
    lower_bound: float


def layer_costs(
    chip: Chip, layers: Sequence[Layer], objective: Objective = "energy", *, seconds: float | None = None
) -> tuple[LayerCost, ...]:
    """What each of `layers` costs on `chip` at best; those of the same shape are mapped once.

    `seconds` is how long to search for each; what was found so is not kept on disk.

    Raises:
        TargetError: a layer cannot be mapped, or an action has no price; it names the layer and the memory.
    """
    require(chip, PARTS)
    solved: list[LayerCost] = []
    costs = []
    for layer in layers:
        known = next((cost for cost in solved if cost.layer.same_shape(layer)), None)
        if known is None:
            known = _layer_cost(chip, layer, objective, seconds)
            solved.append(known)
        costs.append(replace(known, layer=layer))
    return tuple(costs)


def _layer_cost(chip: Chip, layer: Layer, objective: Objective, seconds: float | None) -> LayerCost:
    file = cache_folder() / "mappings" / f"{_key(chip, layer, objective)}.json"
    entry = _read(file, chip, layer) if seconds is None else None
    if entry is None:
        found = best_mapping(chip, layer, objective, seconds=seconds)
        entry = _Entry(found.mapping, found.lower_bound)
        if seconds is None:
            keep(file, msgspec.json.encode(entry))
    counts = count(chip, layer, entry.mapping)
    value = value_of(chip, layer, counts, objective)
    return LayerCost(
        layer=layer,
        counts=counts,
        energy=price(chip, layer, counts),
        utilisation=entry.mapping.utilisation(layer, chip.elements),
        mapping=entry.mapping,
        objective=objective,
        value=value,
        lower_bound=min(entry.lower_bound, value),
    )


def _key(chip: Chip, layer: Layer, objective: Objective) -> str:
    """Of everything that the best mapping depends on."""
    content = (VERSION, replace(chip, source=(), title="", validated=""), replace(layer, name=""), objective)
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def _read(file: Path, chip: Chip, layer: Layer) -> _Entry | None:
    """What was kept; None if there is nothing, or nothing that runs the layer (another program wrote there)."""
    try:
        entry = msgspec.json.decode(file.read_bytes(), type=_Entry)
    except (OSError, msgspec.MsgspecError):
        return None
    return None if problems(chip, layer, entry.mapping) else entry
