"""What hardware costs: prices read from tables, counts in closed form, energy as their product."""

from dovetail.hardware.arch import Chip, chip_names, is_chip
from dovetail.hardware.cost import ChipCost, Objective
from dovetail.hardware.energy import (
    EMBEDDED,
    EnergyEntry,
    EnergyModel,
    LayerCounts,
    Level,
    NetworkEnergy,
    Traffic,
    count,
    network_energy,
)
from dovetail.hardware.fused import Plan, fuse
from dovetail.hardware.mapping import Mapping, draw, problems
from dovetail.hardware.prices import EnergyTable, MemoryPrice, OperationPrice
from dovetail.hardware.record import ChipRecord
from dovetail.hardware.scaling import scaled
from dovetail.hardware.simulation import MODELS, simulate

__all__ = [
    "EMBEDDED",
    "MODELS",
    "Chip",
    "ChipCost",
    "ChipRecord",
    "EnergyEntry",
    "EnergyModel",
    "EnergyTable",
    "LayerCounts",
    "Level",
    "Mapping",
    "MemoryPrice",
    "NetworkEnergy",
    "Objective",
    "OperationPrice",
    "Plan",
    "Traffic",
    "chip_names",
    "count",
    "draw",
    "fuse",
    "is_chip",
    "network_energy",
    "problems",
    "scaled",
    "simulate",
]
