"""Matrix products of activations (rows, inputs) by weights (outputs, inputs), float32 or uint8 by int8.

The engine computes them as convolutions by one pixel: every row is one.
"""

import numpy as np

from dovetail.kernels.convolution import Convolution, Window
from dovetail.kernels.epilogue import Array, Codes, Epilogue
from dovetail.kernels.stored import Stored


def product(x: Array, weights: Array, epilogue: Epilogue, codes: Codes | None = None) -> Array:
    """The reference: x times the transpose of weights. Sums of integers are exact, of floats in float64."""
    sums = (x.astype(np.float64) - (codes.zero if codes else 0)) @ weights.astype(np.float64).T
    return epilogue(sums.astype(np.int32 if codes else np.float32))


class Product:
    """The engine's product for so many rows."""

    def __init__(
        self,
        rows: int,
        weights: Array | Stored,
        epilogue: Epilogue,
        codes: Codes | None = None,
        *,
        level: str = "",
        threads: int = 1,
    ) -> None:
        shape = (rows, 1, 1, weights.shape[1])
        as_image = weights if isinstance(weights, Stored) else weights[:, :, None, None]
        self._convolution = Convolution(shape, as_image, Window(), epilogue, codes, level=level, threads=threads)
        self.run = self._convolution.run

    def __call__(self, x: Array) -> Array:
        return self._convolution(x[:, None, None])[:, 0, 0]
