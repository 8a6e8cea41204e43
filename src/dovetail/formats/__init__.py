"""How one tensor lies in memory, to the bit: structures, the values in them, and entropy coding of either."""

from dovetail.formats.affine import Affine
from dovetail.formats.bitmap import Bitmap
from dovetail.formats.block_csc import BlockCSC
from dovetail.formats.codebook import Codebook
from dovetail.formats.dense import Dense
from dovetail.formats.entropy import Entropy
from dovetail.formats.fixed_point import FixedPoint
from dovetail.formats.floats import Float
from dovetail.formats.format import Format, Stream, ValueEncoder
from dovetail.formats.header import Json
from dovetail.formats.layout import Layout
from dovetail.formats.registry import FORMATS, from_arrays
from dovetail.formats.relative_index import RelativeIndex

__all__ = [
    "FORMATS",
    "Affine",
    "Bitmap",
    "BlockCSC",
    "Codebook",
    "Dense",
    "Entropy",
    "FixedPoint",
    "Float",
    "Format",
    "Json",
    "Layout",
    "RelativeIndex",
    "Stream",
    "ValueEncoder",
    "from_arrays",
]
