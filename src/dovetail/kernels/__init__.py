"""One file per operation: the plain reference in numpy, and the engine's kernel by itself."""

from dovetail.kernels.choice import times_of
from dovetail.kernels.convolution import Convolution, Window, convolution
from dovetail.kernels.epilogue import ACTIVATIONS, Codes, Epilogue
from dovetail.kernels.product import Product, product
from dovetail.kernels.stored import KERNELS, Stored, kernels, signs, stored

__all__ = [
    "ACTIVATIONS",
    "KERNELS",
    "Codes",
    "Convolution",
    "Epilogue",
    "Product",
    "Stored",
    "Window",
    "convolution",
    "kernels",
    "product",
    "signs",
    "stored",
    "times_of",
]
