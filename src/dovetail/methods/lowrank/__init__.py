"""Low rank: methods that put products of smaller weights in the place of one."""

from dovetail.methods.lowrank.block_term import BlockTerm
from dovetail.methods.lowrank.cp import Cp
from dovetail.methods.lowrank.nonlinear import Nonlinear
from dovetail.methods.lowrank.svd import Svd
from dovetail.methods.lowrank.tucker2 import Tucker2

__all__ = ["BlockTerm", "Cp", "Nonlinear", "Svd", "Tucker2"]
