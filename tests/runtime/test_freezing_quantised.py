"""How far the exported graph of a network with quantised activations may be from the module."""

import pytest
import torch
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.methods.quantize.quantizer import quantize_input
from dovetail.methods.quantize.uniform import Uniform
from dovetail.runtime import freeze

X = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


class Exported(nn.Module):
    """Gives a little more when it is exported than when it is run."""

    def __init__(self, excess: float) -> None:
        super().__init__()
        self.first, self.second, self.excess = nn.Linear(16, 40), nn.Linear(40, 6), excess

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y * (1 + self.excess) if torch.compiler.is_exporting() else y


def quantised(excess: float, bits: int) -> nn.Module:
    torch.manual_seed(0)
    model = Exported(excess).eval()
    for path in ("first", "second"):
        quantize_input(model, path, Uniform(bits, torch.tensor(3 / 2 ** (bits - 1))))
    return model


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_that_computes_something_else_is_refused(bits: int) -> None:
    freeze(quantised(0.0, bits), X)
    with pytest.raises(ModelError, match="does not compute what the module computes"):
        freeze(quantised(0.02, bits), X)


def test_codes_at_halfway_may_go_to_either() -> None:
    """Every value that the second layer reads lies between two codes, but for rounding errors."""
    torch.manual_seed(0)
    model = quantised(0.0, 4)
    model.first.weight.data = torch.randint(-3, 4, (40, 16)) * 0.1  # type: ignore[union-attr, operator]
    model.first.bias.data.fill_(3 / 16)  # type: ignore[union-attr, operator]
    quantize_input(model, "first", Uniform(4, torch.tensor(0.1)))
    quantize_input(model, "second", Uniform(4, torch.tensor(0.01 / 3)))
    freeze(model, X)
