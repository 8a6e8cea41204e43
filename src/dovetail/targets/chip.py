"""Modelled targets: the accelerators that chip files describe."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import ClassVar

from dovetail.hardware import Chip, ChipCost, Objective, simulate
from dovetail.runtime import Artefact
from dovetail.targets.artefacts import artefact_workload
from dovetail.targets.target import Cost, How, Inputs, Quantity, Target

PICO_PER_MICRO = 1e6
OPERAND_NAMES = {"I": "inputs", "W": "weights", "O": "outputs"}


@dataclass(frozen=True)
class ChipTarget(Target):
    """An accelerator; a model, not a measurement.

    `batch` inputs are computed at once, each layer mapped for the least `objective`. Layers that are not quantised are
    taken as computed in the most bits that the chip has, so that every network has a cost on every chip.
    """

    how: ClassVar[How] = "modelled"
    chip: Chip
    batch: int = 1
    objective: Objective = "energy"

    @property
    def name(self) -> str:
        return self.chip.name

    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        workload = artefact_workload(artefact, inputs).with_floats_as(self.chip.widest)
        found = simulate(self.chip, workload, batch=self.batch, objective=self.objective)
        per_input = found.picojoules / found.batch
        return Cost(
            self.name,
            self.how,
            {
                "energy": Quantity(per_input / PICO_PER_MICRO, "µJ"),
                "latency": Quantity(1e3 * found.seconds, "ms"),
                "power": Quantity(1e-9 * found.picojoules / found.seconds, "mW"),
            },
            self._conditions(found),
            _breakdown(found),
        )

    def _conditions(self, found: ChipCost) -> dict[str, str]:
        chip, statuses = self.chip, Counter(source.status for source in self.chip.sources)
        return {
            "model": f"{chip.title}: counts of the {chip.kind} model, each layer mapped for the least {self.objective}",
            "prices": f"{chip.name}, {chip.node_nm:g} nm at {chip.clock_mhz:g} MHz; sources: "
            + ", ".join(f"{count} {status}" for status, count in statuses.items()),
            "arithmetic": f"integers as quantised; what is not is taken as {chip.widest} bits wide",
            "left out": "; ".join(found.left_out) or "nothing",
            "assumed": "layers run one after the other; the host, and what is left out, cost nothing",
            "batch": str(self.batch),
            "validated against": chip.validated or "nothing",
        }


def _breakdown(found: ChipCost) -> dict[str, dict[str, float]]:
    """In microjoules an input; layers that are executed several times are summed."""
    layers: dict[str, float] = defaultdict(float)
    for layer in found.layers:
        layers[layer.layer.name or "(network)"] += layer.picojoules
    operands = {OPERAND_NAMES.get(name, name): part for name, part in found.by("operand").items()}
    views = {"level": found.by("place"), "operand": operands, "layer": layers}
    return {
        view: {name: float(part / found.batch / PICO_PER_MICRO) for name, part in parts.items()}
        for view, parts in views.items()
    }
