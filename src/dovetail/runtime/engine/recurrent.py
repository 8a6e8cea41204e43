"""LSTM and GRU: a convolution for the products with the input, then a layer that goes from step to step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dovetail.runtime.engine.layers import Array, Convolution, Direction, Layout, Recurrent
from dovetail.runtime.engine.moved import as_images, keep, moved
from dovetail.runtime.engine.node import Node
from dovetail.runtime.engine.operators import constant_of, demand, optional_constant
from dovetail.runtime.engine.planner import Axis, Lacking, Moved, Plan, Translate

BLOCK = 16
"""Outputs to a multiple of which each gate is padded."""

ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}
BACKWARD = {b"forward": [False], b"reverse": [True], b"bidirectional": [False, True]}


@dataclass(frozen=True)
class Cells:
    """A node's numbers: weights (directions, gates, hidden, inputs), again (.., hidden, hidden), biases (.., hidden).

    Biases are those that are added before and after the reset of a GRU; states (directions, hidden) are h and c.
    """

    kind: int
    weights: Array
    again: Array
    before: Array
    after: Array
    states: tuple[Array, Array]
    backward: list[bool]

    @property
    def hidden(self) -> int:
        return int(self.again.shape[-1])

    def padded(self, array: Array, axis: int) -> Array:
        room = [(0, 0)] * array.ndim
        room[axis] = (0, -self.hidden % BLOCK)
        return np.pad(array, room).astype(np.float32)

    def directions(self) -> list[Direction]:
        again = self.padded(self.padded(self.again, 2), 3)
        h, c, bias = (self.padded(values, 1) for values in (*self.states, self.after))
        return [
            Direction(again[i].reshape(-1, again.shape[-1]), h[i], c[i], bias[i], backward)
            for i, backward in enumerate(self.backward)
        ]


def recurrent(plan: Plan, node: Node) -> None:
    """All of it forwards, backwards or both; each image begins with the same states."""
    cells = _cells(plan, node)
    images = as_images(plan, node.inputs[0])
    steps, inputs = plan.shape(images)
    demand(cells.weights.shape[-1] == inputs, "weights do not fit the input")
    output = next(name for name in node.outputs if name in plan.network.readers)
    gates, states = f"{output} before its steps", f"{output}, its steps"
    weights = cells.padded(cells.weights, 2).reshape(-1, inputs, 1, 1)
    plan.network.shapes[gates] = (steps, len(weights))
    plan.network.shapes[states] = (steps, len(cells.backward) * cells.hidden)
    name = node.inputs[1]
    products = Convolution(name, node.operator, [images], gates, (steps, len(weights)), Layout.LAST,
                           weight=name, weights=weights)  # fmt: skip
    products.epilogue.scale = np.ones(len(weights))
    products.epilogue.bias = cells.padded(cells.before, 2).reshape(-1)
    plan.add(products)
    plan.add(Recurrent(node.inputs[2], node.operator, [gates], states, plan.shape(states), Layout.LAST,
                       kind=cells.kind, directions=cells.directions()))  # fmt: skip
    _place(plan, node, states, cells)


def _cells(plan: Plan, node: Node) -> Cells:
    """Raises Lacking at what the engine has no kernel for."""
    attributes, lstm = node.attributes, node.operator == "LSTM"
    backward = BACKWARD[attributes.get("direction", b"forward")]
    demand("clip" not in attributes and not attributes.get("input_forget", 0), "a recurrence with limits or tied gates")
    usual = ACTIVATIONS[node.operator] * len(backward)
    demand(attributes.get("activations", usual) == usual, "a recurrence with other activations")
    demand(not any(node.inputs[4:5]), "sequences of several lengths")
    demand(not any(node.inputs[7:8]), "a recurrence with peepholes")
    demand(not plan.network.readers.keys() & {*node.outputs[2:]}, "the last state of its cells is read")
    axes = moved(plan, node.inputs[0]).axes
    demand(len(axes) == 3 and axes[0 if attributes.get("layout", 0) else 1] is None, "no sequence for each image")
    again = constant_of(plan, node.inputs[2])
    hidden, shape = again.shape[-1], (len(backward), 4 if lstm else 3)
    bias = optional_constant(plan, node, 3)
    biases = np.zeros((*shape, 2, hidden)) if bias is None else bias.reshape(len(backward), 2, shape[1], hidden)
    biases = biases if bias is None else biases.swapaxes(1, 2)
    before, after = biases[:, :, 0] + biases[:, :, 1], np.zeros((len(backward), hidden))
    if not lstm:
        before[:, 2], after = biases[:, 2, 0], biases[:, 2, 1]
    return Cells(
        0 if lstm else 2 if attributes.get("linear_before_reset", 0) else 1,
        constant_of(plan, node.inputs[1]).reshape(*shape, hidden, -1),
        again.reshape(*shape, hidden, hidden),
        before,
        after,
        (_state(plan, node, 5, (len(backward), hidden)), _state(plan, node, 6, (len(backward), hidden))),
        backward,
    )


def _state(plan: Plan, node: Node, place: int, shape: tuple[int, int]) -> Array:
    """What each image begins with, (directions, hidden)."""
    name = node.inputs[place] if len(node.inputs) > place else ""
    if not name:
        return np.zeros(shape)
    given = plan.network.constants.get(name, plan.network.known.same.get(name))
    if given is None or given.ndim != 3:
        raise Lacking("it begins with a state that is computed")
    state = given.swapaxes(0, 1) if node.attributes.get("layout", 0) else given
    demand(bool((state == state[:, :1]).all()), "it begins with another state for each image")
    return np.asarray(state[:, 0]).reshape(shape)


def _place(plan: Plan, node: Node, states: str, cells: Cells) -> None:
    """The outputs, all steps and the last, in terms of the states (steps, directions * hidden)."""
    steps, hidden, count = plan.shape(states)[0], cells.hidden, len(cells.backward)
    values, first = Axis(hidden, (0, 1)), bool(node.attributes.get("layout", 0))
    every = Moved(states, (0, 0), (Axis(steps, (1, 0)), Axis(count, (0, hidden)), None, values))
    end = 0 if cells.backward[0] else steps - 1
    last = Moved(states, (end, 0), (Axis(count, (1 - steps if count > 1 else 0, hidden)), None, values))
    for output, value in zip(node.outputs, (every, last), strict=False):
        if output in plan.network.readers:
            axes = (None, *(axis for axis in value.axes if axis)) if first else value.axes
            keep(plan, replace(node, outputs=(output,)), replace(value, axes=axes))


RECURRENT: dict[str, Translate] = {"GRU": recurrent, "LSTM": recurrent}
