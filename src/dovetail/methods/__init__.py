"""Published compression methods, one a file. METHODS lists them all by the name a recipe uses."""

from dovetail.methods.channels.channels import Channels
from dovetail.methods.entropy_coding import EntropyCoding
from dovetail.methods.factorize import BlockConvolution, Penni, SmartDeal
from dovetail.methods.lowrank import BlockTerm, Cp, Nonlinear, Svd, Tucker2
from dovetail.methods.method import Method
from dovetail.methods.prune import NM, Complementary, Lasso, Magnitude, Obd, Pattern, Slimming
from dovetail.methods.quantize import Bwn, Lsq, Ptq, Qnn, Ttq, Twn, WeightSharing

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
        Magnitude,
        Obd,
        NM,
        Pattern,
        Complementary,
        SmartDeal,
        Ptq,
        WeightSharing,
        Twn,
        Ttq,
        Bwn,
        Lsq,
        Qnn,
        EntropyCoding,
    )
}

__all__ = [
    "METHODS",
    "NM",
    "BlockConvolution",
    "BlockTerm",
    "Bwn",
    "Channels",
    "Complementary",
    "Cp",
    "EntropyCoding",
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
]
