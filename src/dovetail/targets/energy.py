"""A modelled target: the energy of one inference at 45 nm prices, from traced counts and stored bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dovetail.hardware import EMBEDDED, EnergyModel, EnergyTable, Level, NetworkEnergy, network_energy
from dovetail.runtime import Artefact, to_torch
from dovetail.runtime.grids import weight_codes
from dovetail.targets.target import Cost, How, Inputs, Quantity, Target
from dovetail.workload import trace

PICO_PER_MICRO = 1e6


@dataclass(frozen=True, kw_only=True)
class EnergyTarget(Target):
    """The energy of one inference at 45 nm prices; a model, not a measurement.

    `table` names the prices; the other settings are those of `hardware.EnergyModel`.
    """

    name: ClassVar[str] = "energy_45nm"
    how: ClassVar[How] = "modelled"
    table: str = "horowitz_45nm"
    scale: float = 1.0
    levels: tuple[Level, ...] = EMBEDDED
    arithmetic: str = "float32"
    skip_zero_weights: bool = True
    skip_zero_activations: bool = False

    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        table = dataclasses.replace(EnergyTable.load(self.table), scale=self.scale)
        model = EnergyModel(
            table=table,
            levels=self.levels,
            arithmetic=self.arithmetic,
            skip_zero_weights=self.skip_zero_weights,
            skip_zero_activations=self.skip_zero_activations,
        )
        workload = trace(to_torch(artefact), torch.from_numpy(inputs[:1])).with_weights(artefact.tensors)
        workload = workload.with_integers(*_widths(artefact))
        energy = network_energy(workload, model)
        high = network_energy(workload, dataclasses.replace(model, table=table.high()))
        return Cost(
            self.name,
            self.how,
            {
                "energy": Quantity(
                    energy.total / PICO_PER_MICRO, "µJ", energy.total / PICO_PER_MICRO, high.total / PICO_PER_MICRO
                )
            },
            self._conditions(table),
            _breakdown(energy),
        )

    def _conditions(self, table: EnergyTable) -> dict[str, str]:
        scale = "" if self.scale == 1 else f", scaled by {self.scale:g}"
        skipped = [what for what in ("weights", "activations") if getattr(self, f"skip_zero_{what}")]
        memory = f"{len(table.unverified)} of them from memory" if table.unverified else "each read in a cited source"
        return {
            "model": "compulsory traffic and operations of one inference, a lower bound",
            "prices": f"{table.name} ({table.process}{scale}), {memory}",
            "arithmetic": f"{self.arithmetic}, or integers where weights and what layers read are quantised",
            "skipped": f"operations with zero {' or '.join(skipped)}" if skipped else "nothing",
            "memories": ", ".join(level.name for level in self.levels),
            "assumed": "weights that fit on the chip stay there between inferences; decoding is free",
            "batch": "1",
            "spread": "the published range of a DRAM access",
            "validated against": "the energy ladder of EIE (Han et al., ISCA 2016), within 2x a rung",
        }


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


def _breakdown(energy: NetworkEnergy) -> dict[str, dict[str, float]]:
    views = {"level": energy.by("level"), "operand": energy.by("operand"), "layer": energy.by("layer")}
    return {
        view: {name or "(network)": float(part / PICO_PER_MICRO) for name, part in parts.items()}
        for view, parts in views.items()
    }
