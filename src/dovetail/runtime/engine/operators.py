"""How ONNX operators become layers, where they compute: one function each, which raises Lacking at what it cannot."""

from __future__ import annotations

import math

import numpy as np

from dovetail.runtime.engine.layers import (
    Arithmetic,
    Array,
    Convolution,
    Elementwise,
    Layout,
    Normalise,
    Pool,
    Product,
    Window,
    sides,
)
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.planner import Lacking, Plan, Translate, add_values, affine, round_value

WIDEST_BORDER = 64
"""Padding up to which pictures are kept with it on all sides."""


def convolve(plan: Plan, node: Node) -> None:
    value, weight = node.inputs[:2]
    shape, output = plan.shape(value), plan.shape(node.outputs[0])
    scales = _codes(plan, value, weight, 0)
    weights = constant_of(plan, weight) if scales is None else plan.network.coded[weight].codes
    places = weights.ndim - 2
    if places not in (1, 2) or len(shape) != places + 1:
        raise Lacking(f"a convolution over {places} places")
    window, after = _window(node, shape[1:], weights.shape[2:])
    groups = node.attributes.get("group", 1)
    demand(weights.shape[1] * groups == shape[0] and weights.shape[0] % groups == 0, "weights do not fit the input")
    weights = np.ascontiguousarray(weights).reshape(*weights.shape[:2], *(1,) * (2 - places), *weights.shape[2:])
    padding = max(*window[6:], *after, 0)
    demand(padding <= WIDEST_BORDER, f"a padding of {padding}")
    layer = Convolution(
        _name(weight), "Conv", [value], node.outputs[0], output, Layout.FIRST,
        weight=weight, weights=weights, window=window, padding=padding, groups=groups,
    )  # fmt: skip
    _finish_product(plan, layer, scales, optional_constant(plan, node, 2))


def multiply_matrix(plan: Plan, node: Node) -> None:
    """MatMul and Gemm by a constant matrix: a convolution by a window of one pixel, or as large as a picture."""
    value, weight = node.inputs[:2]
    if node.operator == "MatMul" and weight in plan.network.shapes:
        return multiply_values(plan, node)
    transposed = bool(node.attributes.get("transB", 0))
    scales = _codes(plan, value, weight, 0 if transposed else 1)
    matrix = constant_of(plan, weight) if scales is None else plan.network.coded[weight].codes
    shape = plan.shape(value)
    demand(matrix.ndim == 2 and not node.attributes.get("transA", 0), "a product of two values of the network")
    demand(shape[-1] == matrix.shape[1 if transposed else 0], "weights do not fit the input")
    matrix = matrix if transposed else matrix.T
    source, picture = _flattened(plan, value)
    weights = np.ascontiguousarray(matrix.reshape(len(matrix), *picture))
    window = (*picture[1:], 1, 1, 1, 1, 0, 0)
    layer = Convolution(
        _name(weight), node.operator, [source], node.outputs[0], plan.shape(node.outputs[0]), Layout.LAST,
        weight=weight, weights=weights, window=window, flattened=source != value,
    )  # fmt: skip
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    bias = optional_constant(plan, node, 2)
    if bias is not None:
        bias = per_channel(bias, layer.shape, Layout.LAST) * beta
    if alpha != 1.0:
        layer.epilogue.scale = np.full(len(matrix), alpha)
    _finish_product(plan, layer, scales, bias)
    if source != value and plan.network.readers.get(value) == 1:
        plan.layers.remove(plan.makers[value])
    return None


def multiply_values(plan: Plan, node: Node) -> None:
    """MatMul of two values, as in attention: for each head, if they have heads."""
    first, second = node.inputs
    left, right, output = plan.shape(first), plan.shape(second), plan.shape(node.outputs[0])
    demand(len(left) == len(right) == len(output) and len(left) in (2, 3), "a product that is shared among matrices")
    fitting = left[:-2] == right[:-2] == output[:-2] and left[-1] == right[-2]
    demand(fitting, "a product that is shared among matrices")
    plan.add(Product("MatMul", "MatMul", [first, second], node.outputs[0], output, Layout.LAST))


def _flattened(plan: Plan, value: str) -> tuple[str, tuple[int, int, int]]:
    """What a vector was flattened from, if that was all; and its shape as a picture.

    What the caller gives is laid out anew in any case: better as a vector than with its few channels padded.
    """
    (inputs,) = plan.shape(value)[-1:]
    maker = plan.makers.get(value)
    if maker is not None and maker.operator in ("Flatten", "Reshape") and maker.epilogue.grid is None:
        (source,) = maker.inputs
        shape = plan.shape(source)
        picture = len(shape) == 3 and math.prod(shape) == inputs and plan.layout(source) is Layout.FIRST
        if picture and maker.shape == (inputs,) and plan.root(source) in plan.makers:
            return source, (shape[0], shape[1], shape[2])
    return value, (inputs, 1, 1)


def _codes(plan: Plan, value: str, weight: str, axis: int) -> Array | None:
    """The scale of each output if the product can be of codes, None if not."""
    coded, grid = plan.network.coded.get(weight), plan.grid(value)
    if coded is None or grid is None or (len(coded.scales) > 1 and coded.axis != axis):
        return None
    return np.broadcast_to(coded.scales.astype(np.float64) * grid.scale, (coded.codes.shape[axis],))


def _finish_product(plan: Plan, layer: Convolution, scales: Array | None, bias: Array | None) -> None:
    outputs = len(layer.weights)
    scale = layer.epilogue.scale if len(layer.epilogue.scale) else np.ones(outputs)
    layer.epilogue.scale = scale * (1.0 if scales is None else scales)
    layer.epilogue.bias = np.zeros(outputs) if bias is None else np.asarray(bias, np.float64).reshape(-1)
    demand(len(layer.epilogue.bias) == outputs, "a bias that is not one number for each output")
    plan.add(layer)


def pool(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    shape, output = plan.shape(value), plan.shape(node.outputs[0])
    everywhere = node.operator.startswith("Global")
    size = shape[1:] if everywhere else tuple(node.attributes.get("kernel_shape", ()))
    demand(len(shape) in (2, 3) and len(size) == len(shape) - 1, f"a pool over {len(size)} places")
    window, after = _window(node, shape[1:], size)
    kind = 0 if "Max" in node.operator else 2 if node.attributes.get("count_include_pad", 0) else 1
    demand(kind == 0 or not node.attributes.get("ceil_mode", 0), "means of windows that go out of the padding")
    layer = Pool(node.operator, node.operator, [value], node.outputs[0], output, Layout.FIRST,
                 window=window, padding_after=after, kind=kind)  # fmt: skip
    plan.add(layer)


def reduce(plan: Plan, node: Node) -> None:
    """ReduceMax, ReduceMean or ReduceSum over the places of a picture, the steps of a sequence, or the channels."""
    value, operator = node.inputs[0], node.operator
    shape, output = plan.shape(value), plan.shape(node.outputs[0])
    rank, axes = len(shape), _axes(plan, node)
    if axes in ([1], [rank]) and operator != "ReduceMax" and len(output) == rank and (rank != 2 or axes == [rank]):
        return _reduce_channels(plan, node, Layout.LAST if axes == [rank] else Layout.FIRST)
    over = {Layout.FIRST: list(range(2, rank + 1)), Layout.LAST: list(range(1, rank))}
    layout = next((side for side in (plan.layout(value), *over) if over[side] == axes), None)
    if rank not in (2, 3) or layout is None:
        raise Lacking("a reduction over other than the places of a picture, the steps of a sequence or the channels")
    rows, columns, channels = sides(shape, layout)
    kept = tuple(side if axis == layout % rank else 1 for axis, side in enumerate(shape))
    pooled = node.outputs[0] if kept == output else f"{node.outputs[0]} as a picture"
    layer = Pool(operator, operator, [value], pooled, kept, layout, kind=0 if operator == "ReduceMax" else 1)
    layer.window = (rows, columns, rows, columns, 1, 1, 0, 0)
    if operator == "ReduceSum":
        layer.epilogue.scale = np.full(channels, float(rows * columns))
    plan.add(layer)
    if kept != output:
        plan.network.shapes[pooled] = kept
        plan.view(node.outputs[0], pooled)
    return None


def _reduce_channels(plan: Plan, node: Node, layout: Layout) -> None:
    """A product by one row of equal weights."""
    operator, value, output = node.operator, node.inputs[0], node.outputs[0]
    channels = plan.shape(value)[layout]
    layer = Convolution(operator, operator, [value], output, plan.shape(output), layout)
    layer.weights = np.full((1, channels, 1, 1), 1 / channels if operator == "ReduceMean" else 1.0, np.float32)
    _finish_product(plan, layer, None, None)


def _axes(plan: Plan, node: Node) -> list[int]:
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        axes = constant_of(plan, node.inputs[1]).reshape(-1).tolist()
    rank = len(plan.shape(node.inputs[0])) + 1
    return sorted(int(axis) % rank for axis in axes or range(rank))


def arithmetic(plan: Plan, node: Node) -> None:
    first, second = node.inputs
    if first in plan.network.constants or second in plan.network.constants:
        return _with_constant(plan, node)
    if node.operator == "Add" and add_values(plan, node):
        return None
    kind = {"Add": Arithmetic.ADD, "Sub": Arithmetic.SUBTRACT, "Mul": Arithmetic.MULTIPLY, "Div": Arithmetic.DIVIDE}
    left, right = plan.shape(first), plan.shape(second)
    if math.prod(left) < math.prod(right) and node.operator in ("Add", "Mul"):
        first, second, left, right = second, first, right, left
    layout = plan.layout(first)
    rows, columns, channels = sides(left, layout)
    repeated = len(left) == len(right) and sides(right, layout) in ((1, 1, channels), (rows, columns, 1))
    demand(left == right or repeated, "values of two shapes")
    demand(left == plan.shape(node.outputs[0]), "values of two shapes")
    plan.add(Elementwise(node.operator, node.operator, [first, second], node.outputs[0], left, layout,
                         arithmetic=kind[node.operator]))  # fmt: skip


def _with_constant(plan: Plan, node: Node) -> None:
    first, second = node.inputs
    swapped = first in plan.network.constants
    value, name = (second, first) if swapped else (first, second)
    shape, constant = plan.shape(value), constant_of(plan, name)
    demand(shape == plan.shape(node.outputs[0]) and constant.dtype == np.float32, "a constant that makes values larger")
    layout = None
    if constant.size > 1:
        layout = next((side for side in (plan.layout(value), Layout.FIRST, Layout.LAST)
                       if _is_per_channel(constant, shape, side)), None)  # fmt: skip
        demand(layout is not None, "a constant that is not one number for each channel")
    number = constant.reshape(-1).astype(np.float64)
    number = number if layout is None else per_channel(constant, shape, layout)
    with np.errstate(all="ignore"):
        match node.operator:
            case "Add":
                scale, bias = np.ones(1), number
            case "Sub":
                scale, bias = (-np.ones(1), number) if swapped else (np.ones(1), -number)
            case "Mul":
                scale, bias = number, np.zeros(1)
            case _ if swapped:
                _divide_constant(plan, node, value, number, layout)
                return
            case _:
                scale, bias = 1 / number, np.zeros(1)
    affine(plan, node, value, scale, bias, layout)


def _divide_constant(plan: Plan, node: Node, value: str, number: Array, layout: Layout | None) -> None:
    shape, own = plan.shape(value), plan.layout(value) if layout is None else layout
    layer = Elementwise(node.operator, node.operator, [value], node.outputs[0], shape, own)
    layer.arithmetic = Arithmetic.RECIPROCAL
    layer.epilogue.scale, layer.epilogue.bias = np.broadcast_to(number, (shape[own],)), np.zeros(shape[own])
    plan.add(layer)


def _is_per_channel(constant: Array, shape: tuple[int, ...], layout: Layout) -> bool:
    channels = shape[layout]
    wanted = [1] * len(shape)
    wanted[layout] = channels
    given = [1] * (len(shape) + 1 - constant.ndim) + list(constant.shape)
    return constant.ndim <= len(shape) + 1 and given in ([1, *wanted], [1] * (len(shape) + 1))


def per_channel(constant: Array, shape: tuple[int, ...], layout: Layout) -> Array:
    demand(_is_per_channel(constant, shape, layout), "a constant that is not one number for each channel")
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (shape[layout],))


def softmax(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    shape = plan.shape(value)
    axis = node.attributes.get("axis", -1 if plan.network.opset >= 13 else 1) % (len(shape) + 1)
    demand(plan.network.opset >= 13 or axis == len(shape), "a softmax over several axes")
    demand(axis in (1, len(shape)), "a softmax over other than the channels")
    layout = Layout.LAST if axis == len(shape) else Layout.FIRST
    plan.add(Normalise("Softmax", "Softmax", [value], node.outputs[0], shape, layout, kind=1))


def normalise(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    shape = plan.shape(value)
    demand(node.attributes.get("axis", -1) % (len(shape) + 1) == len(shape), "a normalisation over several axes")
    epsilon = node.attributes.get("epsilon", 1e-5)
    layer = Normalise(_name(node.inputs[1]), "LayerNormalization", [value], node.outputs[0], shape, Layout.LAST,
                      kind=0, epsilon=epsilon)  # fmt: skip
    shift = optional_constant(plan, node, 2)
    layer.epilogue.scale = per_channel(constant_of(plan, node.inputs[1]), shape, Layout.LAST)
    layer.epilogue.bias = np.zeros(shape[-1]) if shift is None else per_channel(shift, shape, Layout.LAST)
    plan.add(layer)


def local_response(plan: Plan, node: Node) -> None:
    """Sums over channels; ONNX puts the odd one of an even number after, torch, which writes it out, before."""
    value, size = node.inputs[0], node.attributes.get("size", 0)
    shape = plan.shape(value)
    summed = node.attributes.get("summed", shape)
    fits = len(summed) == len(shape) and all(n in (side, -1) for n, side in zip(summed, shape, strict=True))
    demand(fits, "a sum of squares over other than the channels")
    demand(0 < size < 4096, "a window of thousands")
    before = node.attributes.get("before", (size - 1) // 2)
    numbers = (node.attributes.get(name, usual) for name, usual in (("alpha", 1e-4), ("bias", 1.0), ("beta", 0.75)))
    alpha, bias, beta = map(float, numbers)
    plan.add(Normalise("LRN", "LRN", [value], node.outputs[0], shape, Layout.FIRST, kind=2,
                       beside=(before, size - 1 - before), response=(alpha / size, bias, beta)))  # fmt: skip


def batch_normalise(plan: Plan, node: Node) -> None:
    demand(not node.attributes.get("training_mode", 0), "a normalisation by the batch at hand")
    scale, shift, centre, variance = (constant_of(plan, name).astype(np.float64) for name in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    channels = plan.shape(node.inputs[0])[0]
    demand(
        all(array.shape == (channels,) for array in (scale, shift, centre, variance)), "statistics of other channels"
    )
    affine(plan, node, node.inputs[0], factor, shift - centre * factor, Layout.FIRST)


def demand(met: bool, reason: str) -> None:
    if not met:
        raise Lacking(reason)


def constant_of(plan: Plan, name: str) -> Array:
    if name not in plan.network.constants:
        raise Lacking("a product of two values of the network" if name in plan.network.shapes else "a computed operand")
    return plan.network.constants[name]


def optional_constant(plan: Plan, node: Node, place: int) -> Array | None:
    name = node.inputs[place] if len(node.inputs) > place else ""
    return constant_of(plan, name) if name else None


def _name(weight: str) -> str:
    return weight.removesuffix(".weight")


def _window(node: Node, places: tuple[int, ...], size: tuple[int, ...]) -> tuple[Window, tuple[int, int]]:
    """The window of a convolution or pool, and the padding below and on the right; a line is one row."""
    count = len(size)
    ones = [1] * count
    whole = node.operator.startswith("Global")
    strides = list(size) if whole else list(node.attributes.get("strides", ones))
    dilations = list(node.attributes.get("dilations", ones))
    pads = list(node.attributes.get("pads", [0] * (2 * count)))
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        spans = [(s - 1) * d + 1 for s, d in zip(size, dilations, strict=True)]
        wanted = [max((-(-side // stride) - 1) * stride + span - side, 0)
                  for side, stride, span in zip(places, strides, spans, strict=True)]  # fmt: skip
        less, more = [w // 2 for w in wanted], [w - w // 2 for w in wanted]
        pads = [*less, *more] if automatic == b"SAME_UPPER" else [*more, *less]
    demand(len(strides) == len(dilations) == count and len(pads) == 2 * count, "attributes that do not fit its weights")
    demand(min(pads) >= 0 and min(strides) > 0 and min(dilations) > 0 and min(size) > 0, "padding below zero")
    demand(max(*pads, *strides, *dilations, *size) < 4096, "a window of thousands")
    lines = 2 - count
    one, none = [1] * lines, [0] * lines
    sizes, steps, spread = one + list(size), one + strides, one + dilations
    before, after = none + pads[:count], none + pads[count:]
    return (
        (sizes[0], sizes[1], steps[0], steps[1], spread[0], spread[1], before[0], before[1]),
        (after[0], after[1]),
    )


COMPUTING: dict[str, Translate] = {
    "Add": arithmetic,
    "AveragePool": pool,
    "BatchNormalization": batch_normalise,
    "Conv": convolve,
    "Div": arithmetic,
    "Gemm": multiply_matrix,
    "GlobalAveragePool": pool,
    "GlobalMaxPool": pool,
    "LRN": local_response,
    "LayerNormalization": normalise,
    "MatMul": multiply_matrix,
    "MaxPool": pool,
    "Mul": arithmetic,
    "ReduceMax": reduce,
    "ReduceMean": reduce,
    "ReduceSum": reduce,
    "Round": round_value,
    "Softmax": softmax,
    "Sub": arithmetic,
}
