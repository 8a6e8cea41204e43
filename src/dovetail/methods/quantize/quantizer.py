"""The seam of all quantisation: a grid of values, the projection onto it, and the gradient through the projection.

A `Quantizer` is a `Constraint`, so it can hold a weight. Put at the input of a layer (`quantize_input`) it holds what
the layer reads; there it has no `penalty` and no `after_step`, which training asks of weights only: what it learns is
parameters. It keeps no copy of the weight: training changes the latent one, in full precision, and the layer sees the
quantised one (Courbariaux, Bengio, David. BinaryConnect. NeurIPS 2015. arXiv:1511.00363).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.formats import Format, Layout, ValueEncoder
from dovetail.formats.layout import FLOAT32
from dovetail.methods.constraint import Constraint

INPUT = "input_quantizer"
"""The name of a layer's submodule that quantises what the layer reads."""

OUTPUT = "output_quantizer"
"""The name of a module's submodule that quantises what the module gives."""


class Quantizer(Constraint):
    """Puts every value of a tensor on a grid; the gradient is exact or an estimate, as the class says."""

    @property
    def bits(self) -> float:
        """Bits of a code. What is learned or measured beside the codes (scales) does not count."""
        raise NotImplementedError

    def encoder(self) -> ValueEncoder:
        """What stores the values that `forward` gives, exactly and element for element."""
        raise NotImplementedError

    @property
    def in_place(self) -> bool:
        """Whether all values are stored in their places: there is a scale for each filter, or no zero to leave out."""
        return False

    def freeze(self, layout: Layout) -> Layout:
        # Factors of the weight below are not factors of the quantised one.
        structure = layout.structure if isinstance(layout.structure, str) else "smallest"
        structure = "dense" if self.in_place else structure
        values = self.encoder() if layout.values is FLOAT32 else partial(_held_below, layout.values, self.encoder())
        return replace(layout, structure=structure, values=values)


def _held_below(below: ValueEncoder, own: ValueEncoder, values: NDArray[Any]) -> Format:
    """As the quantiser below stores them, in fewer bits, if the one above has left values that it can: signs are signs
    on any grid that has both."""
    kept = below(values)
    return kept if np.array_equal(kept.decode(), values) else own(values)


def straight_through(x: Tensor, value: Tensor, passes: Tensor | None = None) -> Tensor:
    """`value`, with a gradient for `x` as if it were x, where `passes` (everywhere without).

    The straight-through estimator (Bengio, Léonard, Courville 2013, arXiv:1308.3432). What `value` was computed from
    has its own gradient besides: take x.detach() there, unless that is meant.
    """
    return _StraightThrough.apply(x, value, passes)  # type: ignore[no-any-return,no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        ((gradient,), (passes,)) = gradients, ctx.saved_tensors
        return gradient if passes is None else gradient * passes, gradient, None


def sign(x: Tensor) -> Tensor:
    """-1 or +1; of zero, +1. Has no gradient of its own."""
    if torch.compiler.is_exporting():  # two operators of ONNX instead of six
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0)  # a tenth of the time; -0 + 0 is +0


def quantize_input(model: nn.Module, path: str, quantizer: Quantizer) -> None:
    """Let the layer at `path` read its (first) input through `quantizer`, which takes the place of an earlier one.

    Raises:
        ModelError: the layer has another submodule of that name.
    """
    if _put(model, path, INPUT, quantizer):
        model.get_submodule(path).register_forward_pre_hook(_through_quantizer)


def quantize_output(model: nn.Module, path: str, quantizer: Quantizer) -> None:
    """Let all readers of the module at `path` (a layer or a whole block) see its output through `quantizer`.

    Sums of residual networks are computed in integers only if both their terms and their result are quantised.

    Raises:
        ModelError: the module has another submodule of that name.
    """
    if _put(model, path, OUTPUT, quantizer):
        model.get_submodule(path).register_forward_hook(_quantized_output)


def _put(model: nn.Module, path: str, name: str, quantizer: Quantizer) -> bool:
    """Whether there was none before."""
    module = model.get_submodule(path)
    held = getattr(module, name, None)
    if held is None:
        module.add_module(name, quantizer)
    elif isinstance(held, Quantizer):
        module.set_submodule(name, quantizer)
    else:
        raise ModelError(f"layer {path!r} has a part called {name} of its own; rename it to quantise there")
    return held is None


def _through_quantizer(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.get_submodule(INPUT)(inputs[0]), *inputs[1:])


def _quantized_output(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    quantized: Tensor = module.get_submodule(OUTPUT)(output)
    return quantized


def input_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Every quantiser at a layer's input, by the layer's path."""
    return _held(model, INPUT)


def output_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Every quantiser at a module's output, by the module's path."""
    return _held(model, OUTPUT)


def _held(model: nn.Module, name: str) -> dict[str, Quantizer]:
    return {
        path: quantizer
        for path, module in model.named_modules()
        if isinstance(quantizer := module._modules.get(name), Quantizer)
    }
