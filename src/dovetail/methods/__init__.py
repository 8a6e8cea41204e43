"""Published compression methods, one a file. METHODS lists them all by the name a recipe uses."""

from dovetail.methods.entropy_coding import EntropyCoding
from dovetail.methods.factorize import BlockConvolution, Penni
from dovetail.methods.lowrank import BlockTerm, Cp, Nonlinear, Svd, Tucker2
from dovetail.methods.method import Method
from dovetail.methods.prune import NM, Complementary, Magnitude, Obd, Pattern
from dovetail.methods.quantize import WeightSharing

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        BlockConvolution,
        Svd,
        Nonlinear,
        Tucker2,
        Cp,
        BlockTerm,
        Penni,
        Magnitude,
        Obd,
        NM,
        Pattern,
        Complementary,
        WeightSharing,
        EntropyCoding,
    )
}

__all__ = [
    "METHODS",
    "NM",
    "BlockConvolution",
    "BlockTerm",
    "Complementary",
    "Cp",
    "EntropyCoding",
    "Magnitude",
    "Method",
    "Nonlinear",
    "Obd",
    "Pattern",
    "Penni",
    "Svd",
    "Tucker2",
    "WeightSharing",
]
