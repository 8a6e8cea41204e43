"""CP: a convolution as R channels that do not mix: 1 x 1, depthwise, 1 x 1.

Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky. Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition. ICLR 2015. arXiv:1412.6553

    form "spatial_split":  W[t, s, i, j] ~ sum_r Kt[t, r] Ks[s, r] Ky[i, r] Kx[j, r]    R (S + 2 d + T) MACs a pixel
    form "depthwise":      W[t, s, i, j] ~ sum_r Kt[t, r] Ks[s, r] K[i, j, r]           R (S + d^2 + T)

Layers: 1 x 1 (Ks), depthwise d x 1 and 1 x d (or d x d), 1 x 1 (Kt) with the bias. The vertical stride is in the d x 1
convolution, the horizontal in the 1 x d. At equal rank "depthwise" cannot fit worse, as its kernels are free.

Fitted by alternating least squares and Levenberg-Marquardt (`cp_als`), with a ridge, every term's norm spread evenly
over its factors. The paper decomposes one layer, retrains, and goes on: `rounds` splits the layers into as many groups,
those near the input first. Departs: ranks come from a budget (`Decomposition`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from dovetail.methods.allocation import Option
from dovetail.methods.decomposition import Setting
from dovetail.methods.layers import Call, stack
from dovetail.methods.lowrank.cp_als import cp
from dovetail.methods.lowrank.hooi import Array
from dovetail.methods.lowrank.kernels import KernelDecomposition, along, pointwise, spatial
from dovetail.methods.method import Context, Plan, check

RATIOS = (1.15, 1.35, 1.6, 2, 2.5, 3.2, 4, 5, 6.5, 8, 12, 16)
"""How many times fewer weights than the layer the stacks tried have."""

RIDGE = 1e-5
"""Ten times the solver's own: terms cancel less, for a slightly greater error."""


@dataclass(frozen=True, kw_only=True)
class Cp(KernelDecomposition):
    """Makes each convolution a sum of kernels of rank one: 1 x 1, depthwise, 1 x 1."""

    name: ClassVar[str] = "cp"
    pace: ClassVar[float] = 0.25
    """Terms that nearly cancel answer to a small step with a large change: the instability that the paper speaks of."""

    form: str = "depthwise"
    """ "depthwise" keeps the kernel's positions together, "spatial_split" separates rows and columns too."""

    rounds: int = 1
    """In how many groups the layers are decomposed, those near the input first, with retraining after each."""

    restarts: int = 2
    """Random starts beside the one from singular vectors."""

    def __post_init__(self) -> None:
        check(
            self.form in ("depthwise", "spatial_split"), self.name, "form", '"depthwise" or "spatial_split"', self.form
        )
        check(self.rounds >= 1, self.name, "rounds", "1 or more", self.rounds)
        check(self.restarts >= 0, self.name, "restarts", "0 or more", self.restarts)

    @property
    def stages(self) -> int:
        return self.rounds

    def plan(self, model: nn.Module, context: Context) -> Plan:
        plan = super().plan(model, context)
        return {
            path: row | {"round": index * self.rounds // len(plan)} for index, (path, row) in enumerate(plan.items())
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        return super().apply(model, {p: row for p, row in plan.items() if row["round"] == stage}, stage, context)

    def scan(self, model: nn.Module, calls: Mapping[str, Call], context: Context) -> dict[str, list[Option]]:
        return super(Cp, replace(self, restarts=0)).scan(model, calls, context)

    def candidates(self, layer: nn.Conv2d) -> list[Setting]:
        one = self._numbers_of_a_term(layer)
        most = self._largest(layer)
        return [{"rank": rank} for rank in sorted({int(layer.weight.numel() / ratio / one) for ratio in RATIOS})
                if 1 <= rank <= most]  # fmt: skip

    def structure(self, layer: nn.Conv2d, setting: Setting) -> nn.Sequential:
        [rank] = self.numbers(setting, {"rank": self._largest(layer)})
        middle: dict[str, nn.Module]
        if self.form == "depthwise":
            middle = {"depthwise": spatial(layer, rank, rank, groups=rank)}
        else:
            middle = {"vertical": along(layer, 0, rank), "horizontal": along(layer, 1, rank)}
        first, last = pointwise(layer, layer.in_channels, rank), pointwise(layer, rank, layer.out_channels, last=True)
        return stack({"reduce": first, **middle, "expand": last})

    def values(self, weight: Array, setting: Setting) -> dict[str, Array]:
        rank, (outputs, inputs, *_) = setting["rank"], weight.shape
        if self.form == "depthwise":
            kernel = weight.reshape(outputs, inputs, -1)
            outward, inward, positions = cp(kernel, rank, restarts=self.restarts, ridge=RIDGE)
            return {"reduce": inward.T, "depthwise": positions.T, "expand": outward}
        outward, inward, down, across = cp(weight, rank, restarts=self.restarts, ridge=RIDGE)
        return {"reduce": inward.T, "vertical": down.T, "horizontal": across.T, "expand": outward}

    def _numbers_of_a_term(self, layer: nn.Conv2d) -> int:
        height, width = layer.kernel_size
        return layer.in_channels + layer.out_channels + (height * width if self.form == "depthwise" else height + width)

    def _largest(self, layer: nn.Conv2d) -> int:
        """A rank that no kernel of this size exceeds: the product of all its dimensions but the largest."""
        height, width = layer.kernel_size
        positions = [height * width] if self.form == "depthwise" else [height, width]
        return layer.weight.numel() // max(layer.out_channels, layer.in_channels, *positions)
