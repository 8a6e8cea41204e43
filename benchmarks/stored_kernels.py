"""Matrix-vector products with weights as they are stored, beside other runtimes, in one run, answers compared first.

    python benchmarks/stored_kernels.py [1] [2]    threads; records benchmarks/results/stored_kernels.json

The layers of EIE (Han et al., ISCA 2016, table III): their sizes and densities, random weights and activations. And a
layer of 4096 x 4096 in every format. Peers hold the same weights dense (float32 and int8) or as CSR, and are given what
costs them least: their own tensors, bound once. All take turns in short bursts; a figure is the median over the bursts,
in microseconds, with quartiles, and `best` the fastest burst: where other work shares the cores, long calls are
interrupted more often than short ones, so that ratios of medians flatter the short ones and ratios of the best do not.
"""

from __future__ import annotations

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

from dovetail.formats import NM, Affine, Binary, Bitmap, Codebook, Format, RelativeIndex, Ternary
from dovetail.kernels import Codes, Epilogue, Product, signs, stored
from kernels import burst, microseconds, roof, run_on_threads

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
"""A codebook of 4 bits: whole multiples of 1/128, so that int8 holds it too, and all peers compute the same layer."""


def layer(inputs: int, outputs: int, density: float) -> Array:
    rng = np.random.default_rng(inputs + outputs)
    nonzeros = CENTROIDS[CENTROIDS != 0]
    drawn = nonzeros[rng.integers(0, nonzeros.size, (outputs, inputs), np.uint8)]
    drawn[rng.random((outputs, inputs), np.float32) >= density] = 0
    return drawn


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


def in_turn(runners: dict[str, Runner], expected: Array, tolerance: float) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, (run, answer) in runners.items():
        run()
        differs = float(np.abs(answer().astype(np.float64) - expected).max())
        if differs > tolerance:
            raise SystemExit(f"{name}'s answer differs by {differs}, of {np.abs(expected).max()}")
        rows[name] = {"differs": round(differs, 6)}
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, (run, _answer) in runners.items():
            taken[name].append(burst(run))
    for name, times in taken.items():
        rows[name] |= microseconds(times) | {"best": round(1e6 * min(times), 2)}
    return rows


def eie_layer(name: str, threads: int) -> dict[str, Any]:
    inputs, outputs, density, active = EIE[name]
    weights = layer(inputs, outputs, density)
    integers = np.rint(weights * 128).astype(np.int8)
    values, coded = partial(Affine.encode, bits=8, scale=1 / 128), partial(Codebook.encode, table=CENTROIDS)
    bytes_, shared = Bitmap.encode(weights, values), RelativeIndex.encode(weights, coded, index_bits=4)
    x, few = codes(inputs, 1.0), codes(inputs, active)
    real, few_real = (v.astype(np.float32) for v in (x, few))
    rows = in_turn(
        {
            "ours int8, slots": _scaled(ours(bytes_, "slots", x, threads), 128),
            "ours int8, bitmap": _scaled(ours(bytes_, "mask", x, threads), 128),
            "openvino int8": openvino(integers, x, threads),
            "onnxruntime int8": onnxruntime(integers, x, threads),
        },
        x.astype(np.float64) @ integers.T.astype(np.float64),
        0.5,
    )
    del integers
    tolerance = 1e-5 * np.sqrt(inputs) * 128
    exact = real.astype(np.float64) @ weights.T.astype(np.float64)
    rows |= in_turn(
        {
            "ours 4-bit codebook, slots": ours(shared, "slots", real, threads),
            "pytorch float32": pytorch(weights, real, threads),
            "openvino float32": openvino(weights, real, threads),
            "onnxruntime float32": onnxruntime(weights, real, threads),
            "pytorch CSR": pytorch_sparse(weights, real, threads),
            "scipy CSR": scipy_sparse(weights, real, threads),
        },
        exact,
        tolerance,
    )
    rows |= in_turn(
        {
            "ours 4-bit codebook, few activations": ours(shared, "slots", few_real, threads),
            "ours int8, few activations": ours(bytes_, "slots", few, threads),
        },
        few_real.astype(np.float64) @ weights.T.astype(np.float64),
        tolerance,
    )
    return rows | _ratios(rows)


def _scaled(runner: Runner, factor: float) -> Runner:
    return runner[0], lambda: runner[1]() * factor


def _ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """Over the fastest dense float32, and over the fastest peer: int8 over all, float32 over those in float32."""
    ratios: dict[str, Any] = {}
    peers = {name: row for name, row in rows.items() if not name.startswith("ours")}
    for mine in ("ours int8, slots", "ours 4-bit codebook, slots"):
        alike = {name: row for name, row in peers.items() if "int8" in mine or "int8" not in name}
        for figure, by in (("us", "medians"), ("best", "best")):
            dense = min(row[figure] for name, row in peers.items() if name.endswith(" float32"))
            peer = min(row[figure] for row in alike.values())
            over = {"dense float32": round(dense / rows[mine][figure], 1), "peers": round(peer / rows[mine][figure], 1)}
            ratios.setdefault(mine, {})[by] = over
    return {"ratios": ratios}


def every_format(threads: int, bandwidth: float) -> dict[str, Any]:
    """4096 x 4096 in the prototypes' list of formats."""
    side, rng = 4096, np.random.default_rng(0)
    tensor = rng.standard_normal((side, side), np.float32)
    sparse = {share: np.where(rng.random(tensor.shape, np.float32) < share, tensor, 0) for share in (0.1, 0.02)}
    pairs = np.where(np.arange(side) % 4 % 3 == 0, tensor, 0)
    eight = partial(Affine.encode, bits=8)
    cases: dict[str, tuple[Format, str, bool]] = {
        "int8": (eight(tensor, axis=0), "dense", True),
        "4-bit codebook": (Codebook.encode(tensor, table=np.linspace(-112, 120, 16).round() / 32), "codes", True),
        "4-bit codebook, float32": (Codebook.encode(tensor, table=np.sort(tensor[0, :16])), "codes", False),
        "4-bit affine": (Affine.encode(tensor, bits=4, axis=0), "codes", True),
        "ternary": (Ternary.encode(np.where(abs(tensor) > 0.7, tensor, 0), axis=0, symmetric=True), "codes", True),
        "binary": (Binary.encode(tensor, axis=0), "codes", True),
        "2:4 of int8": (NM.encode(pairs, eight, n=2, m=4), "mask", True),
        "10 % of int8": (Bitmap.encode(sparse[0.1], eight), "slots", True),
        "2 % of int8": (Bitmap.encode(sparse[0.02], eight), "slots", True),
        "10 % of int8, bitmap": (Bitmap.encode(sparse[0.1], eight), "mask", True),
    }
    rows: dict[str, Any] = {}
    for name, (format, kernel, integers) in cases.items():
        x = codes(side, 1.0)
        weights = stored(format, kernel, integers=integers)
        runner = ours(format, kernel, x if integers else x.astype(np.float32), threads)
        matrix = weights.values()[:, :, 0, 0].astype(np.float64) * weights.scale.astype(np.float64)[:, None]
        expected = x.astype(np.float64) @ matrix.T
        row = in_turn({name: runner}, expected, 2e-6 * float(np.abs(expected).max() * 64))[name]
        read = weights.pack().bytes
        row |= {"bytes": read, "of_bandwidth": round(read / row["best"] * 1e6 / bandwidth, 3)}
        rows[name] = row
    weights, x = signs(Binary.encode(tensor, axis=0), integers=True, least=128), codes(side, 1.0)
    ones = np.ones(side, np.float32)
    product = Product(1, weights, Epilogue(scale=1 / weights.scale, bias=0 * ones), Codes(1, 128), threads=threads)
    answer = product(x)
    expected = np.where(x >= 128, 1.0, -1.0) @ weights.values()[:, :, 0, 0].T.astype(np.float64)
    rows["binary x binary"] = in_turn({"": (product.run, lambda: answer)}, expected, 0.5)[""]
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
        times = ", ".join(f"{key} {row['us']}" for key, row in results[name].items() if key != "ratios")
        print(f"{threads}: {name}: {times}; {results[name]['ratios']}", flush=True)
    return results


if __name__ == "__main__":
    cache = "each layer alone, again and again: up to about 16 MB its weights stay in the third-level cache"
    versions = {package.__name__: package.__version__ for package in (ov, ort, torch, scipy)}
    run_on_threads(__file__, every_layer, RESULTS, {"cache": cache, "versions": versions})
