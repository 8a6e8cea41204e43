"""How the weights of a layer are handed to the engine: dense, or as they are stored where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Codebook, Float, Format
from dovetail.kernels.choice import BLOCKS, DENSE, candidates, times_of
from dovetail.kernels.convolution import Window
from dovetail.kernels.stored import Packer, Stored, block_density, stored
from dovetail.runtime.engine.layers import Convolution

CHOICES = ("measured", "dense", "stored")
"""The kernel that was fastest on this machine for one image; all decoded; slots for few nonzeros, else fewest bytes."""

SPARSE = 0.2
"""Share of nonzeros up to which slots are usually the fastest."""

FEW = 16
"""Different integers up to which they are worth a code."""

SAMPLE = 4096
"""Weights among which so many different ones are usually found, if there are."""


@dataclass(frozen=True, eq=False)
class Packed:
    """`weights` times `scale`, of one number for each output or one for all, are the layer's."""

    weights: _native.Weights
    scale: NDArray[np.float32]
    why: str = ""


Pack = Callable[[Convolution, tuple[int, int]], Packed]
"""For a layer and the rows and columns of what it reads."""


class Packing:
    """Packs the weights of a network's layers; `tensors` are those of the artefact, by name.

    `kernels`: those that were chosen already, as `kernels` of another Packing says.
    """

    def __init__(
        self,
        tensors: Mapping[str, Format],
        choose: str,
        threads: int,
        packer: Packer = _native,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        if choose not in CHOICES:
            raise DovetailError(f"A session's kernels are chosen as one of {', '.join(CHOICES)}, got {choose!r}.")
        self.tensors, self.choose, self.threads, self.packer = tensors, choose, threads, packer
        self.kernels = dict(kernels or {})
        """What was chosen, by the value that the layer makes."""

    def __call__(self, layer: Convolution, image: tuple[int, int]) -> Packed:
        if layer.middle is not None:
            outputs, inputs, rows, columns = layer.weights.shape
            signs = (layer.weights > 0).astype(np.uint8).reshape(-1)
            packed = self.packer.pack_signs(signs, True, 1, layer.middle, (outputs, inputs, rows, columns, 1))
            return Packed(packed, np.ones(1, np.float32))
        form, why = self._form(layer, image)
        if form is None:
            weights, scale = self.packer.pack(np.ascontiguousarray(layer.weights), layer.groups), np.ones(1, np.float32)
        else:
            weights, scale = form.pack(self.packer), form.scale
        self.kernels[layer.output] = "dense" if form is None else form.kernel
        return Packed(weights, scale, why)

    def _form(self, layer: Convolution, image: tuple[int, int]) -> tuple[Stored | None, str]:
        """How the weights are stored for the kernel that is chosen, None as they are; and why."""
        known = "dense" if self.choose == "dense" else self.kernels.get(layer.output)
        format = None if known == "dense" else self._format(layer)
        if format is None:
            return None, ""
        integers, groups, shape = layer.weights.dtype == np.int8, layer.groups, layer.weights.shape
        if known is not None:
            return stored(format, known, integers=integers, groups=groups, shape=shape), ""
        able = candidates(format, integers=integers, groups=groups, shape=shape)
        if set(able) <= {"dense"}:
            return None, ""
        if self.choose == "stored":
            slots = "slots" in able and format.density <= SPARSE
            tried = ["slots"] if slots else [kernel for kernel in able if kernel != "slots"]
            forms = [stored(format, kernel, integers=integers, groups=groups, shape=shape) for kernel in tried]
            return min(forms, key=lambda form: form.pack().bytes), "as stored"
        window = _window(layer, image)
        times = times_of(format, 1, image, window, integers=integers, threads=self.threads, shape=shape)
        ranked = sorted(times, key=times.__getitem__)
        why = ", ".join(f"{kernel} {1e6 * times[kernel]:.1f}" for kernel in ranked) + " us"
        if ranked[0] == "dense":
            return None, why
        return stored(format, ranked[0], integers=integers, groups=groups, shape=shape), why

    def _format(self, layer: Convolution) -> Format | None:
        """A form with the layer's weights in the layer's order, if there is one that may be better than dense."""
        weights = layer.weights
        if weights.dtype == np.int8:
            zeros = np.count_nonzero(weights) <= DENSE * weights.size or block_density(weights, integers=True) <= BLOCKS
            if not zeros and np.unique(weights.reshape(-1)[:SAMPLE]).size > FEW:
                return None  # at a glance
            different = np.unique(weights)
            if not zeros and different.size > FEW:
                return None
            return Codebook.encode(weights.astype(np.float32), table=different)
        format = self.tensors.get(layer.weight)
        if format is None or isinstance(format, Float) or format.shape[:1] != weights.shape[:1]:
            return None
        same = np.array_equal(format.decode().reshape(-1), weights.reshape(-1))  # a graph may turn what it reads
        return format if same else None


def _window(layer: Convolution, image: tuple[int, int]) -> Window:
    """With as much padding below and on the right as the layer's output needs."""
    rows, columns, *numbers = layer.window
    stride, dilation, before = numbers[:2], numbers[2:4], numbers[4:]
    places = layer.places
    after = [
        max(0, (places[d] - 1) * stride[d] + (size - 1) * dilation[d] + 1 - image[d] - before[d])
        for d, size in enumerate((rows, columns))
    ]
    padding = (before[0], before[1], after[0], after[1])
    return Window(
        stride=(stride[0], stride[1]), dilation=(dilation[0], dilation[1]), padding=padding, groups=layer.groups
    )
