"""Post-training quantisation of weights and of what layers read, without labels or training.

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877 (the grids); Nagel et al. ICCV 2019. arXiv:1906.04721 (equalisation, bias correction); He, Cheng. ECCV
2018 (renormalisation).

    fold the batch normalisations > equalise pairs of layers > choose the ranges of what layers read, and of sums >
    quantise the weights, by the scale of least output error for each output > restore the outputs' means (and
    deviations)

Without inputs the network is shown noise, and each normalised channel is given the mean and deviation that its batch
normalisation knows (`normalizing`); ranges are then those of what comes out, whose tails are a normal distribution's.

Departs from the papers: what is restored, and whether layers are equalised, is what brings the outputs closest to the
original's. Rounded weights make outputs a little smaller, so that behind a ReLU their means alone can make it worse.
Where "measured", the range of each layer's inputs is the one of the four rules that changes its outputs least. Sums
and their terms have SUM_BITS bits however few layers read.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dovetail.data.noise import noise_like
from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context, Kind, Method, Plan, check, layer_path, weight_name
from dovetail.methods.output_errors import relative_error
from dovetail.methods.quantize.bias_correction import correct
from dovetail.methods.quantize.calibration import RULES, clipped_range, grid, quantized, weight_scales
from dovetail.methods.quantize.equalization import equalize, pairs
from dovetail.methods.quantize.fold_norms import Layer, Statistics, bias_of, fold, foldable, normalizing
from dovetail.methods.quantize.mixed import chosen_bits
from dovetail.methods.quantize.observation import VALUES, Seen, observe
from dovetail.methods.quantize.quantizer import quantize_input, quantize_output
from dovetail.methods.quantize.rounding import adapt
from dovetail.methods.quantize.sums import make_places, places, values
from dovetail.methods.quantize.uniform import Uniform
from dovetail.methods.watching import answers

IMAGES = 250
"""Inputs that are looked at, at most."""

ELEMENTS = 2**24
"""Numbers that these may have together."""

SUM_BITS = 8
"""Bits of sums and of what is added."""

ROWS = 1024
"""Rows of what a layer sees on which grids are compared."""


@dataclass(frozen=True, kw_only=True)
class Ptq(Method):
    """Rounds weights and what layers read to evenly spaced values, without training."""

    name: ClassVar[str] = "ptq"
    kind: ClassVar[Kind] = "share"
    retrains: ClassVar[bool] = False

    weight_bits: int = 8
    """Bits of each weight."""

    mean_bits: float | None = None
    """Bits of a weight on average; if given, each layer's are chosen by what it needs, and not `weight_bits`."""

    activation_bits: int | None = 8
    """Bits of what each layer reads; None leaves it as it is."""

    per_channel: bool = True
    """Whether each output has a scale of its own for its weights."""

    calibration: str = "measured"
    """How the range of a layer's inputs is chosen: "min_max", "percentile", "mse", "kl", or "measured", which takes
    for each layer whichever changes its outputs least."""

    equalize: bool = True
    """Whether channels may be rescaled between two layers, where that helps."""

    rounding: str = "nearest"
    """How weights are rounded: "nearest", or "adaptive", so that each layer's responses change least."""

    bias_correction: bool = True
    """Whether the means of the outputs may be restored."""

    sums: bool = True
    """Whether the sums of residual networks, and what they add, are quantised too, where `activation_bits` are given:
    runtimes compute in integers only what is quantised at both ends."""

    renormalize: bool = True
    """Whether their deviations may be restored too (with scales for each output)."""

    def __post_init__(self) -> None:
        check(2 <= self.weight_bits <= 8, self.name, "weight_bits", "from 2 to 8", self.weight_bits)
        check(self.mean_bits is None or 2 <= self.mean_bits <= 8, self.name, "mean_bits",
              "from 2, the least that can be reached, to 8, or left out", self.mean_bits)  # fmt: skip
        check(self.activation_bits is None or 2 <= self.activation_bits <= 8, self.name, "activation_bits",
              "from 2 to 8, or left out", self.activation_bits)  # fmt: skip
        check(self.rounding in ("nearest", "adaptive"), self.name, "rounding", "nearest or adaptive", self.rounding)
        check(self.calibration in ("measured", *RULES), self.name, "calibration", f"measured, {', '.join(RULES)}",
              self.calibration)  # fmt: skip

    def plan(self, model: nn.Module, context: Context) -> Plan:
        plan = self._alike(model, list(self.weights(model)), context)
        if self.mean_bits is not None:
            plan = self._mixed(model, plan, self.mean_bits, context)
        return self._with_errors(model, plan, context)

    def _alike(self, model: nn.Module, names: list[str], context: Context) -> Plan:
        """The plan with the same bits for all layers."""
        plain = self._planned(model, names, context, equalizing=False)
        best = self._best(model, [_restoring(plain, what) for what in self._restorable()], context)
        if not self.equalize:
            return best
        equalized = self._planned(model, names, context, equalizing=True)
        return self._best(model, [best, _restoring(equalized, best[names[0]].get("restored"))], context)

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        self._carry_out(model, plan, context)
        return model

    def _carry_out(self, model: nn.Module, plan: Plan, context: Context) -> list[Statistics]:
        """Returns what is known of the outputs that were normalised."""
        known = self._prepare(model, plan, context)
        paths, inputs = [layer_path(name) for name in plan], _calibration(context)
        seen: dict[str, Seen] = {}
        if not context.rebuilding:
            with _shown(model, known, context):
                seen = observe(model, paths, inputs)
        before = {layer_path(name): weight.clone() for name, weight in self.weights(model).items()}
        held = {
            layer_path(name): self._hold(model, name, row, seen.get(layer_path(name)), context)
            for name, row in plan.items()
        }
        restored = next((row["restored"] for row in plan.values() if "restored" in row), None)
        with _shown(model, known, context):
            if context.rebuilding or not seen:
                return known
            if self.rounding == "adaptive":
                quantizers = {path: held[path] for path in seen}
                adapt(model, before, quantizers, seen, inputs, restored is not None)
            elif restored is not None:
                correct(model, seen, inputs, {path: held[path] for path in seen if restored == "deviations"})
        return known

    def _restorable(self) -> list[str | None]:
        """What may be restored of the outputs; rounding by responses brings back their means by itself."""
        if not self.bias_correction:
            return [None]
        if self.rounding == "adaptive":
            return ["means"]
        return [None, "means", "deviations"] if self.renormalize and self.per_channel else [None, "means"]

    def _planned(self, model: nn.Module, names: list[str], context: Context, *, equalizing: bool) -> Plan:
        """The plan with or without equalisation."""
        trial, paths = copy.deepcopy(model).eval(), [layer_path(name) for name in names]
        bits = self.weight_bits if self.mean_bits is None else round(self.mean_bits)
        plan: Plan = {name: {"bits": bits} for name in names}
        for path, norm in foldable(trial, paths).items():
            plan[weight_name(path)]["norm"] = norm
        if equalizing:
            folded = copy.deepcopy(trial)
            self._prepare(folded, plan, context)
            for pair in pairs(folded, paths):
                plan[weight_name(pair.first)]["equalized"] = pair.second
        known = self._prepare(trial, plan, context)
        if self.activation_bits is not None:
            with _shown(trial, known, context):
                seen = observe(trial, paths, _calibration(context))
            for path, what in seen.items():
                rule, ends = self._range(trial.get_submodule(path), what, context.inputs is not None)
                plan[weight_name(path)] |= {"input_bits": self.activation_bits, "range": list(ends), "rule": rule}
            if self.sums:
                self._plan_sums(trial, plan, known, context)
        return plan

    def _plan_sums(self, trial: nn.Module, plan: Plan, known: list[Statistics], context: Context) -> None:
        """Add the ranges of sums, and of what they add, to the rows of the layers that they come from. Layers that read
        the same value with as many bits read it on the same grid."""
        found = places(trial, [layer_path(name) for name in plan])
        make_places(trial, [place.path for place in found])
        rule = "min_max" if context.inputs is None else "mse" if self.calibration == "measured" else self.calibration
        with _shown(trial, known, context):
            seen = values(trial, found, _calibration(context), VALUES)
        for place in found:
            sample, extremes = seen[place.path]
            ends = list(clipped_range(sample, SUM_BITS, rule, (float(extremes[0]), float(extremes[1]))))
            plan[weight_name(place.layer)].setdefault("outputs", {})[place.path] = ends
            for reader in place.readers:
                if self.activation_bits == SUM_BITS:
                    plan[weight_name(reader)] |= {"range": ends, "rule": rule}

    def _mixed(self, model: nn.Module, plan: Plan, mean_bits: float, context: Context) -> Plan:
        """The plan with bits of its own for each layer: by how the outputs change if it alone has so many, which is
        measured with weights rounded to the nearest, for that is fast."""
        trial, paths, inputs = copy.deepcopy(model), [layer_path(name) for name in plan], _calibration(context)
        with _shown(trial, self._prepare(trial, plan, context), context), torch.no_grad():
            seen, wanted = observe(trial, paths, inputs), answers(trial, inputs)

            def on_grid(path: str, weight: Tensor, bits: int) -> Tensor:
                rows = _rows(seen.get(path), centred="restored" in plan[weight_name(path)])
                values: Tensor = Uniform(bits, weight_scales(weight, bits, rows, per_channel=self.per_channel))(weight)
                return values

            measure, probes = partial(relative_error, inputs=inputs, wanted=wanted), context.probes(model, len(paths))
            chosen = chosen_bits(trial, paths, on_grid, measure, mean_bits, probes)
        return {name: row | {"bits": chosen[layer_path(name)].setting} for name, row in plan.items()}

    def _with_errors(self, model: nn.Module, plan: Plan, context: Context) -> Plan:
        """The plan with how much the outputs change if one layer alone is quantised, its weights to the nearest."""
        folded, inputs = copy.deepcopy(model), _calibration(context)
        known, rows = self._prepare(folded, plan, context), {}
        with _shown(folded, known, context), torch.no_grad():
            seen, wanted = observe(folded, [layer_path(name) for name in plan], inputs), answers(folded, inputs)
        for name, row in plan.items():
            trial = copy.deepcopy(folded)
            self._hold(trial, name, row, seen.get(layer_path(name)), context)
            with _shown(trial, known, context):
                rows[name] = row | {"output_error": relative_error(trial, inputs, wanted)}
        return rows

    def _prepare(self, model: nn.Module, plan: Plan, context: Context) -> list[Statistics]:
        """Fold, equalise, and make places for the quantisers of sums."""
        make_places(model, [place for row in plan.values() for place in row.get("outputs", {})])
        known = {
            layer_path(name): fold(model, layer_path(name), row["norm"]) for name, row in plan.items() if "norm" in row
        }
        wanted = {(layer_path(name), row["equalized"]) for name, row in plan.items() if "equalized" in row}
        if wanted and not context.rebuilding:
            found = [p for p in pairs(model, [layer_path(name) for name in plan]) if (p.first, p.second) in wanted]
            answers = None
            if self.per_channel:
                with _shown(model, list(known.values()), context):
                    seen = observe(model, [pair.first for pair in found], _calibration(context))
                answers = {path: (what.mean + 3 * what.deviation).clamp_min(0).float() for path, what in seen.items()}
            known = equalize(model, found, known, answers)
        return list(known.values())

    def _best(self, model: nn.Module, plans: list[Plan], context: Context) -> Plan:
        """The plan by which the outputs change least (squared error)."""
        if len(plans) == 1:
            return plans[0]
        inputs, errors = _calibration(context), []
        with torch.no_grad():
            with _shown(model, [], context):
                wanted = answers(model, inputs)
            for plan in plans:
                trial = copy.deepcopy(model)
                with _shown(trial, self._carry_out(trial, plan, context), context):
                    errors.append(float((answers(trial, inputs) - wanted).square().sum()))
        return plans[errors.index(min(errors))]

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

    def _hold(self, model: nn.Module, name: str, row: dict[str, Any], seen: Seen | None, context: Context) -> Uniform:
        """Quantise the weight by the scales of least output error, and what the layer reads."""
        path = layer_path(name)
        layer = model.get_submodule(path)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if context.rebuilding:
            scales = torch.ones(len(weight) if self.per_channel else 1)
        else:
            rows = _rows(seen, centred="restored" in row)
            scales = weight_scales(weight, row["bits"], rows, per_channel=self.per_channel)
        quantizer = Uniform(row["bits"], scales)
        constrain(model, name, quantizer)
        if "range" in row:
            quantize_input(model, path, _uniform(row["range"], row["input_bits"]))
        for place, ends in row.get("outputs", {}).items():
            quantize_output(model, place, _uniform(ends, SUM_BITS))
        if self.bias_correction and isinstance(layer, Layer):
            bias_of(layer)
        return quantizer


def _uniform(ends: list[float], bits: int) -> Uniform:
    scale, zero = grid(ends[0], ends[1], bits)
    return Uniform(bits, torch.tensor(scale), torch.tensor(zero))


def _restoring(plan: Plan, what: str | None) -> Plan:
    return {name: row if what is None else row | {"restored": what} for name, row in plan.items()}


@contextmanager
def _shown(model: nn.Module, known: list[Statistics], context: Context) -> Iterator[None]:
    """While this lasts `model` can be shown the `_calibration` inputs."""
    model.eval()
    with normalizing(model, known) if context.inputs is None else nullcontext():
        yield


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
