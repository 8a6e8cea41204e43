"""Tucker-2: a 1 x 1 convolution to fewer channels, a small d x d one, a 1 x 1 back.

Kim, Park, Yoo, Choi, Yang, Shin. Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications. ICLR 2016. arXiv:1511.06530

    W[t, s, i, j] ~ sum_{a <= R3} sum_{b <= R4} G[b, a, i, j] U3[s, a] U4[t, b]
    MACs = P0 Q0 S R3 + P Q (R3 R4 d^2 + R4 T)          P0 x Q0 is the resolution of the input, P x Q of the output

Layers: U3^T, G (stride, padding and dilation of the original), U4 with the bias. Fitted by HOOI.

Ranks "evbmf" are the paper's: the ranks of the kernel's two unfoldings by variational Bayes (`evbmf`); the budget is
then not used, ranks are at least 1, and a layer whose stack would have more weights than it has is left as it is.
Departs: by default the ranks are shared out among the layers under a budget, by what each costs in loss
(`Decomposition`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dovetail.methods.decomposition import Setting
from dovetail.methods.layers import stack
from dovetail.methods.lowrank.evbmf import evbmf_rank
from dovetail.methods.lowrank.hooi import Array, hooi
from dovetail.methods.lowrank.kernels import KernelDecomposition, pointwise, rounded, spatial
from dovetail.methods.method import Context, Plan, check

FRACTIONS = (
    (0.85, 0.85), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5), (0.4, 0.4), (0.3, 0.3), (0.2, 0.2), (0.12, 0.12),
    (0.8, 0.5), (0.5, 0.8), (0.5, 0.3), (0.3, 0.5),
)  # fmt: skip
"""The ranks tried, as fractions of the channels in and out."""


@dataclass(frozen=True, kw_only=True)
class Tucker2(KernelDecomposition):
    """Makes each convolution one between fewer channels, with a 1 x 1 before and a 1 x 1 after it."""

    name: ClassVar[str] = "tucker2"

    ranks: str = "budget"
    """How the ranks are found: "budget" (shared out among the layers), or "evbmf" (from each kernel's noise)."""

    multiple: int = 1
    """Ranks are multiples of this, or all of the channels: the width of the target's vectors."""

    def __post_init__(self) -> None:
        check(self.ranks in ("budget", "evbmf"), self.name, "ranks", '"budget" or "evbmf"', self.ranks)
        check(self.multiple >= 1, self.name, "multiple", "1 or more", self.multiple)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        if self.ranks == "budget" or self.settings:
            return super().plan(model, context)
        plan: Plan = {}
        for path, call in self.targets(model, context.example).items():
            assert isinstance(call.layer, nn.Conv2d)
            row = self._row(call, self.from_noise(call.layer), None)
            if row["params"][1] < row["params"][0]:
                plan[path] = row
        return plan

    def from_noise(self, layer: nn.Conv2d) -> Setting:
        """The ranks that stand out of the noise of the kernel's unfoldings."""
        kernel = layer.weight.detach().cpu().double().numpy()
        kernel = kernel.reshape(*kernel.shape[:2], -1)
        rank_out = evbmf_rank(kernel.reshape(len(kernel), -1))
        rank_in = evbmf_rank(kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1))
        return {
            "rank_in": rounded(rank_in, self.multiple, layer.in_channels),
            "rank_out": rounded(rank_out, self.multiple, layer.out_channels),
        }

    def candidates(self, layer: nn.Conv2d) -> list[Setting]:
        found = {
            (
                rounded(first * layer.in_channels, self.multiple, layer.in_channels),
                rounded(second * layer.out_channels, self.multiple, layer.out_channels),
            )
            for first, second in FRACTIONS
        }
        return [{"rank_in": rank_in, "rank_out": rank_out} for rank_in, rank_out in sorted(found)]

    def structure(self, layer: nn.Conv2d, setting: Setting) -> nn.Sequential:
        rank_in, rank_out = self.numbers(setting, {"rank_in": layer.in_channels, "rank_out": layer.out_channels})
        return stack(
            {
                "reduce": pointwise(layer, layer.in_channels, rank_in),
                "core": spatial(layer, rank_in, rank_out),
                "expand": pointwise(layer, rank_out, layer.out_channels, last=True),
            }
        )

    def values(self, weight: Array, setting: Setting) -> dict[str, Array]:
        found = hooi(weight.reshape(*weight.shape[:2], -1), setting["rank_in"], setting["rank_out"])
        return {"reduce": found.inward.T, "core": found.core, "expand": found.outward}
