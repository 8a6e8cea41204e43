"""Targets that are measured on this machine's processor: PyTorch and ONNX Runtime.

Both run the artefact's weights decoded to dense float32, so a smaller file is not a faster one here; what they show is
what the network itself takes, and that shrinking its layers pays where pruning single weights does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar

import torch

from dovetail.runtime import Artefact, Session, to_torch
from dovetail.targets.target import Cost, How, Inputs, Target, check_outputs
from dovetail.targets.timing import Timing, conditions, latency, throughput, torch_threads

WEIGHTS = "decoded to dense float32"


@dataclass(frozen=True)
class TorchTarget(Target):
    """PyTorch in eager mode on this CPU, measured."""

    name: ClassVar[str] = "torch"
    how: ClassVar[How] = "measured"
    timing: Timing = field(default_factory=Timing)

    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        model = to_torch(artefact).eval()
        tensor = torch.from_numpy(inputs)
        with torch_threads(self.timing.threads):
            check_outputs(self.name, artefact, inputs, model(tensor).numpy())
            single = self.timing.samples(lambda: model(tensor[:1]))
            batched = self.timing.samples(lambda: model(tensor)) if len(inputs) > 1 else []
        return _measured(self, single, batched, len(inputs), f"PyTorch {version('torch')}, eager")


@dataclass(frozen=True)
class OnnxRuntimeTarget(Target):
    """ONNX Runtime on this CPU, measured through the artefact's own session."""

    name: ClassVar[str] = "onnxruntime"
    how: ClassVar[How] = "measured"
    timing: Timing = field(default_factory=Timing)

    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        session = Session(artefact, threads=self.timing.threads)
        check_outputs(self.name, artefact, inputs, session(inputs))
        single = self.timing.samples(lambda: session(inputs[:1]))
        batched = self.timing.samples(lambda: session(inputs)) if len(inputs) > 1 else []
        return _measured(self, single, batched, len(inputs), f"ONNX Runtime {version('onnxruntime')}, CPU provider")


def _measured(
    target: TorchTarget | OnnxRuntimeTarget, single: list[float], batched: list[float], batch: int, runtime: str
) -> Cost:
    quantities = {"latency": latency(single)}
    if batched:
        quantities["throughput"] = throughput(batched, batch)
    return Cost(
        target.name,
        target.how,
        quantities,
        {
            "runtime": runtime,
            "weights": WEIGHTS,
            "batch": "1 for latency" + (f", {batch} for throughput" if batched else ""),
            **conditions(target.timing, len(single)),
        },
    )
