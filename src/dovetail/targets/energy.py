"""A modelled target: the energy of one inference at 45 nm prices, from traced counts and stored bits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from dovetail.hardware import EMBEDDED, EnergyModel, EnergyTable, Level, NetworkEnergy, network_energy
from dovetail.runtime import Artefact
from dovetail.targets.artefacts import artefact_workload
from dovetail.targets.target import Cost, How, Inputs, Quantity, Target

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
        workload = artefact_workload(artefact, inputs)
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


def _breakdown(energy: NetworkEnergy) -> dict[str, dict[str, float]]:
    views = {"level": energy.by("level"), "operand": energy.by("operand"), "layer": energy.by("layer")}
    return {
        view: {name or "(network)": float(part / PICO_PER_MICRO) for name, part in parts.items()}
        for view, parts in views.items()
    }
