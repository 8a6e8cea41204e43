"""Exact folding of a batch normalisation into the convolution or linear layer that it directly follows.

    g (W x + b) + c  =  (g W) x + (g b + c)         g = gamma / sqrt(var + eps), c = beta - g mean

The normalisation becomes an nn.Identity, so that paths stay. (Jacob et al. CVPR 2018, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.methods.graph import called_once, symbolic
from dovetail.methods.junctions import affine, junctions

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
"""Layers whose first axis of the weight is that of their outputs."""

SAME = 1e-4
"""Relative difference up to which two weights are the same but for rounding."""


@dataclass(frozen=True)
class Statistics:
    """What a folded normalisation knew of its outputs: their mean and standard deviation by channel (T)."""

    norm: str
    kind: type[nn.modules.batchnorm._BatchNorm]
    mean: Tensor
    deviation: Tensor

    def scaled(self, factors: Tensor) -> Statistics:
        return replace(self, mean=self.mean * factors, deviation=self.deviation * factors)


def foldable(model: nn.Module, paths: Sequence[str]) -> dict[str, str]:
    """The normalisation that can be folded into each of these layers, where there is one, by the layer's path."""
    try:
        network = symbolic(model)
    except ModelError:
        return {}
    calls, modules = called_once(network), dict(model.named_modules())
    found = {}
    for path, junction in junctions(network).items():
        if path not in paths or junction.norm not in calls or not isinstance(layer := modules[path], Layer):
            continue
        if parametrize.is_parametrized(layer, "bias"):
            continue
        trial = torch.full((len(layer.weight),), 2.0)
        if not _shared(model, layer) and scale_weight(layer, trial):
            scale_weight(layer, 1 / trial)
            found[path] = junction.norm
    return found


def fold(model: nn.Module, path: str, norm: str) -> Statistics:
    """Fold the normalisation at `norm`, in eval mode, into the layer at `path`."""
    layer, old = model.get_submodule(path), model.get_submodule(norm)
    assert isinstance(old, nn.modules.batchnorm._BatchNorm)
    scale, shift = affine(old)
    bias = bias_of(layer)
    scale_weight(layer, scale.to(bias.dtype))
    bias.data.copy_(scale * bias.detach().double() + shift)
    ones = torch.ones_like(shift)
    gamma, beta = (ones, 0 * ones) if old.weight is None else (old.weight.detach(), old.bias.detach())
    model.set_submodule(norm, nn.Identity())
    return Statistics(norm, type(old), beta.to(bias.dtype).clone(), gamma.to(bias.dtype).abs())


def bias_of(layer: nn.Module) -> nn.Parameter:
    """The bias of a layer, which gets one of zeros if it has none; under its constraints, if it has some."""
    assert isinstance(layer, Layer)
    if parametrize.is_parametrized(layer, "bias"):
        return layer.get_parameter("parametrizations.bias.original")
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.detach().new_zeros(len(layer.weight)))
    assert isinstance(layer.bias, nn.Parameter)
    return layer.bias


def scale_weight(layer: nn.Module, factors: Tensor, wanted: Tensor | None = None) -> bool:
    """Multiply the weight by factors that broadcast to it, or its first axis by factors (T); under its constraints.

    Returns False, and leaves the weight as it was, if they do not let a scaled weight through: a mask does, a table
    of values does not. `wanted` is what should come of it, where a constraint was changed along with it.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    factors = factors.view(-1, *[1] * (weight.ndim - 1)) if factors.ndim == 1 else factors
    if not parametrize.is_parametrized(layer, "weight"):
        weight.data = weight.data * factors
        return True
    stacks = layer.parametrizations
    assert isinstance(stacks, nn.ModuleDict)
    latent = getattr(stacks["weight"], "original", None)
    if not isinstance(latent, Tensor) or latent.shape != weight.shape:
        return False
    expected, before = weight.detach() * factors if wanted is None else wanted, latent.detach().clone()
    latent.data.mul_(factors)
    scaled = layer.weight
    assert isinstance(scaled, Tensor)
    if (scaled.detach() - expected).abs().max() <= SAME * expected.abs().max():
        return True
    latent.data.copy_(before)
    return False


def _shared(model: nn.Module, layer: nn.Module) -> bool:
    """Whether another module has the same weight."""
    own = {id(parameter) for parameter in layer.parameters()}
    others = (
        module for module in model.modules() if module is not layer and not any(module is m for m in layer.modules())
    )
    return any(id(parameter) in own for module in others for parameter in module.parameters(recurse=False))


@contextmanager
def normalizing(model: nn.Module, statistics: Sequence[Statistics]) -> Iterator[None]:
    """While this lasts every channel that was normalised has, over each batch, the mean and deviation it should have.

    Whatever inputs the network is given, the layers behind then see what they would on average see of real ones.
    """
    norms = {path: m for path, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    buffers = {path: {k: v.clone() for k, v in norm.state_dict().items()} for path, norm in norms.items()}
    places = {known.norm: model.get_submodule(known.norm) for known in statistics}
    for known in statistics:
        norm = known.kind(len(known.mean))
        norm.weight.data.copy_(known.deviation)
        norm.bias.data.copy_(known.mean)
        model.set_submodule(known.norm, norm.train())
    for norm in norms.values():
        norm.train()
    try:
        yield
    finally:
        for path, place in places.items():
            model.set_submodule(path, place)
        for path, norm in norms.items():
            norm.load_state_dict(buffers[path])
            norm.eval()
