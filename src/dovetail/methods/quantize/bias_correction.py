"""The mean, and if asked for the deviation, of each output as they were before quantisation.

Nagel, van Baalen, Blankevoort, Welling. ICCV 2019. arXiv:1906.04721, section 4.2: quantised weights shift the mean of
an output by E[y'] - E[y], which is taken from the bias. He, Cheng. Learning Compression from Limited Unlabeled Data.
ECCV 2018: the variance is restored likewise, by the scale. Neither needs labels.

All layers are corrected in one pass: each is measured on what the layers before it answer once they are corrected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dovetail.methods.quantize.fold_norms import bias_of, scale_weight
from dovetail.methods.quantize.observation import Seen
from dovetail.methods.quantize.uniform import Uniform
from dovetail.methods.responses import rows_of
from dovetail.methods.watching import after_layers

LARGEST_CHANGE = 2.0
"""By what factor an output's scale is changed at most."""


def correct(model: nn.Module, targets: Mapping[str, Seen], inputs: Tensor, scales: Mapping[str, Uniform]) -> None:
    """Let the outputs of each layer have the `targets`' mean, and their deviation where `scales` has the quantiser of
    the layer's weight with a scale for each output.

    `inputs` are one batch (N, ...) that is small enough to go through at once.
    """
    done: set[str] = set()

    def note(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
        if path in done:  # a layer that is called again
            return None
        done.add(path)
        return restored(layer, y, targets[path], scales.get(path))

    after_layers(model, list(targets), inputs, note, batch=len(inputs))


def restored(layer: nn.Module, y: Tensor, target: Seen, scale: Uniform | None) -> Tensor:
    """Give the layer a bias, and the quantiser of its weight scales, that restore its outputs y; returns these."""
    rows = rows_of(layer, y).double().flatten(0, 1)
    factor, shift = correction(rows.mean(0), rows.std(0, correction=0), target, scale is not None)
    if scale is not None and not _scale_grid(layer, scale, factor):
        factor, shift = correction(rows.mean(0), rows.std(0, correction=0), target, scale=False)
    bias = bias_of(layer)
    bias.data.copy_(factor * bias.detach().double() + shift)
    shape = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (y.ndim - 2))
    return (y.double() * factor.view(shape) + shift.view(shape)).to(y.dtype)


def _scale_grid(layer: nn.Module, quantizer: Uniform, factor: Tensor) -> bool:
    """Multiply the scales and what is rounded to them, so that the codes stay; False if other constraints forbid it."""
    weight, before = layer.weight, quantizer.scale.clone()
    assert isinstance(weight, Tensor)
    wanted = weight.detach() * factor.view(-1, *[1] * (weight.ndim - 1))
    quantizer.scale.mul_(factor)
    if scale_weight(layer, factor.to(weight.dtype), wanted):
        return True
    quantizer.scale.copy_(before)
    return False


def correction(mean: Tensor, deviation: Tensor, target: Seen, scale: bool) -> tuple[Tensor, Tensor]:
    """Factor and shift (T) that give an output of this mean and deviation the target's; factor 1 unless `scale`."""
    factor = torch.ones_like(mean)
    if scale:
        alive = (deviation > 0) & (target.deviation > 0)
        ratio = torch.where(alive, target.deviation / torch.where(alive, deviation, 1.0), 1.0)
        factor = ratio.clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
    return factor, target.mean - factor * mean
