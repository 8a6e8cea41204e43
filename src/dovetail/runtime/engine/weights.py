"""How the weights of a layer are handed to the engine: dense, or as they are stored where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail import _native
from dovetail.errors import DovetailError
from dovetail.formats import Codebook, Dense, Float, Format
from dovetail.kernels.choice import BLOCKS, DENSE, Reading, candidates, times_of, times_of_dense
from dovetail.kernels.convolution import Window
from dovetail.kernels.stored import Packer, Stored, block_density, plain, stored
from dovetail.runtime.engine.layers import Convolution

CHOICES = ("measured", "dense", "stored")
"""The kernel that was fastest on this machine for one image; all decoded; slots for few nonzeros, else fewest bytes."""

SPARSE = 0.2
"""Share of nonzeros up to which slots are usually the fastest."""

FEW = 16
"""Different integers up to which they are worth a code."""

LARGE = 1 << 14
"""Weights of a layer of one vector, from which on it is worth trying not to read those of inputs that are zero."""

SAMPLE = 4096
"""Weights among which so many different ones are usually found, if there are."""


@dataclass(frozen=True, eq=False)
class Packed:
    """`weights` times `scale`, of one number for each output or one for all, are the layer's."""

    weights: _native.Weights
    scale: NDArray[np.float32]
    why: str = ""


Pack = Callable[[Convolution, tuple[int, int], bool], Packed]
"""For a layer, the rows and columns of what it reads, and whether many of that may be expected to be zero."""


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

    def __call__(self, layer: Convolution, image: tuple[int, int], zeros: bool) -> Packed:
        if layer.middle is not None:
            outputs, inputs, rows, columns = layer.weights.shape
            signs = (layer.weights > 0).astype(np.uint8).reshape(-1)
            packed = self.packer.pack_signs(signs, True, 1, layer.middle, (outputs, inputs, rows, columns, 1))
            return Packed(packed, np.ones(1, np.float32))
        vector = layer.places == (1, 1) and layer.groups == 1 and layer.weights.size >= LARGE
        form, why = self._form(layer, image, zeros and vector)
        if form is None:
            weights, scale = self.packer.pack(np.ascontiguousarray(layer.weights), layer.groups), np.ones(1, np.float32)
        else:
            weights, scale = form.pack(self.packer), form.scale
        self.kernels[layer.output] = "dense" if form is None else form.kernel
        return Packed(weights, scale, why)

    def _form(self, layer: Convolution, image: tuple[int, int], zeros: bool) -> tuple[Stored | None, str]:
        """How the weights are stored for the kernel that is chosen, None as they are; and why.

        `zeros`: it reads one vector, many of whose numbers may be zero.
        """
        known = "dense" if self.choose == "dense" else self.kernels.get(layer.output)
        if known == "dense":
            return None, ""
        format, integers, shape = self._format(layer), layer.weights.dtype == np.int8, layer.weights.shape

        def form(kernel: str) -> Stored:
            if format is None:
                return plain(layer.weights, kernel)
            return stored(format, kernel, integers=integers, groups=layer.groups, shape=shape)

        if known is not None:
            return form(known), ""
        reading = Reading(1, image, _window(layer, image), integers, zeros and self.choose == "measured")
        if format is None:
            if not reading.zeros:
                return None, ""
            times = times_of_dense(shape, reading, threads=self.threads)
        else:
            able = candidates(format, integers=integers, groups=layer.groups, shape=shape, zeros=reading.zeros)
            if set(able) <= {"dense"}:
                return None, ""
            if self.choose == "stored":
                slots = "slots" in able and format.density <= SPARSE
                tried = ["slots"] if slots else [kernel for kernel in able if kernel != "slots"]
                return min(map(form, tried), key=lambda one: one.pack().bytes), "as stored"
            times = times_of(format, reading, threads=self.threads, shape=shape)
        ranked = sorted(times, key=times.__getitem__)
        why = ", ".join(f"{kernel} {1e6 * times[kernel]:.1f}" for kernel in ranked) + " us"
        return None if ranked[0] == "dense" else form(ranked[0]), why

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
        floats = isinstance(format, Dense) and isinstance(format.values, Float)
        if floats and np.count_nonzero(weights) > BLOCKS * weights.size:
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
