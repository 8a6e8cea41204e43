"""Evenly spaced values: value = scale * (code - zero point).

Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. CVPR 2018.
arXiv:1712.05877, equations 1 and 12.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dovetail.formats import Affine, ValueEncoder
from dovetail.methods.quantize.quantizer import Quantizer, straight_through

TINY = torch.finfo(torch.float32).tiny


class Uniform(Quantizer):
    """Rounds to the nearest code, ties to even, and saturates. The gradient passes where nothing saturates.

    `scale` (1, or one for each index along the first axis) and `zero_point`, an integer of the same size, are buffers.
    Codes go from `lowest` to `highest`: -(2^(bits-1) - 1) to 2^(bits-1) - 1 if symmetric, else 0 to 2^bits - 1.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, scale: Tensor, zero_point: Tensor | None = None) -> None:
        """Symmetric without a zero point. `scale` is not negative; of 0, which holds zeros only, the least number."""
        super().__init__()
        self.code_bits, self.symmetric = bits, zero_point is None
        self.register_buffer("scale", scale.detach().float().reshape(-1).clamp_min(TINY))
        zeros = torch.zeros_like(self.scale) if zero_point is None else zero_point.detach().float().reshape(-1).clone()
        self.register_buffer("zero_point", zeros)

    @property
    def bits(self) -> float:
        return self.code_bits

    @property
    def lowest(self) -> int:
        return 1 - (1 << (self.code_bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        return (1 << (self.code_bits - self.symmetric)) - 1

    def codes(self, x: Tensor) -> Tensor:
        """The integers, as floats, of the same shape."""
        return self._unclipped(x).clamp(self.lowest, self.highest)

    def forward(self, latent: Tensor) -> Tensor:
        unclipped = self._unclipped(latent.detach())
        codes = unclipped.clamp(self.lowest, self.highest)
        value = (codes - self._shaped(self.zero_point, latent)) * self._shaped(self.scale, latent)
        return straight_through(latent, value, unclipped == codes)

    def _unclipped(self, x: Tensor) -> Tensor:
        return torch.round(x / self._shaped(self.scale, x)) + self._shaped(self.zero_point, x)

    def encoder(self) -> ValueEncoder:
        zeros = None if self.symmetric else self.zero_point.cpu().numpy()
        return partial(
            Affine.encode, bits=self.code_bits, axis=0 if len(self.scale) > 1 else None, symmetric=self.symmetric,
            scale=self.scale.cpu().numpy(), zero_point=zeros,
        )  # fmt: skip

    @property
    def in_place(self) -> bool:
        return len(self.scale) > 1

    def _shaped(self, values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *[1] * (x.ndim - 1)) if len(values) > 1 else values
