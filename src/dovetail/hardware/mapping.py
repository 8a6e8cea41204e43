"""A mapping: in which order a layer's loops run on a chip, what is unrolled over the array, and what is kept where.

Every loop is cut into factors. Some are unrolled over a dimension of the array, the others run in time, in one order
for the whole chip:

    for k in 4:                  # temporal[3]   outside: the tile held in the buffer changes here
      for c in 16:               # temporal[2] - - - - held["W"] = (1, 3): the buffer's tile of W holds temporal[:3]
        for p in 13:             # temporal[1]
          for s in 3:            # temporal[0] - - - - and the register's tile of W holds temporal[:1]
            on rows: r in 3; on columns: q in 13

The product of a loop's factors is at least its extent; where it is more, the layer is padded to it, and counted so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping as Table
from dataclasses import dataclass

from dovetail.hardware.layer import LOOPS, Layer, Loop, Operand

Factor = tuple[Loop, int]


@dataclass(frozen=True)
class Mapping:
    """One way to run a layer on a chip.

    `spatial`: by the name of an array dimension, the factors unrolled over it, the innermost (next neighbours) first.
    `temporal`: the factors that run in time, the innermost first. The first `inside` of them run within a processing
    element: an index of a loop is made up of those (least significant), then the spatial, then the other factors.
    `held`: for each operand, for each of its memories but the outermost, from the inside out, how many of the innermost
    temporal factors the tile covers that it holds: it does not decrease outwards. A tile also covers the spatial
    factors of the dimensions that share the memory (those not in its `per`).
    """

    spatial: Table[str, tuple[Factor, ...]]
    temporal: tuple[Factor, ...]
    inside: int
    held: Table[Operand, tuple[int, ...]]

    def factors(self) -> Counter[Loop]:
        """The product of each loop's factors: what the layer's extents are padded to."""
        products: Counter[Loop] = Counter(dict.fromkeys(LOOPS, 1))
        for loop, factor in (*self.temporal, *(pair for pairs in self.spatial.values() for pair in pairs)):
            products[loop] *= factor
        return products

    @property
    def steps(self) -> int:
        """Rounds of the array: the product of all temporal factors."""
        return math.prod(factor for _, factor in self.temporal)

    @property
    def elements_used(self) -> int:
        """Processing elements at work."""
        return math.prod(factor for pairs in self.spatial.values() for _, factor in pairs)

    def utilisation(self, layer: Layer, elements: int) -> float:
        """Useful multiply-accumulates by those that `elements` could do in the same steps."""
        return layer.macs / (elements * self.steps)
