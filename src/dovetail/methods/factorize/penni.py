"""PENNI: the kernels of a layer are sparse sums of a few that they share.

Li, Hanson, Li, Chen. PENNI: Pruned Kernel Sharing for Efficient CNN Inference. ICML 2020. arXiv:2005.07133

    A  W_tc = sum_m C_tcm B_m              the D kernels B_m from the SVD of all kernels of the layer as rows
    B  loss + gamma sum |C|                trained with C and B in turns: together they are unstable
    C  C_tcm <- 0 where |C_tcm| < s std(C);  weights of 1x1 convolutions by their own deviation; then fine-tuned
    D  an input channel c with C_tcm = 0 for all t and m goes, an output channel t with C_tcm = 0 for all c and m,
       a kernel m with C_tcm = 0 for all t and c; what goes in one layer frees others, so until nothing more goes

Run in two steps, D basis convolutions of each input channel and then a sparse 1x1 convolution, a layer costs

    P Q (S D K + nonzeros of C)            multiply-accumulates, K the weights of a kernel.

We keep one convolution, whose weight is the product: at D = 5 the two steps multiply more than the one, unless zeros
are skipped, and S D maps go through memory. A dense runtime gains only what D removes, and need not gain at all
(ResNet-20 came out slower in ONNX Runtime: `benchmarks/structure.py`). The file holds only the nonzero coefficients and
the basis, and `nonzero_macs` counts what hardware that skips zeros would do in two steps.

Departs from the paper: the SVD is not centred (the released code centres it and then loses the mean); biases are kept;
the basis maps that no output reads are not counted (after D few are left); a dead output channel's constant is set to
zero before it goes, and batch statistics are estimated anew after each round, if that helps; the released counter's
operations of 1x1 convolutions (C H instead of P Q for each weight) are corrected. With a budget, s is chosen layer by
layer from the measured rise of the loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.allocation import Option, allocate
from dovetail.methods.budget import Budget
from dovetail.methods.channels import dependencies
from dovetail.methods.constraint import bake, constrain, find
from dovetail.methods.factorize.kernels import above, decompose, two_step_macs, used_maps
from dovetail.methods.factorize.redundant import redundant, without
from dovetail.methods.factorize.shared_kernels import SharedKernels
from dovetail.methods.layers import called
from dovetail.methods.method import Context, Kind, Method, Plan, check, layer_path, weight_name
from dovetail.methods.prune.magnitude import Mask
from dovetail.methods.reconstruction import settle_norms
from dovetail.workload.trace import trace

DECOMPOSE, PRUNE, SHRINK = range(3)
THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""What a budget chooses s from, for each layer."""


@dataclass(frozen=True, kw_only=True)
class Penni(Method):
    """Shares kernels within each layer, prunes their coefficients and removes what has become redundant."""

    name: ClassVar[str] = "penni"
    kind: ClassVar[Kind] = "rebuild"

    basis: int = 5
    """Kernels in the basis of a layer, D; all where a kernel has no more weights than that."""

    strength: float = 1e-4
    """What the sum of the magnitudes of all coefficients weighs in the loss, gamma."""

    interval: float = 0.1
    """The fraction of the first round's training that each turn takes; the paper's is 2 of 100 epochs."""

    alternating: bool = True
    """Whether coefficients and basis take turns in the first round's training, or are trained at once."""

    threshold: float = 1.0
    """Coefficients below so many standard deviations become zero, s; unless there is a budget."""

    budget: Budget | None = None
    """Of macs or params, counted as this method does: those of coefficients and weights that are not zero."""

    shrink: bool = True
    """Whether channels and kernels that have become redundant are removed in the end."""

    def __post_init__(self) -> None:
        check(self.basis >= 1, self.name, "basis", "1 or more", self.basis)
        check(self.strength >= 0, self.name, "strength", "0 or more", self.strength)
        check(0 < self.interval <= 1, self.name, "interval", "a fraction in (0, 1]", self.interval)
        check(self.threshold >= 0, self.name, "threshold", "0 or more", self.threshold)
        check(self.budget is None or self.budget.quantity != "latency", self.name, "budget", "of macs or params",
              "latency")  # fmt: skip

    @property
    def stages(self) -> int:
        return 3 if self.shrink else 2

    def plan(self, model: nn.Module, context: Context) -> Plan:
        calls = called(model, context.example, accepts)
        before = measure(model, context.example)
        plan: Plan = {}
        for path in self.chosen(list(calls)):
            layer, name = calls[path].layer, weight_name(path)
            assert isinstance(layer, nn.Conv2d)
            taps = layer.kernel_size[0] * layer.kernel_size[1]
            plan[name] = {
                "basis": min(self.basis, taps) if taps > 1 else 0,
                "macs": [before[name].macs],
                "params": [before[name].params],
            }
        if self.shrink:
            dependencies(model, context.example)  # says now, not after training, if the graph cannot be read
        trial = self._decompose(copy.deepcopy(model), plan)
        return self._with_thresholds(trial, plan, context)

    def refine(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> Plan:
        if stage == PRUNE:
            return self._with_thresholds(model, plan, context)
        return self._with_removals(model, plan, context) if stage == SHRINK else plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        layers = {name: row for name, row in plan.items() if "basis" in row}  # others are groups of channels that go
        if stage == DECOMPOSE:
            self._decompose(model, layers)
            for name in layers:
                if shared := find(model, name, SharedKernels):
                    shared.alternate(self.interval if self.alternating else None, self.strength)
        elif stage == PRUNE:
            for name, row in layers.items():
                held = _held(model, name)
                held.mask.copy_(above(_values(model, name), row["threshold"]))
                if isinstance(held, SharedKernels):
                    held.stop()
        else:
            removed = {name: row["removed"] for name, row in plan.items() if "removed" in row}
            kernels = {name: row["kernels"] for name, row in plan.items() if "kernels" in row}
            model = without(model, context.example, removed, kernels)
        settle_norms(model, context)
        return model

    def _decompose(self, model: nn.Module, plan: Plan) -> nn.Module:
        for name, row in plan.items():
            layer = model.get_submodule(layer_path(name))
            assert isinstance(layer, nn.Conv2d)
            weight = layer.weight.detach()
            if row["basis"]:
                constrain(model, name, SharedKernels(*decompose(weight, row["basis"]), layer.kernel_size))
                layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
            else:
                constrain(model, name, Mask(torch.ones_like(weight, dtype=torch.bool)))
        return model

    def _with_thresholds(self, model: nn.Module, plan: Plan, context: Context) -> Plan:
        """The plan with thresholds, and with sizes for coefficients as they are now in the decomposed `model`."""
        options = self._scan(model, plan, context)
        if self.budget is None:
            chosen = {name: own[0] for name, own in options.items()}
        else:
            chosen = allocate(options, self._permitted(model, plan, options, context))
        now = measure(model, context.example)
        rows: Plan = {}
        for name, row in plan.items():
            option = chosen[name]
            after = now[name].keeping(above(_values(model, name), option.setting))
            rows[name] = row | {
                "threshold": option.setting,
                "macs": [row["macs"][0], after.macs],
                "params": [row["params"][0], after.params],
            }
            if self.budget is not None:
                rows[name]["loss_rise"] = option.loss
        return rows

    def _with_removals(self, model: nn.Module, plan: Plan, context: Context) -> Plan:
        """The plan with the channels that go, by group, and the kernels that stay, for `model` as it is now."""
        found = dependencies(bake(model), context.example)
        rows = dict(plan)
        for group, units in redundant(found).items():
            size = found.groups[group].size
            rows[group] = {"channels": [size, size - len(units)], "removed": units}
        for name, row in plan.items():
            if held := find(model, name, SharedKernels):
                used = held.kept().detach().flatten(0, 1).any(0).nonzero().flatten().tolist()
                rows[name] = row | {"kernels": used or [0]}
        return rows

    def _scan(self, model: nn.Module, plan: Plan, context: Context) -> dict[str, list[Option]]:
        """What each threshold costs and loses in each layer alone; without a budget, only the one threshold."""
        if self.budget is None:
            return {name: [Option(self.threshold, 0.0, 0.0)] for name in plan}
        trial, now, probe = copy.deepcopy(model), measure(model, context.example), context.probe
        context.expect(1 + len(plan) * len(THRESHOLDS))
        base = probe(trial) if probe is not None else 0.0
        options: dict[str, list[Option]] = {}
        for name in plan:
            held, values, options[name] = _held(trial, name), _values(trial, name), []
            before = held.mask.clone()
            for threshold in THRESHOLDS:
                kept = above(values, threshold)
                held.mask.copy_(kept & before)
                lost = float((values * ~kept).square().sum() / values.square().sum().clamp_min(1e-30))
                rise = lost if probe is None else probe(trial) - base
                options[name].append(Option(threshold, getattr(now[name].keeping(kept), self.budget.quantity), rise))
            held.mask.copy_(before)
        return options

    def _permitted(
        self, model: nn.Module, plan: Plan, options: Mapping[str, Sequence[Option]], context: Context
    ) -> float:
        """What the layers taken may cost together, so that the network meets the budget.

        Raises:
            RecipeError: their cheapest options cost more; says what fraction can be reached.
        """
        assert self.budget is not None
        quantity = self.budget.quantity
        before = sum(row[quantity][0] for row in plan.values())
        now = measure(model, context.example)
        whole = nonzero_macs(model, context.example) if quantity == "macs" else sum(s.params for s in now.values())
        rest = whole - sum(getattr(now[name], quantity) for name in plan)
        permitted = float(self.budget.fraction * (before + rest) - rest)
        least = sum(min(option.cost for option in own) for own in options.values())
        if least > permitted:
            reached = math.ceil(1000 * (least + rest) / (before + rest)) / 1000
            raise RecipeError(
                f"the budget {quantity} = {self.budget.fraction:g} cannot be met by penni: {reached:g} is the closest "
                "it comes"
            )
        return permitted


def accepts(layer: nn.Module) -> bool:
    """Whether it is a convolution with groups 1."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


@dataclass(frozen=True)
class Size:
    """What one weight costs with its zeros left out; a convolution with a basis, in two steps."""

    macs: int
    params: int
    positions: int
    taps: int
    """Weights of a kernel of the basis; 0 without one."""
    basis: int
    """Numbers in the basis."""

    def keeping(self, kept: Tensor) -> Size:
        """The same with these coefficients or weights left."""
        maps, nonzeros = used_maps(kept) if self.taps else 0, int(kept.sum())
        macs = two_step_macs(positions=self.positions, maps=maps, taps=self.taps, nonzeros=nonzeros)
        return replace(self, macs=macs, params=nonzeros + self.basis)


def measure(model: nn.Module, example: Tensor) -> dict[str, Size]:
    """The size of every parameter, by its name in the network without constraints; runs it once on `example`."""
    plain = bake(model)
    macs = trace(plain, example[:1]).macs_by_weight
    sizes: dict[str, Size] = {}
    for name, parameter in plain.named_parameters():
        positions, held = macs[name] // max(1, parameter.numel()), find(model, name, SharedKernels)
        if held is None:
            sizes[name] = Size(0, 0, positions, 0, 0).keeping(parameter != 0)
        else:
            empty = Size(0, 0, positions, held.basis.shape[1], held.basis.numel())
            sizes[name] = empty.keeping(held.kept() != 0)
    return sizes


def nonzero_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one input whose weights are not zero, of layers with a basis in two steps."""
    operations = trace(bake(model), example[:1]).operations
    others = sum(operation.macs for operation in operations if not list(operation.with_role("weight")))
    return others + sum(size.macs for size in measure(model, example).values())


def _held(model: nn.Module, name: str) -> SharedKernels | Mask:
    held = find(model, name, SharedKernels) or find(model, name, Mask)
    assert held is not None
    return held


def _values(model: nn.Module, name: str) -> Tensor:
    """What is pruned: the coefficients of a convolution with a basis, or the weight itself."""
    held = find(model, name, SharedKernels)
    if held is not None:
        return held.kept().detach()
    layer = model.get_submodule(layer_path(name))
    assert isinstance(layer, nn.Conv2d)
    return layer.weight.detach()
