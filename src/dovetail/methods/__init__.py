"""Published compression methods, one a file. METHODS lists them all by the name a recipe uses."""

from dovetail.methods.channels.channels import Channels
from dovetail.methods.entropy_coding import EntropyCoding
from dovetail.methods.factorize import BlockConvolution, Escalate, Penni, SmartDeal
from dovetail.methods.lowrank import BlockTerm, Cp, Nonlinear, Svd, Tucker2
from dovetail.methods.method import Method
from dovetail.methods.prune import NM, Complementary, Lasso, Magnitude, Obd, Pattern, Slimming
from dovetail.methods.quantize import (
    Admm,
    BinaryMaps,
    Bnn,
    Bwn,
    Bwnh,
    DynamicFixedPoint,
    Ffn,
    Lsq,
    Ptq,
    Qnn,
    Ttq,
    Twn,
    WeightSharing,
    Xnor,
)

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Channels,
        Slimming,
        Lasso,
        BlockConvolution,
        Svd,
        Nonlinear,
        Tucker2,
        Cp,
        BlockTerm,
        Penni,
        Ffn,
        Magnitude,
        Obd,
        NM,
        Pattern,
        Complementary,
        SmartDeal,
        Escalate,
        Ptq,
        DynamicFixedPoint,
        WeightSharing,
        Twn,
        Ttq,
        Bwn,
        Bwnh,
        Admm,
        Xnor,
        Bnn,
        BinaryMaps,
        Lsq,
        Qnn,
        EntropyCoding,
    )
}

__all__ = [
    "METHODS",
    "NM",
    "Admm",
    "BinaryMaps",
    "BlockConvolution",
    "BlockTerm",
    "Bnn",
    "Bwn",
    "Bwnh",
    "Channels",
    "Complementary",
    "Cp",
    "DynamicFixedPoint",
    "EntropyCoding",
    "Escalate",
    "Ffn",
    "Lasso",
    "Lsq",
    "Magnitude",
    "Method",
    "Nonlinear",
    "Obd",
    "Pattern",
    "Penni",
    "Ptq",
    "Qnn",
    "Slimming",
    "SmartDeal",
    "Svd",
    "Ttq",
    "Tucker2",
    "Twn",
    "WeightSharing",
    "Xnor",
]
