"""Everything that answers "what does this network cost there": measured on this machine, or modelled."""

from collections.abc import Callable

from dovetail.errors import TargetError
from dovetail.hardware import Chip, chip_names, is_chip
from dovetail.targets.artefacts import artefact_workload
from dovetail.targets.chip import ChipTarget
from dovetail.targets.cpu import CpuTarget, OnnxRuntimeTarget, OpenVinoTarget, TorchTarget
from dovetail.targets.energy import EnergyTarget
from dovetail.targets.latency import TIMED, ModuleLatency, knows_latency, module_latency
from dovetail.targets.peers import PEERS, Comparison, compare, load_peer, open_onnxruntime, open_openvino
from dovetail.targets.target import Cost, Quantity, Target
from dovetail.targets.timing import Timing

TARGETS: dict[str, Callable[[], Target]] = {
    TorchTarget.name: TorchTarget,
    CpuTarget.name: CpuTarget,
    OnnxRuntimeTarget.name: OnnxRuntimeTarget,
    OpenVinoTarget.name: OpenVinoTarget,
    EnergyTarget.name: EnergyTarget,
}
USUAL_TARGETS = tuple(name for name in TARGETS if name != OpenVinoTarget.name)
"""Those that need no package of their own."""


def load_target(name: str) -> Target:
    """The target listed under `name`, or the chip of that name or in that .toml file, with its default settings.

    Raises:
        TargetError: there is none.
    """
    if name in TARGETS:
        return TARGETS[name]()
    if is_chip(name):
        return ChipTarget(Chip.load(name))
    known = ", ".join((*TARGETS, *chip_names()))
    raise TargetError(f"There is no target {name!r}; choose from {known}, or name a chip's .toml file")


__all__ = [
    "PEERS",
    "TARGETS",
    "TIMED",
    "USUAL_TARGETS",
    "ChipTarget",
    "Comparison",
    "Cost",
    "CpuTarget",
    "EnergyTarget",
    "ModuleLatency",
    "OnnxRuntimeTarget",
    "OpenVinoTarget",
    "Quantity",
    "Target",
    "Timing",
    "TorchTarget",
    "artefact_workload",
    "compare",
    "knows_latency",
    "load_peer",
    "load_target",
    "module_latency",
    "open_onnxruntime",
    "open_openvino",
]
