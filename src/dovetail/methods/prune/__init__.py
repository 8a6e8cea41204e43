"""Pruning: methods that set weights to zero, or take channels or whole branches away."""

from dovetail.methods.prune.complementary import Complementary
from dovetail.methods.prune.depth import Depth
from dovetail.methods.prune.lasso import Lasso
from dovetail.methods.prune.magnitude import Magnitude
from dovetail.methods.prune.n_m import NM
from dovetail.methods.prune.obd import Obd
from dovetail.methods.prune.pattern import Pattern
from dovetail.methods.prune.slimming import Slimming

__all__ = ["NM", "Complementary", "Depth", "Lasso", "Magnitude", "Obd", "Pattern", "Slimming"]
