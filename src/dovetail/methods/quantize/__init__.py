"""Quantisation: methods that give weights fewer distinct values."""

from dovetail.methods.quantize.bwn import Bwn
from dovetail.methods.quantize.lsq import Lsq
from dovetail.methods.quantize.ptq import Ptq
from dovetail.methods.quantize.qnn import Qnn
from dovetail.methods.quantize.ttq import Ttq
from dovetail.methods.quantize.twn import Twn
from dovetail.methods.quantize.weight_sharing import WeightSharing

__all__ = ["Bwn", "Lsq", "Ptq", "Qnn", "Ttq", "Twn", "WeightSharing"]
