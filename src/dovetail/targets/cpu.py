"""Targets that are measured on this machine's processor: the native engine, and the runtimes that others use.

PyTorch runs the weights decoded to dense float32. The others get quantised layers as integers (runtime/qdq.py), and all
else decoded too; the engine may run weights as they are stored. Answers are compared before anything is timed: in
floats with the artefact's session, in integers with those of another runtime that computes in integers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar

import torch
from onnx import ModelProto

from dovetail.runtime import Artefact, EngineSession, to_qdq, to_torch
from dovetail.targets.peers import Run, open_onnxruntime, open_openvino
from dovetail.targets.target import Cost, How, Inputs, Target, check_outputs
from dovetail.targets.timing import Timing, conditions, latency, throughput, torch_threads

DENSE = "decoded to dense float32"
INTEGERS = "dense; integers where layers are quantised"

Batch = Callable[[Inputs], Inputs]
Prepared = tuple[Batch, Batch, dict[str, str]]


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
        said = {"runtime": f"PyTorch {version('torch')}, eager", "weights": DENSE}
        return _measured(self, single, batched, len(inputs), said)


class _RuntimeTarget(Target):
    """A runtime that takes what the artefact is as standard ONNX, quantised layers as integers."""

    timing: Timing

    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        model, integers = to_qdq(artefact)
        run, alone, said = self.prepare(artefact, model, inputs)
        check_outputs(
            self.name, artefact, inputs, run(inputs), self.others(artefact, model, inputs) if integers else None
        )
        single = self.timing.samples(lambda: alone(inputs[:1]))
        batched = self.timing.samples(lambda: run(inputs)) if len(inputs) > 1 else []
        return _measured(self, single, batched, len(inputs), {"weights": INTEGERS if integers else DENSE} | said)

    @abstractmethod
    def prepare(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Prepared:
        """What runs all inputs, what runs one of them, and what is to be said of it."""

    def others(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Inputs:
        """The answers of another runtime in integers."""
        return _alone(open_onnxruntime(model, self.timing.threads, [inputs.shape]))(inputs)


@dataclass(frozen=True)
class CpuTarget(_RuntimeTarget):
    """The native engine on this CPU, measured."""

    name: ClassVar[str] = "cpu"
    how: ClassVar[How] = "measured"
    timing: Timing = field(default_factory=Timing)

    def prepare(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Prepared:
        session = EngineSession(artefact, threads=self.timing.threads)
        rows = session.describe()
        elsewhere = dict.fromkeys(f"{row.layer} ({row.why})" for row in rows if row.kernel == "ONNX Runtime")
        said = {
            "runtime": f"Dovetail {version('dovetail')}, native engine",
            "weights": ", ".join(dict.fromkeys(row.kernel for row in rows if row.weight_bytes)) or "none",
            "elsewhere": f"in ONNX Runtime: {', '.join(elsewhere)}" if elsewhere else "nothing",
            "memory": f"{session.memory(1).peak:,} bytes of activations",
        }
        return session, session, said


@dataclass(frozen=True)
class OnnxRuntimeTarget(_RuntimeTarget):
    """ONNX Runtime on this CPU, measured."""

    name: ClassVar[str] = "onnxruntime"
    how: ClassVar[How] = "measured"
    timing: Timing = field(default_factory=Timing)

    def prepare(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Prepared:
        run = _alone(open_onnxruntime(model, self.timing.threads, [inputs.shape]))
        return run, run, {"runtime": f"ONNX Runtime {version('onnxruntime')}, CPU provider"}

    def others(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Inputs:
        return EngineSession(artefact, threads=self.timing.threads)(inputs)


@dataclass(frozen=True)
class OpenVinoTarget(_RuntimeTarget):
    """OpenVINO on this CPU, measured; needs the package openvino."""

    name: ClassVar[str] = "openvino"
    how: ClassVar[How] = "measured"
    timing: Timing = field(default_factory=Timing)

    def prepare(self, artefact: Artefact, model: ModelProto, inputs: Inputs) -> Prepared:
        run, alone = (_alone(open_openvino(model, self.timing.threads, [x.shape])) for x in (inputs, inputs[:1]))
        return run, alone, {"runtime": f"OpenVINO {version('openvino')}, CPU plugin, float32 where not in integers"}


def _alone(run: Run) -> Batch:
    """What runs a network of one input and one output, from batch to batch."""
    return lambda inputs: run([inputs])[0]


def _measured(
    target: TorchTarget | _RuntimeTarget, single: list[float], batched: list[float], batch: int, said: dict[str, str]
) -> Cost:
    quantities = {"latency": latency(single)}
    if batched:
        quantities["throughput"] = throughput(batched, batch)
    counts = "1 for latency" + (f", {batch} for throughput" if batched else "")
    return Cost(
        target.name, target.how, quantities, {**said, "batch": counts, **conditions(target.timing, len(single))}
    )
