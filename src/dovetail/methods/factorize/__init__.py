"""Methods that put something cheaper than a convolution in its place, or write its weight as a product."""

from dovetail.methods.factorize.block_convolution import BlockConvolution
from dovetail.methods.factorize.escalate import Escalate
from dovetail.methods.factorize.penni import Penni
from dovetail.methods.factorize.smartdeal import SmartDeal

__all__ = ["BlockConvolution", "Escalate", "Penni", "SmartDeal"]
