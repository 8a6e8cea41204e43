"""How the weights of a layer are handed to the engine."""

from __future__ import annotations

import numpy as np

from dovetail import _native
from dovetail.formats import Format
from dovetail.runtime.engine.layers import Convolution


def pack(layer: Convolution, stored: Format | None) -> _native.Weights:
    """Packed for the kernels; `stored` is the form that they have in the artefact, None if they come from elsewhere."""
    return _native.pack(np.ascontiguousarray(layer.weights), layer.groups)
