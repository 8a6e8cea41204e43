"""What the layers of a network see and answer, all layers in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dovetail.errors import DataError
from dovetail.methods.quantize.fold_norms import Layer
from dovetail.methods.responses import Places, patches_at, positions_of, rows_of, with_positions
from dovetail.methods.watching import after_layers, require_finite_inputs

VALUES = 2**16
"""Numbers of a layer's input that are kept, about."""


@dataclass(frozen=True)
class Seen:
    """What one layer saw over all inputs."""

    low: float
    high: float
    values: Tensor
    """A sample of what it reads (V)."""
    patches: Tensor | None
    """Rows that its weight, flattened, is multiplied by (n, F), in its first call; None of grouped layers."""
    places: Tensor | None
    """Where in the outputs those rows belong, for each input (N, n / N); None where there could be none."""
    mean: Tensor
    """Of its outputs, by channel (T)."""
    deviation: Tensor


@dataclass
class _Gathered:
    low: float = float("inf")
    high: float = float("-inf")
    values: list[Tensor] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    count: int = 0
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0


def observe(model: nn.Module, paths: Sequence[str], inputs: Tensor) -> dict[str, Seen]:
    """What those of the layers that are called see of `inputs` (N, ...), which go through in the mode they are in.

    Raises:
        DataError: the inputs, or what a layer makes of them, are not finite.
    """
    if not len(inputs):
        raise DataError("calibration needs at least one input, got none")
    require_finite_inputs(inputs)
    found: dict[str, _Gathered] = {}
    called: set[str] = set()  # in the pass that is running
    each = max(1, VALUES // len(inputs))
    places = Places(positions_of(inputs))

    def note(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        if not torch.isfinite(y).all():
            raise DataError(f"layer {path!r} answers the calibration data with NaN or infinity")
        held = found.setdefault(path, _Gathered())
        held.low, held.high = min(held.low, float(x.min())), max(held.high, float(x.max()))
        flat = x.reshape(len(x), -1)
        chosen = torch.randint(flat.shape[1], (min(each, flat.shape[1]),), generator=torch.Generator().manual_seed(0))
        held.values.append(flat[:, chosen].flatten())
        if isinstance(layer, nn.Conv2d | nn.Linear) and path not in called:
            called.add(path)
            read, answer = with_positions(layer, x, y)
            chosen = places.draw(path, answer)
            held.places.append(chosen)
            if isinstance(layer, nn.Linear) or layer.groups == 1:
                held.patches.append(patches_at(layer, read, answer, chosen))
        rows = rows_of(layer, y).double().flatten(0, 1)
        held.count += len(rows)
        held.sums, held.squares = held.sums + rows.sum(0), held.squares + rows.square().sum(0)

    layers = [path for path in paths if isinstance(model.get_submodule(path), Layer)]
    handle = model.register_forward_pre_hook(lambda *_: called.clear())
    try:
        after_layers(model, layers, inputs, note)
    finally:
        handle.remove()
    return {path: _summary(found[path]) for path in paths if path in found}


def _summary(held: _Gathered) -> Seen:
    assert isinstance(held.sums, Tensor) and isinstance(held.squares, Tensor)
    mean = held.sums / held.count
    deviation = (held.squares / held.count - mean.square()).clamp_min(0).sqrt()
    patches, places = (torch.cat(parts) if parts else None for parts in (held.patches, held.places))
    return Seen(held.low, held.high, torch.cat(held.values), patches, places, mean, deviation)
