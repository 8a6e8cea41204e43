"""Pruning: methods that set weights to zero."""

from dovetail.methods.prune.magnitude import Magnitude

__all__ = ["Magnitude"]
