"""Quantisation: methods that give weights fewer distinct values."""

from dovetail.methods.quantize.weight_sharing import WeightSharing

__all__ = ["WeightSharing"]
