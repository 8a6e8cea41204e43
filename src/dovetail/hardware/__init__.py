"""What hardware costs: prices read from tables, counts in closed form, energy as their product."""

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
from dovetail.hardware.prices import EnergyTable, MemoryPrice, OperationPrice

__all__ = [
    "EMBEDDED",
    "EnergyEntry",
    "EnergyModel",
    "EnergyTable",
    "LayerCounts",
    "Level",
    "MemoryPrice",
    "NetworkEnergy",
    "OperationPrice",
    "Traffic",
    "count",
    "network_energy",
]
