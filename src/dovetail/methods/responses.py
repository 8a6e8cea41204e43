"""What the layers of a network answer to real inputs, at sampled positions.

A position is one output pixel of a convolution, or one row of a linear layer's input. Two networks asked with the same
inputs and the same seed are sampled at the same positions, so their responses can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.methods.watching import after_layers, batches

POSITIONS = 10
"""Positions an image, at least (Zhang et al., TPAMI 2016, section 4.1)."""

SAMPLES = 10_000
"""Positions of all inputs together, at least: of few images more are taken, or what is fitted fits only these."""


class _Enough(Exception):  # noqa: N818 (no error)
    """Ends a forward pass once the last layer of interest has run."""


def positions_of(inputs: Tensor) -> int:
    """How many positions of each of these inputs (N, ...) are sampled."""
    return max(POSITIONS, math.ceil(SAMPLES / len(inputs)))


class Places:
    """Draws positions in what layers answer: other ones for each input, the same however inputs are split in batches.

    `count` of each input, or all that there are.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self._generators: dict[str | int, torch.Generator] = {}

    def draw(self, of: str | int, y: Tensor) -> Tensor:
        """Positions (N, count) for the next inputs, whose answers `y` are those of the layer or output `of`."""
        rows = _rows(y)
        if self.count >= rows.shape[1]:
            return torch.arange(rows.shape[1]).expand(len(rows), -1)
        generator = self._generators.setdefault(of, torch.Generator().manual_seed(self.seed))
        return torch.randint(rows.shape[1], (len(rows), self.count), generator=generator)


def outputs(
    model: nn.Module, paths: Iterable[str], inputs: Tensor, *, positions: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """For each layer (or stack of layers) its outputs (n, T) at sampled positions of every input."""
    places = Places(positions or positions_of(inputs), seed)

    def sample(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        rows = rows_of(layer, y)
        return _at(rows, places.draw(path, rows))

    return _collect(model, list(paths), inputs, sample)


def readings(model: nn.Module, paths: Iterable[str], inputs: Tensor) -> dict[str, Tensor]:
    """For each convolution or linear layer what it reads, (n, channels), at sampled positions of every input."""
    places = Places(positions_of(inputs))

    def sample(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1, x.shape[-1]) if isinstance(layer, nn.Linear) else x.flatten(2).transpose(1, 2)
        return _at(rows, places.draw(path, rows))

    return _collect(model, list(paths), inputs, sample)


def patches(model: nn.Module, path: str, inputs: Tensor, *, positions: int | None = None, seed: int = 0) -> Tensor:
    """What the convolution (groups 1) or linear layer at `path` sees at these positions: (n, S * R * S'), (n, F).

    Column order is that of weight.flatten(1), so that patches @ weight.flatten(1).T + bias are its outputs.
    """
    places = Places(positions or positions_of(inputs), seed)

    def sample(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x, y = with_positions(layer, x, y)
        return patches_at(layer, x, y, places.draw(path, y))

    return _collect(model, [path], inputs, sample)[path]


def patches_at(layer: nn.Module, x: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
    """The `patches` of a layer that makes y of x, at chosen positions (N, count)."""
    if isinstance(layer, nn.Conv2d):
        return _patches(layer, x, chosen, y.shape[-1]).flatten(0, 1)
    return _at(x, chosen)


def values(part: nn.Module, layers: Sequence[nn.Module], inputs: Tensor) -> list[Tensor]:
    """What `part` of a network in eval mode (`junctions.computing`) returns at sampled positions, each (n, T).

    `layers`: of each value the layer that it comes from, which says where its channels are.
    """
    places = Places(positions_of(inputs))
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for x in batches(part, inputs):
            rows = [rows_of(layer, y) for layer, y in zip(layers, part(x), strict=True)]
            found.append([_at(y, places.draw(number, y)) for number, y in enumerate(rows)])
    return [torch.cat(pieces) for pieces in zip(*found, strict=True)]


def with_positions(layer: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads and answers, those of a linear one as (N, positions, ...)."""
    return (x.reshape(len(x), -1, x.shape[-1]), rows_of(layer, y)) if isinstance(layer, nn.Linear) else (x, y)


def rows_of(layer: nn.Module, y: Tensor) -> Tensor:
    """Answers (N, T, ...) of a convolution or (N, ..., T) of a linear layer, or a row of them, as (N, positions, T)."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[-1]
    if isinstance(layer, nn.Linear) or y.ndim == 2:
        return y.reshape(len(y), -1, y.shape[-1])
    return y.flatten(2).transpose(1, 2)


def _collect(
    model: nn.Module,
    paths: list[str],
    inputs: Tensor,
    sample: Callable[[str, nn.Module, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """What `sample` takes of each layer's first call, over all inputs."""
    found: dict[str, list[Tensor]] = {path: [] for path in paths}
    current: dict[str, Tensor] = {}

    def note(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        if path not in current:
            current[path] = sample(path, layer, x, y)
        if len(current) == len(found):
            raise _Enough

    training = model.training
    model.eval()
    try:
        for x in batches(model, inputs):
            current.clear()
            with suppress(_Enough):
                after_layers(model, paths, x, note)
            for path, rows in current.items():
                found[path].append(rows)
    finally:
        model.train(training)
    return {path: torch.cat(parts) for path, parts in found.items()}


def _at(y: Tensor, chosen: Tensor) -> Tensor:
    """What `y` has at the positions (N, count) chosen: (N * count, T)."""
    return _rows(y)[torch.arange(len(y))[:, None], chosen].flatten(0, 1)


def _rows(y: Tensor) -> Tensor:
    """(N, T, P, Q) or (N, L, T) or (N, T) to (N, positions, T)."""
    if y.ndim == 4:
        return y.flatten(2).transpose(1, 2)
    return y.flatten(1, -2) if y.ndim > 2 else y[:, None]


def _patches(layer: nn.Conv2d, x: Tensor, chosen: Tensor, width: int) -> Tensor:
    """im2col of the chosen output pixels (N, count) only, numbered row by row `width` to a row: (N, count, S R S')."""
    if isinstance(layer.padding, str):
        whole = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) if layer.padding == "same" else (0, 0) for total in whole]
    else:
        sides = [(side, side) for side in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, (*sides[1], *sides[0]), mode=mode)
    rows, columns = (
        first[:, :, None] * layer.stride[axis] + torch.arange(layer.kernel_size[axis]) * layer.dilation[axis]
        for axis, first in enumerate((chosen // width, chosen % width))
    )
    picture = torch.arange(len(x))[:, None, None, None]
    taps = x.movedim(1, -1)[picture, rows[:, :, :, None], columns[:, :, None, :]]
    return taps.movedim(-1, 2).flatten(2)
