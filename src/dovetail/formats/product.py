"""A tensor kept as a product of two smaller ones.

Chen et al. SmartDeal: Re-Modeling Deep Network Weights for Efficient Inference and Training. TNNLS 2022.
arXiv:2101.01163 (a basis for each slice); Li, Hanson, Li, Chen. PENNI: Pruned Kernel Sharing for Efficient CNN
Inference. ICML 2020 (one basis for all kernels of a layer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import FormatError
from dovetail.formats.format import Array, Floats, Format, Source, Stream, finite_floats
from dovetail.formats.header import MAX_ELEMENTS, Header, Json, read_header, read_shape
from dovetail.formats.packing import UInts
from dovetail.formats.structures import STRUCTURES, read_structure

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Product(Format):
    """`coefficients` times `basis`, each in a structure of its own: of shapes (slices, m, k) and (slices, k, n), or
    (..., k) and (k, n) where all share one basis.

    Every index of the first dimension of `shape` gets an equal share of the product's elements, in C order, of which
    those too many are left out: a row of 512 elements may be kept as 171 x 3.

    bits = bits of the coefficients + bits of the basis
    """

    name: ClassVar[str] = "product"
    shape: tuple[int, ...]
    coefficients: Format
    basis: Format

    def __post_init__(self) -> None:
        if not isinstance(self.coefficients, STRUCTURES) or not isinstance(self.basis, STRUCTURES):
            raise FormatError(
                "Product's coefficients and basis should be structures, as Dense or Bitmap, not entropy coded; got "
                f"{self.coefficients.describe()} and {self.basis.describe()}"
            )
        left, right = self.coefficients.shape, self.basis.shape
        shared = len(right) == 2 and len(left) >= 1
        sliced = len(right) == len(left) == 3 and left[0] == right[0]
        if not (shared or sliced) or left[-1] != right[-2] or not left[-1]:
            raise FormatError(
                "Product takes coefficients (slices, m, k) and a basis (slices, k, n), or (..., k) and (k, n), k at "
                f"least 1; got {left} and {right}"
            )
        elements, (rows, columns) = math.prod(left[:-1]) * right[-1], _matrix(self.shape)
        if elements > MAX_ELEMENTS or ((elements % rows or elements // rows < columns) if rows else elements):
            raise FormatError(
                f"coefficients {left} times a basis {right} make {elements} elements, which do not fill the {rows} "
                f"rows of a tensor of shape {self.shape} evenly"
            )

    @classmethod
    def encode(cls, tensor: NDArray[Any], *, coefficients: Format, basis: Format) -> Self:
        """The product of the given parts, which the tensor must be, exactly: `partial(Product.encode,
        coefficients=..., basis=...)` is a ready-made structure for a layout.

        Raises FormatError on NaN, infinity, shapes that do not fit, and a tensor that is not `ordered_product` of the
        decoded parts.
        """
        floats = finite_floats(tensor)
        stored = cls(floats.shape, coefficients, basis)
        different = np.count_nonzero(stored.decode() != floats)
        if different:
            raise FormatError(
                f"{different} of {floats.size} elements of the tensor are not what its coefficients and basis "
                "multiply to; make it by `ordered_product` of the decoded parts"
            )
        return stored

    def decode(self) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            product: Floats = ordered_product(self.coefficients.decode(), self.basis.decode())
        rows, columns = _matrix(self.shape)
        if not rows:
            return np.zeros(self.shape, np.float32)
        return np.ascontiguousarray(product.reshape(rows, -1)[:, :columns]).reshape(self.shape)

    def streams(self) -> dict[str, Stream]:
        return _prefixed("coefficients", self.coefficients.streams()) | _prefixed("basis", self.basis.streams())

    def tables(self) -> dict[str, Array]:
        return _prefixed("coefficients", self.coefficients.tables()) | _prefixed("basis", self.basis.tables())

    def arrays(self) -> dict[str, Array]:
        return _prefixed("coefficients", self.coefficients.arrays()) | _prefixed("basis", self.basis.arrays())

    def header(self) -> dict[str, Json]:
        return {
            "format": self.name,
            "shape": list(self.shape),
            "coefficients": self.coefficients.header(),
            "basis": self.basis.header(),
        }

    @classmethod
    def read(cls, header: Header, source: Source) -> Self:
        shape = read_shape(header)
        coefficients = read_structure(read_header(header, "coefficients"), _Part(source, "coefficients"))
        return cls(shape, coefficients, read_structure(read_header(header, "basis"), _Part(source, "basis")))

    def describe(self) -> str:
        return f"product({self.coefficients.describe()}, {self.basis.describe()})"


def ordered_product(coefficients: Any, basis: Any) -> Any:
    """The matrix product (..., m, k) x (k, n) or (slices, k, n) of numpy arrays or of torch tensors, summed from the
    first of the k terms to the last with every product and sum rounded, so that both give the same bits, which a matrix
    multiplication does not."""
    result = coefficients[..., :1] * basis[..., :1, :]
    for term in range(1, basis.shape[-2]):
        result = result + coefficients[..., term : term + 1] * basis[..., term : term + 1, :]
    return result


class _Part(Source):
    """What `source` has of one part of a format."""

    def __init__(self, source: Source, part: str) -> None:
        self._source = source
        self._part = part

    def stream(self, key: str, count: int, bits: int, columns: int = 0) -> UInts:
        return self._source.stream(f"{self._part}.{key}", count, bits, columns)

    def array(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        return self._source.array(f"{self._part}.{key}", dtype, shape)


def _prefixed(part: str, entries: dict[str, T]) -> dict[str, T]:
    return {f"{part}.{key}": entry for key, entry in entries.items()}


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
