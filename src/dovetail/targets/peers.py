"""Other runtimes on this processor, each opened as a function from inputs to outputs, and timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto

from dovetail.errors import TargetError
from dovetail.optional import lazy
from dovetail.runtime.session import REFUSALS, first_line
from dovetail.targets.target import Quantity, relative_difference, tolerance
from dovetail.targets.timing import latency

if TYPE_CHECKING:
    import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]
else:
    openvino = lazy("openvino")

Arrays = Sequence[NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""From a network's inputs, in its order, to its outputs."""

Opening = Callable[[ModelProto, int, Sequence[tuple[int, ...]]], Run]
"""Opens a model to run on so many threads, for inputs of these shapes, the batch included."""


def open_onnxruntime(model: ModelProto, threads: int, shapes: Sequence[tuple[int, ...]]) -> Run:
    """The model in ONNX Runtime, for any batch. Raises TargetError if it is refused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except REFUSALS as error:
        raise TargetError(f"ONNX Runtime does not take the network: {first_line(error)}.") from None
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run


def open_openvino(model: ModelProto, threads: int, shapes: Sequence[tuple[int, ...]]) -> Run:
    """The model in OpenVINO, for these shapes. What is float32 stays so: left alone it would compute in bfloat16 here.

    Raises TargetError if it is refused, MissingPackageError if OpenVINO is not installed.
    """
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        network = core.read_model(model.SerializeToString())
        network.reshape(dict(zip(network.inputs, map(list, shapes), strict=True)))
        request = core.compile_model(network, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        last = str(error).strip().rpartition("\n")[2]  # the lines before say where in its source
        raise TargetError(f"OpenVINO does not take the network: {last.strip(' -.')}.") from None

    def run(inputs: Arrays) -> Arrays:
        return list(request.infer(list(inputs)).values())

    return run


PEERS: dict[str, Opening] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def load_peer(name: str) -> Opening:
    """How the runtime of that name opens a model. Raises TargetError if there is none."""
    if name not in PEERS:
        raise TargetError(f"There is no runtime {name!r} to compare with; choose from {', '.join(PEERS)}.")
    return PEERS[name]


BURST, SETTLING, ROUNDS = 0.03, 0.01, 5
"""Seconds of a burst, of what comes before it unmeasured, and how many bursts there are of each at least."""


@dataclass(frozen=True)
class Comparison:
    """Two runtimes that ran in turn, so that a noisy machine disturbs both alike.

    ratio: how many times as long `theirs` takes, over the pairs of bursts. difference: the largest one between their
    values of an output, relative to its largest.
    """

    peer: str
    batch: int
    ours: Quantity
    theirs: Quantity
    ratio: Quantity
    difference: float


def compare(
    ours: Run, theirs: Run, peer: str, inputs: Arrays, seconds: float, *, batch: int, bits: int | None
) -> Comparison:
    """Time two runtimes side by side for so long, on a batch of so many.

    Raises TargetError if their answers differ by more than rounding explains, that of codes of so many `bits` if what
    layers read is quantised: a wrong answer has no latency.
    """
    expected, found = ([np.array(array, np.float32) for array in run(inputs)] for run in (ours, theirs))
    quantised, allowed = bits is not None, tolerance(bits)
    difference = max(relative_difference(*pair, quantised=quantised) for pair in zip(expected, found, strict=True))
    if not difference <= allowed:
        raise TargetError(
            f"{peer} computes something else than the engine: the outputs differ by {difference:.2g} of their size, "
            f"more than {allowed:g}; nothing was timed."
        )
    first, second = bursts([lambda: ours(inputs), lambda: theirs(inputs)], seconds)
    ratios = [np.median(other) / np.median(own) for own, other in zip(first, second, strict=True)]
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    ratio = Quantity(float(middle), "x", float(low), float(high))
    return Comparison(peer, batch, latency([*chain(*first)]), latency([*chain(*second)]), ratio, difference)


def bursts(calls: Sequence[Callable[[], object]], seconds: float) -> list[list[list[float]]]:
    """For each call its bursts, of so many seconds together with all others': the seconds of each call in it.

    They take turns by bursts, not by calls: the threads of a runtime go on spinning for a while after a call, and would
    take the cores from the next one.
    """
    taken: list[list[list[float]]] = [[] for _ in calls]
    begin = time.perf_counter()
    while len(taken[0]) < ROUNDS or time.perf_counter() - begin < seconds:
        for call, rounds in zip(calls, taken, strict=True):
            _repeat(call, SETTLING)
            rounds.append(_repeat(call, BURST))
    return taken


def _repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """The seconds of each call, for so long and once at least."""
    samples: list[float] = []
    begin = start = time.perf_counter()
    while not samples or start - begin < seconds:
        call()
        end = time.perf_counter()
        samples.append(end - start)
        start = end
    return samples
