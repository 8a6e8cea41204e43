"""Weights of one or two bits, or three, by the alternating direction method of multipliers.

Leng, Dou, Li, Zhu, Jin. Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM. AAAI 2018.
arXiv:1707.09870

    min f(W)  subject to  W = G,  G in a Q^n, a > 0 free for each layer

    W   <-  argmin f(W) + rho/2 ||W - G + L||^2     training, pulled towards the grid
    G   <-  argmin ||V - G||^2, V = W + L           projection onto the grid at its best scale
    L   <-  L + W - G                               the dual, in units of the pull (scaled)

    Q = {-1, 1}, {-1, 0, 1}, {-2, ..., 2} or {-4, -2, -1, 0, 1, 2, 4}: products are sign changes, shifts and skips.

Departs from the paper: the first step is that of whatever optimiser trains, not the extra-gradient. The projection is
exact, where the paper alternates between a and Q: it tries every Q that is nearest to V at some a. The pull grows
geometrically, and ends before training does. From then on the layers compute with the projection itself, the scale
refitted at every step; the gradient passes straight through to W. So what is trained last, batch statistics and all
that is not quantised among it, is what is deployed. By default that is nearly all of it, and the pull before it is
weak: in trainings of some epochs W is still far from G when it ends, and more of it costs accuracy (ResNet-20, signs, 8
epochs at the usual rate: 89.5 % with a pull of a tenth or less, 88.6 % with 0.3, 85.1 % with 0.4 and `last_rho` 10; at
three times the rate, with a scale for each filter, 90.0 % with a tenth, 89.7 % with 0.03). Signs with a scale for each
filter and no pull are `bwn`. Of a small network a longer and stronger pull (`pull` 0.8, `last_rho` 10, with SGD) brings
W to G, as in the paper.

With `per_filter` each filter has a scale of its own, as in `bwn` and `twn`. ResNet-20 comes to 90.0 % with signs
instead of 89.8 %, and to 90.6 % with ternary values instead of 91.0 %: one seed, which as much depends on.

Which weight a layer sees: while it is pulled and learns (train mode, with gradients), W; in all other cases, so
whenever it is evaluated, measured or stored, values on the grid. Batch statistics fit these at first, re-estimated,
and after training, but not in the middle of it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dovetail.formats import Binary, Codebook, Ternary, ValueEncoder
from dovetail.methods.constraint import Step, constrain
from dovetail.methods.method import Context, Kind, Plan, check
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, straight_through
from dovetail.methods.reconstruction import settle_norms

GRIDS: dict[str, tuple[float, ...]] = {"binary": (1,), "ternary": (0, 1), "five": (0, 1, 2), "seven": (0, 1, 2, 4)}
"""The magnitudes on each grid, ascending, in units of the scale."""

FILTER_GRIDS = ("binary", "ternary")
"""Those that can have a scale for each filter: what the others are stored with is a table for the tensor."""

TINY = torch.finfo(torch.float32).tiny


class PulledToGrid(Quantizer):
    """Pulls a weight to values on a grid, and after a while holds it there."""

    scale: Tensor
    goal: Tensor
    dual: Tensor

    def __init__(
        self,
        weight: Tensor,
        magnitudes: tuple[float, ...],
        rho: tuple[float, float],
        updates: int,
        pull: float,
        per_filter: bool,
    ) -> None:
        """`rho` grows from the first to the second with the `updates` updates in the part `pull` of training."""
        super().__init__()
        self.magnitudes, self.rhos, self.updates, self.pull = magnitudes, rho, updates, pull
        self.per_filter = per_filter
        self.pulling, self.rho = True, rho[0]
        self.register_buffer("scale", self.best_scale(weight))
        self.register_buffer("goal", self.project(weight))
        self.register_buffer("dual", torch.zeros_like(weight))
        self._latent: Tensor | None = None

    @property
    def bits(self) -> float:
        return math.ceil(math.log2(2 * len(self.magnitudes) - (self.magnitudes[0] == 0)))

    def best_scale(self, weight: Tensor) -> Tensor:
        """Of each filter (index of the first axis), or of all: (filters, 1, ...) or (1, 1, ...)."""
        rows = weight.flatten(1) if self.per_filter else weight.reshape(1, -1)
        return best_scale(rows, self.magnitudes).view(-1, *[1] * (weight.ndim - 1))

    def project(self, values: Tensor) -> Tensor:
        """The nearest values on the grid at the scale there is."""
        return self.scale * nearest(values.detach(), self.magnitudes, self.scale)

    def forward(self, latent: Tensor) -> Tensor:
        learns = self.training and torch.is_grad_enabled()
        if learns:
            self._latent = latent
        if not self.pulling:
            return straight_through(latent, self.project(latent))
        return latent if learns else straight_through(latent, self.goal)

    def penalty(self) -> Tensor:
        if self._latent is None or not self.pulling:
            return torch.zeros(())
        return self.rho / 2 * (self._latent - self.goal + self.dual).square().sum()

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        latent, self._latent = self._latent, None
        if latent is None:
            return
        if not self.pulling:
            self.scale.copy_(refitted(latent, self.magnitudes, self.scale))
        elif step.progress >= self.pull:
            self.pulling = False
            self.scale.copy_(self.best_scale(latent))
        else:
            each = step.total * self.pull / self.updates  # steps between two updates
            before, done = int((step.index - 1) / each + 1e-9), int(step.index / each + 1e-9)
            if done > before:
                self.update(latent, self.rhos[0] * (self.rhos[1] / self.rhos[0]) ** (done / max(1, self.updates - 1)))

    def update(self, latent: Tensor, rho: float) -> None:
        """The projection and the dual's step; then the pull becomes `rho`, and the dual is in units of that."""
        wanted = latent + self.dual
        self.scale.copy_(self.best_scale(wanted))
        self.goal.copy_(self.project(wanted))
        self.dual.copy_((wanted - self.goal) * (self.rho / rho))
        self.rho = rho

    def encoder(self) -> ValueEncoder:
        axis = 0 if self.per_filter else None
        if self.magnitudes == GRIDS["binary"]:
            return partial(Binary.encode, axis=axis)
        if self.magnitudes == GRIDS["ternary"]:
            return partial(Ternary.encode, axis=axis, symmetric=True)
        positive = self.scale.cpu().flatten() * torch.tensor(self.magnitudes)
        return partial(Codebook.encode, table=torch.cat([-positive, positive]).numpy(), dtype="float32")

    @property
    def in_place(self) -> bool:
        return self.per_filter

    def get_extra_state(self) -> Tensor:
        """How far it is, so that an interrupted training goes on as it would have."""
        return torch.tensor([self.pulling, self.rho], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.pulling, self.rho = bool(state[0]), float(state[1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_latent": None}  # it may be in the middle of a graph, and that cannot be copied


@dataclass(frozen=True, kw_only=True)
class Admm(KeepsEnds):
    """Trains weights towards a small grid of values, then on it."""

    name: ClassVar[str] = "admm"
    kind: ClassVar[Kind] = "share"

    grid: str = "ternary"
    """The values, in units of the scale: "binary", "ternary", "five" (-2 to 2) or "seven" (0, +-1, +-2, +-4)."""

    per_filter: bool = False
    """Whether each filter has its own scale, and not the layer; of the grids "binary" and "ternary"."""

    rho: float = 1e-2
    """The strength of the pull at first."""

    last_rho: float = 0.1
    """The strength of the pull at its end."""

    updates: int = 5
    """How many times the pull's goal is set anew, evenly over its part of training, the last time at its end."""

    pull: float = 0.1
    """The fraction of training in which the weights are pulled; in the rest they are trained on the grid."""

    def __post_init__(self) -> None:
        check(self.grid in GRIDS, self.name, "grid", ", ".join(GRIDS), self.grid)
        check(self.grid in FILTER_GRIDS or not self.per_filter, self.name, "per_filter",
              f'false with the grid "{self.grid}", which is stored as a table', self.per_filter)  # fmt: skip
        check(0 < self.rho < math.inf, self.name, "rho", "a number above 0", self.rho)
        check(self.rho <= self.last_rho < math.inf, self.name, "last_rho", f"{self.rho:g} (rho) or more", self.last_rho)
        check(self.updates >= 1, self.name, "updates", "1 or more", self.updates)
        check(0 < self.pull <= 1, self.name, "pull", "a fraction in (0, 1]", self.pull)

    @property
    def pace(self) -> float:  # type: ignore[override]
        """Signs turn late at the usual one: ResNet-20 comes to 89.8 %, and not to 89.5; ternary to 90.8, not 91.0."""
        return 3.0 if self.grid == "binary" else 1.0

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        names = self.inner(model, context, weights)
        plan: Plan = {}
        for name in names:
            held = self.pulled(weights[name], self.grid)
            error = (weights[name] - held.goal).norm() / weights[name].norm().clamp_min(TINY)
            scale = float(held.scale.mean())
            plan[name] = {"grid": self.grid, "bits": held.bits, "scale": scale, "error": float(error)}
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        for name, row in plan.items():
            constrain(model, name, self.pulled(weights[name], row["grid"]))
        settle_norms(model, context)
        return model

    def pulled(self, weight: Tensor, grid: str) -> PulledToGrid:
        rhos = self.rho, self.last_rho
        return PulledToGrid(weight, GRIDS[grid], rhos, self.updates, self.pull, self.per_filter)


def nearest(values: Tensor, magnitudes: tuple[float, ...], scale: Tensor) -> Tensor:
    """For each value the one of +-`magnitudes` (ascending) that is nearest in units of its `scale`; of zero, +.

    Of two equally near the smaller one in magnitude.
    """
    steps = torch.tensor(magnitudes, dtype=values.dtype, device=values.device)
    middles = (steps[1:] + steps[:-1]) / 2
    found = steps[torch.bucketize(values.abs() / scale.to(values.dtype), middles)]
    return torch.where((values >= 0) | (found == 0), found, -found)


def best_scale(rows: Tensor, magnitudes: tuple[float, ...]) -> Tensor:
    """For each row the scale a (1) for which a times the nearest of +-`magnitudes` (ascending) has the least squared
    error: (..., 1) of (..., n).

    Exact. For codes Q the best scale is <V, Q> / <Q, Q>, and it takes <V, Q>^2 / <Q, Q> off ||V||^2. The best codes
    are the nearest ones at their own scale. As the scale falls from infinity, the value v goes on to the next
    magnitude when it passes |v| / middle: so codes change one by one, and both products are running sums. Of zeros the
    scale is the least number, so that it can be divided by.
    """
    size = rows.detach().double().abs()
    cross = magnitudes[0] * size.sum(-1, keepdim=True)
    square = torch.full_like(cross, magnitudes[0] ** 2 * size.shape[-1])
    if len(magnitudes) > 1:
        steps = list(itertools.pairwise(magnitudes))
        passed = torch.cat([2 / (low + high) * size for low, high in steps], -1).argsort(descending=True, stable=True)
        more_cross = torch.cat([(high - low) * size for low, high in steps], -1).gather(-1, passed)
        more_square = torch.cat([torch.full_like(size, high**2 - low**2) for low, high in steps], -1).gather(-1, passed)
        cross = torch.cat([cross, cross + more_cross.cumsum(-1)], -1)
        square = torch.cat([square, square + more_square.cumsum(-1)], -1)
    best = (cross.square() / square.clamp_min(TINY)).argmax(-1, keepdim=True)
    return (cross.gather(-1, best) / square.gather(-1, best).clamp_min(TINY)).clamp_min(TINY).to(rows.dtype)


def refitted(values: Tensor, magnitudes: tuple[float, ...], scale: Tensor) -> Tensor:
    """Scales no worse than `scale`, of its shape: the best ones for the codes that are nearest at those."""
    codes = nearest(values, magnitudes, scale)
    cross, square = (values * codes).sum_to_size(scale.shape), codes.square().sum_to_size(scale.shape)
    return torch.where(square > 0, cross / square.clamp_min(1), scale).clamp_min(TINY)
