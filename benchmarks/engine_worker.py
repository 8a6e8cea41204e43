"""One runtime in a process of its own: opens a network, answers once, then times bursts of calls when asked to.

    python engine_worker.py RUNTIME FILE INPUTS.npy OUTPUTS.npy THREADS

It writes a line of JSON once it has answered: seconds from the open file to the first answer, and the memory that this
took beyond the imported package. For each line on standard input, a number of seconds, it writes the seconds of each
call in a burst of that length. Nothing but the runtime itself is imported, so that it can be in another environment.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
SETTLING = 0.3
"""The share of a burst that comes before it, unmeasured."""


def open_dovetail(package: Any, file: str, threads: int, shape: tuple[int, ...]) -> Run:
    session: Run = package.load(file, threads)
    return session


def open_onnxruntime(package: Any, file: str, threads: int, shape: tuple[int, ...]) -> Run:
    options = package.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = package.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0])


def open_openvino(package: Any, file: str, threads: int, shape: tuple[int, ...]) -> Run:
    """What is float32 stays so: left alone it would compute in bfloat16 where the processor has it."""
    core = package.Core()
    network = core.read_model(file)
    network.reshape(list(shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda x: np.asarray(request.infer([x])[0])


def open_deepsparse(package: Any, file: str, threads: int, shape: tuple[int, ...]) -> Run:
    engine = package.Engine(model=file, batch_size=shape[0], num_cores=threads)
    return lambda x: np.asarray(engine.run([x])[0])


OPENINGS: dict[str, tuple[str, Callable[[Any, str, int, tuple[int, ...]], Run]]] = {
    "dovetail": ("dovetail", open_dovetail),
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "openvino": ("openvino", open_openvino),
    "deepsparse": ("deepsparse", open_deepsparse),
}


def burst(run: Run, inputs: np.ndarray, seconds: float) -> list[float]:
    samples: list[float] = []
    begin = start = time.perf_counter()
    while not samples or start - begin < seconds:
        run(inputs)
        end = time.perf_counter()
        samples.append(end - start)
        start = end
    return samples


def peak() -> int:
    """The most memory that this process had, in bytes; resource.getrusage would count its parent's before it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    runtime, file, inputs_file, outputs_file, threads = sys.argv[1:]
    name, opening = OPENINGS[runtime]
    package = importlib.import_module(name)
    if runtime == "dovetail":
        importlib.import_module("dovetail.runtime")
    inputs = np.load(inputs_file)
    before, start = peak(), time.perf_counter()
    run = opening(package, file, int(threads), inputs.shape)
    opened = time.perf_counter()
    np.save(outputs_file, run(inputs))
    facts = {"start_ms": 1e3 * (opened - start), "first_ms": 1e3 * (time.perf_counter() - start)}
    facts["peak_mb"] = (peak() - before) / 1e6
    facts = {name: round(value, 2) for name, value in facts.items()}
    print(
        json.dumps(facts | {"version": str(getattr(package, "__version__", "?")), "bytes": Path(file).stat().st_size})
    )
    for line in iter(sys.stdin.readline, ""):
        burst(run, inputs, SETTLING * float(line))
        print(json.dumps(burst(run, inputs, float(line))), flush=True)


if __name__ == "__main__" and len(sys.argv) > 1:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
