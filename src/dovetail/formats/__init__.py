"""How one tensor lies in memory, to the bit: structures, the values in them, and entropy coding of either."""

from dovetail.formats.affine import Affine
from dovetail.formats.binary import Binary
from dovetail.formats.bitmap import Bitmap
from dovetail.formats.block_csc import BlockCSC
from dovetail.formats.codebook import Codebook
from dovetail.formats.dense import Dense
from dovetail.formats.entropy import Entropy
from dovetail.formats.fixed_point import FixedPoint
from dovetail.formats.floats import Float
from dovetail.formats.format import Format, Stream, ValueEncoder
from dovetail.formats.header import Json
from dovetail.formats.kernel_patterns import KernelPatterns
from dovetail.formats.layout import Layout
from dovetail.formats.n_m import NM
from dovetail.formats.power_of_two import PowerOfTwo
from dovetail.formats.product import Product, ordered_product
from dovetail.formats.registry import FORMATS, from_arrays
from dovetail.formats.relative_index import RelativeIndex
from dovetail.formats.repeated import Repeated
from dovetail.formats.ternary import Ternary

__all__ = [
    "FORMATS",
    "NM",
    "Affine",
    "Binary",
    "Bitmap",
    "BlockCSC",
    "Codebook",
    "Dense",
    "Entropy",
    "FixedPoint",
    "Float",
    "Format",
    "Json",
    "KernelPatterns",
    "Layout",
    "PowerOfTwo",
    "Product",
    "RelativeIndex",
    "Repeated",
    "Stream",
    "Ternary",
    "ValueEncoder",
    "from_arrays",
    "ordered_product",
]
