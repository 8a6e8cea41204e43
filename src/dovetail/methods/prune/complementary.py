"""Complementary sparsity: sparse kernels that fit into each other, so that several make one dense one.

Hunter, Spracklen, Ahmad. Two Sparsities Are Better Than One: Unlocking the Performance Benefits of Sparse-Sparse
Networks. Neuromorphic Computing and Engineering 2022. arXiv:2112.13896.

    K kernels of n weights each keep exactly N = floor(n / p) nonzeros; p kernels are a set, their supports disjoint.
    A set is overlaid into one dense row W* with the number O of the owner of each place:

    dense activations      y[O_i] += W*_i x_i             for all i: n products for p outputs
    sparse activations     y[O_i] += W*_i x_i             for the k places where x_i != 0: k K N / n products in all

Masks are chosen once and stay. The paper draws them at random before training; by default ours keep as much of the
trained weights' magnitude as such masks can: an assignment problem for each set, solved exactly (Crouse. On
implementing 2D rectangular assignment algorithms. IEEE TAES 2016) in blocks of `BLOCK` places. Kernels of a set are
neighbours; the last set may be smaller. `winners` makes activations sparse too (`k_winners`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor, nn

from dovetail.errors import FormatError
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.prune.counts import measure
from dovetail.methods.prune.k_winners import put_in
from dovetail.methods.prune.magnitude import restrict

BLOCK = 256
"""Places among which a kernel's nonzeros are assigned at once; the time grows with the cube."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Complementary(Method):
    """Prunes kernels so that `overlaid` of them have disjoint supports and equally many nonzeros."""

    name: ClassVar[str] = "complementary"
    kind: ClassVar[Kind] = "prune"

    overlaid: int = 4
    """Kernels in a set; each keeps one in so many of its weights. Layers of shorter kernels are left alone."""

    choice: str = "trained"
    """Which masks: "trained" (those that keep most magnitude) or "random"."""

    winners: float | None = None
    """The fraction of activations that stay: every ReLU becomes a KWinners. None: ReLUs stay."""

    scope: str = "local"
    """Who competes: "local" (the channels at each position) or "global" (all activations of an input)."""

    boost: float = 1.5
    """How strongly rare winners are helped in training."""

    seed: int = 0
    """For random masks."""

    def __post_init__(self) -> None:
        check(self.overlaid >= 2, self.name, "overlaid", "2 or more", self.overlaid)
        check(self.choice in ("trained", "random"), self.name, "choice", "trained or random", self.choice)
        check(self.winners is None or 0 < self.winners <= 1, self.name, "winners", "a fraction in (0, 1]", self.winners)
        check(self.scope in ("local", "global"), self.name, "scope", "local or global", self.scope)
        check(self.boost >= 0, self.name, "boost", "0 or more", self.boost)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of kernels of at least `overlaid` elements, by name."""
        return {name: weight for name, weight in super().weights(model).items() if weight[0].numel() >= self.overlaid}

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        sizes = measure(model, weights, context.example)
        plan: Plan = {}
        for name, weight in weights.items():
            places = weight[0].numel()
            kept = places // self.overlaid / places
            plan[name] = {"overlaid": self.overlaid, "kept": kept, **sizes.weights[name].row(kept)}
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        generator = np.random.default_rng(self.seed)
        masks = {}
        for name in plan:
            sizes = weights[name].detach().abs().flatten(1).double().cpu().numpy()
            if self.choice == "random" or context.rebuilding:
                sizes = generator.random(sizes.shape)
            mask = torch.from_numpy(complementary_masks(sizes, self.overlaid)).view(weights[name].shape)
            masks[name] = mask.to(weights[name].device)
        restrict(model, masks)
        if self.winners is None:
            return model
        return put_in(model, context.example, self.winners, self.scope, self.boost)


def complementary_masks(sizes: NDArray[np.float64], overlaid: int) -> NDArray[np.bool_]:
    """The masks (K, n) of `overlaid` neighbouring kernels each, disjoint and of n // overlaid places, that keep the
    largest sum of `sizes` (K, n) in every block of places."""
    kernels, places = sizes.shape
    width = max(1, BLOCK // overlaid) * overlaid
    masks = np.zeros(sizes.shape, np.bool_)
    for first in range(0, kernels, overlaid):
        for start in range(0, places, width):
            block = sizes[first : first + overlaid, start : start + width]
            each = block.shape[1] // overlaid
            rows, columns = linear_sum_assignment(np.repeat(block, each, axis=0), maximize=True)
            masks[first + rows // max(1, each), start + columns] = True
    return masks


@dataclass(frozen=True)
class Packed:
    """Kernels overlaid: `values` (sets, n), and `owners` (sets, n), which of the set's kernels, -1 for none."""

    values: Array
    owners: NDArray[np.int64]
    overlaid: int
    kernels: int


def pack(weight: Array, overlaid: int) -> Packed:
    """Overlay the kernels (K, n).

    Raises:
        FormatError: two kernels of a set have a nonzero in the same place.
    """
    kernels, places = weight.shape
    sets = -(-kernels // overlaid)
    padded = np.zeros((sets * overlaid, places), weight.dtype)
    padded[:kernels] = weight
    grouped = padded.reshape(sets, overlaid, places)
    used = grouped != 0
    if (crowded := np.argwhere(used.sum(1) > 1)).size:
        row, place = crowded[0]
        raise FormatError(
            f"kernels {row * overlaid} to {(row + 1) * overlaid - 1} cannot be overlaid: more than one has a nonzero "
            f"at place {place}; prune them to complementary supports"
        )
    return Packed(grouped.sum(1), np.where(used.any(1), used.argmax(1), -1), overlaid, kernels)


def unpack(packed: Packed) -> Array:
    """The kernels (K, n) again."""
    sets, places = packed.values.shape
    grouped = np.zeros((sets, packed.overlaid, places), packed.values.dtype)
    row, place = np.nonzero(packed.owners >= 0)
    grouped[row, packed.owners[row, place], place] = packed.values[row, place]
    return grouped.reshape(-1, places)[: packed.kernels]


def multiply(packed: Packed, x: Array) -> tuple[Array, int]:
    """The kernels times a vector (n,) that may be sparse: (K,), and how many products of nonzeros that took.

    Only places where x is not zero are looked up; each is multiplied with the one value a set has there and added to
    the output that owns it.
    """
    active = np.flatnonzero(x)
    owners = packed.owners[:, active]
    products = packed.values[:, active] * x[active]
    sums = np.zeros((len(owners), packed.overlaid), products.dtype)
    row, column = np.nonzero(owners >= 0)
    np.add.at(sums, (row, owners[row, column]), products[row, column])
    return sums.reshape(-1)[: packed.kernels], len(row)
