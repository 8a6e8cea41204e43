"""Networks of signs: what a layer reads is one of two numbers, and so are the weights of each of its outputs.

    x = half (middle + s),  w = m t,  s and t in {-1, 1}       half = (high - low) / 2,  middle = (high + low) / 2 half
    sum of x w = m half (sum of s t + middle sum of t)

The first sum is counted (csrc/engine/sign_convolution.hpp), and the second is known beforehand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dovetail.runtime.engine.layers import Activation, Array, Convolution, Layer
from dovetail.runtime.engine.node import Grid
from dovetail.runtime.engine.planner import Plan

SIGNS = Grid(1.0, 0, 0, 1)
"""The codes of the two numbers."""

LARGEST = float(np.finfo(np.float32).max)


def multiply_signs(plan: Plan) -> None:
    """Where nothing else reads what is chosen between two numbers, write down which one, and multiply the signs."""
    for layer in plan.layers:
        if isinstance(layer, Layer) and layer.epilogue.activation is Activation.STEP:
            _multiply(plan, layer)


def _multiply(plan: Plan, maker: Layer) -> None:
    names = {maker.output, *(name for name, view in plan.views.items() if view.source == maker.output)}
    readers = [layer for layer in plan.layers if names.intersection(layer.reads)]
    convolutions = [
        (layer, magnitudes)
        for layer in readers
        if isinstance(layer, Convolution)
        and layer.epilogue.residual not in names
        and (magnitudes := _magnitudes(layer)) is not None
    ]
    if not readers or len(convolutions) < len(readers) or names & plan.ends:
        return
    low, high = maker.epilogue.low, maker.epilogue.high
    if not 0 < high - low < LARGEST:
        return
    grid, half = maker.epilogue.grid, (high - low) / 2
    for layer, magnitudes in convolutions:
        unit = grid.scale if grid is not None and layer.takes_codes([grid]) else 1.0
        layer.epilogue.scale = layer.epilogue.scale * magnitudes * (half / unit)
        layer.middle = (high + low) / (high - low)
    maker.epilogue = replace(maker.epilogue, low=0.0, high=1.0, grid=SIGNS)
    plan.grids[maker.output] = SIGNS


def _magnitudes(layer: Convolution) -> Array | None:
    """That of each output's weights; None where they have several, or none."""
    sizes = np.abs(layer.weights.reshape(len(layer.weights), -1).astype(np.float32, copy=False))
    alike = layer.groups == 1 and sizes.size and (sizes == sizes[:, :1]).all() and sizes[:, 0].all()
    return sizes[:, 0].astype(np.float64) if alike else None
