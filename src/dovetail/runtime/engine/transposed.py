"""ConvTranspose, as a convolution that computes each place between two of the input's in channels of its own.

Along a side of stride s, out[q s + r - padding] is the sum over j of x[q - j] w[r + s j]: for each r a convolution.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from dovetail.runtime.engine.layers import Array, Box, Convolution, Copy, Layout, Loop
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.operators import WIDEST_BORDER, constant_of, demand, optional_constant
from dovetail.runtime.engine.planner import Plan, Translate


def convolve_transposed(plan: Plan, node: Node) -> None:
    value, weight, attributes = node.inputs[0], node.inputs[1], node.attributes
    shape, output = plan.shape(value), plan.shape(node.outputs[0])
    weights = constant_of(plan, weight)
    demand(len(shape) == 3 and weights.ndim == 4, "a transposed convolution over other than pictures")
    demand(attributes.get("group", 1) == 1 and weights.shape[0] == shape[0], "a transposed convolution in groups")
    usual = attributes.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in attributes
    demand(usual and set(attributes.get("dilations", [1])) == {1}, "a transposed convolution with spread weights")
    stride, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    phased = _phased(weights, stride)
    taps = phased.shape[2:]
    demand(max(taps) <= WIDEST_BORDER, f"a window of {max(taps)}")
    places = tuple(side + tap - 1 for side, tap in zip(shape[1:], taps, strict=True))
    boxes = _boxes(output, places, stride, pads)
    covered = sum(int(np.prod([loop.count for loop in box.loops])) for box in boxes)
    demand(covered == int(np.prod(output)), "padding that nothing reaches")
    name = f"{node.outputs[0]} in phases"
    plan.network.shapes[name] = (len(phased), *places)
    layer = Convolution(
        weight.removesuffix(".weight"), node.operator, [value], name, (len(phased), *places), Layout.FIRST,
        weight=weight, weights=phased, window=(*taps, 1, 1, 1, 1, taps[0] - 1, taps[1] - 1), padding=max(taps) - 1,
    )  # fmt: skip
    bias = optional_constant(plan, node, 2)
    layer.epilogue.scale = np.ones(len(phased))
    layer.epilogue.bias = np.tile(np.zeros(output[0]) if bias is None else bias, stride[0] * stride[1])
    plan.add(layer)
    plan.add(Copy(node.operator, node.operator, [name], node.outputs[0], output, Layout.FIRST,
                  boxes=[boxes], shapes=[(len(phased), *places)]))  # fmt: skip


def _phased(weights: Array, stride: list[int]) -> Array:
    """(phases * outputs, inputs, taps, taps) of weights (inputs, outputs, rows, columns)."""
    inputs, outputs, *sides = weights.shape
    taps = [-(-side // step) for side, step in zip(sides, stride, strict=True)]
    room = [(0, tap * step - side) for tap, step, side in zip(taps, stride, sides, strict=True)]
    full = np.pad(weights, [(0, 0), (0, 0), *room]).reshape(inputs, outputs, taps[0], stride[0], taps[1], stride[1])
    phases = full[:, :, ::-1, :, ::-1].transpose(3, 5, 1, 0, 2, 4)  # j counts backwards
    return np.ascontiguousarray(phases.reshape(-1, inputs, *taps))


def _boxes(output: tuple[int, ...], places: tuple[int, ...], stride: list[int], pads: list[int]) -> list[Box]:
    """Where each phase goes."""
    boxes = []
    for phase in product(range(stride[0]), range(stride[1])):
        first, begin, counts = [], [], []
        for r, step, pad, count, side in zip(phase, stride, pads[:2], places, output[1:], strict=True):
            q = max(-((r - pad) // step), 0)
            first.append(q)
            begin.append(q * step + r - pad)
            counts.append(min(count - q, -(-(side - begin[-1]) // step)))
        if min(counts) <= 0:
            continue
        loops = (
            Loop(output[0], (1, 0, 0), (1, 0, 0)),
            Loop(counts[0], (0, 1, 0), (0, stride[0], 0)),
            Loop(counts[1], (0, 0, 1), (0, 0, stride[1])),
        )
        channel = (phase[0] * stride[1] + phase[1]) * output[0]
        boxes.append(Box((channel, first[0], first[1]), (0, begin[0], begin[1]), loops))
    return boxes


TRANSPOSED: dict[str, Translate] = {"ConvTranspose": convolve_transposed}
