"""Every operator that the ONNX reader knows, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dovetail.workload import read_onnx
from dovetail.workload.onnx.layers import LAYERS
from dovetail.workload.onnx.operators import OLDER, OPERATORS

Array = NDArray[Any]
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True, eq=False)
class Case:
    """A model of one node. Inputs at the positions `constant` are initialisers, the others the model's inputs."""

    operator: str
    inputs: tuple[Array | None, ...]
    constant: tuple[int, ...] = ()
    outputs: int = 1
    opset: int = 20
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"x{i}": x for i, x in enumerate(self.inputs) if x is not None and i not in self.constant}

    def model(self) -> onnx.ModelProto:
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.operator, names, outputs, **self.attributes)
        graph = helper.make_graph(
            [node],
            "case",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim)
                for name, x in self.feeds.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(self.inputs[i], f"x{i}") for i in self.constant],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def case(
    operator: str, *inputs: Any, constant: tuple[int, ...] = (), outputs: int = 1, opset: int = 20, **attributes: Any
) -> Case:
    """A case; lists become int64 arrays and are constant."""
    fixed = {*constant, *(i for i, x in enumerate(inputs) if isinstance(x, list))}
    arrays = tuple(np.array(x, np.int64) if isinstance(x, list) else x for x in inputs)
    return Case(operator, arrays, tuple(sorted(fixed)), outputs, opset, attributes)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return RANDOM.uniform(0.1, 0.9, shape).astype(np.float32)


def integers(*shape: int, low: int = -5, high: int = 6, dtype: Any = np.int64) -> Array:
    return RANDOM.integers(low, high, shape).astype(dtype)


def booleans(*shape: int) -> Array:
    return RANDOM.random(shape) < 0.5


def scalar(value: float, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


X = normal(2, 3, 4, 5)
IMAGE = normal(2, 3, 9, 8)

ARITHMETIC = [
    *(
        case(name, 1 + positive(2, 3) if name == "Acosh" else positive(2, 3))
        for name in (
            "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Round Sign Sin Sinh "
            "Sqrt Tan"
        ).split()
    ),
    case("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)),
    *(case(name, X, normal(3, 1, 5)) for name in ("Add", "Sub", "Mul", "Div")),
    *(case(name, X, scalar(0.37), constant=(1,)) for name in ("Add", "Sub", "Mul", "Div")),
    *(case(name, scalar(0.37), X, constant=(0,)) for name in ("Add", "Sub", "Mul", "Div")),
    case("Div", np.array([-7, 7, -7, 7], np.int64), np.array([2, 2, -2, -2], np.int64)),
    case("Div", integers(5), scalar(3, np.int64), constant=(1,)),
    case("Div", scalar(60, np.int64), integers(5, low=1), constant=(0,)),
    case("Mod", np.array([-7, 7, -7, 7], np.int64), np.array([3, 3, -3, -3], np.int64)),
    case("Mod", normal(6), normal(6), fmod=1),
    case("Pow", positive(2, 3), normal(3)),
    case("Pow", normal(2, 3), scalar(2), constant=(1,)),
    case("Pow", integers(4), scalar(2.0), constant=(1,)),
    *(case(name, normal(2, 3), normal(3), normal(2, 1)) for name in ("Max", "Min", "Mean", "Sum")),
    case("Clip", X, scalar(-0.5), scalar(0.5), constant=(1, 2)),
    case("Clip", X, scalar(-0.5), scalar(0.5)),
    case("Clip", X, None, scalar(0.5), constant=(2,)),
    case("Clip", X, opset=9, min=-0.3, max=0.4),
    case("BitShift", integers(4, low=1, dtype=np.uint8), integers(4, low=0, high=3, dtype=np.uint8), direction="LEFT"),
    case("BitShift", integers(4, low=1, dtype=np.uint8), integers(4, low=0, high=3, dtype=np.uint8), direction="RIGHT"),
    *(case(f"Bitwise{name}", integers(6), integers(6)) for name in ("And", "Or", "Xor")),
    case("BitwiseNot", integers(6)),
    case("Det", normal(2, 3, 3)),
    case("Einsum", normal(2, 3, 4), normal(2, 4, 5), equation="bij,bjk->bik"),
    case("MatMul", normal(2, 3, 4), normal(4, 5)),
    case("MatMul", normal(2, 3, 4), normal(4, 5), constant=(1,)),
    case("MatMul", normal(3, 4), normal(2, 4, 5), constant=(0,)),
    case("MatMul", normal(2, 3, 4), normal(2, 4, 5), constant=(1,)),
    case("Gemm", normal(2, 4), normal(4, 5), normal(5), constant=(1, 2)),
    case("Gemm", normal(2, 4), normal(5, 4), normal(1, 5), constant=(1, 2), transB=1),
    case("Gemm", normal(2, 4), normal(5, 4), constant=(1,), transB=1),
    case("Gemm", normal(4, 2), normal(5, 4), normal(2, 5), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", normal(2, 4), normal(4, 5), normal(2, 1), constant=(1, 2)),
]

LOGIC = [
    *(case(name, booleans(2, 6), booleans(6)) for name in ("And", "Or", "Xor")),
    case("Not", booleans(2, 6)),
    *(case(name, integers(9), integers(9)) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    case("Greater", X, scalar(0.1), constant=(1,)),
    case("IsNaN", np.array([1, np.nan, np.inf], np.float32)),
    case("IsInf", np.array([1, -np.inf, np.inf], np.float32)),
    case("IsInf", np.array([1, -np.inf, np.inf], np.float32), detect_negative=0),
    case("Where", booleans(2, 3), normal(3), normal(2, 1)),
    case("Where", booleans(2, 3), normal(2, 3), scalar(-1e9), constant=(2,)),
]

ACTIVATIONS = [
    *(
        case(name, X)
        for name in (
            "Celu Elu Gelu HardSigmoid HardSwish Hardmax LeakyRelu LogSoftmax Mish Relu Selu Shrink Sigmoid Softmax "
            "Softplus Softsign Tanh ThresholdedRelu"
        ).split()
    ),
    case("Celu", X, alpha=0.5),
    case("Elu", X, alpha=0.5),
    case("Gelu", X, approximate="tanh"),
    case("HardSigmoid", X, alpha=1 / 6, beta=0.5),
    case("LeakyRelu", X, alpha=0.2),
    case("Selu", X, alpha=1.5, gamma=1.2),
    case("Shrink", X, bias=0.2, lambd=0.3),
    case("Swish", X, alpha=1.3, opset=24),
    case("ThresholdedRelu", X, alpha=0.3),
    case("PRelu", X, normal(3, 1, 1), constant=(1,)),
    case("PRelu", X, normal(1), constant=(1,)),
    case("PRelu", X, normal(1, 3, 1, 1), constant=(1,)),
    case("PRelu", X, normal(3, 1, 5), constant=(1,)),
    case("PRelu", X, normal(5), constant=(1,)),
    *(case(name, X, axis=1) for name in ("Softmax", "LogSoftmax", "Hardmax")),
    *(case(name, X, axis=axis, opset=11) for name in ("Softmax", "LogSoftmax", "Hardmax") for axis in (1, 2, -1)),
]

QUANTISED = [
    case("Cast", normal(5) * 3, to=onnx.TensorProto.INT32),
    case("Cast", integers(5), to=onnx.TensorProto.FLOAT),
    case("Cast", integers(5), to=onnx.TensorProto.BOOL),
    case("CastLike", integers(5), normal(2)),
    case("QuantizeLinear", X, scalar(0.03), scalar(7, np.uint8), constant=(1, 2)),
    case("QuantizeLinear", X, scalar(0.03), constant=(1,)),
    case("QuantizeLinear", X, positive(3) / 20, np.zeros(3, np.int8), constant=(1, 2), axis=1),
    case("DequantizeLinear", integers(2, 3, dtype=np.int8), scalar(0.1), scalar(2, np.int8), constant=(1, 2)),
    case("DequantizeLinear", integers(2, 3, 4, dtype=np.int8), positive(3), constant=(1,), axis=1),
    case(
        "DequantizeLinear", integers(6, 4, dtype=np.int8), positive(2, 4), constant=(1,), axis=0, block_size=3, opset=21
    ),
]

MOVES = [
    case("Compress", normal(3, 4), np.array([True, False, True]), axis=0),
    case("Compress", normal(3, 2), np.array([False, True, True, False, True])),
    case("Concat", normal(2, 3), normal(2, 1), axis=-1),
    case("ConstantOfShape", np.array([2, 3], np.int64), value=numpy_helper.from_array(np.array([7], np.int32))),
    case("ConstantOfShape", np.array([2, 3], np.int64)),
    case("DepthToSpace", normal(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", normal(2, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", normal(2, 2, 4, 6), blocksize=2),
    case("Expand", normal(3, 1), [2, 1, 4]),
    case("Expand", normal(2, 3, 1), [3, 4]),
    case("EyeLike", normal(3, 4), k=1),
    case("EyeLike", integers(3, 3), dtype=onnx.TensorProto.FLOAT),
    *(case("Flatten", X, axis=axis) for axis in (0, 1, 2, 4, -1)),
    case("Gather", normal(5, 3), integers(2, 2, low=-5, high=5)),
    case("Gather", X, [2, 0], axis=2),
    case("Gather", X, scalar(-1, np.int64), constant=(1,), axis=1),
    case("Gather", normal(5, 3), integers(2, 2, low=0, high=5), constant=(0,)),
    case("GatherElements", normal(3, 4), integers(2, 4, low=-3, high=3)),
    case("GatherElements", normal(3, 4), integers(3, 2, low=0, high=4), axis=1),
    case("GatherND", normal(2, 3, 4), integers(5, 2, low=0, high=2)),
    case("GatherND", normal(2, 3, 4), integers(2, 2, 1, low=0, high=3), batch_dims=1),
    case("Identity", X),
    case("NonZero", integers(3, 4, low=0, high=2)),
    case("OneHot", integers(2, 3, low=-4, high=6), scalar(4, np.int64), np.array([0.5, 2], np.float32), constant=(1,)),
    case("OneHot", integers(2, 3, low=0, high=4), [4], np.array([0, 1], np.float32), axis=1),
    case("Pad", X, [0, 0, 1, 2, 0, 0, 3, 0]),
    case("Pad", X, [0, 0, 1, -2, 0, 0, -1, 0], scalar(1.5), constant=(2,)),
    *(case("Pad", X, [0, 0, 1, 2, 0, 0, 3, 0], mode=mode) for mode in ("reflect", "edge")),
    case("Pad", X, [0, 0, 1, 2, 0, 0, 3, 0], mode="wrap"),
    case("Pad", X, [1, 2], None, [3], opset=18),
    case("Pad", X, opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="edge"),
    case("Pad", X, opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.5),
    case("Range", scalar(1), scalar(9), scalar(2.5)),
    case("Range", scalar(10, np.int64), scalar(0, np.int64), scalar(-3, np.int64)),
    case("Reshape", X, [0, -1, 10]),
    case("Reshape", X, np.array([6, 20], np.int64)),
    case("Reshape", normal(0, 4), [2, 0], allowzero=1),
    case("ReverseSequence", normal(4, 3, 2), np.array([4, 2, 1], np.int64)),
    case("ReverseSequence", normal(3, 4), np.array([4, 2, 1], np.int64), batch_axis=0, time_axis=1),
    case("ScatterElements", normal(4, 3), np.array([[1, 0, 2], [0, 2, 1]], np.int64), normal(2, 3)),
    case("ScatterElements", normal(3, 4), np.array([[1, -1]], np.int64), normal(1, 2), axis=1),
    *(
        case("ScatterElements", normal(4, 3), integers(2, 3, low=0, high=4), normal(2, 3), reduction=how)
        for how in ("add", "mul", "max", "min")
    ),
    case("ScatterND", normal(4, 3), np.array([[2], [0]], np.int64), normal(2, 3)),
    *(
        case("ScatterND", normal(4, 3, 2), np.array([[2, 1], [0, 1], [2, 1]], np.int64), normal(3, 2), reduction=how)
        for how in ("add", "mul", "max", "min")
    ),
    case("Shape", X),
    case("Shape", X, start=1, end=-1),
    case("Size", X),
    case("Slice", X, [1, -3], [9, -1], [1, 3]),
    case("Slice", X, [-1, 3], [-(2**31), 0], [1, 3], [-1, -2]),
    case("Slice", X, [0, 1], [2, 3]),
    case("Slice", X, opset=9, starts=[1, 0], ends=[3, 2**31], axes=[1, 3]),
    case("Split", normal(6, 4), [1, 2, 3], outputs=3),
    case("Split", normal(4, 7), outputs=3, axis=1, num_outputs=3),
    case("Split", normal(4, 6), outputs=3, axis=1, opset=11),
    case("Split", normal(4, 6), outputs=2, axis=1, opset=11, split=[2, 4]),
    case("Squeeze", normal(1, 3, 1, 2)),
    case("Squeeze", normal(1, 3, 1, 2), [-2]),
    case("Squeeze", normal(1, 3, 1, 2), opset=11, axes=[0, 2]),
    case("Tile", normal(2, 3), [2, 3]),
    case("Transpose", X),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Trilu", normal(2, 4, 5)),
    case("Trilu", normal(4, 5), scalar(-1, np.int64), constant=(1,), upper=0),
    case("Unsqueeze", normal(3, 2), [0, -1]),
    case("Unsqueeze", normal(3, 2), opset=11, axes=[1, 3]),
]

REDUCING = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
).split()
REDUCTIONS = [
    *(case(name, positive(2, 3, 4), [1, -1]) for name in REDUCING),
    *(case(name, positive(2, 3, 4), keepdims=0) for name in REDUCING),
    *(case(name, positive(2, 3, 4), opset=11, axes=[0], keepdims=0) for name in REDUCING),
    case("ReduceSum", normal(2, 3), [], noop_with_empty_axes=1),
    case("ReduceSum", integers(2, 3, dtype=np.int32), [1]),
    *(case(name, integers(4, 6), axis=1) for name in ("ArgMax", "ArgMin")),
    *(case(name, integers(4, 6), axis=0, keepdims=0, select_last_index=1) for name in ("ArgMax", "ArgMin")),
    case("CumSum", normal(3, 4), scalar(1, np.int64), constant=(1,)),
    case("CumSum", normal(3, 4), scalar(0, np.int64), constant=(1,), exclusive=1, reverse=1),
    case("TopK", integers(3, 8, dtype=np.float32), [3], outputs=2),
    case("TopK", normal(5, 3), [2], outputs=2, axis=0, largest=0),
    case("TopK", normal(3, 8), opset=9, outputs=2, k=3),
]

WEIGHT, BIAS = normal(6, 3, 3, 2), normal(6)
WINDOWS = [
    case("Conv", IMAGE, WEIGHT, BIAS, constant=(1, 2)),
    case("Conv", IMAGE, WEIGHT),
    case("Conv", IMAGE, WEIGHT, constant=(1,), pads=[1, 2, 1, 2], strides=[2, 1], dilations=[1, 2]),
    case("Conv", IMAGE, WEIGHT, BIAS, constant=(1, 2), pads=[1, 0, 2, 1]),
    *(
        case("Conv", IMAGE, WEIGHT, constant=(1,), auto_pad=how, strides=strides)
        for how in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
    case("Conv", IMAGE, normal(6, 3, 3, 3), constant=(1,), auto_pad="SAME_UPPER"),
    case("Conv", IMAGE, normal(6, 3, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, normal(6, 1, 3, 3), constant=(1,), group=3),
    case("Conv", normal(2, 3, 9), normal(4, 3, 5), constant=(1,), pads=[2, 2]),
    case("Conv", normal(1, 2, 4, 5, 6), normal(3, 2, 2, 3, 2), constant=(1,)),
    case("ConvTranspose", IMAGE, normal(3, 4, 3, 3), BIAS[:4], constant=(1, 2), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", IMAGE, normal(3, 4, 3, 3), strides=[2, 2], output_padding=[1, 1], pads=[1, 0, 0, 1]),
    case("ConvTranspose", IMAGE, normal(3, 4, 3, 3), BIAS[:4], strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose", IMAGE, normal(3, 2, 3, 2), constant=(1,), group=3, dilations=[2, 1]),
    *(
        case("ConvTranspose", IMAGE, normal(3, 4, 3, 3), constant=(1,), strides=[2, 2], auto_pad=how)
        for how in ("SAME_UPPER", "SAME_LOWER")
    ),
    case("ConvTranspose", IMAGE, normal(3, 4, 3, 3), constant=(1,), strides=[2, 2], output_shape=[18, 17]),
    case("ConvTranspose", normal(2, 3, 7), normal(3, 4, 3), constant=(1,), strides=[2]),
    *(
        case(name, IMAGE, kernel_shape=[3, 2], strides=[2, 3], **more)
        for name in ("AveragePool", "MaxPool")
        for more in (
            {},
            {"pads": [1, 1, 1, 1]},
            {"pads": [0, 1, 2, 0]},
            {"ceil_mode": 1},
            {"ceil_mode": 1, "pads": [1, 1, 1, 1]},
            {"auto_pad": "SAME_UPPER"},
            {"auto_pad": "SAME_LOWER"},
            {"auto_pad": "VALID"},
            {"dilations": [2, 2]},
        )
    ),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 1, 0], count_include_pad=1, strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 3], pads=[1] * 4, count_include_pad=1, ceil_mode=1),
    case("MaxPool", normal(2, 3, 11), kernel_shape=[3], strides=[2], ceil_mode=1),
    case("MaxPool", normal(2, 3, 5, 6, 4), kernel_shape=[2, 3, 2]),
    case("LpPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], p=2),
    case("GlobalAveragePool", IMAGE),
    case("GlobalLpPool", IMAGE, p=2),
    case("GlobalMaxPool", IMAGE),
]


def scales(*values: float) -> Array:
    return np.array(values, np.float32)


HALF, NAMES = "half_pixel", "coordinate_transformation_mode"
IMAGES = [
    *(
        case(
            "Resize",
            IMAGE,
            None,
            scales(1, 1, *factors),
            constant=(2,),
            mode="nearest",
            nearest_mode=how,
            **{NAMES: at},
        )
        for factors in ((2, 3), (0.6, 1.7))
        for how, at in (
            ("floor", "asymmetric"),
            ("ceil", "asymmetric"),
            ("round_prefer_floor", HALF),
            ("round_prefer_ceil", HALF),
            ("round_prefer_floor", "align_corners"),
        )
    ),
    *(
        case("Resize", IMAGE, None, None, [2, 3, *size], mode=mode, **{NAMES: at})
        for size in ((18, 16), (5, 12), (1, 1))
        for mode in ("linear", "cubic")
        for at in (HALF, "align_corners", "pytorch_half_pixel", "asymmetric")
    ),
    case("Resize", IMAGE, None, scales(0.6, 1.7), constant=(2,), mode="linear", axes=[2, 3]),
    case("Resize", IMAGE, None, None, [7, 7], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    case("Resize", IMAGE, None, scales(1, 1, 0.6, 1.7), constant=(2,), mode="cubic", exclude_outside=1),
    case("Resize", IMAGE, None, scales(1, 1, 1 / 3, 0.6), constant=(2,), mode="linear", antialias=1),
    case(
        "Resize",
        IMAGE,
        None,
        scales(0.4, 1.5),
        constant=(2,),
        mode="linear",
        antialias=1,
        exclude_outside=1,
        axes=[2, 3],
    ),
    case(
        "Resize", IMAGE, None, scales(1, 1, 0.6, 1.7), constant=(2,), mode="linear", **{NAMES: "half_pixel_symmetric"}
    ),
    case("Resize", IMAGE, scales(1, 1, 2, 3), constant=(1,), mode="linear", opset=10),
    case("Resize", IMAGE, scales(1, 1, 0.5, 1.5), constant=(1,), mode="nearest", opset=10),
    case("Upsample", IMAGE, scales(1, 1, 2, 2), constant=(1,), mode="nearest", opset=9),
    case("Upsample", IMAGE, scales(1, 1, 2, 3), constant=(1,), mode="linear", opset=9),
    case("GridSample", IMAGE, (positive(2, 4, 5, 2) * 2 - 1)),
    case("GridSample", IMAGE, (positive(2, 4, 5, 2) * 3 - 1), align_corners=1, mode="nearest", padding_mode="border"),
]

NORMALISATIONS = [
    case("BatchNormalization", IMAGE, positive(3), normal(3), normal(3), positive(3), constant=(1, 2, 3, 4)),
    case("BatchNormalization", IMAGE, positive(3), normal(3), normal(3), positive(3), epsilon=1e-3),
    case("BatchNormalization", normal(4, 3), positive(3), normal(3), normal(3), positive(3), constant=(1, 2, 3, 4)),
    case("GroupNormalization", normal(2, 6, 4), positive(6), normal(6), constant=(1, 2), num_groups=3, opset=21),
    case("InstanceNormalization", IMAGE, positive(3), normal(3), constant=(1, 2)),
    case("LRN", normal(2, 7, 3, 4), size=3, alpha=0.1, beta=0.6, bias=1.5),
    case("LRN", normal(2, 7, 3, 4), size=5),
    case("LayerNormalization", X, normal(5), normal(5), constant=(1, 2)),
    case("LayerNormalization", X, normal(4, 5), constant=(1,), axis=2, epsilon=1e-2),
    case("LayerNormalization", X, normal(1), constant=(1,), axis=-1),
    case("LpNormalization", X, axis=1, p=1),
    case("LpNormalization", X, axis=-1, p=2),
    case("MeanVarianceNormalization", IMAGE),
    case("RMSNormalization", X, normal(5), constant=(1,), opset=23),
    case("Attention", normal(2, 4, 5, 8), normal(2, 4, 6, 8), normal(2, 4, 6, 8), opset=23),
    case("Attention", normal(2, 5, 8), normal(2, 5, 4), normal(2, 5, 4), opset=23, q_num_heads=4, kv_num_heads=2),
    case("Attention", normal(2, 4, 5, 8), normal(2, 4, 5, 8), normal(2, 4, 5, 8), opset=23, is_causal=1),
    case("Dropout", X),
    case("Dropout", X, opset=11, ratio=0.3),
]


def recurrent(operator: str, gates: int, direction: str, *, state: bool, **attributes: Any) -> Case:
    d, hidden, batch, length = 2 if direction == "bidirectional" else 1, 5, 3, 4
    layout = attributes.get("layout", 0)
    start = normal(batch, d, hidden) if layout else normal(d, batch, hidden)
    states = [None, *[start] * (2 if operator == "LSTM" else 1)] if state else []
    return case(
        operator,
        normal(batch, length, 6) if layout else normal(length, batch, 6),
        normal(d, gates * hidden, 6),
        normal(d, gates * hidden, hidden),
        normal(d, 2 * gates * hidden) if state else None,
        *states,
        constant=(1, 2, 3) if state else (1, 2),
        outputs=3 if operator == "LSTM" else 2,
        hidden_size=hidden,
        direction=direction,
        **attributes,
    )


RECURRENT = [
    *(
        recurrent(name, gates, direction, state=state, **more)
        for name, gates, more in (
            ("LSTM", 4, {}),
            ("GRU", 3, {"linear_before_reset": 1}),
            ("GRU", 3, {}),
            ("RNN", 1, {}),
        )
        for direction, state in (("forward", False), ("reverse", True), ("bidirectional", True))
    ),
    recurrent("RNN", 1, "forward", state=True, activations=["Relu"]),
]

CASES = [
    *ARITHMETIC,
    *LOGIC,
    *ACTIVATIONS,
    *QUANTISED,
    *MOVES,
    *REDUCTIONS,
    *WINDOWS,
    *IMAGES,
    *NORMALISATIONS,
    *RECURRENT,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.opset}")
def test_agrees_with_onnx_runtime(case: Case) -> None:
    model = case.model()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, case.feeds)
    with torch.no_grad():
        found = read_onnx(model)(*map(torch.from_numpy, case.feeds.values()))
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.numpy().dtype == theirs.dtype
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    known = (OPERATORS.keys() | LAYERS.keys()) - {"Linear"}
    assert known == {case.operator for case in CASES}
    for name, (before, _) in OLDER.items():
        assert any(case.operator == name and case.opset < before for case in CASES), name
