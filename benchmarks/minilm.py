"""The encoder of all-MiniLM-L6-v2: six layers as BERT's, 384 wide, for 128 vectors. Weights are random.

Wang et al. MiniLM: Deep Self-Attention Distillation. NeurIPS 2020, arXiv:2002.10957.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

LENGTH, WIDTH, HEADS, INNER, LAYERS = 128, 384, 12, 1536, 6


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attended = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        shares = (queries @ keys.transpose(-2, -1) / math.sqrt(WIDTH / HEADS)).softmax(-1)
        x = self.first_norm(x + self.attended((shares @ values).transpose(1, 2).reshape(x.shape)))
        found: Tensor = self.second_norm(x + self.down(nn.functional.gelu(self.up(x))))
        return found

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)


def minilm() -> nn.Module:
    return nn.Sequential(*(Layer() for _ in range(LAYERS)))
