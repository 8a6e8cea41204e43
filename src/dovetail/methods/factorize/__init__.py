"""Methods that put something cheaper than a convolution in its place, or write its weight as a product."""

from dovetail.methods.factorize.block_convolution import BlockConvolution

__all__ = ["BlockConvolution"]
