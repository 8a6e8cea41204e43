"""A network of integers: what is known of its values, its steps, and running them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.runtime.steps import Codes, Operations, Step

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a value before there is an input: where it is held, and its codes' scale and range.

    `scale` has the shape (1,) or (C,), so have `lowest` and `highest`. A code is `zero` less than the one in the graph.
    `coarse`: the scale is a quantizer's, no accumulator's.
    """

    name: str
    scale: Floats
    lowest: Floats
    highest: Floats
    zero: int = 0
    coarse: bool = False

    @property
    def largest(self) -> float:
        """The largest magnitude, as a real number, that the codes allow."""
        return float(np.max(np.maximum(np.abs(self.lowest), np.abs(self.highest)) * np.abs(self.scale)))


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Steps on integers, between an input that is quantised and an output whose codes are given their scale."""

    entries: dict[str, tuple[float, int, int]]
    """The input's scale, and its lowest and highest code, for each name that its codes go by."""
    steps: tuple[tuple[Step, tuple[str, ...], str], ...]
    """Each with the names of what it reads and gives."""
    output: Value

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs for a batch (N, ...)."""
        codes = self.run(x)[self.output.name]
        scale = (
            self.output.scale.reshape(-1, *[1] * (codes.ndim - 2)) if len(self.output.scale) > 1 else self.output.scale
        )
        return (codes * scale).astype(np.float32)

    def run(self, x: NDArray[np.float32]) -> dict[str, Codes]:
        """The codes of every value, by its name."""
        values = {
            name: np.clip(np.rint(x / np.float32(scale)), lowest, highest).astype(np.int32)
            for name, (scale, lowest, highest) in self.entries.items()
        }
        for step, inputs, output in self.steps:
            values[output] = step.run(*(values[name] for name in inputs))
        return values

    def operations(self, x: NDArray[np.float32]) -> Operations:
        """Those that the batch takes."""
        values = self.run(x)
        return sum((step.operations(values[output]) for step, _, output in self.steps), Operations())
