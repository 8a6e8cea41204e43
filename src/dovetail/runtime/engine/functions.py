"""ONNX operators that compute each value from one or two others: activations, limits, powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dovetail.runtime.engine.layers import Activation, Arithmetic, Elementwise
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.operators import arithmetic, constant_of, demand, optional_constant, per_channel
from dovetail.runtime.engine.planner import Plan, Translate, activate, affine, choose, limit


def _activation(kind: Activation) -> Translate:
    return lambda plan, node: activate(plan, node, kind)


def _only(condition: Callable[[Node], bool], reason: str, translate: Translate) -> Translate:
    """Of the nodes that meet the condition."""

    def translated(plan: Plan, node: Node) -> None:
        demand(condition(node), reason)
        translate(plan, node)

    return translated


def _alpha(node: Node, default: float) -> float:
    return float(node.attributes.get("alpha", default))


def clip(plan: Plan, node: Node) -> None:
    bounds = [optional_constant(plan, node, place) for place in (1, 2)]
    low, high = (float(b.reshape(-1)[0]) if b is not None and b.size else None for b in bounds)
    low = float(node.attributes.get("min", -math.inf)) if low is None else low
    high = float(node.attributes.get("max", math.inf)) if high is None else high
    demand(low <= high, "limits that cross")
    limit(plan, node, low, high)


def hard_sigmoid(plan: Plan, node: Node) -> None:
    slope, shift = _alpha(node, 0.2), float(node.attributes.get("beta", 0.5))
    inner = plan.between(node)
    affine(plan, replace(node, outputs=(inner,)), node.inputs[0], np.full(1, slope), np.full(1, shift), None)
    limit(plan, replace(node, inputs=(inner,)), 0.0, 1.0)


def leaky_relu(plan: Plan, node: Node) -> None:
    """LeakyRelu and PRelu: what is negative times a slope, one for each channel or for all."""
    value = node.inputs[0]
    shape, layout = plan.shape(value), plan.layout(value)
    slopes = np.full(1, _alpha(node, 0.01))
    if node.operator == "PRelu":
        slopes = constant_of(plan, node.inputs[1]).astype(np.float64)
        slopes = slopes.reshape(1) if slopes.size == 1 else per_channel(slopes, shape, layout)
    activate(plan, node, Activation.LEAKY_RELU, slopes=np.broadcast_to(slopes, (shape[layout],)))


def reciprocal(plan: Plan, node: Node) -> None:
    value = node.inputs[0]
    plan.add(Elementwise(node.operator, node.operator, [value], node.outputs[0], plan.shape(value), plan.layout(value),
                         arithmetic=Arithmetic.RECIPROCAL))  # fmt: skip


def negate(plan: Plan, node: Node) -> None:
    affine(plan, node, node.inputs[0], -np.ones(1), np.zeros(1), None)


def power(plan: Plan, node: Node) -> None:
    """Squares, roots, reciprocals."""
    exponent = constant_of(plan, node.inputs[1])
    demand(exponent.size == 1 and exponent.ndim <= len(plan.shape(node.inputs[0])) + 1, "a power for each value")
    match float(exponent.reshape(-1)[0]):
        case 2.0:
            arithmetic(plan, replace(node, operator="Mul", inputs=(node.inputs[0],) * 2))
        case 0.5:
            activate(plan, node, Activation.SQUARE_ROOT)
        case -1.0:
            reciprocal(plan, node)
        case number:
            demand(False, f"the power of {number:g}")


def largest(plan: Plan, node: Node) -> None:
    """Max and Min of two values, or of one and a number."""
    demand(len(node.inputs) == 2, f"{node.operator} of {len(node.inputs)} values")
    first, second = node.inputs
    if first in plan.network.constants:
        first, second = second, first
    if second in plan.network.constants:
        bound = constant_of(plan, second)
        fits = bound.size == 1 and bound.dtype == np.float32 and plan.shape(node.outputs[0]) == plan.shape(first)
        demand(fits, "a limit that is not one number")
        number = float(bound.reshape(-1)[0])
        bounds = (number, math.inf) if node.operator == "Max" else (-math.inf, number)
        return limit(plan, replace(node, inputs=(first,)), *bounds)
    shape = plan.shape(first)
    demand(shape == plan.shape(second), "values of two shapes")
    kind = Arithmetic.MAXIMUM if node.operator == "Max" else Arithmetic.MINIMUM
    layer = Elementwise(node.operator, node.operator, [first, second], node.outputs[0], shape, plan.layout(first))
    plan.add(replace(layer, arithmetic=kind))
    return None


FUNCTIONS: dict[str, Translate] = {
    "Abs": _activation(Activation.ABSOLUTE),
    "Clip": clip,
    "Elu": _only(lambda node: _alpha(node, 1.0) == 1.0, "another alpha than 1", _activation(Activation.ELU)),
    "Erf": _activation(Activation.ERF),
    "Exp": _activation(Activation.EXPONENTIAL),
    "Gelu": _only(
        lambda node: node.attributes.get("approximate", b"none") == b"none",
        "an approximated GELU",
        _activation(Activation.GELU),
    ),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _activation(Activation.HARD_SWISH),
    "LeakyRelu": leaky_relu,
    "Max": largest,
    "Min": largest,
    "Neg": negate,
    "PRelu": leaky_relu,
    "Pow": power,
    "Reciprocal": reciprocal,
    "Relu": _activation(Activation.RELU),
    "Sigmoid": _activation(Activation.SIGMOID),
    "Sqrt": _activation(Activation.SQUARE_ROOT),
    "Swish": _only(lambda node: _alpha(node, 1.0) == 1.0, "another alpha than 1", _activation(Activation.SILU)),
    "Tanh": _activation(Activation.TANH),
    "Where": choose,
}
