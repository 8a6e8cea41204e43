"""What every target is: something that answers what a network costs there, and says how it knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import TargetError
from dovetail.runtime import Artefact, Session

How = Literal["measured", "modelled"]
Inputs = NDArray[np.float32]

RELATIVE_TOLERANCE = 1e-3
"""Largest difference from the session's outputs, relative to the largest of those, that counts as the same answer."""

INTEGER_TOLERANCE = 0.05
"""The same, of the norm of all outputs, where what layers read is quantised: a value halfway between two codes may go
to either, and what follows differs a little."""

NARROW_TOLERANCE = 0.25
"""The same where it is quantised to fewer than 7 bits: a step is up to sixteen times as large, and more for signs."""


@dataclass(frozen=True)
class Quantity:
    """A number with its unit and its spread: 10th to 90th percentile if measured, published range if modelled."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a network costs on one target, under which conditions.

    `breakdown` splits `quantities["energy"]`, in its unit, by "level", "operand" and "layer"; every split sums to it.
    """

    target: str
    how: How
    quantities: dict[str, Quantity]
    conditions: dict[str, str]
    breakdown: dict[str, dict[str, float]] = field(default_factory=dict)


class Target(ABC):
    """A place where a network can run, or a model of one."""

    how: ClassVar[How]

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called; a class with one target simply says `name`."""

    @abstractmethod
    def cost(self, artefact: Artefact, inputs: Inputs) -> Cost:
        """What `artefact` costs on one batch of real `inputs` (N, ...), already normalised.

        Raises:
            TargetError: this target cannot run or price the network, or it computes something else.
        """


def check_outputs(
    target: str,
    artefact: Artefact,
    inputs: Inputs,
    outputs: Inputs,
    expected: Inputs | None = None,
) -> None:
    """Raise a TargetError unless `outputs` are the `expected` ones, those of the artefact's session if none are given.

    A wrong answer has no latency.
    """
    if expected is None:
        expected = Session(artefact)(inputs)
    if expected.shape != outputs.shape:
        raise TargetError(
            f"target {target} gives outputs {outputs.shape}, the artefact's session gives {expected.shape}"
        )
    difference = relative_difference(expected, outputs, quantised=bool(artefact.activations))
    kept = [entry["bits"] for entry in artefact.activations.values() if isinstance(entry, dict)]
    bits = [each for each in kept if isinstance(each, int | float)]
    allowed = tolerance(min(bits, default=None))
    if not difference <= allowed:
        raise TargetError(
            f"target {target} computes something else than the artefact's session: the outputs differ by "
            f"{difference:.2g} of their size, more than {allowed:g}; it was not timed"
        )


def tolerance(bits: float | None) -> float:
    """For a network whose layers read values of so many bits at the least, or floats: 8 bits without a sign are 7."""
    if bits is None:
        return RELATIVE_TOLERANCE
    return INTEGER_TOLERANCE if bits >= 7 else NARROW_TOLERANCE


def relative_difference(expected: Inputs, found: Inputs, *, quantised: bool) -> float:
    """The largest difference, relative to the largest that is expected; if `quantised`, of the norms of all. Without
    end if the shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    size = np.linalg.norm if quantised else partial(np.max, initial=0.0)
    apart, whole = (float(size(np.abs(values))) for values in (expected - found, expected))
    return apart / max(whole, 1e-6)
