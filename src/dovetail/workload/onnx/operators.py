"""The table of ONNX operators: to add one, add an entry, and a case to tests/workload/test_onnx_operators.py."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from dovetail.workload.onnx import elementwise, move, normalise, recurrent, reduce, resize, window


@dataclass(frozen=True)
class Operator:
    """How a node of one operator type is computed.

    `function` takes the node's inputs in ONNX's order and its attributes by ONNX's names. Those at the positions `host`
    reach it as plain numbers (a shape, axes); with `scalars`, constants of rank 0 do as well. Where it has a parameter
    `like` or `num_outputs`, it is told a tensor on the right device and how many outputs the node has. With `many`, it
    returns a tuple.
    """

    function: Callable[..., Any]
    host: tuple[int, ...] = ()
    scalars: bool = False
    many: bool = False

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the function's parameters; torch's builtins, which show none, take no attributes."""
        try:
            return frozenset(inspect.signature(self.function).parameters)
        except ValueError:
            return frozenset()


OPERATORS: dict[str, Operator] = {
    # arithmetic
    "Abs": Operator(torch.abs),
    "Acos": Operator(torch.acos),
    "Acosh": Operator(torch.acosh),
    "Add": Operator(operator.add, scalars=True),
    "Asin": Operator(torch.asin),
    "Asinh": Operator(torch.asinh),
    "Atan": Operator(torch.atan),
    "Atanh": Operator(torch.atanh),
    "BitShift": Operator(elementwise.bit_shift),
    "BitwiseAnd": Operator(torch.bitwise_and),
    "BitwiseNot": Operator(torch.bitwise_not),
    "BitwiseOr": Operator(torch.bitwise_or),
    "BitwiseXor": Operator(torch.bitwise_xor),
    "Ceil": Operator(torch.ceil),
    "Clip": Operator(elementwise.clip, scalars=True),
    "Cos": Operator(torch.cos),
    "Cosh": Operator(torch.cosh),
    "Det": Operator(normalise.determinant),
    "Div": Operator(elementwise.divide, scalars=True),
    "Einsum": Operator(move.einsum),
    "Erf": Operator(torch.erf),
    "Exp": Operator(torch.exp),
    "Floor": Operator(torch.floor),
    "Gemm": Operator(normalise.gemm),
    "Linear": Operator(normalise.linear),  # ours: a matrix product with a constant weight, see rewrite.py
    "Log": Operator(torch.log),
    "MatMul": Operator(torch.matmul),
    "Max": Operator(elementwise.variadic(torch.maximum)),
    "Mean": Operator(elementwise.mean),
    "Min": Operator(elementwise.variadic(torch.minimum)),
    "Mod": Operator(elementwise.modulo),
    "Mul": Operator(operator.mul, scalars=True),
    "Neg": Operator(torch.neg),
    "Pow": Operator(elementwise.power, scalars=True),
    "Reciprocal": Operator(torch.reciprocal),
    "Round": Operator(torch.round),
    "Sign": Operator(torch.sign),
    "Sin": Operator(torch.sin),
    "Sinh": Operator(torch.sinh),
    "Sqrt": Operator(torch.sqrt),
    "Sub": Operator(operator.sub, scalars=True),
    "Sum": Operator(elementwise.variadic(torch.add)),
    "Tan": Operator(torch.tan),
    # comparisons and logic
    "And": Operator(torch.logical_and),
    "Equal": Operator(operator.eq, scalars=True),
    "Greater": Operator(operator.gt, scalars=True),
    "GreaterOrEqual": Operator(operator.ge, scalars=True),
    "IsInf": Operator(elementwise.is_infinite),
    "IsNaN": Operator(torch.isnan),
    "Less": Operator(operator.lt, scalars=True),
    "LessOrEqual": Operator(operator.le, scalars=True),
    "Not": Operator(torch.logical_not),
    "Or": Operator(torch.logical_or),
    "Where": Operator(elementwise.where),
    "Xor": Operator(torch.logical_xor),
    # activations
    "Celu": Operator(elementwise.celu),
    "Elu": Operator(elementwise.elu),
    "Gelu": Operator(elementwise.gelu),
    "HardSigmoid": Operator(elementwise.hard_sigmoid),
    "HardSwish": Operator(functional.hardswish),
    "Hardmax": Operator(elementwise.hardmax),
    "LeakyRelu": Operator(elementwise.leaky_relu),
    "LogSoftmax": Operator(elementwise.log_softmax),
    "Mish": Operator(functional.mish),
    "PRelu": Operator(elementwise.prelu),
    "Relu": Operator(functional.relu),
    "Selu": Operator(elementwise.selu),
    "Shrink": Operator(elementwise.shrink),
    "Sigmoid": Operator(torch.sigmoid),
    "Softmax": Operator(elementwise.softmax),
    "Softplus": Operator(functional.softplus),
    "Softsign": Operator(functional.softsign),
    "Swish": Operator(elementwise.swish),
    "Tanh": Operator(torch.tanh),
    "ThresholdedRelu": Operator(elementwise.thresholded_relu),
    # types and quantised values
    "Cast": Operator(elementwise.cast),
    "CastLike": Operator(elementwise.cast_like),
    "DequantizeLinear": Operator(elementwise.dequantize_linear),
    "QuantizeLinear": Operator(elementwise.quantize_linear),
    # moving, selecting and making data
    "Compress": Operator(move.compress),
    "Concat": Operator(move.concat),
    "ConstantOfShape": Operator(move.constant_of_shape, host=(0,)),
    "DepthToSpace": Operator(move.depth_to_space),
    "Expand": Operator(move.expand, host=(1,)),
    "EyeLike": Operator(move.eye_like),
    "Flatten": Operator(move.flatten),
    "Gather": Operator(move.gather, scalars=True),
    "GatherElements": Operator(move.gather_elements),
    "GatherND": Operator(move.gather_nd),
    "Identity": Operator(move.identity),
    "NonZero": Operator(move.nonzero),
    "OneHot": Operator(move.one_hot, host=(1,)),
    "Pad": Operator(move.pad, host=(1, 3), scalars=True),
    "Range": Operator(move.range_, host=(0, 1, 2)),
    "Reshape": Operator(move.reshape, host=(1,)),
    "ReverseSequence": Operator(move.reverse_sequence),
    "ScatterElements": Operator(move.scatter_elements),
    "ScatterND": Operator(move.scatter_nd),
    "Shape": Operator(move.shape),
    "Size": Operator(move.size),
    "Slice": Operator(move.slice_, host=(1, 2, 3, 4)),
    "SpaceToDepth": Operator(move.space_to_depth),
    "Split": Operator(move.split, host=(1,), many=True),
    "Squeeze": Operator(move.squeeze, host=(1,)),
    "Tile": Operator(move.tile, host=(1,)),
    "Transpose": Operator(move.transpose),
    "Trilu": Operator(move.triangle, host=(1,)),
    "Unsqueeze": Operator(move.unsqueeze, host=(1,)),
    # reductions
    "ArgMax": Operator(reduce.arg_max),
    "ArgMin": Operator(reduce.arg_min),
    "CumSum": Operator(reduce.cumulative_sum, host=(1,)),
    "ReduceL1": Operator(reduce.reduce_l1, host=(1,)),
    "ReduceL2": Operator(reduce.reduce_l2, host=(1,)),
    "ReduceLogSum": Operator(reduce.reduce_log_sum, host=(1,)),
    "ReduceLogSumExp": Operator(reduce.reduce_log_sum_exp, host=(1,)),
    "ReduceMax": Operator(reduce.reduce_max, host=(1,)),
    "ReduceMean": Operator(reduce.reduce_mean, host=(1,)),
    "ReduceMin": Operator(reduce.reduce_min, host=(1,)),
    "ReduceProd": Operator(reduce.reduce_prod, host=(1,)),
    "ReduceSum": Operator(reduce.reduce_sum, host=(1,)),
    "ReduceSumSquare": Operator(reduce.reduce_sum_square, host=(1,)),
    "TopK": Operator(reduce.top_k, host=(1,), many=True),
    # windows and images
    "AveragePool": Operator(window.average_pool),
    "Conv": Operator(window.convolution),
    "ConvTranspose": Operator(window.transposed_convolution),
    "GlobalAveragePool": Operator(window.global_average_pool),
    "GlobalLpPool": Operator(window.global_lp_pool),
    "GlobalMaxPool": Operator(window.global_max_pool),
    "GridSample": Operator(resize.grid_sample),
    "LpPool": Operator(window.lp_pool),
    "MaxPool": Operator(window.max_pool),
    "Resize": Operator(resize.resize, host=(2, 3)),
    "Upsample": Operator(resize.upsample, host=(1,)),
    # normalisation, attention and recurrence
    "Attention": Operator(normalise.attention),
    "BatchNormalization": Operator(normalise.batch_normalization),
    "GRU": Operator(recurrent.gru, many=True),
    "GroupNormalization": Operator(normalise.group_normalization),
    "InstanceNormalization": Operator(normalise.instance_normalization),
    "LRN": Operator(normalise.local_response_normalization),
    "LSTM": Operator(recurrent.lstm, many=True),
    "LayerNormalization": Operator(normalise.layer_normalization),
    "LpNormalization": Operator(normalise.lp_normalization),
    "MeanVarianceNormalization": Operator(normalise.mean_variance_normalization),
    "RMSNormalization": Operator(normalise.rms_normalization),
    "RNN": Operator(recurrent.rnn, many=True),
}

OLDER: dict[str, tuple[int, Operator]] = {
    "Hardmax": (13, Operator(elementwise.flattened_hardmax)),
    "LogSoftmax": (13, Operator(elementwise.flattened_log_softmax)),
    "Resize": (11, Operator(resize.upsample, host=(1,))),
    "Softmax": (13, Operator(elementwise.flattened_softmax)),
}
"""Operators that had another meaning before an opset. Inputs that were attributes have the same name and no entry."""


def find_operator(name: str, opset: int) -> Operator | None:
    """The operator of a name as an opset defines it."""
    before, older = OLDER.get(name, (0, None))
    return older if opset < before else OPERATORS.get(name)
