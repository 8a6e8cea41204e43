"""Quantisation: methods that give weights fewer distinct values."""

from dovetail.methods.quantize.admm import Admm
from dovetail.methods.quantize.binary_maps import BinaryMaps
from dovetail.methods.quantize.bnn import Bnn
from dovetail.methods.quantize.bwn import Bwn
from dovetail.methods.quantize.bwnh import Bwnh
from dovetail.methods.quantize.dynamic_fixed_point import DynamicFixedPoint
from dovetail.methods.quantize.ffn import Ffn
from dovetail.methods.quantize.lsq import Lsq
from dovetail.methods.quantize.ptq import Ptq
from dovetail.methods.quantize.qnn import Qnn
from dovetail.methods.quantize.ttq import Ttq
from dovetail.methods.quantize.twn import Twn
from dovetail.methods.quantize.weight_sharing import WeightSharing
from dovetail.methods.quantize.xnor import Xnor

__all__ = [
    "Admm",
    "BinaryMaps",
    "Bnn",
    "Bwn",
    "Bwnh",
    "DynamicFixedPoint",
    "Ffn",
    "Lsq",
    "Ptq",
    "Qnn",
    "Ttq",
    "Twn",
    "WeightSharing",
    "Xnor",
]
