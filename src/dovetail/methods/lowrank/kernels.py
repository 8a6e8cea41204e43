"""What the methods share that decompose a convolution's kernel: which layers, which parts a stack is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods.decomposition import Decomposition, Setting
from dovetail.methods.layers import parameters
from dovetail.methods.lowrank.hooi import Array
from dovetail.methods.method import Context


@dataclass(frozen=True, kw_only=True)
class KernelDecomposition(Decomposition):
    """Puts 1 x 1, spatial, 1 x 1 convolutions in the place of one whose kernel is larger than 1 x 1 (groups 1)."""

    @abstractmethod
    def structure(self, layer: nn.Conv2d, setting: Setting) -> nn.Sequential:
        """The stack with any values. RecipeError if the setting is impossible."""

    @abstractmethod
    def values(self, weight: Array, setting: Setting) -> dict[str, Array]:
        """The weight of each part of the stack, by its name, for a kernel `weight` (T, S, R, S')."""

    @abstractmethod
    def candidates(self, layer: nn.Conv2d) -> list[Setting]:
        """The settings worth trying, whatever they cost."""

    def accepts(self, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Conv2d) and layer.groups == 1 and max(layer.kernel_size) > 1

    def options(self, layer: nn.Module) -> list[Setting]:
        assert isinstance(layer, nn.Conv2d)
        with torch.device("meta"):
            sizes = [(parameters(self.structure(layer, setting)), setting) for setting in self.candidates(layer)]
        smaller = [row for row in sizes if row[0] < parameters(layer)]
        return [setting for _, setting in sorted(smaller, key=lambda row: -row[0])]

    def build(self, layer: nn.Module, setting: Setting) -> nn.Sequential:
        assert isinstance(layer, nn.Conv2d)
        stack = self.structure(layer, setting)
        kernel = layer.weight.detach().cpu().double().numpy()
        for name, value in self.values(kernel, setting).items():
            part = stack.get_submodule(name)
            assert isinstance(part, nn.Conv2d)
            part.weight.data.copy_(torch.from_numpy(np.array(value, order="C")).view_as(part.weight))
        if layer.bias is not None:
            last = stack[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            last.bias.data.copy_(layer.bias.detach())
        return stack

    def solve(self, model: nn.Module, path: str, settings: list[Setting], context: Context) -> list[nn.Sequential]:
        if not context.rebuilding:
            return super().solve(model, path, settings, context)
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Conv2d)
        return [self.structure(layer, setting) for setting in settings]

    def numbers(self, setting: Setting, largest: Mapping[str, int]) -> list[int]:
        """The whole numbers that `setting` has for exactly these keys, none above its `largest`.

        Raises:
            RecipeError: another key, one missing, or a number out of range.
        """
        if set(setting) != set(largest):
            raise RecipeError(f"{self.name}: a setting has the keys {sorted(largest)}, got {sorted(setting)}")
        for key, most in largest.items():
            value = setting[key]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise RecipeError(f"{self.name}: {key} must be a whole number from 1 to {most} here, got {value!r}")
        return [setting[key] for key in largest]


def pointwise(layer: nn.Conv2d, inputs: int, outputs: int, *, last: bool = False) -> nn.Conv2d:
    """A 1 x 1 convolution; the last of a stack has a bias if `layer` has."""
    return nn.Conv2d(inputs, outputs, 1, bias=last and layer.bias is not None, dtype=layer.weight.dtype)


def spatial(layer: nn.Conv2d, inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """A convolution over the positions that `layer` goes over, without bias.

    That the 1 x 1 convolution before it has no bias is what lets the padding move here.
    """
    return nn.Conv2d(
        inputs, outputs, _pair(layer.kernel_size), _pair(layer.stride),
        layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        _pair(layer.dilation), groups, bias=False, padding_mode=layer.padding_mode, dtype=layer.weight.dtype,
    )  # fmt: skip


def along(layer: nn.Conv2d, axis: int, channels: int) -> nn.Conv2d:
    """A depthwise convolution that goes along one axis (0 down, 1 across) as `layer` does, and leaves the other."""

    def one(pair: tuple[int, ...], neutral: int) -> tuple[int, int]:
        return (pair[0], neutral) if axis == 0 else (neutral, pair[1])

    return nn.Conv2d(
        channels, channels, one(layer.kernel_size, 1), one(layer.stride, 1),
        layer.padding if isinstance(layer.padding, str) else one(layer.padding, 0),
        one(layer.dilation, 1), channels, bias=False, padding_mode=layer.padding_mode, dtype=layer.weight.dtype,
    )  # fmt: skip


def rounded(rank: float, multiple: int, most: int) -> int:
    """The multiple of `multiple` nearest to `rank`, at least one; where even that is above `most`, `most`."""
    return min(most, max(1, round(rank / multiple)) * multiple)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
