"""An encoder or more for every listed format, and tensors whose values lie on a grid that all of them hold exactly."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dovetail.formats import (
    Affine,
    Bitmap,
    BlockCSC,
    Codebook,
    Dense,
    Entropy,
    FixedPoint,
    Float,
    Format,
    RelativeIndex,
)

Encoder = Callable[[NDArray[Any]], Format]

few = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
"""As many examples as a suite of hundreds of tests has time for."""

GRID = np.arange(-3, 4) * np.float32(0.25)
TABLE = partial(Codebook.encode, table=GRID)
AFFINE = partial(Affine.encode, bits=3, scale=0.25)
HALF = partial(Float.encode, dtype="float16")
FIXED = partial(FixedPoint.encode, bits=4, fraction=2)

ENCODERS: dict[type[Format], tuple[Encoder, ...]] = {
    Float: tuple(partial(Float.encode, dtype=dtype) for dtype in ("float32", "float16", "bfloat16")),
    Affine: (
        AFFINE,
        partial(Affine.encode, bits=8, scale=0.25, symmetric=False, zero_point=100, dtype="float16"),
        partial(Affine.encode, bits=4, scale=0.25, group=3),
        partial(Affine.encode, bits=5, scale=0.25, group=32, symmetric=False, zero_point=3),
    ),
    FixedPoint: (
        FIXED,
        partial(FixedPoint.encode, bits=13, fraction=9),
        partial(FixedPoint.encode, bits=24, fraction=2),
    ),
    Codebook: (
        TABLE,
        partial(Codebook.encode, table=GRID, dtype="float32", code_bits=8),
        partial(Codebook.encode, table=np.append(GRID, 1 / 3)),
    ),
    Dense: tuple(partial(Dense.encode, values=values) for values in (HALF, TABLE, AFFINE, FIXED)),
    Bitmap: tuple(partial(Bitmap.encode, values=values) for values in (HALF, TABLE)),
    RelativeIndex: tuple(
        partial(RelativeIndex.encode, values=values, index_bits=bits)
        for values, bits in ((TABLE, 1), (HALF, 2), (FIXED, 5), (AFFINE, 11), (TABLE, 16))
    ),
    BlockCSC: (
        partial(BlockCSC.encode, values=TABLE),
        partial(BlockCSC.encode, values=HALF, processing_elements=2, index_bits=1),
        partial(BlockCSC.encode, values=FIXED, processing_elements=3, index_bits=13),
    ),
    Entropy: tuple(
        lambda tensor, inner=inner, coder=coder: Entropy.encode(inner(tensor), coder)
        for inner, coder in (
            (TABLE, "huffman"),
            (TABLE, "ans"),
            (partial(Float.encode, dtype="float32"), "smallest"),
            (partial(Float.encode, dtype="bfloat16"), "huffman"),
            (partial(FixedPoint.encode, bits=13, fraction=9), "ans"),
            (partial(Affine.encode, bits=4, scale=0.25, symmetric=False, zero_point=3), "smallest"),
            (partial(Dense.encode, values=HALF), "ans"),
            (partial(Bitmap.encode, values=TABLE), "ans"),
            (partial(RelativeIndex.encode, values=TABLE, index_bits=3), "huffman"),
            (partial(RelativeIndex.encode, values=HALF, index_bits=14), "ans"),
            (partial(BlockCSC.encode, values=TABLE, processing_elements=4), "smallest"),
        )
    ),
}

CASES = [(format, encoder) for format, encoders in ENCODERS.items() for encoder in encoders]
CASE_NAMES = [f"{format.name}-{number}" for format, encoders in ENCODERS.items() for number in range(len(encoders))]

SHAPES = ((), (0,), (1,), (3, 0, 2), (7,), (1, 1), (65,), (5, 13), (130, 3), (4, 3, 5, 7))


def on_grid(shape: tuple[int, ...], density: float, seed: int = 0) -> NDArray[np.float32]:
    """A tensor with values of `GRID`, none of the kept ones zero."""
    rng = np.random.default_rng(seed)
    values = rng.choice(GRID[GRID != 0], shape) * (rng.random(shape) < density)
    return np.asarray(values, np.float32) + np.float32(0)


def tensors() -> st.SearchStrategy[NDArray[np.float32]]:
    """Tensors of any small shape with values of `GRID`, many of them zero."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
    integers = hnp.arrays(np.int8, shapes, elements=st.integers(-3, 3), fill=st.just(0))
    return integers.map(lambda array: np.asarray(array * np.float32(0.25), np.float32))
