"""Block terms: a 1 x 1 convolution that mixes the channels, a grouped d x d one, a 1 x 1 that mixes them again.

Wang, Cheng. Accelerating Convolutional Neural Networks for Mobile Applications. ACM Multimedia 2016.

    W[t, s, p] ~ sum_{g <= G} sum_{a <= r3} sum_{b <= r4} C_g[b, a, p] U3_g[s, a] U4_g[t, b]
    MACs = P0 Q0 S G r3 + P Q (G r3 r4 d^2 + G r4 T)    P0 x Q0 is the resolution of the input, P x Q of the output

Tucker-2 with a block diagonal core. Layers: S -> G r3, then d x d with G groups (stride, padding and dilation of the
original), then G r4 -> T with the bias. The algorithm is ours (`btd_als`): we had the paper's abstract only.
Groups and ranks come from a budget (`Decomposition`), among G = 1, 2, 4, 8 and r3 = r4 of several sizes; G = 1 is
Tucker-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods.allocation import Option
from dovetail.methods.decomposition import Setting
from dovetail.methods.layers import Call, stack
from dovetail.methods.lowrank.btd_als import block_terms
from dovetail.methods.lowrank.hooi import Array
from dovetail.methods.lowrank.kernels import KernelDecomposition, pointwise, rounded, spatial
from dovetail.methods.method import Context, check

FRACTIONS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
"""The sizes tried: all groups' channels together, as a fraction of the fewer of the channels in and out."""


@dataclass(frozen=True, kw_only=True)
class BlockTerm(KernelDecomposition):
    """Makes each convolution one in groups, whose channels meet only in a 1 x 1 before and a 1 x 1 after it."""

    name: ClassVar[str] = "block_term"
    pace: ClassVar[float] = 0.25
    """Blocks may nearly cancel each other."""

    groups: tuple[int, ...] = (1, 2, 4, 8)
    """The numbers of groups tried."""

    multiple: int = 4
    """Ranks are multiples of this where the layer is wide enough: groups narrower than a vector are slow."""

    restarts: int = 3
    """Random starts beside the clustered ones; while options are compared, none."""

    sweeps: int = 100
    """Of alternating least squares, at most; while options are compared, 10."""

    def __post_init__(self) -> None:
        check(len(self.groups) > 0 and min(self.groups) >= 1, self.name, "groups", "numbers from 1", self.groups)
        check(self.multiple >= 1, self.name, "multiple", "1 or more", self.multiple)
        check(self.restarts >= 0, self.name, "restarts", "0 or more", self.restarts)
        check(self.sweeps >= 0, self.name, "sweeps", "0 or more", self.sweeps)

    def scan(self, model: nn.Module, calls: Mapping[str, Call], context: Context) -> dict[str, list[Option]]:
        return super(BlockTerm, replace(self, restarts=0, sweeps=min(10, self.sweeps))).scan(model, calls, context)

    def candidates(self, layer: nn.Conv2d) -> list[Setting]:
        fewer = min(layer.in_channels, layer.out_channels)
        found = {
            (groups, rounded(fraction * fewer / groups, self.multiple, fewer // groups))
            for groups in self.groups
            for fraction in FRACTIONS
            if groups <= fewer
        }
        return [{"groups": groups, "rank_in": rank, "rank_out": rank} for groups, rank in sorted(found)]

    def structure(self, layer: nn.Conv2d, setting: Setting) -> nn.Sequential:
        inputs, outputs = layer.in_channels, layer.out_channels
        largest = {"groups": min(inputs, outputs), "rank_in": inputs, "rank_out": outputs}
        groups, rank_in, rank_out = self.numbers(setting, largest)
        if groups * rank_in > inputs or groups * rank_out > outputs:
            raise RecipeError(
                f"{self.name}: {groups} groups of rank {rank_in} in and {rank_out} out do not fit a layer of {inputs} "
                f"channels in and {outputs} out; all groups together may have at most as many"
            )
        return stack(
            {
                "reduce": pointwise(layer, inputs, groups * rank_in),
                "core": spatial(layer, groups * rank_in, groups * rank_out, groups),
                "expand": pointwise(layer, groups * rank_out, outputs, last=True),
            }
        )

    def values(self, weight: Array, setting: Setting) -> dict[str, Array]:
        kernel = weight.reshape(*weight.shape[:2], -1)
        found = block_terms(
            kernel,
            setting["groups"],
            setting["rank_in"],
            setting["rank_out"],
            restarts=self.restarts,
            sweeps=self.sweeps,
        )
        return {"reduce": found.inward.T, "core": found.blocks(), "expand": found.outward}
