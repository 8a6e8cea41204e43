"""The engine's dense kernels beside OpenVINO, ONNX Runtime and PyTorch, in one run, answers compared first.

    python benchmarks/kernels.py [1] [2]    threads; records benchmarks/results/kernels.json

Peers run chains of the same layer, and the time of a layer is what one more of them costs: calling them is not counted.
Ours is: it is called once for each layer of the chain, each with weights of its own. All take turns in short bursts; a
figure is the median over the bursts, in microseconds, with the quartiles.
Beside them, what the machine can do at most (roof.cpp), measured in the same run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import torch
from onnx import TensorProto, helper, numpy_helper
from records import record

from dovetail import _native
from dovetail.kernels import Codes, Convolution, Epilogue, Window
from dovetail.machine import processor

RESULTS = Path(__file__).parent / "results" / "kernels.json"
INPUT = Codes(0.02, 3)
BURST, ROUNDS = 0.02, 11  # seconds, bursts
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A convolution of `size` x `size` that keeps the size of the image; a product is one of 1 x 1."""

    name: str
    inputs: int
    outputs: int
    image: tuple[int, int]
    size: int
    chain: int = 1

    @property
    def products(self) -> int:
        return self.inputs * self.outputs * self.size**2 * self.image[0] * self.image[1]

    def weights(self, integers: bool, seed: int) -> Array:
        rng, shape = np.random.default_rng(seed), (self.outputs, self.inputs, self.size, self.size)
        if integers:
            return rng.integers(-127, 128, shape).astype(np.int8)
        return (rng.standard_normal(shape) / np.sqrt(shape[1] * self.size**2)).astype(np.float32)

    def scale(self, integers: bool) -> Array:
        """Of the weights, so that outputs are about as large as inputs."""
        scale = np.float32(1 / (73 * np.sqrt(self.inputs * self.size**2)) if integers else 1)
        return np.full(self.outputs, scale, np.float32)

    def input(self, integers: bool) -> Array:
        rng, shape = np.random.default_rng(9), (1, *self.image, self.inputs)
        return rng.integers(0, 256, shape).astype(np.uint8) if integers else rng.standard_normal(shape).astype("f")


CASES = (
    Case("ResNet-20, 16 channels, 32 x 32", 16, 16, (32, 32), 3, 9),
    Case("ResNet-20, 32 channels, 16 x 16", 32, 32, (16, 16), 3, 9),
    Case("ResNet-20, 64 channels, 8 x 8", 64, 64, (8, 8), 3, 9),
    Case("ResNet-50, 64 channels, 56 x 56, 3 x 3", 64, 64, (56, 56), 3, 5),
    Case("ResNet-50, 128 channels, 28 x 28, 3 x 3", 128, 128, (28, 28), 3, 5),
    Case("ResNet-50, 256 channels, 14 x 14, 3 x 3", 256, 256, (14, 14), 3, 5),
    Case("ResNet-50, 512 channels, 7 x 7, 3 x 3", 512, 512, (7, 7), 3, 5),
    Case("product 512 x 512 x 196", 512, 512, (1, 196), 1, 5),
    Case("product 512 x 4608 x 196", 4608, 512, (1, 196), 1),
    Case("product 1024 x 1024 x 1024", 1024, 1024, (1, 1024), 1, 3),
    Case("matrix-vector 4096 x 4096", 4096, 4096, (1, 1), 1, 5),
)


def model(case: Case, integers: bool, chain: int) -> onnx.ModelProto:
    """As many layers, each with its ReLU; images are (1, channels, rows, columns)."""
    constants: dict[str, Array] = {}
    if integers:
        constants |= {"scale": np.array(INPUT.scale, np.float32), "zero": np.array(INPUT.zero, np.uint8)}
    nodes, value = [], "x"
    pad = case.size // 2
    for i in range(chain):
        name, weights = f"w{i}", case.weights(integers, i)
        constants[name] = weights
        if integers:
            constants[f"s{i}"] = case.scale(True)
            nodes.append(helper.make_node("DequantizeLinear", [value, "scale", "zero"], [f"x{i}"]))
            nodes.append(helper.make_node("DequantizeLinear", [name, f"s{i}"], [f"d{i}"], axis=0))
            value, name = f"x{i}", f"d{i}"
        nodes.append(helper.make_node("Conv", [value, name], [f"c{i}"], pads=[pad] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [value := f"r{i}"]))
        if integers:
            nodes.append(helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"q{i}"]))
            value = f"q{i}"
    kind = TensorProto.UINT8 if integers else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", kind, [1, case.inputs, *case.image])],
        [helper.make_tensor_value_info(value, kind, [1, case.outputs, *case.image])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


Runner = tuple[Callable[[], object], Callable[[], Array]]
"""Runs it, gives the answer."""


def ours(case: Case, integers: bool, chain: int, threads: int) -> Runner:
    layers, x = [], case.input(integers)
    for i in range(chain):
        scale = case.scale(integers)
        if integers:
            scale = scale * np.float32(INPUT.scale)
        epilogue = Epilogue(scale=scale, bias=0 * scale, activation="relu", output=INPUT if integers else None)
        window = Window(padding=(case.size // 2,) * 4)
        codes = INPUT if integers else None
        layers.append(Convolution(x.shape, case.weights(integers, i), window, epilogue, codes, threads=threads))
    answers = [layer(x) for layer in layers]
    calls = [layer.run for layer in layers]

    def run() -> None:
        for call in calls:
            call()

    return run, lambda: answers[0]


def image(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def openvino(case: Case, integers: bool, chain: int, threads: int) -> Runner:
    core = ov.Core()
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model(case, integers, chain).SerializeToString()), "CPU", config)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(image(case.input(integers))))
    return request.infer, lambda: request.get_output_tensor().data.transpose(0, 2, 3, 1)


def onnxruntime(case: Case, integers: bool, chain: int, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model(case, integers, chain).SerializeToString(), options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", image(case.input(integers)))
    binding.bind_output(session.get_outputs()[0].name)
    return (
        lambda: session.run_with_iobinding(binding),
        lambda: binding.copy_outputs_to_cpu()[0].transpose(0, 2, 3, 1),
    )


def pytorch(case: Case, integers: bool, chain: int, threads: int) -> Runner:
    """oneDNN; in integers by its quantised convolution."""
    torch.set_num_threads(threads)
    x = torch.from_numpy(image(case.input(integers))).contiguous(memory_format=torch.channels_last)
    pad = [case.size // 2] * 2
    if integers:
        torch.backends.quantized.engine = "onednn"
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
        x = torch._make_per_tensor_quantized_tensor(x, INPUT.scale, INPUT.zero)
        zeros = torch.zeros(case.outputs, dtype=torch.long)
        scales = torch.from_numpy(case.scale(True)).double()
        packed = [
            torch.ops.quantized.conv2d_prepack(
                torch._make_per_channel_quantized_tensor(torch.from_numpy(case.weights(True, i)), scales, zeros, 0),
                None,
                [1, 1],
                pad,
                [1, 1],
                1,
            )
            for i in range(chain)
        ]

        def layer(value: Any, weights: Any) -> Any:
            return torch.ops.quantized.conv2d_relu(value, weights, INPUT.scale, INPUT.zero)
    else:
        packed = [
            torch.from_numpy(case.weights(False, i)).contiguous(memory_format=torch.channels_last) for i in range(chain)
        ]

        def layer(value: Any, weights: Any) -> Any:
            return torch.relu_(torch.conv2d(value, weights, padding=pad))

    def run() -> Any:
        value = x
        for weights in packed:
            value = layer(value, weights)
        return value

    def answer() -> Array:
        value = run()
        array: Array = (value.int_repr() if integers else value).numpy().transpose(0, 2, 3, 1)
        return array

    return run, answer


PEERS = {"openvino": openvino, "onnxruntime": onnxruntime, "pytorch": pytorch}


def burst(run: Callable[[], object]) -> float:
    """Seconds of a run: the median of as many as fit into a burst."""
    times, end = [], time.perf_counter() + BURST
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def differs(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def microseconds(times: list[float]) -> dict[str, float]:
    low, middle, high = (round(1e6 * float(t), 2) for t in np.percentile(times, [25, 50, 75]))
    return {"us": middle, "low": low, "high": high}


def measured(case: Case, integers: bool, threads: int) -> dict[str, Any]:
    mine, answer = ours(case, integers, case.chain, threads)
    expected, row = answer(), {}
    for name, make in PEERS.items():
        (one, its_answer), (many, _) = (make(case, integers, n, threads) for n in (1, case.chain))
        one()
        row[name] = {"differs": round(differs(expected, its_answer()), 6)}
        limit = 1 if integers else 1e-3
        if row[name]["differs"] > limit:
            raise SystemExit(f"{case.name}: {name}'s answer differs by {row[name]['differs']}")
        many()
        taken: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(ROUNDS):
            taken["ours"].append(burst(mine) / case.chain)
            more = burst(many) - (burst(one) if case.chain > 1 else 0)
            taken["peer"].append(more / max(case.chain - 1, 1))
        row[name] |= microseconds(taken["peer"])
        row[name] |= {"ours_us": microseconds(taken["ours"])["us"]}
        row[name]["speedup"] = round(float(np.median(np.array(taken["peer"]) / np.array(taken["ours"]))), 2)
        row.setdefault("bursts", []).extend(taken["ours"])
    row["ours"] = microseconds(row.pop("bursts"))
    return row


@contextmanager
def roof(threads: int) -> Iterator[Callable[[], dict[str, float]]]:
    """What the machine can do at most, measured whenever it is called."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(__file__).parent / "roof.cpp", Path(folder, "roof")
        subprocess.run(["g++", "-O3", "-std=c++20", "-march=native", "-pthread", source, "-o", program], check=True)
        command = [program, str(threads)]
        yield lambda: dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def run_on_threads(script: str, measure: Callable[[int], dict[str, Any]], results: Path, facts: dict[str, Any]) -> None:
    """Records what measure(threads) finds for each number of threads on the command line, with the load around it.

    Each is a process of its own, as threads are fixed when it starts.
    """
    if "OMP_NUM_THREADS" in os.environ and sys.argv[1:2] == ["--only"]:
        threads, before = int(sys.argv[2]), os.getloadavg()[0]
        os.sched_setaffinity(0, range(threads))
        print(json.dumps({"load_before": before} | measure(threads) | {"load_after": os.getloadavg()[0]}))
        return
    everything: dict[str, Any] = {"processor": processor(), "level": _native.levels()[0]} | facts
    for count in map(int, sys.argv[1:] or ("1", "2")):
        environment = os.environ | {"OMP_NUM_THREADS": str(count)}
        command = [sys.executable, script, "--only", str(count)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("{"):
                    everything[f"threads_{count}"] = json.loads(line)
                else:
                    print(line, end="", flush=True)
        record(results, everything)


def every_case(threads: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    with roof(threads) as most:
        peak = rows["peak"] = most()
        for case in CASES:
            for kind in ("int8", "float32"):
                row = rows[f"{case.name}, {kind}"] = measured(case, kind == "int8", threads)
                seconds = row["ours"]["us"] / 1e6
                weight_bytes = case.inputs * case.outputs * case.size**2 * (1 if kind == "int8" else 4)
                row["of_peak"] = round(case.products / seconds / peak[f"{kind}_products"], 3)
                row["of_bandwidth"] = round(weight_bytes / seconds / most()["bytes"], 3)  # of that moment's
                beside = ", ".join(f"{name} {row[name]['us']} ({row[name]['speedup']}x)" for name in PEERS)
                mine = f"{row['ours']['us']} us, {row['of_peak']:.0%} of peak, {row['of_bandwidth']:.0%} of bandwidth"
                print(f"{threads}: {case.name}, {kind}: {mine}; {beside}", flush=True)
    return rows


if __name__ == "__main__":
    versions = {"openvino": ov.__version__, "onnxruntime": ort.__version__, "torch": torch.__version__}
    run_on_threads(__file__, every_case, RESULTS, {"versions": versions, "cases": [asdict(case) for case in CASES]})
