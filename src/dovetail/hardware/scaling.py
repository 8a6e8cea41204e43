"""A chip in another process: what it would take in energy and area there, by published scaling equations.

Stillmaker, Baas. Scaling equations for the accurate prediction of CMOS device performance from 180 nm to 7 nm.
Integration 58, 2017 (its tables as transcribed in wromaszkan/nodeScale):

    energy of switching ~ a V^2 + b V + c       a, b, c of the node, at its nominal supply V (high performance)
    area                ~ the area of logic at 65 nm

Between nodes, both follow the power law through the neighbours. Limits: the equations are those of logic; memory
shrinks less than logic below 20 nm, wires and leakage less than gates. Memories without `bytes` are chips of their own
(DRAM, flash) and stay as they are, and so does the clock: the same machine, cycle for cycle, or its bandwidths in bits
per cycle would be others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Dimension, Memory, OperationEnergy, Source

NODES = {
    # nm: (a, b, c) of energy; nominal supply in V (of the PTM models that the paper simulates); area, 65 nm = 1
    180: ((0.0, 24.64, -17.98), 1.8, 12.0),
    130: ((7.171, -6.709, 2.904), 1.3, 4.3),
    90: ((4.762, -4.781, 2.092), 1.2, 1.9),
    65: ((3.755, -4.398, 1.975), 1.1, 1.0),
    45: ((1.018, -0.3107, 0.1539), 1.0, 0.66),
    32: ((0.8367, -0.4341, 0.1701), 0.9, 0.31),
    20: ((0.373, -0.1582, 0.04104), 0.9, 0.14),
    16: ((0.2958, -0.1241, 0.03024), 0.85, 0.13),
    14: ((0.2363, -0.09675, 0.02239), 0.8, 0.12),
    10: ((0.2068, -0.09311, 0.02375), 0.75, 0.068),
    7: ((0.1776, -0.09097, 0.02447), 0.7, 0.039),
}


def energy_at(node_nm: float) -> float:
    """Energy of switching at a node; only ratios mean something.

    Raises:
        TargetError: the node lies outside 7 to 180 nm.
    """
    return _between(node_nm, {nm: a * v * v + b * v + c for nm, ((a, b, c), v, _) in NODES.items()})


def area_at(node_nm: float) -> float:
    """Area of the same logic at a node, by that at 65 nm; raises as `energy_at`."""
    return _between(node_nm, {nm: area for nm, (_, _, area) in NODES.items()})


def scaled(chip: Chip, node_nm: float) -> Chip:
    """`chip` as it would be at `node_nm`, at the same clock; what was scaled says so in its `source`.

    Raises:
        TargetError: one of the nodes lies outside 7 to 180 nm.
    """
    if node_nm == chip.node_nm:
        return chip
    energy = energy_at(node_nm) / energy_at(chip.node_nm)
    area = area_at(node_nm) / area_at(chip.node_nm)
    says = f"scaled from {chip.node_nm:g} to {node_nm:g} nm by Stillmaker, Baas 2017: energy x {energy:.4g}"

    def memory(part: Memory) -> Memory:
        if part.bytes is None:
            return part
        keys = ("read_picojoules", "write_picojoules")
        return replace(
            part,
            read_picojoules=_times(part.read_picojoules, energy),
            write_picojoules=_times(part.write_picojoules, energy),
            source=(*part.source, Source(says=says, status="derived", keys=keys)),
        )

    def operation(part: OperationEnergy) -> OperationEnergy:
        source = Source(says=says, status="derived", keys=("picojoules",))
        return replace(part, picojoules=_times(part.picojoules, energy), source=(*part.source, source))

    def dimension(part: Dimension) -> Dimension:
        return replace(part, hop_picojoules=_times(part.hop_picojoules, energy))

    keys = ("node_nm", "area_mm2", "idle_milliwatts", "dimension.hop_picojoules")
    source = Source(says=f"{says}, area x {area:.4g}", status="derived", keys=keys)
    return replace(
        chip,
        node_nm=node_nm,
        area_mm2=_times(chip.area_mm2, area),
        idle_milliwatts=chip.idle_milliwatts * energy,
        dimension=tuple(map(dimension, chip.dimension)),
        arithmetic=replace(chip.arithmetic, operation=tuple(map(operation, chip.arithmetic.operation))),
        memory=tuple(map(memory, chip.memory)),
        source=(*chip.source, source),
    )


def _between(node_nm: float, values: dict[int, float]) -> float:
    """The piecewise power law through `values`."""
    nodes = sorted(values)
    if not nodes[0] <= node_nm <= nodes[-1]:
        raise TargetError(f"Scaling equations are known from {nodes[0]} to {nodes[-1]} nm, got {node_nm:g} nm")
    return float(np.exp(np.interp(np.log(node_nm), np.log(nodes), np.log([values[nm] for nm in nodes]))))


def _times(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor
