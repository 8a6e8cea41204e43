"""Matrix-vector products with weights as they are stored, beside other runtimes, in one run, answers compared first.

    python benchmarks/stored_kernels.py [1] [2]    threads; records benchmarks/results/stored_kernels.json

The layers of EIE (Han et al., ISCA 2016, table III): their sizes and densities of weights and activations, at random.
And a layer of 4096 x 4096 in every format. Peers hold the same weights dense (float32 and int8) or as CSR, and are
given what costs them least: their own tensors, bound once. All take turns in short bursts; a figure is the median over
the bursts, in microseconds, with quartiles, and `best` the fastest burst: where other work shares the cores, long calls
are interrupted more often than short ones: ratios of medians flatter the short ones, and ratios of the best do not.

Each layer of EIE is run alone, again and again, when what fits into the caches stays there; and `in_turn`, the three of
a network one after the other, as in the network: weights must then come from where those of all three fit. The engine's
kernel is there the one that it chooses by trying.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import scipy
import scipy.sparse
import torch
from onnx import TensorProto, helper, numpy_helper

from dovetail.formats import NM, Affine, Binary, Bitmap, Codebook, Float, Format, Ternary
from dovetail.kernels import Codes, Epilogue, Product, signs, stored
from dovetail.kernels.choice import Reading, times_of
from kernels import BURST, burst, microseconds, roof, run_on_threads

RESULTS = Path(__file__).parent / "results" / "stored_kernels.json"
Array = np.ndarray[Any, Any]
Runner = tuple[Callable[[], object], Callable[[], Array]]
"""Runs it, gives the answer."""
ROUNDS = 7
EIE = {  # inputs, outputs, density of weights and of activations
    "Alex-6": (9216, 4096, 0.09, 0.351),
    "Alex-7": (4096, 4096, 0.09, 0.353),
    "Alex-8": (4096, 1000, 0.25, 0.375),
    "VGG-6": (25088, 4096, 0.04, 0.183),
    "VGG-7": (4096, 4096, 0.04, 0.375),
    "VGG-8": (4096, 1000, 0.23, 0.411),
}
CENTROIDS = np.array([-9, -7, -5.5, -4, -3, -2, -1, 0, 1, 2, 3, 4.5, 6, 8, 10], np.float32) / 64
"""A codebook of 4 bits: whole multiples of STEP, so that int8 holds it too, and all peers compute the same layer."""
STEP = 1 / 128
FIFTEENTHS = np.linspace(-112, 120, 16).round() / 32
NETWORKS = {"AlexNet": ("Alex-6", "Alex-7", "Alex-8"), "VGG-16": ("VGG-6", "VGG-7", "VGG-8")}
BYTES, FLOATS = ("int8, slots", "int8, mask", "int8, inputs"), ("float32, slots", "float32, inputs")
"""What activations are, and the engine's kernel; `inputs` has codes of 4 bits where they are int8."""


class Layer:
    """Of EIE's table. `active`: another density of activations than its."""

    def __init__(self, name: str, active: float | None = None) -> None:
        inputs, outputs, density, own = EIE[name]
        rng = np.random.default_rng(inputs + outputs)
        nonzeros = CENTROIDS[CENTROIDS != 0]
        self.weights = nonzeros[rng.integers(0, nonzeros.size, (outputs, inputs), np.uint8)]
        self.weights[rng.random((outputs, inputs), np.float32) >= density] = 0
        self.codes = codes(inputs, own if active is None else active)
        self.tolerance = 1e-5 * np.sqrt(inputs) * 128  # of sums of floats; integers are exact
        self.format = Codebook.encode(self.weights, table=CENTROIDS)

    def expected(self) -> Array:
        return self.codes.astype(np.float64) @ self.weights.T.astype(np.float64)

    def ours(self, threads: int, kinds: tuple[str, ...]) -> dict[str, Runner]:
        runners = {}
        for kind in kinds:
            type_, _, kernel = kind.partition(", ")
            x = self.codes if type_ == "int8" else self.codes.astype(np.float32)
            runners[f"ours {kind}"] = ours(self.format, kernel, x, threads)
        return runners

    def chosen(self, threads: int) -> tuple[str, ...]:
        """What the engine chooses for integers, and for floats."""
        kinds = []
        for type_ in ("int8", "float32"):
            times = times_of(self.format, Reading(integers=type_ == "int8", zeros=True), threads=threads)
            kinds.append(f"{type_}, {min(times, key=times.__getitem__)}")
        return tuple(kinds)

    def peers(self, threads: int, integers: bool) -> dict[str, Runner]:
        if integers:
            whole = np.rint(self.weights / STEP).astype(np.int8)
            runners = {"openvino int8": openvino(whole, self.codes, threads)}
            runners["onnxruntime int8"] = onnxruntime(whole, self.codes, threads)
            return {name: scaled(runner, STEP) for name, runner in runners.items()}
        x = self.codes.astype(np.float32)
        return {
            "pytorch float32": pytorch(self.weights, x, threads),
            "openvino float32": openvino(self.weights, x, threads),
            "onnxruntime float32": onnxruntime(self.weights, x, threads),
            "pytorch CSR": pytorch_sparse(self.weights, x, threads),
            "scipy CSR": scipy_sparse(self.weights, x, threads),
        }


def codes(inputs: int, density: float) -> Array:
    rng = np.random.default_rng(1)
    return np.where(rng.random((1, inputs)) < density, rng.integers(1, 256, (1, inputs)), 0).astype(np.uint8)


def ours(format: Format, kernel: str, x: Array, threads: int) -> Runner:
    integers = x.dtype == np.uint8
    weights = stored(format, kernel, integers=integers)
    ones = np.ones(weights.shape[0], np.float32)
    product = Product(
        1, weights, Epilogue(scale=ones, bias=0 * ones), Codes(1, 0) if integers else None, threads=threads
    )
    answer = product(x)
    return product.run, lambda: answer


def graph(weights: Array, x: Array) -> onnx.ModelProto:
    """A product of floats, or of codes that stand for themselves."""
    nodes, constants, integers = [], {"w": np.ascontiguousarray(weights.T)}, x.dtype == np.uint8
    if integers:
        nodes.append(helper.make_node("MatMulInteger", ["x", "w"], ["y"]))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integers else (TensorProto.FLOAT, TensorProto.FLOAT)
    return _model(nodes, constants, weights, kinds)


def dequantised_graph(weights: Array) -> onnx.ModelProto:
    """What OpenVINO computes in integers: codes and int8 weights, both to be dequantised."""
    one, zero = np.ones((), np.float32), np.zeros((), np.uint8)
    constants = {"w": np.ascontiguousarray(weights.T), "one": one, "zero": zero, "none": zero.astype(np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "one", "none"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    return _model(nodes, constants, weights, (TensorProto.FLOAT, TensorProto.FLOAT))


def _model(nodes: list[Any], constants: dict[str, Array], weights: Array, kinds: tuple[int, int]) -> onnx.ModelProto:
    sides = [("x", kinds[0], weights.shape[1]), ("y", kinds[1], weights.shape[0])]
    read, written = (helper.make_tensor_value_info(name, kind, [1, size]) for name, kind, size in sides)
    initial = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    whole = helper.make_graph(nodes, "layer", [read], [written], initial)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def openvino(weights: Array, x: Array, threads: int) -> Runner:
    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    config["INFERENCE_PRECISION_HINT"] = "f32"
    proto = dequantised_graph(weights) if x.dtype == np.uint8 else graph(weights, x)
    compiled = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", config)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x.astype(np.float32)))
    return request.infer, lambda: request.get_output_tensor().data


def onnxruntime(weights: Array, x: Array, threads: int) -> Runner:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph(weights, x).SerializeToString(), options, ["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding), lambda: binding.copy_outputs_to_cpu()[0]


def pytorch(weights: Array, x: Array, threads: int) -> Runner:
    torch.set_num_threads(threads)
    matrix, vector = torch.from_numpy(weights), torch.from_numpy(x)
    return lambda: torch.nn.functional.linear(vector, matrix), lambda: (vector @ matrix.T).numpy()


def pytorch_sparse(weights: Array, x: Array, threads: int) -> Runner:
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    matrix, vector = torch.from_numpy(weights).to_sparse_csr(), torch.from_numpy(x[0])
    return lambda: matrix @ vector, lambda: (matrix @ vector).numpy()[None]


def scipy_sparse(weights: Array, x: Array, _: int) -> Runner:
    matrix, vector = scipy.sparse.csr_array(weights), np.ascontiguousarray(x[0])
    return lambda: matrix @ vector, lambda: (matrix @ vector)[None]


def scaled(runner: Runner, factor: float) -> Runner:
    return runner[0], lambda: runner[1]() * factor


def in_turns(runners: dict[str, Runner], expected: Array, tolerance: float) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, runner in runners.items():
        rows[name] = {"differs": check(name, runner, expected, tolerance)}
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, (run, _answer) in runners.items():
            taken[name].append(burst(run))
    for name, times in taken.items():
        rows[name] |= microseconds(times) | {"best": best(times)}
    return rows


def check(name: str, runner: Runner, expected: Array, tolerance: float) -> float:
    """How far its answer is from the right one."""
    run, answer = runner
    run()
    differs = float(np.abs(answer().astype(np.float64) - expected).max())
    if differs > tolerance:
        raise SystemExit(f"{name}'s answer differs by {differs}, of {np.abs(expected).max()}")
    return round(differs, 6)


def best(times: list[float]) -> float:
    return round(1e6 * min(times), 2)


def eie_layer(name: str, threads: int) -> dict[str, Any]:
    """Alone. With all activations as well, as some kernels leave out those that are zero."""
    made = Layer(name)
    rows = in_turns(made.ours(threads, BYTES) | made.peers(threads, integers=True), made.expected(), STEP / 2)
    rows |= in_turns(made.ours(threads, FLOATS) | made.peers(threads, integers=False), made.expected(), made.tolerance)
    full = Layer(name, active=1.0)
    rows |= {
        f"{kind}, all active": row
        for kind, row in in_turns(full.ours(threads, (*BYTES, *FLOATS)), full.expected(), full.tolerance).items()
    }
    return rows | ratios(rows)


def eie_network(names: tuple[str, ...], threads: int) -> dict[str, dict[str, Any]]:
    """Its layers one after the other."""
    runs: dict[str, list[Runner]] = {}
    chosen: dict[str, dict[str, str]] = {}
    for name in names:
        made = Layer(name)
        runners = made.ours(threads, made.chosen(threads)) | made.peers(threads, True) | made.peers(threads, False)
        chosen[name] = dict(one.split(", ") for one in runners if one.startswith("ours"))
        for runtime, runner in runners.items():
            runs.setdefault(runtime.partition(",")[0], []).append(runner)
            check(runtime, runner, made.expected(), STEP / 2 if "int8" in runtime else made.tolerance)
    taken: dict[str, list[list[float]]] = {runtime: [[] for _ in names] for runtime in runs}
    for _ in range(ROUNDS):
        for runtime, runners in runs.items():
            for times, seconds in zip(taken[runtime], one_after_the_other([run for run, _ in runners]), strict=True):
                times.append(seconds)
    rows: dict[str, dict[str, Any]] = {
        name: {runtime: microseconds(times[i]) | {"best": best(times[i])} for runtime, times in taken.items()}
        for i, name in enumerate(names)
    }
    return {name: row | ratios(row) | {"kernels": chosen[name]} for name, row in rows.items()}


def one_after_the_other(runs: list[Callable[[], object]]) -> list[float]:
    """Seconds of each: the median over as many rounds as fit into a burst, the first of which does not count."""
    times: list[list[float]] = []
    end = time.perf_counter() + len(runs) * BURST
    while len(times) < 6 or time.perf_counter() < end:
        row = []
        for run in runs:
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        times.append(row)
    return [float(seconds) for seconds in np.median(times[1:], axis=0)]


def ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """Of our fastest over the fastest dense float32, and over the fastest peer: in float32, of those in float32."""
    found: dict[str, Any] = {}
    peers = {name: row for name, row in rows.items() if not name.startswith("ours")}
    for kind in ("int8", "float32"):
        own = [row for name, row in rows.items() if name.startswith(f"ours {kind}") and "all active" not in name]
        alike = [row for name, row in peers.items() if kind == "int8" or "int8" not in name]
        dense = [row for name, row in peers.items() if name.endswith(" float32")]
        for figure, by in (("us", "medians"), ("best", "best")):
            mine, peer, floats = (min(row[figure] for row in each) for each in (own, alike, dense))
            over = {"dense float32": round(floats / mine, 1), "peers": round(peer / mine, 1)}
            found.setdefault(f"ours {kind}", {})[by] = over
    return {"ratios": found}


def every_format(threads: int, bandwidth: float) -> dict[str, Any]:
    """4096 x 4096 in the prototypes' list of formats."""
    side, rng = 4096, np.random.default_rng(0)
    tensor = rng.standard_normal((side, side), np.float32)
    sparse = {share: np.where(rng.random(tensor.shape, np.float32) < share, tensor, 0) for share in (0.1, 0.02)}
    pairs = np.where(np.arange(side) % 4 % 3 == 0, tensor, 0)
    eight = partial(Affine.encode, bits=8)
    cases: dict[str, tuple[Format, str, bool]] = {
        "int8": (eight(tensor, axis=0), "dense", True),
        "4-bit codebook": (Codebook.encode(tensor, table=FIFTEENTHS), "codes", True),
        "4-bit codebook, float32": (Codebook.encode(tensor, table=np.sort(tensor[0, :16])), "codes", False),
        "4-bit affine": (Affine.encode(tensor, bits=4, axis=0), "codes", True),
        "4-bit codebook, 35 % active": (Codebook.encode(tensor, table=FIFTEENTHS), "inputs", True),
        "int8, 35 % active": (eight(tensor, axis=0), "inputs", True),
        "float32, 35 % active": (Float.encode(tensor), "inputs", False),
        "ternary": (Ternary.encode(np.where(abs(tensor) > 0.7, tensor, 0), axis=0, symmetric=True), "codes", True),
        "binary": (Binary.encode(tensor, axis=0), "codes", True),
        "2:4 of int8": (NM.encode(pairs, eight, n=2, m=4), "mask", True),
        "10 % of int8": (Bitmap.encode(sparse[0.1], eight), "slots", True),
        "2 % of int8": (Bitmap.encode(sparse[0.02], eight), "slots", True),
        "10 % of int8, bitmap": (Bitmap.encode(sparse[0.1], eight), "mask", True),
    }
    rows: dict[str, Any] = {}
    for name, (format, kernel, integers) in cases.items():
        active = 0.35 if "active" in name else 1.0
        x = codes(side, active)
        weights = stored(format, kernel, integers=integers)
        runner = ours(format, kernel, x if integers else x.astype(np.float32), threads)
        matrix = weights.values()[:, :, 0, 0].astype(np.float64) * weights.scale.astype(np.float64)[:, None]
        expected = x.astype(np.float64) @ matrix.T
        row = in_turns({name: runner}, expected, 2e-6 * float(np.abs(expected).max() * 64))[name]
        read = round(active * weights.pack().bytes)
        row |= {"bytes": read, "of_bandwidth": round(read / row["best"] * 1e6 / bandwidth, 3)}
        rows[name] = row
    weights, x = signs(Binary.encode(tensor, axis=0), integers=True, least=128), codes(side, 1.0)
    ones = np.ones(side, np.float32)
    product = Product(1, weights, Epilogue(scale=1 / weights.scale, bias=0 * ones), Codes(1, 128), threads=threads)
    answer = product(x)
    expected = np.where(x >= 128, 1.0, -1.0) @ weights.values()[:, :, 0, 0].T.astype(np.float64)
    rows["binary x binary"] = in_turns({"": (product.run, lambda: answer)}, expected, 0.5)[""]
    rows["binary x binary"] |= {"bytes": weights.pack().bytes}
    rows["binary x binary"]["of_bandwidth"] = round(side**2 / 8 / rows["binary x binary"]["best"] * 1e6 / bandwidth, 3)
    return rows


def every_layer(threads: int) -> dict[str, Any]:
    with roof(threads) as most:
        peak = most()
    formats = every_format(threads, peak["bytes"])
    results: dict[str, Any] = {"peak": peak, "4096 x 4096": formats}
    for name, row in formats.items():
        print(
            f"{threads}: {name}: {row['us']} us, best {row['best']}, {row['of_bandwidth']:.0%} of bandwidth", flush=True
        )
    for name in EIE:
        results[name] = eie_layer(name, threads)
        tell(threads, name, results[name])
    for network, names in NETWORKS.items():
        results[f"{network}, in_turn"] = eie_network(names, threads)
        for name, row in results[f"{network}, in_turn"].items():
            tell(threads, f"{name} in turn", row)
    return results


def tell(threads: int, name: str, row: dict[str, Any]) -> None:
    times = ", ".join(f"{key} {one['us']}" for key, one in row.items() if "us" in one)
    print(f"{threads}: {name}: {times}; {row['ratios']}", flush=True)


if __name__ == "__main__":
    cache = "each layer alone, again and again: up to about 16 MB its weights stay in the third-level cache"
    versions = {package.__name__: package.__version__ for package in (ov, ort, torch, scipy)}
    run_on_threads(__file__, every_layer, RESULTS, {"cache": cache, "versions": versions})
