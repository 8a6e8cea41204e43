"""Fixed point whose fractional length differs from layer to layer, and is static within a layer.

Qiu et al. Going Deeper with Embedded FPGA Platform for Convolutional Neural Network. FPGA 2016, section 4.

    Q(x; b, f) = clip(round(x 2^f), -2^(b-1), 2^(b-1) - 1) 2^-f
    f_w = argmin_f sum |w - Q(w; b, f)|                  each layer's weights, and its bias (equation 5)
    f_x = argmin_f sum |x - Q(x'; b, f)|                 what each layer reads, front to back (6)

x is what a layer reads in the real network and x' what it reads in the network that is in fixed point up to there. A
chip needs shifts only: products have f_w + f_x places.

Batch normalisations are folded first, as far as they directly follow a layer. All f are tried from where nothing
saturates on, up to where what saturates alone outweighs the best; errors may be squared. The paper's f_x is for what
layers give, ours for what they read: sums within residual networks stay exact. Without images the network is shown
noise with the statistics that its batch normalisations know. "floor" concerns what layers read; weights and biases,
which are rounded once, go to the nearest. "static" shares one f among all weights of the same bits, one among the
biases, and one among what layers read, each the best for all together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.data.noise import noise_like
from dovetail.errors import DataError
from dovetail.methods.constraint import constrain
from dovetail.methods.method import Context, Kind, Method, Plan, check, layer_path, weight_name
from dovetail.methods.quantize.fixed_point_grid import LONGEST, ROUNDINGS, FixedPointGrid
from dovetail.methods.quantize.fold_norms import Statistics, fold, foldable, normalizing
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.reading import REAL
from dovetail.methods.watching import before_layers, require_finite

PRECISIONS = ("dynamic", "static")

IMAGES = 250
"""Images that are looked at, at most."""

ELEMENTS = 2**26
"""Numbers that all layers together may read of them, at most."""


def best_fraction(
    values: Tensor, bits: int, *, target: Tensor | None = None, power: int = 1, rounding: str = "nearest"
) -> int:
    """The fractional length f of the least sum |target - Q(values; bits, f)|^power; of equals the shortest.

    `target`, by default the values themselves, has their shape. From the length f0 = bits - 1 - ceil(log2 max |value|)
    on nothing but the largest value saturates, so lengths below f0 - 1 are not tried.

    Raises:
        DataError: a value is NaN or infinite.
    """
    values = values.detach().flatten()
    goal = values if target is None else target.detach().flatten()
    largest = float(values.abs().max()) if len(values) else 0.0
    if not math.isfinite(largest):
        raise DataError("a fractional length needs finite values, and some are NaN or infinite")
    if largest == 0:
        return bits - 1

    def size(x: Tensor) -> float:
        return float(torch.linalg.vector_norm(x, power, dtype=torch.float64))

    first = bits - 1 - math.ceil(math.log2(largest))
    apart, best, chosen = size(goal - values), math.inf, max(-LONGEST, min(LONGEST, first))
    for fraction in range(max(first - 1, -LONGEST), LONGEST + 1):
        beyond = size((values.abs() - 2.0 ** (bits - 1 - fraction)).relu())
        if beyond - apart >= best:  # no error is smaller than that, nor is any of a longer fraction
            break
        error = size(goal - FixedPointGrid(bits, fraction, rounding).to(values.device)(values))
        if error < best:
            best, chosen = error, fraction
    return chosen


@dataclass(frozen=True, kw_only=True)
class DynamicFixedPoint(Method):
    """Puts weights, biases and what layers read in fixed point, with fractional lengths of their own."""

    name: ClassVar[str] = "dynamic_fixed_point"
    kind: ClassVar[Kind] = "share"
    retrains: ClassVar[bool] = False

    conv_bits: int = 8
    """Of the weights of convolutions."""

    linear_bits: int = 8
    """Of the weights of linear layers, which take the memory (the paper: 8 or 4)."""

    bias_bits: int = 8
    """Of biases; 32: not quantised."""

    activation_bits: int = 8
    """Of what layers read; 32: not quantised."""

    precision: str = "dynamic"
    """"dynamic", a fractional length for each layer, or "static", one for the network, to compare with."""

    power: int = 2
    """Of the errors whose sum is made least: 2, or 1 as in the paper."""

    rounding: str = "nearest"
    """Of what layers read: "nearest" or "floor"."""

    def __post_init__(self) -> None:
        for field in ("conv_bits", "linear_bits"):
            check(2 <= getattr(self, field) <= 16, self.name, field, "from 2 to 16", getattr(self, field))
        for field in ("bias_bits", "activation_bits"):
            bits = getattr(self, field)
            check(2 <= bits <= 16 or bits == REAL, self.name, field, f"from 2 to 16, or {REAL} for real numbers", bits)
        check(self.precision in PRECISIONS, self.name, "precision", " or ".join(PRECISIONS), self.precision)
        check(self.power in (1, 2), self.name, "power", "1 or 2", self.power)
        check(self.rounding in ROUNDINGS, self.name, "rounding", " or ".join(ROUNDINGS), self.rounding)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = list(self.weights(model))
        exact = copy.deepcopy(model).eval()
        norms = foldable(exact, [layer_path(name) for name in names])
        plan: Plan = {name: {"norm": norms[layer_path(name)]} if layer_path(name) in norms else {} for name in names}
        known = _folded(exact, plan)
        self._plan_constants(exact, plan)
        if self.activation_bits == REAL:
            return plan
        fixed = copy.deepcopy(exact)
        self._constrain(fixed, plan)
        inputs = noise_like(context.example) if context.inputs is None else context.inputs
        with _as_trained(exact, known, context), _as_trained(fixed, known, context):
            fractions = self._read(exact, fixed, [layer_path(name) for name in names], inputs)
        for path, fraction in fractions.items():
            plan[weight_name(path)] |= {"activation_bits": self.activation_bits, "activation_fraction": fraction}
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        _folded(model, plan)
        self._constrain(model, plan)
        for name, row in plan.items():
            if "activation_bits" in row:
                grid = FixedPointGrid(row["activation_bits"], row["activation_fraction"], self.rounding)
                quantize_input(model, layer_path(name), grid.to(self.weights(model)[name].device))
        return model

    def _plan_constants(self, model: nn.Module, plan: Plan) -> None:
        """Add bits and fractional lengths of weights and biases to the plan."""
        weights = self.weights(model)
        kinds = {name: self.conv_bits if weights[name].ndim > 2 else self.linear_bits for name in plan}
        for bits in set(kinds.values()):
            alike = {name: weights[name] for name in plan if kinds[name] == bits}
            for name, fraction in self._fractions(alike, bits).items():
                plan[name] |= {"bits": bits, "fraction": fraction}
        if self.bias_bits == REAL:
            return
        biases = {name: getattr(model.get_submodule(layer_path(name)), "bias", None) for name in plan}
        there = {name: bias for name, bias in biases.items() if isinstance(bias, Tensor)}
        for name, fraction in self._fractions(there, self.bias_bits).items():
            plan[name] |= {"bias_bits": self.bias_bits, "bias_fraction": fraction}

    def _fractions(self, tensors: dict[str, Tensor], bits: int) -> dict[str, int]:
        if self.precision == "dynamic" or not tensors:
            return {name: best_fraction(tensor, bits, power=self.power) for name, tensor in tensors.items()}
        together = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
        return dict.fromkeys(tensors, best_fraction(together, bits, power=self.power))

    def _constrain(self, model: nn.Module, plan: Plan) -> None:
        for name, row in plan.items():
            device = self.weights(model)[name].device
            constrain(model, name, FixedPointGrid(row["bits"], row["fraction"]).to(device))
            if "bias_bits" in row:
                grid = FixedPointGrid(row["bias_bits"], row["bias_fraction"]).to(device)
                constrain(model, name.removesuffix("weight") + "bias", grid)

    def _read(self, exact: nn.Module, fixed: nn.Module, paths: list[str], inputs: Tensor) -> dict[str, int]:
        """The fractional lengths of what the layers read, by their paths; both networks are run once."""
        each = sum(len(x.flatten()) for x in _first_readings(exact, paths, inputs[:1]).values())
        inputs = inputs[: max(1, min(IMAGES, ELEMENTS // max(1, each)))]
        wanted = _first_readings(exact, paths, inputs)
        if self.precision == "static":
            together = torch.cat([x.flatten() for x in wanted.values()])
            one = best_fraction(together, self.activation_bits, power=self.power, rounding=self.rounding)
            return dict.fromkeys(wanted, one)
        fractions: dict[str, int] = {}

        def see(path: str, x: Tensor) -> Tensor:
            if path not in fractions:
                fractions[path] = best_fraction(
                    x, self.activation_bits, target=wanted.pop(path), power=self.power, rounding=self.rounding
                )
            quantized: Tensor = FixedPointGrid(self.activation_bits, fractions[path], self.rounding).to(x.device)(x)
            return quantized

        before_layers(fixed, paths, inputs, see, batch=len(inputs))
        return fractions


def _first_readings(model: nn.Module, paths: Iterable[str], inputs: Tensor) -> dict[str, Tensor]:
    """What each of the layers reads when it is first called, all inputs in one batch.

    Raises:
        DataError: a layer reads NaN or infinity.
    """
    found: dict[str, Tensor] = {}

    def see(path: str, x: Tensor) -> None:
        require_finite(path, x)
        found.setdefault(path, x.clone())

    before_layers(model, paths, inputs, see, batch=len(inputs))
    return found


def _folded(model: nn.Module, plan: Plan) -> list[Statistics]:
    return [fold(model, layer_path(name), row["norm"]) for name, row in plan.items() if "norm" in row]


def _as_trained(model: nn.Module, known: list[Statistics], context: Context) -> AbstractContextManager[None]:
    """Where there are no images, batch normalisations, folded ones too, that give noise the statistics they know."""
    return nullcontext() if context.inputs is not None else normalizing(model, known)
