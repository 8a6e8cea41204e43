"""Operators and what becomes of several of them, in floats and in codes, beside ONNX Runtime."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from dovetail.errors import DovetailError
from dovetail.runtime.engine import EngineSession

RNG = np.random.default_rng(0)
SCALE, ZERO = np.float32(0.04), np.uint8(120)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def model(shape: str, body: str, constants: dict[str, NDArray[np.generic]] | None = None) -> ModelProto:
    """From float[shape] x to y, whose shape need not be said."""
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{shape}] x) => (float y) {{ {body} }}'
    result = onnx.parser.parse_model(text)
    for name, array in (constants or {}).items():
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return result


def in_onnxruntime(proto: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return run_plainly(proto, {"x": x})


def run_plainly(proto: ModelProto, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Each node as it stands: nothing is fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, dict(inputs))
    assert isinstance(y, np.ndarray)
    return y


def signs(*shape: int) -> NDArray[np.float32]:
    """Of one magnitude for each index of the first axis."""
    magnitudes = np.abs(normal(shape[0], *(1 for _ in shape[1:])))
    return np.where(normal(*shape) < 0, -magnitudes, magnitudes)


def ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


CHOSEN: dict[str, NDArray[np.generic]] = {
    "zero": np.asarray(np.float32(0)), "half": np.asarray(np.float32(0.5)), "minus": np.asarray(np.float32(-0.8)),
    "two": np.asarray(np.float32(2)),
}  # fmt: skip

CASES: dict[str, tuple[str, str, dict[str, NDArray[np.generic]]]] = {
    "convolution, normalised, cut": (
        "N,5,9,7",
        "a = Conv <pads=[1,1,1,1]> (x, w) b = Mul(a, f) c = Add(b, s) y = Relu(c)",
        {"w": normal(6, 5, 3, 3), "f": normal(6, 1, 1), "s": normal(6, 1, 1)},
    ),
    "uneven padding and strides": (
        "N,5,9,7",
        "y = Conv <pads=[0,1,2,0], strides=[2,1], dilations=[1,2]> (x, w, b)",
        {"w": normal(3, 5, 3, 2), "b": normal(3)},
    ),
    "transposed": ("N,5,4,6", "a = ConvTranspose <strides=[2,2]> (x, w, b) y = Relu(a)",
                   {"w": normal(5, 3, 2, 2), "b": normal(3)}),
    "transposed, cut": ("N,5,4,6", "y = ConvTranspose <strides=[2,3], pads=[1,2,0,1], output_padding=[1,0]> (x, w, b)",
                        {"w": normal(5, 3, 5, 4), "b": normal(3)}),
    "transposed, sparse": ("N,5,4,6", "y = ConvTranspose <strides=[3,1]> (x, w, b)",
                           {"w": normal(5, 3, 2, 3), "b": normal(3)}),
    "grouped": ("N,8,6,6", "y = Conv <group=2> (x, w)", {"w": normal(6, 4, 3, 3)}),
    "depthwise": ("N,20,6,6", "y = Conv <group=20, pads=[1,1,1,1]> (x, w)", {"w": normal(20, 1, 3, 3)}),
    "over a line": ("N,4,13", "y = Conv <pads=[2,2]> (x, w)", {"w": normal(5, 4, 5)}),
    "same padding": ("N,3,7,8", 'y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w)', {"w": normal(4, 3, 3, 3)}),
    "residual": (
        "N,6,5,5",
        "a = Relu(x) b = Conv <pads=[1,1,1,1]> (a, w) c = Add(a, b) y = Relu(c)",
        {"w": normal(6, 6, 3, 3)},
    ),
    "two branches": (
        "N,6,5,5",
        "a = Conv <pads=[1,1,1,1]> (x, w) b = Conv(x, v) c = Add(a, b) y = Clip(c, low, high)",
        {"w": normal(6, 6, 3, 3), "v": normal(6, 6, 1, 1), "low": np.float32(-1), "high": np.float32(2)},
    ),
    "gates of channels": (
        "N,6,5,5",
        "a = GlobalAveragePool(x) b = Conv(a, w) c = Sigmoid(b) y = Mul(x, c)",
        {"w": normal(6, 6, 1, 1)},
    ),
    "silu": ("N,6,5,5", "a = Conv(x, w) b = Sigmoid(a) y = Mul(a, b)", {"w": normal(4, 6, 1, 1)}),
    "two values": ("N,6,5,5", "a = Conv(x, w) b = Sub(x, a) c = Mul(a, b) y = Div(c, b)", {"w": normal(6, 6, 1, 1)}),
    "constant first": ("N,6,5,5", "y = Sub(f, x)", {"f": normal(1, 6, 1, 1)}),
    "a number": ("N,7", "a = Div(x, f) y = Tanh(a)", {"f": np.float32(3)}),
    "shortcut of option A": (
        "N,6,8,8",
        "a = Slice(x, zero, far, two, step) b = Slice(a, zero, far, three, step) y = Pad(b, pads)",
        {"zero": ints(0), "far": ints(1000), "two": ints(2), "three": ints(3), "step": ints(2),
         "pads": ints(0, 3, 0, 0, 0, 3, 0, 0)},
    ),
    "cut once, used twice": (
        "N,6,8,8",
        "a = Slice(x, zero, far, two, step) b = Slice(a, zero, far, three, step) c = Pad(b, pads) d = Slice(a, zero, "
        "far, three, step) e = Slice(c, zero, six, channels) y = Add(d, e)",
        {"zero": ints(0), "far": ints(1000), "two": ints(2), "three": ints(3), "step": ints(2), "six": ints(6),
         "channels": ints(1), "pads": ints(0, 3, 0, 0, 0, 3, 0, 0)},
    ),
    "a sum of two convolutions": (
        "N,6,5,5",
        "a = Conv(x, w) b = Conv(x, v) c = Add(b, a) y = Relu(c)",
        {"w": normal(4, 6, 1, 1), "v": normal(4, 6, 1, 1)},
    ),
    "backwards": ("N,6,8", "y = Slice(x, a, b, axes, step)",
                  {"a": ints(-1), "b": ints(-100), "axes": ints(2), "step": ints(-1)}),
    "the whole batch": ("N,3,8", "a = Slice(x, begin, far, begin) y = Relu(a)",
                        {"begin": ints(0), "far": ints(2**63 - 1)}),
    "reflected": ("N,3,8,9", 'y = Pad <mode="reflect"> (x, pads)', {"pads": ints(0, 0, 2, 1, 0, 0, 0, 5)}),
    "cast to what it is": ("N,3,8", "a = Relu(x) b = Cast <to=1> (a) y = Tanh(b)", {}),
    "crop": ("N,3,8,8", "y = Pad(x, pads)", {"pads": ints(0, 1, -2, 1, 0, 0, 1, -3)}),
    "concatenation": ("N,5,4,4", "a = Relu(x) b = Conv(x, w) y = Concat <axis=1> (a, b, x)", {"w": normal(3, 5, 1, 1)}),
    "concatenated rows": ("N,5,4,4", "a = Relu(x) y = Concat <axis=-2> (a, x)", {}),
    "flattened for a product": ("N,5,4,4",
        "a = MaxPool <kernel_shape=[2,2]> (x) b = Flatten(a) y = Gemm <transB=1> (b, w)",
                                {"w": normal(7, 45)}),
    "flattened twice": ("N,5,4,4",
        "a = Relu(x) b = Flatten(a) c = Gemm <transB=1> (b, w) d = Gemm <transB=1> (b, w) y = Add(c, d)",
                        {"w": normal(7, 80)}),
    "sequence": ("N,9,20", "a = MatMul(x, w) b = Add(a, s) c = Gelu(b) y = LayerNormalization <axis=-1> (c, f, s)",
                 {"w": normal(20, 33), "s": normal(33), "f": normal(33)}),
    "picture and sequence": ("N,6,4,5", "a = Transpose <perm=[0,2,3,1]> (x) b = LayerNormalization (a, f) "
                             "c = MatMul(b, w) d = Transpose <perm=[0,3,1,2]> (c) y = Conv <pads=[1,1,1,1]> (d, v)",
                             {"f": normal(6), "w": normal(6, 8), "v": normal(3, 8, 3, 3)}),
    "tokens": ("N,6,4,5", "a = Conv(x, v) b = Reshape(a, shape) c = Transpose <perm=[0,2,1]> (b) y = Softmax(c)",
               {"v": normal(7, 6, 1, 1), "shape": ints(0, 7, 20)}),
    "means": ("N,6,4,5", "a = Relu(x) b = ReduceMean <keepdims=0> (a, axes) y = Gemm(b, w)",
              {"axes": ints(2, 3), "w": normal(6, 4)}),
    "means of steps": ("N,6,20", "a = Sigmoid(x) b = ReduceMean <keepdims=0> (a, first) y = Gemm(b, w)",
                       {"first": ints(1), "w": normal(20, 4)}),
    "sums and maxima": ("N,6,20", "a = Sigmoid(x) b = ReduceSum(a, first) c = ReduceSum(a, last) "
        "d = ReduceMax(b, last) e = ReduceMax(a, first) f = Add(b, e) g = ReduceSum(c, first) h = Sub(f, b) "
        "i = Concat <axis=2> (d, g, h) y = Relu(i)", {"first": ints(1), "last": ints(2)}),
    "sums of a picture": ("N,6,4,5", "a = Conv(x, w) b = Transpose <perm=[0,2,3,1]> (a) "
        "c = ReduceSum <keepdims=0> (b, places) d = ReduceMax <keepdims=0> (a, places) "
        "e = ReduceSum <keepdims=0> (a, ends) y = Concat <axis=1> (c, d, e)",
        {"w": normal(7, 6, 1, 1), "places": ints(1, 2), "ends": ints(2, 3)}),
    "sums of a stranger": ("N,6,4,5", "y = ReduceSum <keepdims=0> (x, axes)", {"axes": ints(1, 3)}),
    "squeezed": ("N,6,1,1", "a = Relu(x) b = Squeeze(a, axes) c = Sigmoid(b) y = Unsqueeze(c, axes)",
                 {"axes": ints(2, 3)}),
    "reshaped": ("N,6,4,5", "y = Reshape(x, shape)", {"shape": ints(0, 3, 40)}),
    "reshaped by a stranger": ("N,6,4,5", "y = Reshape(x, shape)", {"shape": ints(0, 4, 30)}),
    "depth": ("N,12,4,5", "a = DepthToSpace <blocksize=2> (x) y = SpaceToDepth <blocksize=2> (a)", {}),
    "larger": ("N,3,4,5", 'a = Resize <mode="linear"> (x, , scales) y = Resize <mode="nearest", '
               'coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (a, , scales)',
               {"scales": np.array([1, 1, 2, 3], np.float32)}),
    "gelu as exported": (
        "N,6,5,5", "a = Conv(x, w) b = Div(a, r) c = Erf(b) d = Add(c, one) e = Mul(a, d) y = Mul(e, h)",
        {"w": normal(4, 6, 1, 1), "r": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5)},
    ),
    "normalisation as exported": ("N,6,20", "m = ReduceMean(x, last) d = Sub(x, m) q = Pow(d, two) "
        "v = ReduceMean(q, last) ve = Add(v, e) s = Sqrt(ve) n = Div(d, s) f = Mul(w, n) y = Add(f, b)",
        {"two": np.float32(2), "e": np.float32(1e-5), "last": ints(-1), "w": normal(20), "b": normal(20)}),
    "hard swish as exported": ("N,6,5,5", "a = Conv(x, w) b = Add(a, three) c = Clip(b, zero, six) d = Mul(a, c) "
        "y = Div(d, six)", {"w": normal(4, 6, 1, 1), "three": np.float32(3), "zero": np.float32(0),
                            "six": np.float32(6)}),
    "powers": ("N,6,5,5", "a = Pow(x, two) b = Exp(x) c = Sqrt(b) d = Add(a, c) e = Reciprocal(d) g = Neg(e) "
               "i = Abs(x) j = Add(i, h) k = Pow(j, minus) l = Div(h, j) m = Pow(b, h) n = Sub(k, l) o = Add(n, m) "
               "y = Add(g, o)", {"two": np.float32(2), "h": np.float32(0.5), "minus": np.float32(-1)}),
    "rectifiers": ("N,6,5,5", "a = LeakyRelu <alpha=0.1> (x) b = PRelu(x, steep) c = PRelu(x, flat) d = Elu(x) "
                   "e = HardSigmoid(x) f = Erf(x) g = Max(a, b) h = Min(c, d) i = Add(g, h) j = Add(e, f) "
                   "y = Add(i, j)",
                   {"steep": 1 + np.abs(normal(6, 1, 1)), "flat": -np.abs(normal(6, 1, 1))}),
    "rectifiers of convolutions": ("N,6,5,5", "a = Conv(x, first) b = PRelu(a, s) c = Conv(b, w) d = Add(c, b) "
                                   "e = LeakyRelu <alpha=0.1> (d) y = Conv(e, w)",
                                   {"first": normal(40, 6, 1, 1), "w": normal(40, 40, 1, 1), "s": normal(40, 1, 1)}),
    "a rectifier of a product": ("N,20,40", "t = Transpose <perm=[0, 2, 1]> (x) p = MatMul(x, t) "
                                 "y = LeakyRelu <alpha=-0.5> (p)", {}),
    "a shape that is computed": ("N,6,4,5", "a = Relu(x) b = Shape(a) c = Slice(b, zero, two, zero) "
        "d = Concat <axis=0> (c, rest) e = Reshape(a, d) y = MatMul(e, w)",
        {"zero": ints(0), "two": ints(2), "rest": ints(-1), "w": normal(20, 3)}),
    "sums with a factor": ("N,6,5,5", "a = Relu(x) b = Add(x, a) c = Mul(b, f) m = GlobalAveragePool(x) d = Add(c, m) "
        "e = Mul(d, f) g = Sub(e, m) y = Mul(g, f)", {"f": normal(6, 1, 1)}),
    "a sum of factors": ("N,6,5,5", "a = Relu(x) b = Conv(a, w) c = Mul(a, f) d = Add(c, b) e = Mul(d, g) "
                         "h = Add(e, g) i = Add(a, f) j = Conv(h, w) k = Add(j, i) y = Relu(k)",
                         {"w": normal(6, 6, 1, 1), "f": normal(6, 1, 1), "g": normal(6, 1, 1)}),
    "parts": ("N,6,5", "a, b, c = Split <axis=1> (x, sizes) d = Relu(b) e = Concat <axis=1> (c, d, a) "
              "f = Gather <axis=1> (e, last) g = Gather <axis=2> (x, odd) h = MatMul(g, w) "
              "i = Unsqueeze(f, one) y = Concat <axis=1> (h, i)",
              {"sizes": ints(2, 1, 3), "last": np.array(-1), "odd": ints(3, 1), "one": ints(1), "w": normal(2, 5)}),
    "larger by fractions": (
        "N,3,12,9", 'a = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> '
        '(x, , fifths) b = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (a, , thirds) '
        'y = Resize <mode="nearest", coordinate_transformation_mode="half_pixel"> (b, , fifths)',
        {"fifths": np.array([1, 1, 1.2, 2.4], np.float32), "thirds": np.array([1, 1, 1.3, 0.7], np.float32)},
    ),
    "from before the first, by a stranger": ("N,9,4", "y = Slice(x, start, end, one, back)",
        {"start": ints(-10), "end": ints(-(2**40)), "one": ints(1), "back": ints(-1)}),
    "parts of what was turned": (
        "N,8,6", "t = Transpose <perm=[0,2,1]> (x) a, b = Split <axis=2> (t, fours) p = Sigmoid(b) c = Mul(a, p) "
        "s = Slice(x, zero, four, two) d, e = Split <axis=1> (s, fours) f = Relu(e) g = Add(d, f) "
        "h = Transpose <perm=[0,2,1]> (c) y = Concat <axis=2> (h, g)",
        {"fours": ints(4, 4), "zero": ints(0), "four": ints(3), "two": ints(2)},
    ),
    "heads of what was cut": ("N,8,12", "s = Slice(x, one, end, one) r = Reshape(s, heads) "
        "q = Transpose <perm=[0,2,1,3]> (r) k = Transpose <perm=[0,2,3,1]> (r) m = MatMul(q, k) "
        "p = Softmax <axis=3> (m) o = MatMul(p, q) t = Transpose <perm=[0,2,1,3]> (o) y = Reshape(t, flat)",
        {"one": ints(1), "end": ints(8), "heads": ints(0, 7, 3, 4), "flat": ints(0, 7, 12)}),
    "heads in one": ("N,7,24", "a = Reshape(x, split) b = Transpose <perm=[2,0,3,1,4]> (a) "
        "q = Gather <axis=0> (b, zero) k = Gather <axis=0> (b, one) v = Gather <axis=0> (b, two) "
        "t = Transpose <perm=[0,1,3,2]> (k) s = MatMul(q, t) p = Softmax <axis=3> (s) o = MatMul(p, v) "
        "r = Transpose <perm=[0,2,1,3]> (o) y = Reshape(r, flat)",
        {"split": ints(0, 7, 3, 2, 4), "zero": np.array(0), "one": np.array(1), "two": np.array(2),
         "flat": ints(0, 0, -1)}),
    "steps first, for a stranger": ("N,7,6", "a = Transpose <perm=[1,0,2]> (x) b = Atan(a) "
                                    "y = Transpose <perm=[1,0,2]> (b)", {}),
    "local responses": ("N,20,4,5", "a = LRN <size=5, alpha=0.3, bias=1.5> (x) b = LRN <size=3, beta=0.6> (a) "
                        "c = LRN <size=7, alpha=2.0, beta=0.5> (b) y = LRN <size=1, alpha=0.5, beta=1.0> (c)", {}),
    "local response as exported": ("N,20,4,5", "a = Mul(x, x) b = Reshape(a, shape) c = Pad(b, pads) "
        "d = AveragePool <kernel_shape=[4,1,1]> (c) e = Squeeze(d, one) g = Mul(e, alpha) h = Add(g, two) "
        "i = Pow(h, beta) y = Div(x, i)",
        {"shape": ints(-1, 1, 20, 4, 5), "pads": ints(0, 0, 2, 0, 0, 0, 0, 1, 0, 0), "one": ints(1),
         "alpha": np.float32(0.3), "two": np.float32(2), "beta": np.float32(0.75)}),
    "a response over rows, by a stranger": ("N,4,20,5", "a = Mul(x, x) b = Reshape(a, shape) c = Pad(b, pads) "
        "d = AveragePool <kernel_shape=[1,3,1]> (c) e = Squeeze(d, one) g = Mul(e, two) h = Add(g, two) "
        "i = Pow(h, two) y = Div(x, i)",
        {"shape": ints(-1, 1, 4, 20, 5), "pads": ints(0, 0, 0, 1, 0, 0, 0, 0, 1, 0), "one": ints(1),
         "two": np.float32(2)}),
    "choices": ("N,6,5,5", "a = Conv(x, w) b = GreaterOrEqual(a, zero) c = Where(b, one, minus) d = Conv(c, v) "
                "e = GreaterOrEqual(c, zero) f = Where(e, half, zero) g = Add(d, f) h = GreaterOrEqual(x, zero) "
                "i = Where(h, one, half) j = Conv(i, u) y = Add(g, j)",
                {"w": normal(4, 6, 1, 1), "v": normal(4, 4, 1, 1), "u": normal(4, 6, 1, 1), "zero": np.float32(0),
                 "one": np.float32(1), "minus": np.float32(-1), "half": np.float32(0.5)}),
    "choices of a stranger": ("N,6,5,5", "a = GreaterOrEqual(x, one) y = Where(a, x, one)", {"one": np.float32(1)}),
    "falling choices of a stranger": ("N,6,5,5", "a = GreaterOrEqual(x, zero) y = Where(a, zero, one)",
                                      {"one": np.float32(1), "zero": np.float32(0)}),
    "one number for each place": (
        "N,6,4,5", "a = Conv(x, w) b = Conv(x, v) c = Mul(a, b) d = Sub(c, b) e = Add(b, d) f = Sigmoid(b) "
        "g = Add(f, one) h = Div(e, g) y = Relu(h)",
        {"w": normal(7, 6, 1, 1), "v": normal(1, 6, 1, 1), "one": np.float32(1)},
    ),
    "one number for each step": (
        "N,6,20", "a = MatMul(x, w) b = MatMul(x, v) c = Mul(a, b) d = ReduceSum <keepdims=0> (c, first) "
        "e = ReduceSum <keepdims=0> (b, first) f = Mul(d, e) y = Add(f, e)",
        {"w": normal(20, 9), "v": normal(20, 1), "first": ints(1)},
    ),
    "means of channels": (
        "N,6,4,5", "a = Sigmoid(x) b = ReduceMean <keepdims=1> (a, first) c = Mul(a, b) "
        "d = ReduceSum <keepdims=1> (c, third) e = Transpose <perm=[0,2,3,1]> (c) "
        "f = ReduceSum <keepdims=1> (e, third) g = Add(e, f) h = Transpose <perm=[0,3,1,2]> (g) "
        "y = Concat <axis=3> (h, d)",
        {"first": ints(1), "third": ints(3)},
    ),
    "read both ways": ("N,4,5", "a = ReduceMax(x, last) b = ReduceMax(x, first) c = Sub(x, a) y = Add(c, b)",
                       {"first": ints(1), "last": ints(2)}),
    "limits": ("N,6,5", "a = Max(x, low) y = Min(high, a)", {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    "signs": ("N,20,7,6", "a = Conv <pads=[1,1,1,1]> (x, w) b = GreaterOrEqual(a, zero) c = Where(b, half, minus) "
              "d = Conv <pads=[1,2,1,0], strides=[2,3]> (c, v) f = Add(d, shift) i = GreaterOrEqual(f, zero) "
              "j = Where(i, two, half) k = Flatten(j) y = Gemm <transB=1> (k, u, bias)",
              {"w": normal(40, 20, 3, 3), "v": signs(24, 40, 3, 3), "u": signs(9, 24 * 4 * 2), "bias": normal(9),
               "shift": normal(24, 1, 1), **CHOSEN}),
    "signs times a factor": ("N,20,7,6", "b = GreaterOrEqual(x, zero) c = Where(b, two, half) d = Mul(c, two) "
                             "e = Sub(d, half) f = Conv <dilations=[2,1]> (e, w) "
                             "g = Conv <pads=[2,2,2,2], dilations=[1,3]> (e, v) h = Relu(g) i = Conv(h, u) "
                             "y = Add(f, i)",
                             {"w": signs(4, 20, 3, 3), "v": signs(7, 20, 3, 3), "u": normal(4, 7, 7, 1), **CHOSEN}),
    "with a stranger in it": ("N,3,4,5", "a = Relu(x) b = Atan(a) c = Mul(a, b) y = Relu(c)", {}),
    "only strangers": ("N,3,4", "y = Atan(x)", {}),
    "strangers beside": ("N,3,4", "a = Atan(x) b = Relu(x) c = Add(a, b) d = Cos(c) y = Add(d, b)", {}),
}  # fmt: skip


def shape_of(proto: ModelProto) -> Sequence[int]:
    return [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim][1:]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_in_floats(name: str, threads: int) -> None:
    proto = model(*CASES[name])
    session = EngineSession.from_onnx(proto, threads)
    native = all(operation.kernel != "ONNX Runtime" for operation in session.describe())
    assert native != ("stranger" in name), session.describe()
    for batch in (1, 2, 3, 4, 5, 1):
        x = normal(batch, *shape_of(proto))
        np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("gelu as exported", "direct convolution, float32"),
        ("hard swish as exported", "direct convolution, float32"),
        ("local response as exported", "local response normalisation"),
        ("normalisation as exported", "layer normalisation"),
        ("silu", "direct convolution, float32"),
    ],
)
def test_functions_written_out_are_one_layer(name: str, kernel: str) -> None:
    session = EngineSession.from_onnx(model(*CASES[name]), 1)
    assert [operation.kernel for operation in session.describe()] == ["copy", kernel, "copy"]


@pytest.mark.parametrize(
    ("body", "native"),
    [
        ("y = Conv(d, u)", 1),
        ("e = Conv(d, u) f = Conv(d, v) y = Add(e, f)", 2),
        ("e = Conv(d, u) y = Add(e, d)", 0),  # another reads what was chosen
        ("e = Conv(d, u) f = Conv(d, w) y = Add(e, f)", 0),  # weights of all sizes
        ("e = Conv <group=4> (d, g) y = Relu(e)", 0),
        ("y = Identity(d)", 0),
        ("e = Mul(d, least) f = Add(e, two) y = Conv(f, u)", 0),  # two numbers become one
        ("e = MaxPool <kernel_shape=[2,2]> (d) y = Conv(e, u)", 0),
    ],
)
def test_signs_are_multiplied_where_nothing_else_is_read(body: str, native: int) -> None:
    weights = {"u": signs(4, 4, 1, 1), "v": signs(4, 4, 1, 1), "w": normal(4, 4, 1, 1), "g": signs(4, 1, 1, 1)}
    weights["least"] = np.asarray(np.float32(1e-38))
    proto = model(
        "N,4,6,5", f"a = Mul(x, half) c = GreaterOrEqual(a, zero) d = Where(c, half, minus) {body}", weights | CHOSEN
    )
    session = EngineSession.from_onnx(proto, 1)
    assert [operation.kernel for operation in session.describe()].count("convolution of signs") == native
    x = normal(3, 4, 6, 5)
    np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=1e-4, atol=1e-6)


def test_the_factors_of_a_sum_are_the_convolution_s() -> None:
    session = EngineSession.from_onnx(model(*CASES["a sum of factors"]), 1)
    kernels = [operation.kernel for operation in session.describe()]
    assert kernels.count("element-wise") == 2  # the ReLU, and the sum that is shifted
    assert kernels.count("direct convolution, float32") == 2


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("rectifiers of convolutions", ["copy", *["direct convolution, float32"] * 3, "copy"]),
        ("a rectifier of a product", ["copy", "copy", "product of two values, float32", "copy"]),
    ],
)
def test_rectifiers_are_the_end_of_what_they_rectify(name: str, kernels: list[str]) -> None:
    session = EngineSession.from_onnx(model(*CASES[name]), 1)
    assert [operation.kernel for operation in session.describe()] == kernels


def test_copies_of_copies_are_one() -> None:
    session = EngineSession.from_onnx(model(*CASES["shortcut of option A"]), 1)
    assert [operation.layer for operation in session.describe()] == ["Slice, Slice, Pad", "output y"]


def coded(proto: ModelProto, *values: str) -> ModelProto:
    """With these values rounded to codes where they are made."""
    grid = ["a scale", "a zero"]
    constants = [numpy_helper.from_array(SCALE, grid[0]), numpy_helper.from_array(ZERO, grid[1])]
    proto.graph.initializer.extend(constants)
    for value in values:
        at, node = next((i, node) for i, node in enumerate(proto.graph.node) if value in node.output)
        node.output[:] = [f"{value} before"]
        quantize = helper.make_node("QuantizeLinear", [f"{value} before", *grid], [f"{value} code"])
        proto.graph.node.insert(at + 1, quantize)
        proto.graph.node.insert(at + 2, helper.make_node("DequantizeLinear", [f"{value} code", *grid], [value]))
    return proto


def test_sums_of_codes_are_added_in_the_convolution() -> None:
    proto = coded(model(*CASES["a sum of two convolutions"]), "a", "b")
    session, x = EngineSession.from_onnx(proto, 1), normal(2, 6, 5, 5)
    found, expected = session(x), in_onnxruntime(proto, x)
    assert [operation.kernel for operation in session.describe()][-3:-1] == ["direct convolution, float32"] * 2
    np.testing.assert_allclose(found, expected, atol=1.01 * SCALE)
    assert (np.abs(found - expected) > 1e-5).mean() < 0.05


def test_what_is_constant_or_a_shape_is_computed_as_the_models_version_has_it() -> None:
    """Until version 13 the axes of these were attributes."""
    proto = onnx.parser.parse_model("""
        <ir_version: 6, opset_import: ["" : 11]>
        g (float[N, 6, 4, 5] x) => (float y) {
            s = Shape (x)  d = Gather (s, third)  e = Unsqueeze <axes = [0]> (d)  f = Concat <axis = 0> (zero, minus, e)
            r = Reshape (x, f)  w = Unsqueeze <axes = [0]> (row)  v = ReduceSum <axes = [0], keepdims = 0> (w)
            y = Add (r, v)
        }""")
    constants = {"third": np.int64(3), "zero": ints(0), "minus": ints(-1), "row": normal(5)}
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    session, x = EngineSession.from_onnx(proto, 1), normal(3, 6, 4, 5)
    assert {operation.runner for operation in session.describe()} == {"native"}
    np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=1e-6)


def test_what_runs_elsewhere_is_said() -> None:
    proto = model("N,3,4", "a = Relu(x) b = Atan(a) y = CumSum(b, axis)", {"axis": ints(1)})
    found = {operation.layer: operation.runner for operation in EngineSession.from_onnx(proto, 1).describe()}
    lacking = "ONNX Runtime, because the engine has no such operator"
    assert (found["Relu"], found["Atan"], found["CumSum"]) == ("native", lacking, lacking)


@pytest.mark.parametrize("name", [name for name in CASES if "stranger" not in name])
def test_on_codes(name: str) -> None:
    """The input is rounded to codes, and so is the output: a code may be the next one where it was close."""
    proto = model(*CASES[name])
    graph = proto.graph
    for node in graph.node:
        node.input[:] = ["x rounded" if value == "x" else value for value in node.input]
        node.output[:] = ["y before" if value == "y" else value for value in node.output]
    grid = ["x scale", "x zero"]
    graph.initializer.extend([numpy_helper.from_array(SCALE, "x scale"), numpy_helper.from_array(ZERO, "x zero")])
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", *grid], ["x code"]))
    graph.node.insert(1, helper.make_node("DequantizeLinear", ["x code", *grid], ["x rounded"]))
    graph.node.append(helper.make_node("QuantizeLinear", ["y before", *grid], ["y code"]))
    graph.node.append(helper.make_node("DequantizeLinear", ["y code", *grid], ["y"]))
    session = EngineSession.from_onnx(proto, 2)
    x = np.random.default_rng(0).standard_normal((3, *shape_of(proto))).astype(np.float32)  # in whatever order
    y, expected = session(x), in_onnxruntime(proto, x)
    np.testing.assert_allclose(y, expected, atol=1.01 * SCALE)
    assert (np.abs(y - expected) > 1e-5).mean() < 0.05


@pytest.mark.parametrize("values", [(-1, 1), (-1, 0, 1), (-2, -1, 1, 2)])
@pytest.mark.parametrize("before", ["Sigmoid", "Exp"])
def test_channels_that_fill_up_a_group_count_nothing(before: str, values: tuple[int, ...]) -> None:
    """What makes something else than zero of the zeros there, and weights that may have no zero among them."""
    rng = np.random.default_rng(0)
    body = f"a = {before}(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) "
    body += "v = DequantizeLinear <axis=1> (w, t) y = MatMul(d, v)"
    weights = rng.choice(values, (10, 24)).astype(np.int8)
    scales = {"s": np.float32(1 / 64), "z": np.uint8(0), "t": np.full(24, 0.01, np.float32)}
    proto = model("N,10", body, {"w": weights, **scales})
    x = rng.standard_normal((3, 10)).astype(np.float32)
    expected = in_onnxruntime(proto, x)
    stored = EngineSession.from_onnx(proto, 1, choose="stored")
    assert any("codes" in row.kernel for row in stored.describe())
    np.testing.assert_allclose(stored(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolutions_of_any_shape(data: st.DataObject) -> None:
    side = st.integers(1, 9)
    rows, columns, inputs, outputs = (data.draw(side) for _ in range(4))
    size, stride, dilation = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    spans = [(n - 1) * d + 1 for n, d in zip(size, dilation, strict=True)]
    if rows + pads[0] + pads[2] < spans[0] or columns + pads[1] + pads[3] < spans[1]:
        return
    body = f"y = Conv <pads={list(pads)}, strides={list(stride)}, dilations={list(dilation)}> (x, w)"
    proto = model(f"N,{inputs},{rows},{columns}", body, {"w": normal(outputs, inputs, *size)})
    x = normal(2, inputs, rows, columns)
    session = EngineSession.from_onnx(proto, 1)
    np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=1e-4, atol=2e-5)


def test_open_sides_are_planned_when_they_are_known() -> None:
    constants = {"w": normal(6, 3, 3, 3), "v": normal(6, 4)}
    body = "a = Conv <pads=[1,1,1,1]> (x, w) b = Relu(a) c = ReduceMean <keepdims=0> (b, axes) y = Gemm(c, v)"
    proto = model("N,3,H,W", body, {**constants, "axes": ints(2, 3)})
    session = EngineSession.from_onnx(proto, 1)
    for batch, rows, columns in [(1, 5, 7), (3, 5, 7), (2, 9, 4), *((1, 4, side) for side in range(3, 9)), (2, 5, 7)]:
        x = normal(batch, 3, rows, columns)
        np.testing.assert_allclose(session(x), in_onnxruntime(proto, x), rtol=1e-4, atol=2e-5)
        assert [operation.runner for operation in session.describe()] == ["native"] * 5
        assert session.describe()[1].shape == (6, rows, columns) and session.memory(batch).peak > 0
    for wrong in ((1, 4, 5, 7), (1, 3, 0, 7)):
        with pytest.raises(DovetailError, match=r"\(N, 3, any, any\)"):
            session(normal(*wrong))


def test_a_batch_of_less_than_none_is_any() -> None:
    """As one exporter says it."""
    proto = model("N,6,5", "y = Relu(x)")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    x = normal(3, 6, 5)
    np.testing.assert_array_equal(EngineSession.from_onnx(proto, 1)(x), np.maximum(x, 0))
