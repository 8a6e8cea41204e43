"""Batch normalisation as it is at inference: one scale and one shift per channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dovetail.errors import ModelError
from dovetail.methods.quantize.quantizer import input_quantizers, output_quantizers, quantize_input, quantize_output


class ChannelAffine(nn.Module):
    """y = scale * x + shift, with `scale` and `shift` of shape (C, 1, ..., 1), as many ones as x has places.

    From a batch normalisation (Ioffe, Szegedy 2015, arXiv:1502.03167, algorithm 2):
        scale = gamma / sqrt(variance + epsilon),  shift = beta - mean * scale
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.shift = nn.Parameter(shift, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return x * self.scale + self.shift


def fold_batch_norms(model: nn.Module, run: Callable[[], object]) -> nn.Module:
    """`model` (which is changed) with every batch normalisation replaced; `run` runs it once, to show their inputs.

    Raises ModelError, naming the layer, for one that has no running statistics.
    """
    norms = {module: path for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for norm, path in norms.items():
        if norm.running_mean is None or norm.running_var is None:
            raise ModelError(f"Layer {path!r} normalises by the batch at hand; train it with track_running_stats=True.")
    dimensions = _input_dimensions(norms, run)
    folded: dict[nn.Module, nn.Module] = {norm: _fold(norm, dimensions.get(norm, 2)) for norm in norms}
    for norm in norms:
        _carry_quantizers(norm, folded[norm])
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a module that comes twice
            if child in folded:
                setattr(parent, name, folded[child])
    return folded.get(model, model)


def _input_dimensions(norms: Iterable[nn.Module], run: Callable[[], object]) -> dict[nn.Module, int]:
    """The number of dimensions of each batch normalisation's input."""
    dimensions: dict[nn.Module, int] = {}

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        dimensions[module] = arguments[0].ndim

    handles = [module.register_forward_pre_hook(note) for module in norms]
    run()
    for handle in handles:
        handle.remove()
    return dimensions


def _carry_quantizers(norm: nn.Module, affine: nn.Module) -> None:
    """Those at the input and output of `norm` are at those of `affine` too."""
    for quantizer in input_quantizers(norm).values():
        quantize_input(affine, "", quantizer)
    for quantizer in output_quantizers(norm).values():
        quantize_output(affine, "", quantizer)


def _fold(norm: _BatchNorm, dimensions: int) -> ChannelAffine:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    shape = (-1, *[1] * (dimensions - 2))
    return ChannelAffine(scale.float().reshape(shape), shift.float().reshape(shape))
