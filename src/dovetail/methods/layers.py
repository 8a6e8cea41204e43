"""The layers of a network as methods see them: where they are, how large, and how to put another in their place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dovetail.errors import ModelError
from dovetail.methods.method import tied
from dovetail.workload.trace import trace

FACTORS = "dovetail_factors"
"""The attribute that marks a stack of layers that a method put in the place of one."""


@dataclass(frozen=True)
class Call:
    """A layer that the network calls: its path, the module, and the shapes of one input and its output, batch 1."""

    path: str
    layer: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def called(model: nn.Module, example: Tensor, accepts: Callable[[nn.Module], bool]) -> dict[str, Call]:
    """The layers that `accepts` takes, by path and in the order of their first call on `example` (1, ...).

    A layer that is constrained, that is a factor of a decomposed one, that shares a parameter with another one, that is
    never called as a module (its weight is read by other code), or whose class has a forward pass of its own (it may
    pad, say) is left out: it cannot be replaced.
    """
    held = tied(model)
    factors = tuple(path + "." for path, module in model.named_modules() if hasattr(module, FACTORS))
    found: dict[str, Call] = {}
    handles = []
    for path, module in model.named_modules():
        if path in held or path.startswith(factors) or parametrize.is_parametrized(module) or not accepts(module):
            continue
        if not type(module).forward.__module__.startswith("torch."):
            continue

        def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
            found.setdefault(path, Call(path, layer, tuple(args[0].shape), tuple(output.shape)))

        handles.append(module.register_forward_hook(note))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"the network does not run on an input of shape {tuple(example.shape)}: {reason}") from error
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def replace(model: nn.Module, path: str, stack: nn.Sequential) -> None:
    """Put `stack` in the place of the layer at `path`, in its mode, on its device and in its precision."""
    old = model.get_submodule(path)
    weight = next(old.parameters())
    setattr(stack, FACTORS, True)
    model.set_submodule(path, stack.to(weight.device, weight.dtype).train(old.training))


def macs(layer: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of a layer or a stack of layers on an input of this shape; nothing is computed."""
    return trace(_on_meta(layer), torch.empty(input_shape, device="meta")).macs


def parameters(layer: nn.Module) -> int:
    """The numbers in its parameters."""
    return sum(parameter.numel() for parameter in layer.parameters())


def stack(parts: Mapping[str, nn.Module]) -> nn.Sequential:
    """Layers in a row under these names."""
    result = nn.Sequential()
    for name, part in parts.items():
        result.add_module(name, part)
    return result


def _on_meta(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).to("meta")
