"""Sets of elements of an operand, as loops make them: a product of sets of integers, one for each axis.

The axes of weights and outputs are their loops; the rows of an input are the sums p * stride + r * dilation, which may
coincide and leave holes. The set of an axis is an integer whose bit x says whether x is in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Steps(NamedTuple):
    """`number` steps of `step` elements along an axis of an operand; None: the operand does not depend on it."""

    axis: str | None
    step: int
    number: int


def _copies(mask: int, step: int, number: int) -> int:
    """The union of `number` copies of a set, each `step` after the one before."""
    done = 1
    while done < number:
        more = min(done, number - done)
        mask |= mask << more * step
        done += more
    return mask


def spread(sets: Mapping[str, int], factors: Iterable[Steps]) -> dict[str, int]:
    """What loops over `factors` make of the set of every axis."""
    sets = dict(sets)
    for axis, step, number in factors:
        if axis is not None:
            sets[axis] = _copies(sets[axis], step, number)
    return sets


def volume(sets: Mapping[str, int]) -> int:
    """The number of elements."""
    return math.prod(mask.bit_count() for mask in sets.values())


def product(factors: Iterable[Steps]) -> int:
    """How often the loops run."""
    return math.prod(factor.number for factor in factors)


def relevant(factors: Iterable[Steps]) -> int:
    """How often the loops run that the operand depends on."""
    return math.prod(factor.number for factor in factors if factor.axis is not None)
