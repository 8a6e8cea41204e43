"""Quantised neural networks: weights, activations and gradients of a few bits each.

Hubara, Courbariaux, Soudry, El-Yaniv, Bengio. Quantized Neural Networks: Training Neural Networks with Low Precision
Weights and Activations. JMLR 18(187), 2018. arXiv:1609.07061
with the grids of
Zhou, Wu, Ni, Zhou, Wen, Zou. DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients. 2016. arXiv:1606.06160

    quantize_k(r) = round((2^k - 1) r) / (2^k - 1)                                          r in [0, 1]     (5)
    w_q = s sign(w),  s = <|w|>                                                             k = 1           (8)
    w_q = s (2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1)                           k > 1           (9)
    a_q = quantize_k(clip(a, 0, 1))                                                                         (11)
    g_q = 2 m (quantize_k(g / (2 m) + 1/2 + u / (2^k - 1)) - 1/2),   m = max |g| of a sample,
          u uniform in [-1/2, 1/2)                                                                          (12)

Rounding passes gradients straight through. g_q is unbiased, which rounding to the nearest would not be.

Departs from the papers, which train from scratch, to start from a trained network. s is <w, q> / <q, q> for k > 1 too
(the paper: 1), so that a layer keeps its scale; it is recomputed with the weights and has no gradient. Activations are
clipped to [0, (2^k - 1) step] instead of [0, 1], with a step that is measured on images and then fixed
(`starting_step`); where a layer reads negative values its grid is signed and holds zero. g is the gradient of what a
layer reads, once quantised, so the weights' own gradients are of products in full precision. Weights that are zero do
not stay zero: the grids have none. First and last layers stay as they are (`keep_ends`), as in DoReFa-Net.

Recurrent layers (nn.LSTM, nn.GRU, nn.RNN and the cells) have their matrices and the sequence they read quantised, not
the state that goes from step to step inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.formats import Binary, Codebook, Format, ValueEncoder
from dovetail.methods.method import Context, Kind, Plan, check, layer_path, weight_name, weight_tensors
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import Quantizer, quantize_input, sign, straight_through
from dovetail.methods.quantize.reading import REAL, images, magnitudes_read, starting_step
from dovetail.methods.quantize.recurrent import constrain_recurrent, recurrent_weights
from dovetail.methods.quantize.uniform import TINY, Uniform

RANGES = ("sample", "tensor")
ROUNDINGS = ("stochastic", "nearest")


class Levels(Quantizer):
    """2^bits evenly spaced weights from -s to s, zero not among them."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.code_bits = bits

    @property
    def bits(self) -> float:
        return self.code_bits

    def forward(self, latent: Tensor) -> Tensor:
        if self.code_bits == 1:
            return straight_through(latent, latent.detach().abs().mean() * sign(latent.detach()))
        squashed = torch.tanh(latent)
        unit = squashed / (2 * squashed.abs().max()).clamp_min(TINY) + 0.5
        top = (1 << self.code_bits) - 1
        levels = levels_of(straight_through(unit * top, (unit * top).detach().round()), self.code_bits)
        held = levels.detach()
        return levels * ((latent.detach() * held).sum() / held.square().sum())

    def encoder(self) -> ValueEncoder:
        return partial(Binary.encode, axis=None) if self.code_bits == 1 else partial(_encode, bits=self.code_bits)

    @property
    def in_place(self) -> bool:
        return True


def levels_of(codes: Tensor, bits: int) -> Tensor:
    """The numbers from -1 to 1 that the codes 0 ... 2^bits - 1 stand for."""
    top = (1 << bits) - 1
    return (2 * codes - top) / top


def _encode(values: NDArray[Any], bits: int) -> Format:
    # The largest weight lies on the outermost level.
    table = levels_of(torch.arange(1 << bits).float(), bits) * float(np.abs(values).max())
    return Codebook.encode(values, table=table.numpy(), code_bits=bits)


def quantize_gradient(gradient: Tensor, bits: int, *, range_of: str = "sample", rounding: str = "stochastic") -> Tensor:
    """A gradient (N, ...) on 2^bits levels from -m to m, m the largest magnitude of each sample or of the tensor.

    Stochastic rounding draws from torch's generator, and is unbiased. What is zero throughout stays so.
    """
    magnitudes = gradient.abs()
    per_sample = range_of == "sample" and gradient.ndim > 1
    largest = magnitudes.flatten(1).amax(1).view(-1, *[1] * (gradient.ndim - 1)) if per_sample else magnitudes.max()
    top = (1 << bits) - 1
    noise = torch.rand_like(gradient) - 0.5 if rounding == "stochastic" else 0.0
    codes = ((gradient / (2 * largest.clamp_min(TINY)) + 0.5) * top + noise).round().clamp(0, top)
    return levels_of(codes, bits) * largest


class _QuantizedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, range_of: str, rounding: str) -> Tensor:
        ctx.settings = bits, range_of, rounding
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        bits, range_of, rounding = ctx.settings
        return quantize_gradient(gradients[0], bits, range_of=range_of, rounding=rounding), None, None, None


class Activations(Uniform):
    """A uniform grid for what a layer reads, whose gradient is quantised too before it goes on to the layers below."""

    def __init__(
        self, bits: int, step: Tensor, *, signed: bool, gradient_bits: int = REAL, gradient_range: str = "sample",
        gradient_rounding: str = "stochastic",
    ) -> None:  # fmt: skip
        super().__init__(bits, step, torch.full_like(step, 1 << (bits - 1) if signed else 0))
        self.gradient_bits, self.gradient_range, self.gradient_rounding = (
            gradient_bits,
            gradient_range,
            gradient_rounding,
        )

    def forward(self, latent: Tensor) -> Tensor:
        value = super().forward(latent)
        if self.gradient_bits == REAL:
            return value
        quantized: Tensor = _QuantizedGradient.apply(  # type: ignore[no-untyped-call]
            value, self.gradient_bits, self.gradient_range, self.gradient_rounding
        )
        return quantized

    def encoder(self) -> ValueEncoder:
        if self.code_bits > 1:
            return super().encoder()
        return partial(Codebook.encode, table=np.array([0.0, float(self.scale)], np.float32))


@dataclass(frozen=True, kw_only=True)
class Qnn(KeepsEnds):
    """Gives weights, activations and the activations' gradients a few bits each."""

    name: ClassVar[str] = "qnn"
    kind: ClassVar[Kind] = "share"

    weight_bits: int = 1
    """Of a weight; 32: not quantised."""

    activation_bits: int = 2
    """Of what a layer reads; 32: not quantised."""

    gradient_bits: int = 6
    """Of the gradient of what a layer reads; 32: not quantised. Not used where activations are not quantised."""

    gradient_range: str = "sample"
    """What shares the range of its gradients: a "sample" or the batch's "tensor"."""

    gradient_rounding: str = "stochastic"
    """How gradients are rounded: "stochastic", or "nearest" to see why not."""

    def __post_init__(self) -> None:
        for field in ("weight_bits", "activation_bits", "gradient_bits"):
            bits = getattr(self, field)
            check(1 <= bits <= 8 or bits == REAL, self.name, field, f"from 1 to 8, or {REAL} for real numbers", bits)
        check(self.gradient_range in RANGES, self.name, "gradient_range", " or ".join(RANGES), self.gradient_range)
        check(self.gradient_rounding in ROUNDINGS, self.name, "gradient_rounding", " or ".join(ROUNDINGS),
              self.gradient_rounding)  # fmt: skip

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        tensors = {weight_name(path): weight for path, weight in weight_tensors(model)}
        tensors |= dict(recurrent_weights(model))
        taken = set(self.chosen(list(dict.fromkeys(layer_path(name) for name in tensors))))
        return {name: weight for name, weight in tensors.items() if layer_path(name) in taken}

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = self.inner(model, context, self.weights(model))
        plan: Plan = {name: {"weight_bits": self.weight_bits} for name in names}
        if self.activation_bits == REAL:
            return plan
        first_of = {layer_path(name): name for name in reversed(names)}
        for path, reading in magnitudes_read(model, first_of, images(context, self.name, "activation_bits")).items():
            if reading.signed and self.activation_bits == 1:
                raise ModelError(
                    f"qnn: layer {path!r} reads negative values, which need 2 bits or more: raise activation_bits, "
                    "leave the layer out (layers), or take a method that binarises inputs to signs"
                )
            plan[first_of[path]] |= {
                "activation_bits": self.activation_bits, "signed": reading.signed, "magnitude": reading.magnitude,
            }  # fmt: skip
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        device = {name: weight.device for name, weight in self.weights(model).items()}
        for name, row in plan.items():
            if row["weight_bits"] != REAL:
                constrain_recurrent(model, name, Levels(row["weight_bits"]))
            if "activation_bits" in row:
                bits, signed = row["activation_bits"], row["signed"]
                grid = Activations(
                    bits, starting_step(row["magnitude"], (1 << (bits - signed)) - 1), signed=signed,
                    gradient_bits=self.gradient_bits, gradient_range=self.gradient_range,
                    gradient_rounding=self.gradient_rounding,
                )  # fmt: skip
                quantize_input(model, layer_path(name), grid.to(device[name]))
        return model
