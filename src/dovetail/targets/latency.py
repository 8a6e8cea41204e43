"""The seconds that any module takes on one input: what a method asks that plans under a budget of latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dovetail.errors import TargetError
from dovetail.hardware import Chip, is_chip
from dovetail.methods.constraint import bake
from dovetail.runtime import EngineSession, Session, freeze, to_qdq
from dovetail.targets.chip import ChipTarget
from dovetail.targets.peers import open_openvino
from dovetail.targets.timing import Timing, torch_threads

QUICK = Timing(warm_up=3, runs=20, seconds=0.02)
"""For layers, of which there are hundreds to time: enough for a median."""


def module_latency(module: nn.Module, example: Tensor, target: str = "onnxruntime", timing: Timing = QUICK) -> float:
    """The median seconds of `module` on one input like `example` (N, ...), or on a chip those that its model counts.

    "torch" runs the module as it is, in eager mode; the others take it exported as an artefact is.

    Raises:
        TargetError: no module can be timed on this target.
        ModelError: the module cannot be exported.
    """
    one = example[:1].detach()
    if target in _RUNNERS:
        with torch_threads(timing.threads), torch.inference_mode():
            run = _RUNNERS[target](module, one, timing.threads)
            return statistics.median(timing.samples(run))
    if is_chip(target):
        cost = ChipTarget(Chip.load(target)).cost(freeze(module, one), one.numpy())
        return cost.quantities["latency"].value / 1e3
    raise TargetError(f"latency is known on {', '.join(TIMED)} and on chips, not on {target}")


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


def _in_onnx_runtime(module: nn.Module, example: Tensor, threads: int) -> Callable[[], object]:
    return partial(Session(freeze(module, example), threads=threads), example.contiguous().numpy())


def _in_engine(module: nn.Module, example: Tensor, threads: int) -> Callable[[], object]:
    return partial(EngineSession(freeze(module, example), threads=threads), example.contiguous().numpy())


def _in_openvino(module: nn.Module, example: Tensor, threads: int) -> Callable[[], object]:
    model, _ = to_qdq(freeze(module, example))
    return partial(open_openvino(model, threads, [tuple(example.shape)]), [example.contiguous().numpy()])


def _in_torch(module: nn.Module, example: Tensor, threads: int) -> Callable[[], object]:
    return partial(bake(module).eval(), example)


_RUNNERS: dict[str, Callable[[nn.Module, Tensor, int], Callable[[], object]]] = {
    "onnxruntime": _in_onnx_runtime,
    "cpu": _in_engine,
    "openvino": _in_openvino,
    "torch": _in_torch,
}
"""What runs a module on an input, on so many threads."""

TIMED = tuple(_RUNNERS)
"""The targets on which `module_latency` measures."""


def knows_latency(target: str) -> bool:
    """Whether `module_latency` takes this target: one that measures, or a chip."""
    return target in TIMED or is_chip(target)
