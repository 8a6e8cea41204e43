"""N:M sparsity: at most n of every m neighbouring weights.

Mishra, Latorre, Pool, Stosic, Stosic, Venkatesh, Yu, Micikevicius. Accelerating Sparse Deep Neural Networks. 2021.
arXiv:2104.08378 (2:4, by magnitude, once, then retraining).
Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li. Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch.
ICLR 2021. arXiv:2102.04010 (`straight_through`):

    M(W) = [ w is among the n largest of its group ]        anew at every step
    W~   = W * M(W)                                         the effective weight
    W   <- W - lr * (dL/dW~ + decay * (1 - M(W)) * W)       SR-STE

A group is m consecutive elements of weight.flatten(1), that is, of one output's weights in memory order; what is left
over at the end of a row is a group of its own, which may keep n too. (NVIDIA's sparse tensor cores want 1x1
neighbours along the input channels; for linear layers and 1x1 convolutions the two are the same.)

Departs from the papers: with `rounds` the kept number goes down from m to n in steps, with retraining in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.formats import Layout
from dovetail.methods.constraint import Constraint, constrain, find
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.prune.counts import measure
from dovetail.methods.prune.magnitude import Mask, restrict


class GroupMask(Mask):
    """A mask that keeps at most n of every m neighbours, and is stored so."""

    def __init__(self, mask: Tensor, n: int, m: int) -> None:
        super().__init__(mask)
        self.group = (n, m)

    def freeze(self, layout: Layout) -> Layout:
        return replace(layout, structure="n_m", group=self.group)


class GroupsStraightThrough(Constraint):
    """Keeps the n largest of every m neighbours as they are now; the others still learn, and are pulled to zero."""

    def __init__(self, n: int, m: int, decay: float) -> None:
        super().__init__()
        self.n, self.m, self.decay = n, m, decay

    def forward(self, latent: Tensor) -> Tensor:
        mask = largest_of_groups(latent, self.n, self.m)
        return _StraightThrough.apply(latent, mask, self.decay)  # type: ignore[no-any-return,no-untyped-call]

    def freeze(self, layout: Layout) -> Layout:
        return replace(layout, structure="n_m", group=(self.n, self.m))


class _StraightThrough(torch.autograd.Function):
    """latent * mask, whose gradient passes unmasked, and with the decay of what is masked out."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, latent: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(latent, mask)
        ctx.decay = decay  # type: ignore[attr-defined]
        return latent * mask

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        latent, mask = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        return gradient + ctx.decay * torch.where(mask, 0.0, latent), None, None  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class NM(Method):
    """Prunes all but the n largest of every m neighbouring weights."""

    name: ClassVar[str] = "n_m"
    kind: ClassVar[Kind] = "prune"

    n: int = 2
    """How many weights of a group stay."""

    m: int = 4
    """The size of a group."""

    rounds: int = 1
    """How many times to prune and retrain."""

    straight_through: bool = False
    """Whether pruned weights may return while the network is retrained (SR-STE), in the one round there is then."""

    decay: float = 2e-4
    """How strongly weights that are pruned for now are pulled to zero, with `straight_through`."""

    def __post_init__(self) -> None:
        check(2 <= self.m <= 256, self.name, "m", "from 2 to 256", self.m)
        check(1 <= self.n < self.m, self.name, "n", f"from 1 to {self.m - 1} (m - 1)", self.n)
        most = self.m - self.n
        check(1 <= self.rounds <= most, self.name, "rounds", f"from 1 to {most} (m - n)", self.rounds)
        check(
            self.rounds == 1 or not self.straight_through, self.name, "rounds", "1 with straight_through", self.rounds
        )
        check(self.decay >= 0, self.name, "decay", "0 or more", self.decay)

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        sizes = measure(model, weights, context.example)
        plan: Plan = {}
        for name, weight in weights.items():
            kept = [self._share(weight, self._count(stage)) for stage in range(self.rounds)]
            plan[name] = {"group": [self.n, self.m], "kept": kept, **sizes.weights[name].row(kept[-1])}
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        weights = self.weights(model)
        count = self._count(stage)
        for name in plan:
            if not self.straight_through:
                mask = largest_of_groups(weights[name], count, self.m)
                restrict(model, {name: mask}, partial(GroupMask, n=self.n, m=self.m))
            elif find(model, name, GroupsStraightThrough) is None:
                constrain(model, name, GroupsStraightThrough(self.n, self.m, self.decay))
        return model

    def _count(self, stage: int) -> int:
        """How many of a group stay after this round."""
        return self.n + (self.m - self.n) * (self.rounds - 1 - stage) // self.rounds

    def _share(self, weight: Tensor, count: int) -> float:
        """The fraction of a weight that stays with `count` a group."""
        columns = weight[0].numel()
        groups, rest = divmod(columns, self.m)
        return (groups * count + min(count, rest)) / columns


def largest_of_groups(weight: Tensor, n: int, m: int) -> Tensor:
    """The boolean mask of the n entries of largest magnitude in every m consecutive ones of weight.flatten(1); of
    equals, the first."""
    rows = weight.detach().flatten(1)
    size = rows.abs()
    padded = functional.pad(size, (0, -size.shape[1] % m), value=-1.0).view(len(rows), -1, m)
    order = padded.argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros_like(padded, dtype=torch.bool).scatter(2, order[:, :, :n], True)
    return mask.flatten(1)[:, : rows.shape[1]].reshape(weight.shape)
