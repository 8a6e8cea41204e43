"""The seam between a method that constrains a weight, the training loop and the storage formats.

A `Constraint` is a torch parametrization with four more duties. Constraints stack on one weight in the order in which
they were applied, so methods compose without knowing each other: prune, then share, then code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dovetail.formats import Layout

C = TypeVar("C", bound="Constraint")


@dataclass(frozen=True)
class Step:
    """Where training stands: `index` optimiser steps of `total` are done."""

    index: int
    total: int

    @property
    def progress(self) -> float:
        """The fraction of training that is done, in [0, 1]."""
        return self.index / self.total


class Constraint(nn.Module):
    """One method's hold on one weight."""

    def forward(self, latent: Tensor) -> Tensor:
        """The effective weight from the latent one, with its gradient."""
        raise NotImplementedError

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The latent weight to start from, given the trained one."""
        return weight

    def penalty(self) -> Tensor:
        """A scalar added to the loss."""
        return torch.zeros(())

    def after_step(self, step: Step) -> None:
        """What happens between optimiser steps: a dual update, a schedule."""

    def freeze(self, layout: Layout) -> Layout:
        """How the weight is to be stored, given how the constraints below this one store it."""
        return layout


def constraints(model: nn.Module) -> Iterator[tuple[str, Constraint]]:
    """Every constraint in `model` with the name of the weight it holds, as in the unconstrained model's state_dict."""
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for tensor_name, stack in parametrizations.items():
            assert isinstance(stack, nn.ModuleList)
            for constraint in stack:
                if isinstance(constraint, Constraint):
                    yield f"{path}.{tensor_name}" if path else tensor_name, constraint


def constrain(model: nn.Module, name: str, constraint: Constraint) -> None:
    """Register `constraint` on the weight called `name`, on top of those it has."""
    path, _, tensor_name = name.rpartition(".")
    module = model.get_submodule(path)
    if parametrize.is_parametrized(module) and not parametrize.is_parametrized(module, tensor_name):
        # Its class has a property for each tensor held, and copies of the module share it, who do not hold this one.
        shared = type(module)
        own = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, own)
    parametrize.register_parametrization(module, tensor_name, constraint)


def find(model: nn.Module, name: str, kind: type[C]) -> C | None:
    """The constraint of one kind on the weight called `name`, if it has one."""
    return next((c for n, c in constraints(model) if n == name and isinstance(c, kind)), None)


def layouts(model: nn.Module) -> dict[str, Layout]:
    """How each constrained weight is to be stored, by the weight's name."""
    result: dict[str, Layout] = {}
    for name, constraint in constraints(model):
        result[name] = constraint.freeze(result.get(name, Layout()))
    return result


def bake(model: nn.Module) -> nn.Module:
    """A copy of `model` whose constrained weights are plain parameters holding the effective weights.

    So are those that torch's own parametrisations, or its older hooks for weight and spectral norms, compute. Layers
    that share a weight go on doing so where their constraints make the same of it.
    """
    plain = _without_hooks(model)
    baked: dict[object, nn.Parameter] = {}  # by the parameter that they were computed from
    for module in plain.modules():
        if not parametrize.is_parametrized(module):
            continue
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        weights = {tensor_name: getattr(module, tensor_name).detach().clone() for tensor_name in parametrizations}
        sources = {tensor_name: next(held.parameters(), held) for tensor_name, held in parametrizations.items()}
        # Not parametrize.remove_parametrizations: it deletes the property from the class, which a copy shares.
        del module.parametrizations
        module.__class__ = module.__class__.__bases__[0]
        for tensor_name, weight in weights.items():
            known = baked.setdefault(sources[tensor_name], nn.Parameter(weight))
            module.register_parameter(tensor_name, known if torch.equal(known, weight) else nn.Parameter(weight))
    return plain


def to_compress(model: nn.Module) -> nn.Module:
    """A copy in eval mode that methods can take: with parameters for the weights that torch's norms compute.

    Where other methods have been, their constraints stay.
    """
    copied = _without_hooks(model).eval()
    return copied if any(constraints(copied)) else bake(copied)


def _without_hooks(model: nn.Module) -> nn.Module:
    """A copy in which no hook computes a weight before each call, which was for training."""
    values = (value for module in model.modules() for value in vars(module).values())
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    copied = copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    for module in copied.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return copied
