"""A layer that picks channels by index: what becomes of code that takes or pads channels by position."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class Route(nn.Module):
    """Picks positions along one axis by index; -1 gives zeros. It has nothing to train or to store."""

    is_leaf: ClassVar[bool] = True
    index: Tensor

    def __init__(self, axis: int, index: list[int], value: float = 0.0) -> None:
        super().__init__()
        self.axis, self.value = axis, value
        self.fills = -1 in index
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The positions picked, of the positions of `x` with one more of `value` after the last."""
        if self.fills:
            x = torch.cat([x, torch.full_like(x.narrow(self.axis, 0, 1), self.value)], self.axis)
        index = torch.where(self.index < 0, x.shape[self.axis] - 1, self.index)
        return x.index_select(self.axis, index)

    def extra_repr(self) -> str:
        return f"axis={self.axis}, {len(self.index)} positions"
