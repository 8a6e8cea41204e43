"""Post-training quantisation of weights and of what layers read, without labels or training.

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877 (the grids); Nagel et al. ICCV 2019. arXiv:1906.04721 (equalisation, bias correction); He, Cheng. ECCV
2018 (renormalisation).

    fold the batch normalisations > equalise pairs of layers > choose the ranges of what layers read > quantise the
    weights, by the scale of least output error for each output > restore the outputs' means (and deviations)

Without inputs the network is shown noise, and each normalised channel is given the mean and deviation that its batch
normalisation knows (`normalizing`); ranges are then those of what comes out, whose tails are a normal distribution's.

Departs from the papers: equalisation is left out where the outputs come closer to the original's without; with scales
for each output it has less to do. Where "measured", the range of each layer's inputs is the one of the four rules that
changes its outputs least.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.quantize.bias_correction import correct
from dovetail.methods.quantize.calibration import RULES, clipped_range, grid, quantized, weight_scales
from dovetail.methods.quantize.equalization import equalize, pairs
from dovetail.methods.quantize.fold_norms import Layer, Statistics, bias_of, fold, foldable, normalizing
from dovetail.methods.quantize.noise import noise_like
from dovetail.methods.quantize.observation import Seen, observe
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform

IMAGES = 250
"""Inputs that are looked at, at most."""

ELEMENTS = 2**24
"""Numbers that these may have together."""

ROWS = 1024
"""Rows of what a layer sees on which grids are compared."""


@dataclass(frozen=True, kw_only=True)
class Ptq(Method):
    """Rounds weights and what layers read to evenly spaced values, without training."""

    name: ClassVar[str] = "ptq"
    kind: ClassVar[Kind] = "share"

    weight_bits: int = 8
    """Bits of each weight."""

    activation_bits: int | None = 8
    """Bits of what each layer reads; None leaves it as it is."""

    per_channel: bool = True
    """Whether each output has a scale of its own for its weights."""

    calibration: str = "measured"
    """How the range of a layer's inputs is chosen: "min_max", "percentile", "mse", "kl", or "measured", which takes
    for each layer whichever changes its outputs least."""

    equalize: bool = True
    """Whether channels may be rescaled between two layers, where that helps."""

    bias_correction: bool = True
    """Whether the means of the outputs are restored."""

    renormalize: bool = False
    """Whether their deviations are restored too (with scales for each output)."""

    def __post_init__(self) -> None:
        check(2 <= self.weight_bits <= 8, self.name, "weight_bits", "from 2 to 8", self.weight_bits)
        check(self.activation_bits is None or 2 <= self.activation_bits <= 8, self.name, "activation_bits",
              "from 2 to 8, or left out", self.activation_bits)  # fmt: skip
        check(self.calibration in ("measured", *RULES), self.name, "calibration", f"measured, {', '.join(RULES)}",
              self.calibration)  # fmt: skip

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = list(self.weights(model))
        plan = self._planned(model, names, context, equalizing=False)
        if not self.equalize:
            return plan
        equalized = self._planned(model, names, context, equalizing=True)
        if not any("equalized" in row for row in equalized.values()):
            return plan
        if context.inputs is None:
            return equalized
        errors = [self._error(model, candidate, context) for candidate in (plan, equalized)]
        return plan if errors[0] <= errors[1] else equalized

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        known = self._prepare(model, plan, context)
        inputs = _calibration(context)
        seen: dict[str, Seen] = {}
        if not context.rebuilding:
            with normalizing(model, list(known.values())) if context.inputs is None else nullcontext():
                seen = observe(model.eval(), [_path(name) for name in plan], inputs)
        held = {}
        for name, row in plan.items():
            path = _path(name)
            layer = model.get_submodule(path)
            held[path] = self._hold(model, name, row["bits"], _rows(seen.get(path), self.bias_correction), context)
            if "range" in row:
                low, high = row["range"]
                scale, zero = grid(low, high, row["input_bits"])
                quantize_input(model, path, Uniform(row["input_bits"], torch.tensor(scale), torch.tensor(zero)))
            if self.bias_correction and isinstance(layer, Layer):
                bias_of(layer)
        if self.bias_correction and not context.rebuilding:
            scaled = held if self.renormalize and self.per_channel else {}
            with normalizing(model, list(known.values())) if context.inputs is None else nullcontext():
                correct(model.eval(), seen, inputs, {path: q for path, q in scaled.items() if path in seen})
        return model

    def _planned(self, model: nn.Module, names: list[str], context: Context, *, equalizing: bool) -> Plan:
        """The plan with or without equalisation."""
        trial = copy.deepcopy(model).eval()
        plan: Plan = {name: {"bits": self.weight_bits} for name in names}
        for path, norm in foldable(trial, [_path(name) for name in names]).items():
            plan[_name(path)]["norm"] = norm
        known = self._fold(trial, plan, context)
        if equalizing:
            for pair in pairs(trial, [_path(name) for name in names]):
                plan[_name(pair.first)]["equalized"] = pair.second
        known = self._equalize(trial, plan, known)
        with normalizing(trial, list(known.values())) if context.inputs is None else nullcontext():
            seen = observe(trial, [_path(name) for name in names], _calibration(context))
        if self.activation_bits is not None:
            for path, what in seen.items():
                rule, ends = self._range(trial.get_submodule(path), what, context.inputs is not None)
                plan[_name(path)] |= {"input_bits": self.activation_bits, "range": list(ends), "rule": rule}
        return plan

    def _prepare(self, model: nn.Module, plan: Plan, context: Context) -> dict[str, Statistics]:
        known = self._fold(model, plan, context)
        return known if context.rebuilding else self._equalize(model, plan, known)

    def _fold(self, model: nn.Module, plan: Plan, context: Context) -> dict[str, Statistics]:
        return {_path(name): fold(model, _path(name), row["norm"]) for name, row in plan.items() if "norm" in row}

    def _equalize(self, model: nn.Module, plan: Plan, known: dict[str, Statistics]) -> dict[str, Statistics]:
        wanted = {(_path(name), row["equalized"]) for name, row in plan.items() if "equalized" in row}
        if not wanted:
            return known
        found = pairs(model, [_path(name) for name in plan])
        return equalize(model, [pair for pair in found if (pair.first, pair.second) in wanted], known)

    def _range(self, layer: nn.Module, seen: Seen, real: bool) -> tuple[str, tuple[float, float]]:
        """The rule taken, and the range that it gives."""
        assert self.activation_bits is not None
        bits, extremes = self.activation_bits, (seen.low, seen.high)
        if self.calibration != "measured" or not real:
            rule = self.calibration if self.calibration != "measured" else "min_max"
            return rule, clipped_range(seen.values, bits, rule, extremes)
        ranges = {rule: clipped_range(seen.values, bits, rule, extremes) for rule in RULES}
        rows = _rows(seen, centred=False)

        def error(rule: str) -> float:
            if rows is None:
                return float((quantized(seen.values, *grid(*ranges[rule], bits), bits) - seen.values).square().sum())
            weight = layer.weight
            assert isinstance(weight, Tensor)
            change = quantized(rows, *grid(*ranges[rule], bits), bits) - rows
            return float((change @ weight.detach().flatten(1).T).square().sum())

        rule = min(ranges, key=error)
        return rule, ranges[rule]

    def _hold(self, model: nn.Module, name: str, bits: int, rows: Tensor | None, context: Context) -> Uniform:
        weight = model.get_submodule(_path(name)).weight
        assert isinstance(weight, Tensor)
        if context.rebuilding:
            scales = torch.ones(len(weight) if self.per_channel else 1)
        else:
            scales = weight_scales(weight, bits, rows, per_channel=self.per_channel)
        quantizer = Uniform(bits, scales)
        constrain(model, name, quantizer)
        return quantizer

    def _error(self, model: nn.Module, plan: Plan, context: Context) -> float:
        """Squared error of the outputs."""
        inputs = _calibration(context)
        with torch.no_grad():
            wanted = model.eval()(inputs)
            found = self.apply(copy.deepcopy(model), plan, 0, context).eval()(inputs)
        return float((found - wanted).square().sum())


def _path(name: str) -> str:
    return name.removesuffix("weight").removesuffix(".")


def _name(path: str) -> str:
    return f"{path}.weight" if path else "weight"


def _calibration(context: Context) -> Tensor:
    """Inputs, real ones if there are any, that go through the network in one batch."""
    if context.inputs is None:
        return noise_like(context.example)
    return context.inputs[: max(1, min(IMAGES, ELEMENTS // math.prod(context.inputs.shape[1:])))]


def _rows(seen: Seen | None, centred: bool) -> Tensor | None:
    """Some of the rows that a layer saw; about their mean where outputs have theirs restored."""
    if seen is None or seen.patches is None:
        return None
    rows = seen.patches[torch.randperm(len(seen.patches), generator=torch.Generator().manual_seed(0))[:ROWS]]
    return rows - rows.mean(0) if centred else rows
