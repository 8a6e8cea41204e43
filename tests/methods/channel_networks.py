"""Small networks whose channels are tied in every way that the dependency engine must see."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenselyConnected(nn.Module):
    """Every block reads all before it, concatenated."""

    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), nn.Conv2d(8 + 4 * i, 4, 3, padding=1)) for i in range(3)
        )
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        return self.last(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels gated by a small network of themselves, a scale per channel, PReLU."""

    input_shape = (3, 9, 9)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.b, self.scale, self.act = nn.Conv2d(12, 8, 3), nn.Parameter(torch.rand(8, 1, 1)), nn.PReLU(8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.a(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.last(F.adaptive_max_pool2d(self.act(self.b(x) * self.scale), 1).flatten(1))


class Grouped(nn.Module):
    """Grouped, depthwise (with a multiplier) and transposed convolutions."""

    input_shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, groups=4), nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 48, 3, groups=24)
        self.up, self.up_grouped = nn.ConvTranspose2d(48, 10, 2, 2), nn.ConvTranspose2d(10, 6, 2, 2, groups=2)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.norm(self.b(self.a(x))))))
        return self.last(self.up_grouped(self.up(x)).mean([2, 3]))


class Shuffle(nn.Module):
    """ShuffleNet's split, concatenation and channel shuffle."""

    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.a(x)).chunk(2, 1)
        x = torch.cat([left, F.relu(self.b(right))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        left, right = x.split(8, 1)
        return self.last(self.c(torch.cat([left, right * 2], 1)).mean((2, 3)))


class Transformer(nn.Module):
    """One block of torch's attention between layer normalisations."""

    input_shape = (5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 5, 16))
        self.norm1, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.last(x.mean(1))


class _ByHand(nn.Module):
    input_shape = (5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.out, self.last = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.last((x + self.out(self.attend(y))).mean(1))

    def attend(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class PackedHeads(_ByHand):
    """timm's attention: one layer for q, k and v; a bias for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.bias = 4, nn.Linear(16, 48), nn.Parameter(torch.randn(4, 5, 5))

    def attend(self, y: Tensor) -> Tensor:
        b, n, c = y.shape
        q, k, v = self.qkv(y).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5 + self.bias).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


class IndexedHeads(PackedHeads):
    """The same, with qkv[0], qkv[1], qkv[2] and view."""

    def attend(self, y: Tensor) -> Tensor:
        b, n, c = y.shape
        qkv = self.qkv(y).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attended = F.softmax(torch.matmul(q, k.transpose(2, 3)) / 2 + self.bias, -1) @ v
        return attended.permute(0, 2, 1, 3).contiguous().view(b, n, c)


class BatchedHeads(PackedHeads):
    """fairseq's attention: heads and batch in one axis, bmm."""

    def attend(self, y: Tensor) -> Tensor:
        b, n, _ = y.shape
        parts = self.qkv(y).chunk(3, -1)
        q, k, v = (
            parts[i].contiguous().view(b, n, self.heads, 4).transpose(1, 2).reshape(b * self.heads, n, 4)
            for i in range(3)
        )
        weights = (torch.bmm(q, k.transpose(1, 2)).view(b, self.heads, n, n) + self.bias).softmax(-1)
        attended = torch.bmm(weights.view(b * self.heads, n, n), v)
        return attended.view(b, self.heads, n, 4).transpose(1, 2).reshape(b, n, 16)


class SeparateHeads(_ByHand):
    """A layer each for q, k and v, and torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def attend(self, y: Tensor) -> Tensor:
        q, k, v = (
            layer(y).view(y.shape[0], y.shape[1], 4, 4).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Exotic(nn.Module):
    """Pad, slice, roll, flip, reshape and concatenate along the channels, by position."""

    input_shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.c, self.d, self.e = nn.Conv2d(20, 12, 3, padding=1), nn.Conv2d(3, 8, 2), nn.Conv2d(6, 4, 1)
        self.f, self.g, self.last = nn.Linear(8 * 4 * 4, 6), nn.Linear(6 * 2, 24), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = self.norm(self.b(x))[:, 2:10, ::2, ::2]
        y = F.pad(y, (1, 1, 1, 1, 6, 6))[:, :, 1:-1, 1:-1]
        z = F.interpolate(F.max_pool2d(x, 2), scale_factor=1.0)
        z = F.pixel_shuffle(self.c(F.pad(torch.roll(z, 3, 1), (0, 0, 0, 0, 4, 4)) + y), 2)
        z = self.f(self.d(z)[:, :, :4, :4].flatten(1))
        z = self.e(self.g(F.relu(torch.cat([z, -z.flip(1)], 1))).view(-1, 6, 2, 2))
        return self.last(F.adaptive_avg_pool2d(z, 1).squeeze(-1).squeeze(-1))


EXAMPLES = (
    DenselyConnected, SqueezeExcite, Grouped, Shuffle, Transformer, PackedHeads, IndexedHeads, BatchedHeads,
    SeparateHeads, Exotic,
)  # fmt: skip


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with statistics that are not those of a fresh normalisation, which would hide mistakes."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval()
