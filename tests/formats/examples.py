"""An encoder or more for every listed format, and tensors whose values lie on a grid that all of them hold exactly."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dovetail.formats import (
    NM,
    Affine,
    Binary,
    Bitmap,
    BlockCSC,
    Codebook,
    Dense,
    Entropy,
    FixedPoint,
    Float,
    Format,
    KernelPatterns,
    PowerOfTwo,
    Product,
    RelativeIndex,
    Repeated,
    Ternary,
)
from dovetail.formats.format import finite_floats

Encoder = Callable[[NDArray[Any]], Format]

few = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
"""As many examples as a suite of hundreds of tests has time for."""

GRID = np.arange(-3, 4) * np.float32(0.25)
TABLE = partial(Codebook.encode, table=GRID)
AFFINE = partial(Affine.encode, bits=3, scale=0.25)
HALF = partial(Float.encode, dtype="float16")
FIXED = partial(FixedPoint.encode, bits=4, fraction=2)

POWERS = partial(PowerOfTwo.encode, exponents=(-5, 0))


@dataclass(frozen=True)
class Only:
    """An encoder of what only some tensors are: those that `fit` makes of any."""

    encoder: Encoder
    fit: Callable[[NDArray[Any]], NDArray[np.float32]]

    def __call__(self, tensor: NDArray[Any]) -> Format:
        return self.encoder(tensor)


def fitted(encode: Encoder, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """A tensor of the same shape that `encode` holds exactly."""
    return encode.fit(tensor) if isinstance(encode, Only) else tensor


def powers(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """0.75 becomes 0.5, the other values of `GRID` being powers of two."""
    return np.where(np.abs(tensor) == 0.75, np.copysign(np.float32(0.5), tensor), tensor)


def signs(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """Every value becomes +-0.5; a tensor of zeros stays."""
    return np.where(tensor < 0, np.float32(-0.5), np.float32(0.5)) if tensor.any() else tensor


def thirds(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """Every positive value becomes 0.75, every negative one -0.25."""
    return np.select([tensor > 0, tensor < 0], [np.float32(0.75), np.float32(-0.25)], np.float32(0))


def by_row(fit: Callable[[NDArray[Any]], NDArray[np.float32]]) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Every index of the first dimension fitted by itself, and the second one's values doubled."""

    def rows(tensor: NDArray[Any]) -> NDArray[np.float32]:
        if not tensor.shape:
            return fit(tensor)
        fits = [fit(row) * np.float32(1 + (index == 1)) for index, row in enumerate(tensor)]
        return np.asarray(fits, np.float32).reshape(tensor.shape)

    return rows


def where_rows(encode: Encoder) -> Encoder:
    """`encode` with a scale for each index of the first dimension, where there is one."""
    return lambda tensor: encode(tensor, **({"axis": 0} if np.asarray(tensor).shape else {}))


def halves(tensor: NDArray[Any]) -> NDArray[np.float32]:
    """The second half of the first dimension becomes the first, where it has halves."""
    if not tensor.shape or len(tensor) % 2:
        return tensor
    return np.concatenate([tensor[: len(tensor) // 2]] * 2)


def n_of_m(values: Encoder, n: int, m: int) -> Only:
    """Of every m elements of a row those after the n-th nonzero become zero."""

    def thin(tensor: NDArray[Any]) -> NDArray[np.float32]:
        flat = tensor.reshape(len(tensor) if tensor.ndim else 1, int(np.prod(tensor.shape[1:])))
        columns = flat.shape[1]
        groups = np.pad(flat, ((0, 0), (0, -columns % m))).reshape(len(flat), -(-columns // m), m)
        groups = groups * (np.cumsum(groups != 0, axis=2) <= n)
        return groups.reshape(len(flat), columns + -columns % m)[:, :columns].reshape(tensor.shape)

    return Only(partial(NM.encode, values=values, n=n, m=m), thin)


TURN = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)


def product(values: Encoder, *, shared: bool) -> Encoder:
    """Any tensor as rows of 3 elements, turned, times the matrix that turns them back."""

    def encode(tensor: NDArray[Any]) -> Format:
        floats = finite_floats(tensor)
        rows, columns = len(floats) if floats.ndim else 1, int(np.prod(floats.shape[1:]))
        padded = np.pad(floats.reshape(rows, columns), ((0, 0), (0, -columns % 3)))
        coefficients = (padded.reshape(-1, 3) @ TURN.T).reshape(-1, 3) + np.float32(0)
        basis = TURN
        if not shared:
            coefficients = coefficients.reshape(rows, -(-columns // 3), 3)
            basis = np.broadcast_to(TURN, (rows, 3, 3))
        return Product.encode(floats, coefficients=values(coefficients), basis=Dense.encode(basis, FIXED))

    return encode


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
    PowerOfTwo: (Only(POWERS, powers), Only(PowerOfTwo.encode, powers)),
    Ternary: (
        Only(Ternary.encode, thirds),
        Only(partial(Ternary.encode, symmetric=True), lambda tensor: np.sign(tensor) * np.float32(0.3)),
        Only(where_rows(Ternary.encode), by_row(thirds)),
    ),
    Binary: (Only(Binary.encode, signs), Only(where_rows(Binary.encode), by_row(signs))),
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
    NM: (n_of_m(TABLE, 2, 4), n_of_m(HALF, 1, 4), n_of_m(FIXED, 3, 3), n_of_m(AFFINE, 17, 61), n_of_m(TABLE, 1, 1)),
    KernelPatterns: (partial(KernelPatterns.encode, values=TABLE), partial(KernelPatterns.encode, values=HALF)),
    Product: (
        product(partial(Dense.encode, values=TABLE), shared=True),
        product(partial(Bitmap.encode, values=AFFINE), shared=False),
        product(partial(RelativeIndex.encode, values=HALF, index_bits=3), shared=False),
    ),
    Repeated: (
        partial(Repeated.encode, block=partial(Dense.encode, values=TABLE)),
        Only(partial(Repeated.encode, block=partial(Bitmap.encode, values=HALF)), halves),
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
            (partial(KernelPatterns.encode, values=TABLE), "ans"),
            (product(partial(Bitmap.encode, values=HALF), shared=False), "smallest"),
            (partial(Repeated.encode, block=partial(Dense.encode, values=TABLE)), "huffman"),
        )
    )
    + tuple(
        Only(lambda tensor, inner=inner: Entropy.encode(inner(tensor), "ans"), inner.fit)
        for inner in (
            n_of_m(TABLE, 2, 4),
            Only(POWERS, powers),
            Only(Ternary.encode, thirds),
            Only(Binary.encode, signs),
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
