"""The seconds that any module takes on one input: what a method asks that plans under a budget of latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dovetail.errors import TargetError
from dovetail.methods.constraint import bake
from dovetail.runtime import Session, freeze
from dovetail.targets.timing import Timing, torch_threads

QUICK = Timing(warm_up=3, runs=20, seconds=0.02)
"""For layers, of which there are hundreds to time: enough for a median."""


def module_latency(module: nn.Module, example: Tensor, target: str = "onnxruntime", timing: Timing = QUICK) -> float:
    """The median seconds of `module` on one input like `example` (N, ...).

    For "onnxruntime" the module is exported as an artefact is; "torch" runs it as it is, in eager mode.

    Raises:
        TargetError: no module can be timed on this target.
        ModelError: the module cannot be exported.
    """
    if target not in _RUNNERS:
        raise TargetError(f"latency is measured on {' or '.join(_RUNNERS)}, not on {target}")
    return _RUNNERS[target](module, example[:1].detach(), timing)


@dataclass(frozen=True)
class ModuleLatency:
    """`module_latency` on one target. Layers of the same structure are measured once."""

    target: str = "onnxruntime"
    timing: Timing = QUICK
    _known: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, module: nn.Module, example: Tensor) -> float:
        measure = partial(module_latency, module, example, self.target, self.timing)
        if not _says_all(module):
            return measure()
        key = f"{module} {tuple(example.shape[1:])}"
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]


def _says_all(module: nn.Module) -> bool:
    """Whether the module's text is its structure: layers of PyTorch's own, by themselves or in a row."""
    own = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.ReLU, nn.BatchNorm2d, nn.Sequential)
    return all(type(part) in own for part in module.modules())


def _in_onnx_runtime(module: nn.Module, example: Tensor, timing: Timing) -> float:
    session = Session(freeze(module, example), threads=timing.threads)
    inputs = example.contiguous().numpy()
    return statistics.median(timing.samples(lambda: session(inputs)))


def _in_torch(module: nn.Module, example: Tensor, timing: Timing) -> float:
    plain = bake(module).eval()
    with torch_threads(timing.threads), torch.inference_mode():
        return statistics.median(timing.samples(lambda: plain(example)))


_RUNNERS: dict[str, Callable[[nn.Module, Tensor, Timing], float]] = {
    "onnxruntime": _in_onnx_runtime,
    "torch": _in_torch,
}
TIMED = tuple(_RUNNERS)
"""The targets that `module_latency` knows."""
