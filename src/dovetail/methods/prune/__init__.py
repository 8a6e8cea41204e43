"""Pruning: methods that set weights to zero."""

from dovetail.methods.prune.complementary import Complementary
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.n_m import NM
from dovetail.methods.prune.obd import Obd
from dovetail.methods.prune.pattern import Pattern

__all__ = ["NM", "Complementary", "Magnitude", "Obd", "Pattern"]
