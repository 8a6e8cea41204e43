"""Everything that answers "what does this network cost there": measured on this machine, or modelled."""

from collections.abc import Callable

from dovetail.errors import TargetError
from dovetail.targets.cpu import OnnxRuntimeTarget, TorchTarget
from dovetail.targets.energy import EnergyTarget
from dovetail.targets.latency import TIMED, ModuleLatency, module_latency
from dovetail.targets.target import Cost, Quantity, Target
from dovetail.targets.timing import Timing

TARGETS: dict[str, Callable[[], Target]] = {
    TorchTarget.name: TorchTarget,
    OnnxRuntimeTarget.name: OnnxRuntimeTarget,
    EnergyTarget.name: EnergyTarget,
}


def load_target(name: str) -> Target:
    """The target listed under `name`, with its default settings.

    Raises:
        TargetError: there is none.
    """
    if name not in TARGETS:
        raise TargetError(f"There is no target {name!r}; choose from {', '.join(TARGETS)}")
    return TARGETS[name]()


__all__ = [
    "TARGETS",
    "TIMED",
    "Cost",
    "EnergyTarget",
    "ModuleLatency",
    "OnnxRuntimeTarget",
    "Quantity",
    "Target",
    "Timing",
    "TorchTarget",
    "load_target",
    "module_latency",
]
