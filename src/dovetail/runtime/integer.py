"""A quantised network in integer arithmetic only: what a chip without floating point computes.

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877, sections 2.2 to 2.4.

A value of scale s is held as int32 codes q that stand for s * q (zero points are taken off). A convolution with weights
of scale s_w gives codes of scale s * s_w; going to the next layer's scale s' multiplies by the constant

    s * s_w / s' = m * 2^-k      m an integer of 31 bits, for each output channel

and rounds to nearest, ties to even, as the quantizers in training do. ReLU is a clamp, its slope below zero such a
constant, a factor for each channel a change of its scale. Departs from the paper where the network leaves a value
unquantised (the terms of a sum, what lies between two factors of a layer): it is held in 31 bits, or 16 where a layer
reads it, with the finest scale, a power of two, that its largest possible value allows. Every value's range is known
before any input is, so nothing overflows.

Given the same codes at its input, each code of a quantised activation is within 1 of the one in floats: they differ
where the float arithmetic, or a bias rounded to the accumulator's step, falls on the other side of halfway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from dovetail.errors import ModelError
from dovetail.runtime.editing import attribute, computed, per_output
from dovetail.runtime.network import Floats, IntegerNetwork, Value
from dovetail.runtime.steps import (
    WORD,
    AtLeast,
    Choose,
    Clamp,
    Codes,
    Concatenate,
    Convolution,
    Pad,
    Pool,
    Product,
    Rescale,
    Reshape,
    Shift,
    Slice,
    Slope,
    Step,
    Sum,
    Transpose,
)

READABLE_BITS = 15
"""Bits, without the sign, in which a layer reads a value that is not quantised."""

TINY = 2.0**-100
"""The least largest value: that of a value that is always zero."""

LIMIT = 2.0**WORD - 1
"""The largest number that a value can hold."""

_EVERYTHING = np.array([-np.inf]), np.array([np.inf])


def integer_network(model: ModelProto) -> IntegerNetwork:
    """The network of an ONNX model in QDQ form (`to_qdq`).

    Raises ModelError, naming it, at an operator that it does not know and a layer whose weights are not integers.
    """
    compiler = _Compiler(model)
    for node in model.graph.node:
        compiler.read(node)
    return IntegerNetwork(compiler.entries, tuple(compiler.steps), compiler.value(model.graph.output[0].name))


class _Compiler:
    def __init__(self, model: ModelProto) -> None:
        self.input = model.graph.input[0].name
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.shapes = _shapes(model)
        self.weights: dict[str, tuple[NDArray[np.int64], Floats]] = {}
        self.values: dict[str, Value] = {}
        self.entries: dict[str, tuple[float, int, int]] = {}
        self.steps: list[tuple[Step, tuple[str, ...], str]] = []
        self.readers = {
            "QuantizeLinear": self.quantize, "DequantizeLinear": self.dequantize, "Clip": self.clip, "Relu": self.relu,
            "LeakyRelu": self.leaky_relu, "PRelu": self.leaky_relu,
            "Conv": self.convolution, "Gemm": self.linear,
            "Add": self.add, "Sub": self.subtract, "Mul": self.multiply, "Div": self.divide,
            "GreaterOrEqual": self.at_least, "Where": self.choose, "Concat": self.concatenate,
            "MaxPool": self.pool, "AveragePool": self.pool, "GlobalAveragePool": self.pool,
            "Reshape": self.move, "Flatten": self.move, "Transpose": self.move, "Slice": self.move, "Pad": self.move,
            "Identity": self.identity,
        }  # fmt: skip

    def read(self, node: NodeProto) -> None:
        if (constant := computed(node, self.constants)) is not None:  # weights of few bits become bytes
            self.constants[node.output[0]] = constant
            return
        if node.op_type not in self.readers:
            raise ModelError(
                f"{node.op_type} has no integer arithmetic here, only {', '.join(sorted(self.readers))} have; run the "
                "network in floats"
            )
        result = self.readers[node.op_type](node)
        if result is not None:
            self.values[node.output[0]] = result

    def value(self, name: str) -> Value:
        if name not in self.values:
            raise ModelError(f"value {name!r} of the network is not quantised, or is no batch; quantise its input too")
        return self.values[name]

    def step(self, step: Step, inputs: Iterable[Value], lowest: Floats, highest: Floats, scale: Floats) -> Value:
        """A new value, made by `step`. Raises ModelError if it might not fit in 32 bits."""
        if max(np.abs(lowest).max(), np.abs(highest).max()) >= 2.0**WORD:
            raise ModelError("a sum in the network may exceed 32 bits; quantise its weights or inputs to fewer bits")
        name = f"codes{len(self.steps)}"
        self.steps.append((step, tuple(value.name for value in inputs), name))
        return Value(name, scale, lowest, highest)

    def rescaled(self, value: Value, scale: float) -> Value:
        """With one scale for all channels."""
        if len(value.scale) == 1 and value.scale[0] == scale:
            return value
        ratio = value.scale / scale
        low, high = np.sort([value.lowest * ratio, value.highest * ratio], 0)
        return self.step(Rescale.by(ratio), [value], np.floor(low), np.ceil(high), np.array([scale]))

    def common(self, value: Value, bits: int = WORD - 1) -> Value:
        """With one scale for all channels, above zero; what has one already is left as it is if it fits in `bits`."""
        reach = max(np.abs(value.lowest).max(), np.abs(value.highest).max())
        if len(value.scale) == 1 and value.scale[0] > 0 and reach <= 2.0**bits:
            return value
        return self.rescaled(value, _power(value.largest) / 2.0**bits)

    def fine(self, value: Value) -> Value:
        """With a scale much below the differences that matter."""
        if not value.coarse and np.all(value.scale > 0):
            return value
        return self.rescaled(value, _power(value.largest) / 2.0 ** (WORD - 2))

    def quantize(self, node: NodeProto) -> Value:
        scale, zero = float(self.constants[node.input[1]]), int(self.constants[node.input[2]])
        limits = np.iinfo(self.constants[node.input[2]].dtype)
        low, high = int(limits.min) - zero, int(limits.max) - zero
        if node.input[0] == self.input:
            name = f"input{len(self.entries)}"
            self.entries[name] = (scale, low, high)
            return Value(name, np.array([scale]), np.array([low]), np.array([high]), zero, True)
        value = self.value(node.input[0])
        if len(value.scale) > 1 or value.scale[0] != scale:
            ratio = value.scale / scale
            bounds = np.array([float(low)]), np.array([float(high)])
            value = self.step(Rescale.by(ratio, low, high), [value], *bounds, np.array([scale]))
        elif value.lowest.min() < low or value.highest.max() > high:
            value = self.clamped(value, np.array([float(low)]), np.array([float(high)]))
        return replace(value, zero=zero, coarse=True)

    def dequantize(self, node: NodeProto) -> Value | None:
        if node.input[0] in self.constants:
            codes, scale, zero = (self.constants[part].astype(np.float64) for part in node.input)
            if scale.ndim and attribute(node, "axis", 1) != 0:
                raise ModelError(f"the scales of constant {node.input[0]!r} should be along its first axis")
            shape = (-1, *[1] * (codes.ndim - 1)) if zero.ndim else ()
            self.weights[node.output[0]] = (codes - zero.reshape(shape)).astype(np.int64), np.atleast_1d(scale)
            return None
        value = self.value(node.input[0])
        return replace(value, zero=0, scale=self.constants[node.input[1]].reshape(1).astype(np.float64), coarse=True)

    def clip(self, node: NodeProto) -> Value:
        value = self.value(node.input[0])
        given = [self.constants[name].reshape(-1)[:1] if name else None for name in [*node.input[1:], "", ""][:2]]
        low, high = (limit if bound is None else bound for bound, limit in zip(given, _EVERYTHING, strict=True))
        if all(bound is None or bound.dtype.kind == "f" for bound in given):
            value = self.fine(value)
            return self.clamped(value, np.rint(low / value.scale), np.rint(high / value.scale))
        return self.clamped(value, low - value.zero, high - value.zero)

    def relu(self, node: NodeProto) -> Value:
        value = self.value(node.input[0])
        value = value if np.all(value.scale > 0) else self.common(value)
        return self.clamped(value, np.zeros(1), np.full(1, np.inf))

    def leaky_relu(self, node: NodeProto) -> Value:
        if node.op_type == "PRelu":
            value, slope = self.operands(node, commuting=False)
        else:
            value, slope = self.value(node.input[0]), np.array([attribute(node, "alpha", 0.01)])
        value = self.fine(value)
        ends = value.lowest, value.highest
        reached = [*(np.minimum(end, 0) * slope for end in ends), *(np.maximum(end, 0) + 0 * slope for end in ends)]
        low, high = np.floor(np.min(reached, 0)), np.ceil(np.max(reached, 0))
        return self.step(Slope.by(slope), [value], low, high, np.broadcast_to(value.scale, low.shape))

    def clamped(self, value: Value, lowest: Floats, highest: Floats) -> Value:
        size = (max(len(lowest), len(highest)),)
        low, high = (np.broadcast_to(np.clip(bound, -LIMIT, LIMIT), size) for bound in (lowest, highest))
        step = Clamp(low.astype(np.int32), high.astype(np.int32))
        least, most = np.clip(value.lowest, low, high), np.clip(value.highest, low, high)
        result = self.step(step, [value], least, most, value.scale)
        return replace(result, zero=value.zero, coarse=value.coarse)

    def convolution(self, node: NodeProto) -> Value:
        weight = self.weight(node)
        ones = (1,) * (weight[0].ndim - 2)
        strides, dilations = (tuple(attribute(node, name, ones)) for name in ("strides", "dilations"))
        pads, groups = _pads(node, len(ones)), attribute(node, "group", 1)

        def make(codes: Codes, bias: Codes, shift: int) -> Product:
            return Convolution(codes, bias, shift, strides, dilations, pads, groups)

        return self.product(node, make, *weight)

    def linear(self, node: NodeProto) -> Value:
        codes, scale = self.weight(node)
        if attribute(node, "transB", 0) != 1:
            raise ModelError("a Gemm of the network has its weight as (inputs, outputs), not (outputs, inputs)")
        return self.product(node, Product, codes, scale)

    def weight(self, node: NodeProto) -> tuple[NDArray[np.int64], Floats]:
        """Codes, and one scale for each output."""
        if node.input[1] not in self.weights:
            raise ModelError(f"a {node.op_type} of the network has weights that are not quantised, {node.input[1]!r}")
        codes, scale = self.weights[node.input[1]]
        return codes, np.broadcast_to(scale, (len(codes),))

    def product(
        self, node: NodeProto, make: Callable[[Codes, Codes, int], Product], weight: NDArray[np.int64], scale: Floats
    ) -> Value:
        value = self.common(self.value(node.input[0]), READABLE_BITS)
        scale = scale * value.scale[0]
        bias = np.rint(self.bias(node, len(weight)) / scale)
        # The smallest and the largest sum; the padding is zero.
        low, high = min(value.lowest.min(), 0), max(value.highest.max(), 0)
        rows = weight.reshape(len(weight), -1)
        above, below = np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1)
        lowest, highest = above * low + below * high + bias, above * high + below * low + bias
        shift = _trailing_zeros(weight)
        bias32 = np.clip(bias, -LIMIT, LIMIT).astype(np.int32)
        return self.step(make((weight >> shift).astype(np.int32), bias32, shift), [value], lowest, highest, scale)

    def bias(self, node: NodeProto, outputs: int) -> Floats:
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(outputs)
        codes, scale = self.weights.get(node.input[2]) or (self.constants[node.input[2]], np.ones(1))
        return np.broadcast_to(codes.reshape(-1).astype(np.float64) * scale, (outputs,))

    def add(self, node: NodeProto) -> Value:
        value, constant = self.operands(node)
        if constant is not None:
            return self.shifted(value, constant)
        terms = [self.value(name) for name in node.input]
        scale = _power(sum(term.largest for term in terms)) / 2.0 ** (WORD - 1)
        terms = [self.rescaled(term, scale) for term in terms]
        lowest, highest = sum(t.lowest.min() for t in terms), sum(t.highest.max() for t in terms)
        return self.step(Sum(), terms, np.array([lowest]), np.array([highest]), np.array([scale]))

    def shifted(self, value: Value, constant: Floats) -> Value:
        value = self.fine(value)
        bias = np.rint(constant / value.scale)
        return self.step(
            Shift(bias.astype(np.int32)), [value], value.lowest + bias, value.highest + bias,
            np.broadcast_to(value.scale, (len(bias),)),
        )  # fmt: skip

    def subtract(self, node: NodeProto) -> Value:
        value, constant = self.operands(node, commuting=False)
        return self.shifted(value, -constant)

    def multiply(self, node: NodeProto) -> Value:
        value, constant = self.operands(node)
        if constant is None:
            raise ModelError("a product of two values of the network has no integer arithmetic here")
        return replace(value, scale=value.scale * constant)

    def divide(self, node: NodeProto) -> Value:
        value, constant = self.operands(node, commuting=False)
        return replace(value, scale=value.scale / constant)

    def at_least(self, node: NodeProto) -> Value:
        """1 where the value is at least the constant, else 0."""
        value, constant = self.operands(node, commuting=False)
        value = value if np.all(value.scale > 0) else self.common(value)
        bound = np.clip(np.ceil(constant / value.scale), -LIMIT, LIMIT).astype(np.int32)
        return self.step(AtLeast(bound), [value], np.zeros(1), np.ones(1), np.ones(1))

    def choose(self, node: NodeProto) -> Value:
        """One of two codes; the DequantizeLinear that reads them gives them their scale."""
        chosen = [self.constants.get(name) for name in node.input[1:]]
        if any(codes is None or codes.size != 1 or codes.dtype.kind != "i" for codes in chosen):
            raise ModelError("a Where of the network should choose between two integers")
        yes, no = (int(codes.reshape(-1)[0]) for codes in chosen if codes is not None)
        value = self.value(node.input[0])
        ends = np.array([float(min(yes, no))]), np.array([float(max(yes, no))])
        return self.step(Choose(yes, no), [value], *ends, np.ones(1))

    def concatenate(self, node: NodeProto) -> Value:
        """With one scale: the parts' own if they have the same, else one that is much finer."""
        parts = [self.value(name) for name in node.input]
        scales = {float(number) for part in parts for number in part.scale}
        alike = len(scales) == 1 and min(scales) > 0
        scale = min(scales) if alike else _power(max(part.largest for part in parts)) / 2.0 ** (WORD - 2)
        parts = [self.rescaled(part, scale) for part in parts]
        low, high = min(part.lowest.min() for part in parts), max(part.highest.max() for part in parts)
        step = Concatenate(attribute(node, "axis", 1))
        result = self.step(step, parts, np.array([low]), np.array([high]), np.array([scale]))
        return replace(result, coarse=alike and any(part.coarse for part in parts))

    def operands(self, node: NodeProto, *, commuting: bool = True) -> tuple[Value, Any]:
        """The first value, and the constant that it is added to or multiplied by, one or as many as channels.

        None if there is no constant. What is not `commuting` must have one, in second place.
        """
        names = sorted(node.input, key=lambda name: name in self.constants) if commuting else list(node.input)
        if not commuting and (names[0] in self.constants or names[1] not in self.constants):
            raise ModelError(f"a {node.op_type} of the network should be of a value and a constant")
        value, shape = self.value(names[0]), self.shapes.get(names[0], ())
        if names[1] not in self.constants:
            return value, None
        constant = per_output(self.constants[names[1]], shape[1] if len(shape) > 1 else 1, max(len(shape) - 2, 0))
        if constant is None:
            raise ModelError(f"the constant of a {node.op_type} should be one number, or one for each channel")
        return value, constant

    def pool(self, node: NodeProto) -> Value:
        value = self.value(node.input[0])
        places = self.shapes.get(node.input[0], ())[2:]
        kernel = places if node.op_type == "GlobalAveragePool" else tuple(attribute(node, "kernel_shape", ()))
        ones = (1,) * len(kernel)
        strides, dilations = (tuple(attribute(node, name, ones)) for name in ("strides", "dilations"))
        pads, total = _pads(node, len(kernel)), node.op_type != "MaxPool"
        if (
            attribute(node, "ceil_mode", 0)
            or not all(kernel)
            or not kernel
            or (total and pads != ((0, 0),) * len(kernel))
        ):
            raise ModelError(
                f"a {node.op_type} is expected to have windows of one size, and a mean's to have no padding"
            )
        step = Pool(kernel, strides, dilations, pads, total)
        if not total:
            value = value if np.all(value.scale > 0) else self.common(value)
            return replace(self.step(step, [value], value.lowest, value.highest, value.scale), coarse=value.coarse)
        count = math.prod(kernel)
        value = self.common(value, WORD - 1 - math.ceil(math.log2(count)))
        return self.step(step, [value], value.lowest * count, value.highest * count, value.scale / count)

    def move(self, node: NodeProto) -> Value:
        """What changes places and shapes: afterwards channels are not what they were."""
        value = self.value(node.input[0])
        value = value if len(value.scale) == 1 else self.common(value)
        low, high = np.array([min(value.lowest.min(), 0)]), np.array([max(value.highest.max(), 0)])
        moved = self.step(self.movement(node), [value], low, high, value.scale)
        return replace(moved, coarse=value.coarse)

    def movement(self, node: NodeProto) -> Step:
        numbers = [self.constants[name].reshape(-1).tolist() if name else [] for name in node.input[1:]]
        rank = len(self.shapes.get(node.input[0], ()))
        match node.op_type:
            case "Reshape":
                return Reshape(tuple(numbers[0]))
            case "Flatten" if attribute(node, "axis", 1) == 1:
                return Reshape((0, -1))
            case "Transpose":
                return Transpose(tuple(attribute(node, "perm", tuple(range(rank))[::-1])))
            case "Slice" if rank:
                starts, ends, axes, steps = (*numbers, *([],) * 2)[:4]
                axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
                ranges = zip(starts, ends, steps, strict=True)
                return Slice({axis % rank: span for axis, span in zip(axes, ranges, strict=True)})
            case "Pad" if rank and len(numbers[0]) == 2 * rank and not any(numbers[1] if len(numbers) > 1 else []):
                return Pad(tuple(zip(numbers[0][:rank], numbers[0][rank:], strict=True)))
        raise ModelError(f"a {node.op_type} of the network is of a kind that has no integer arithmetic here")

    def identity(self, node: NodeProto) -> Value:
        return self.value(node.input[0])


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each value for which it can be told, 0 for the sides that are open."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _pads(node: NodeProto, places: int) -> tuple[tuple[int, int], ...]:
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ModelError(f"a {node.op_type} of the network pads as its input's size says; export it with numbers")
    pads = attribute(node, "pads", [0] * (2 * places))
    return tuple(zip(pads[:places], pads[places:], strict=True))


def _power(number: float) -> float:
    """The least power of two that is not smaller."""
    return 2.0 ** math.ceil(math.log2(max(number, TINY)))


def _trailing_zeros(codes: NDArray[np.int64]) -> int:
    """How often all of them can be halved."""
    union = int(np.bitwise_or.reduce(np.abs(codes), axis=None))
    return (union & -union).bit_length() - 1 if union else 0
