"""One file per operation: the plain reference in numpy, and the engine's kernel by itself."""

from dovetail.kernels.convolution import Convolution, Window, convolution
from dovetail.kernels.epilogue import ACTIVATIONS, Codes, Epilogue
from dovetail.kernels.product import Product, product

__all__ = ["ACTIVATIONS", "Codes", "Convolution", "Epilogue", "Product", "Window", "convolution", "product"]
