"""Entropy coding of what the methods before it left.

Han, Mao, Dally. Deep Compression. ICLR 2016. arXiv:1510.00149, section 4 (Huffman coding of codes and of index
differences); asymmetric numeral systems (Duda, arXiv:1311.2540) as the closer-fitting alternative. Lossless.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from dovetail.formats import Layout
from dovetail.methods.constraint import Constraint, constrain, find
from dovetail.methods.method import Context, Kind, Method, Plan, check


class Coded(Constraint):
    """Leaves the weight as it is and has its integer streams entropy-coded in the file."""

    def __init__(self, coder: str) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, latent: Tensor) -> Tensor:
        return latent

    def freeze(self, layout: Layout) -> Layout:
        return replace(layout, entropy=self.coder)


@dataclass(frozen=True, kw_only=True)
class EntropyCoding(Method):
    """Codes each stream of codes or indices by its own statistics."""

    name: ClassVar[str] = "entropy_coding"
    kind: ClassVar[Kind] = "code"

    coder: str = "smallest"
    """ "huffman", "ans", or "smallest": whichever is smaller for each stream."""

    def __post_init__(self) -> None:
        check(self.coder in ("huffman", "ans", "smallest"), self.name, "coder",
              '"huffman", "ans" or "smallest"', self.coder)  # fmt: skip

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return {name: {"coder": self.coder} for name in self.weights(model)}

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for name in plan:
            if find(model, name, Coded) is None:
                constrain(model, name, Coded(self.coder))
        return model
