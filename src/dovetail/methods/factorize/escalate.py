"""ESCALATE's hybrid quantisation: kernels are sums of a few 8-bit ones, taken, left out or subtracted.

Li, Hanson, Qian, Li, Chen. ESCALATE: Boosting the Efficiency of Sparse CNN Accelerator with Kernel Decomposition.
MICRO 2021

    W_tc = sum_m T_tcm B_m       T in {-1, 0, 1} (2 bits, used by one pair of channels), B_m in 8 bits (used by all)
    T_tcm = sign(C_tcm) where |C_tcm| > d mean |C_m|, else 0         C is trained, gradients pass straight through T
    O_t  = sum_m B_m * (sum_c T_tcm I_c)                             the inner sum takes additions alone

One scale for each m is all that a ternary coefficient needs, and it is part of B_m: nothing is multiplied by it.

After PENNI the coefficients it has left are taken, and those it has pruned stay zero; without it, kernels are
decomposed here. A 1x1 convolution is one basis kernel of one number. The first and the last layer, linear layers and
convolutions in groups (whose kernels share nothing) get 8 bits. What layers read is left to another step.

Departs from the paper, as far as it could be read: the threshold is relative to the mean, not to the largest, which
one outlier moves; B is fitted by least squares once T is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.formats import Affine, Dense, Layout, Product, Ternary
from dovetail.formats.product import ordered_product
from dovetail.methods.constraint import constrain, find
from dovetail.methods.factorize.kernels import decompose
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.methods.method import Context, Kind, Plan, check, layer_path
from dovetail.methods.quantize.calibration import weight_scales
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, straight_through
from dovetail.methods.quantize.uniform import TINY, Uniform
from dovetail.methods.reconstruction import settle_norms

BITS = 8
"""Of the basis, and of layers that are not decomposed."""

HIGHEST = (1 << (BITS - 1)) - 1


class HybridKernels(Quantizer):
    """Weight (T, S, ...) = ternary coefficients (T, S, D) x basis (D, K) in 8 bits. The latent weight is not used.

    `coefficients` and `basis` are trained; where `kept` is False a coefficient is zero for ever. `threshold` is in
    units of the mean magnitude of a basis kernel's coefficients.
    """

    kept: Tensor

    def __init__(
        self, coefficients: Tensor, basis: Tensor, kept: Tensor, kernel: tuple[int, ...], threshold: float
    ) -> None:
        super().__init__()
        self.coefficients, self.basis = nn.Parameter(coefficients), nn.Parameter(basis)
        self.register_buffer("kept", kept)
        self.kernel, self.threshold = kernel, threshold

    @property
    def bits(self) -> float:
        return 2

    def symbols(self) -> Tensor:
        """-1, 0 and 1 (T, S, D)."""
        return ternary(self.coefficients.detach(), self.kept, self.threshold)

    def steps(self) -> Tensor:
        """The scale of each basis kernel (D)."""
        return (self.basis.detach().abs().amax(1) / HIGHEST).clamp_min(TINY)

    def rounded(self) -> Tensor:
        """The basis in 8 bits (D, K)."""
        steps = self.steps()[:, None]
        return torch.round(self.basis.detach() / steps) * steps

    def forward(self, latent: Tensor) -> Tensor:
        symbols = straight_through(self.coefficients, self.symbols(), self.kept)
        product: Tensor = ordered_product(symbols, straight_through(self.basis, self.rounded()))
        weight: Tensor = product.reshape(*product.shape[:2], *self.kernel)
        return weight

    def freeze(self, layout: Layout) -> Layout:
        plain = replace(layout, structure="smallest", entropy="none", values=partial(Ternary.encode, symmetric=True))
        basis = partial(Affine.encode, bits=BITS, axis=0, scale=self.steps().float().cpu().numpy())
        stored = partial(
            Product.encode,
            coefficients=plain.encode(self.symbols().float().cpu().numpy()),
            basis=Dense.encode(self.rounded().float().cpu().numpy(), basis),
        )
        return replace(layout, structure=stored)


def ternary(coefficients: Tensor, kept: Tensor, threshold: float) -> Tensor:
    """The signs of those `kept` coefficients (T, S, D) that exceed `threshold` times the mean of theirs; else zeros."""
    sizes = coefficients.abs() * kept
    means = sizes.sum((0, 1)) / kept.sum((0, 1)).clamp_min(1)
    return torch.where(sizes > threshold * means, coefficients.sign(), 0.0)


def fitted(weight: Tensor, symbols: Tensor) -> Tensor:
    """The basis (D, K) with which these symbols (T, S, D) are nearest to the weight (T, S, ...)."""
    matrix, signs = weight.detach().flatten(2).flatten(0, 1).double(), symbols.flatten(0, 1).double()
    basis: Tensor = torch.linalg.pinv(signs.T @ signs, hermitian=True) @ (signs.T @ matrix)
    return basis.to(weight.dtype)


@dataclass(frozen=True, kw_only=True)
class Escalate(KeepsEnds):
    """Makes each kernel a sum of shared 8-bit ones with coefficients -1, 0 and 1; other layers get 8 bits."""

    name: ClassVar[str] = "escalate"
    kind: ClassVar[Kind] = "share"
    pace: ClassVar[float] = 0.25

    basis: int = 5
    """Kernels in the basis of a layer that has none yet; all where a kernel has no more weights than that."""

    threshold: float = 0.75
    """Coefficients below so many times their mean magnitude become zero."""

    def __post_init__(self) -> None:
        check(self.basis >= 1, self.name, "basis", "1 or more", self.basis)
        check(0 <= self.threshold < math.inf, self.name, "threshold", "a number, 0 or more", self.threshold)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        weights = self.weights(model)
        shared = [name for name in weights if _accepts(model.get_submodule(layer_path(name)))]
        if not shared:
            raise ModelError(f"escalate takes convolutions without groups, and there is none among {sorted(weights)}")
        if self.keep_ends:
            shared = self.inner(model, context, shared)
        plan: Plan = {name: {"bits": BITS} for name in weights}
        for name in shared:
            held = find(model, name, SharedKernels)
            taps = weights[name][0, 0].numel()
            plan[name] = {"bits": 2, "basis": len(held.basis) if held else min(self.basis, taps)}
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for name, row in plan.items():
            if "basis" in row:
                self._decompose(model, name, row["basis"])
            else:
                weight = self.weights(model)[name]
                constrain(model, name, Uniform(BITS, weight_scales(weight, BITS)))
        settle_norms(model, context)
        return model

    def _decompose(self, model: nn.Module, name: str, count: int) -> None:
        weight, held = self.weights(model)[name], find(model, name, SharedKernels)
        if held is not None:
            coefficients, kept = held.kept().detach(), held.mask & (held.coefficients.detach() != 0)
        else:
            coefficients = decompose(weight, count)[0]
            kept = weight.flatten(2).any(2, keepdim=True).expand_as(coefficients).clone()
        symbols = ternary(coefficients, kept, self.threshold)
        means = (coefficients * symbols).sum((0, 1)) / symbols.abs().sum((0, 1)).clamp_min(1)
        units = torch.where(means > 0, means, 1.0)
        made = HybridKernels(
            coefficients / units, fitted(weight, symbols), kept, tuple(weight.shape[2:]), self.threshold
        )
        if held is None:
            constrain(model, name, made)
        stack = model.get_submodule(f"{layer_path(name)}.parametrizations.weight".lstrip("."))
        assert isinstance(stack, parametrize.ParametrizationList)
        for latent in stack.parameters(recurse=False):
            latent.requires_grad_(False)
        if held is not None:
            stack[[*stack].index(held)] = made


def _accepts(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1
