"""Block convolution: every feature map is cut into blocks that are convolved without looking at each other.

Li, Li, Zhao, Cheng. Block Convolution: Towards Memory-Efficient Inference of Large-Scale CNNs on FPGA. DATE 2018;
extended in TCAD 2022 (arXiv:2105.08937).

    y[block] = conv(pad(x[block]), W)           for each of the blocks of b_h x b_w pixels, padded by p on all sides

Only pixels whose window reaches over a block's border differ from the ordinary convolution's. What a chain of such
layers computes of a block depends on that block alone, so they can be run block by block with a buffer of

    max over the layers of  b_h b_w C_in + b_h' b_w' C_out        numbers instead of whole feature maps (`fused`).

Either the number of blocks is fixed (`blocks` x `blocks` on every map, the paper's hierarchical blocking: blocks never
merge) or their size is (`size`: maps no larger than that stay whole).

Departs from the paper: a stride stays a stride (the released code puts a maximum pooling in its place), with blocks
that are multiples of it; where a map does not divide, the last block is smaller, as if it had been cut out; and a
layer that pads less than its window reaches leaves out the outputs at the map's edge that it never had. Batch
statistics are estimated anew afterwards, if that helps; the weights stay the trained ones, to be fine-tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.errors import ModelError
from dovetail.methods.layers import Call, called
from dovetail.methods.method import Context, Kind, Method, Plan, check
from dovetail.methods.reconstruction import settle_norms

PADDINGS = ("zeros", "replicate", "reflect")


class BlockConv2d(nn.Conv2d):
    """A convolution on `grid` = (rows, columns) independent blocks; its weight and bias are a Conv2d's.

    Shapes are those of the Conv2d. The blocks of a map are as equal as the stride permits, the last ones may be
    smaller, and on small maps there may be fewer.
    """

    is_leaf: ClassVar[bool] = True
    """A layer of its own to those who read the network's graph (methods/graph.py)."""

    grid: tuple[int, int]
    border: str
    """What a block is padded with: "zeros", "replicate" or "reflect"."""

    @classmethod
    def of(cls, layer: nn.Conv2d, grid: tuple[int, int], border: str) -> BlockConv2d:
        """`layer` in blocks; it shares the parameters of `layer`."""
        sides = _sides(layer)
        own = cls(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, sides, layer.dilation,  # type: ignore[arg-type]
                  layer.groups, bias=False, device="meta")  # fmt: skip
        own.grid, own.border = grid, border
        own.weight, own.bias = layer.weight, layer.bias
        return own.train(layer.training)

    def block(self, height: int, width: int) -> tuple[int, int]:
        """The size of the blocks of a map of this size, smaller last ones apart."""
        rows, columns = (
            -(-extent // (count * stride)) * stride
            for extent, count, stride in zip((height, width), self.grid, self.stride, strict=True)
        )
        return rows, columns

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        b_h, b_w = self.block(height, width)
        rows, columns = -(-height // b_h), -(-width // b_w)
        if (rows, columns) == (1, 1):
            return super().forward(x)
        x = self._fill(x, (rows * b_h - height, columns * b_w - width))
        x = x.reshape(-1, x.shape[1], rows, b_h, columns, b_w).permute(0, 2, 4, 1, 3, 5)
        y = self.convolve(x.reshape(-1, x.shape[3], b_h, b_w))
        p, q = int(y.shape[2]), int(y.shape[3])
        y = y.reshape(-1, rows, columns, self.out_channels, p, q).permute(0, 3, 1, 4, 2, 5)
        y = y.reshape(-1, self.out_channels, rows * p, columns * q)
        top, left = self.crop
        p, q = self._outputs(height, 0), self._outputs(width, 1)
        return y[:, :, top : top + p, left : left + q]

    def convolve(self, x: Tensor) -> Tensor:
        """One block (N, C, b_h, b_w), or many in the batch, padded and convolved."""
        p_h, p_w = self._padding()
        if self.border == "zeros":
            return functional.conv2d(x, self.weight, self.bias, self.stride, (p_h, p_w), self.dilation, self.groups)
        x = functional.pad(x, (p_w, p_w, p_h, p_h), mode=self.border)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _fill(self, x: Tensor, missing: tuple[int, int]) -> Tensor:
        """Add the rows and columns that the last blocks lack, with what they would be padded with."""
        if self.border != "zeros":
            # Only the pixels within the padding's reach of the map's edge are ever looked at; zeros fill the rest.
            near = [min(lack, pad) for lack, pad in zip(missing, self._padding(), strict=True)]
            x = functional.pad(x, (0, near[1], 0, near[0]), mode=self.border)
            missing = missing[0] - near[0], missing[1] - near[1]
        return functional.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x

    @property
    def crop(self) -> tuple[int, int]:
        """Outputs at the top and at the left of the map that only blocks padded on all sides have."""
        assert not isinstance(self.padding, str)
        reach = self._padding()
        return (reach[0] - self.padding[0]) // self.stride[0], (reach[1] - self.padding[1]) // self.stride[1]

    def _padding(self) -> tuple[int, int]:
        """How far the window reaches from its middle: what each block is padded by."""
        return (self.kernel_size[0] - 1) * self.dilation[0] // 2, (self.kernel_size[1] - 1) * self.dilation[1] // 2

    def _outputs(self, extent: int, axis: int) -> int:
        """Outputs along an axis of so many inputs, as of the ordinary convolution."""
        assert not isinstance(self.padding, str)
        return (extent + 2 * (self.padding[axis] - self._padding()[axis]) - 1) // self.stride[axis] + 1

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, grid={self.grid}, border={self.border}"  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class BlockConvolution(Method):
    """Makes the convolutions with windows work on independent blocks of their feature maps."""

    name: ClassVar[str] = "block_convolution"
    kind: ClassVar[Kind] = "rebuild"

    blocks: int | None = None
    """Blocks along each side of every feature map; 2 if `size` is not given either."""

    size: int | None = None
    """Pixels along each side of a block, the same for every feature map; the paper takes 28 on ImageNet."""

    padding: str = "zeros"
    """What blocks are padded with: "zeros" (best in the paper), "replicate" or "reflect"."""

    def __post_init__(self) -> None:
        check(self.blocks is None or self.blocks >= 2, self.name, "blocks", "2 or more", self.blocks)
        check(self.size is None or self.size >= 1, self.name, "size", "1 or more", self.size)
        check(self.blocks is None or self.size is None, self.name, "size", "left out where blocks is given", self.size)
        check(self.padding in PADDINGS, self.name, "padding", f"one of {', '.join(PADDINGS)}", self.padding)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        calls = called(model, context.example, accepts)
        plan: Plan = {}
        for path in self.chosen(list(calls)):
            if row := self._row(calls[path]):
                plan[path] = row
        if not plan:
            raise ModelError(
                f"{self.name}: no feature map of the layers chosen is large enough to be cut; give a smaller size"
            )
        return plan

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        for path, row in plan.items():
            layer = model.get_submodule(path)
            assert isinstance(layer, nn.Conv2d)
            blocked = BlockConv2d.of(layer, (row["blocks"][0], row["blocks"][1]), row["padding"])
            if not path:
                model = blocked
            else:
                model.set_submodule(path, blocked)
        settle_norms(model, context)
        return model

    def _row(self, call: Call) -> dict[str, Any] | None:
        """What becomes of a layer; None if its map stays whole. "buffer" is in numbers: whole maps, one block."""
        assert isinstance(call.layer, nn.Conv2d)
        extents = call.input_shape[2:]
        grid = [self._count(extent, stride) for extent, stride in zip(extents, call.layer.stride, strict=True)]
        blocked = BlockConv2d.of(call.layer, (grid[0], grid[1]), self.padding)
        block = blocked.block(*extents)
        if grid == [1, 1] or not _can_be_padded(blocked, extents):
            return None
        outputs = [extent // stride for extent, stride in zip(block, call.layer.stride, strict=True)]
        whole = prod(call.input_shape[1:]) + prod(call.output_shape[1:])
        part = prod(block) * call.layer.in_channels + prod(outputs) * call.layer.out_channels
        return {"blocks": grid, "block": list(block), "padding": self.padding, "buffer": [whole, part]}

    def _count(self, extent: int, stride: int) -> int:
        """Blocks along a side of so many pixels; 1 if they could not have two outputs' worth of pixels each."""
        if self.size is not None:
            block = -(-self.size // stride) * stride
            return -(-extent // block)
        count = self.blocks or 2
        return count if extent >= 2 * stride * count else 1


def accepts(layer: nn.Module) -> bool:
    """Whether it is a convolution with a window around a pixel of its map, which the stride does not skip."""
    if not isinstance(layer, nn.Conv2d) or isinstance(layer, BlockConv2d) or layer.padding_mode != "zeros":
        return False
    reach = [(size - 1) * dilation for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    if max(reach) == 0 or any(window % 2 for window in reach):
        return False
    lack = [window // 2 - side for window, side in zip(reach, _sides(layer), strict=True)]
    return all(0 <= short and short % stride == 0 for short, stride in zip(lack, layer.stride, strict=True))


def _sides(layer: nn.Conv2d) -> tuple[int, int]:
    """The padding above and below, left and right."""
    if layer.padding == "same":
        (r, s), (d_r, d_s) = layer.kernel_size, layer.dilation
        return (r - 1) * d_r // 2, (s - 1) * d_s // 2
    return (0, 0) if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1])


def _can_be_padded(layer: BlockConv2d, extents: Sequence[int]) -> bool:
    """Whether every block has pixels enough: reflection needs more than the padding, of the last block too."""
    if layer.border != "reflect":
        return True
    for extent, block, pad in zip(extents, layer.block(*extents), layer._padding(), strict=True):
        last = (extent - 1) % block + 1
        if min(block, last) <= pad or 0 < block - last < pad:
            return False
    return True


@dataclass(frozen=True)
class Fused:
    """What fused execution gave: the output, the most numbers of input and output of a layer held at once, and those
    that were read from and written to maps outside the buffer."""

    output: Tensor
    peak_buffer: int
    read: int
    written: int


def fused(stack: Sequence[nn.Module], x: Tensor) -> Fused:
    """Run layers block by block, each block through all of them before the next: the reference of fused execution.

    Args:
        stack: BlockConv2d of one grid, between them layers that look at one pixel (or at windows that do not reach
            over the border of a block: pooling), in eval mode.
        x: one input (1, C, H, W).

    Raises:
        ModelError: the blocks of the layers do not line up.
    """
    grids = {layer.grid for layer in stack if isinstance(layer, BlockConv2d)}
    if any(layer.crop != (0, 0) for layer in stack if isinstance(layer, BlockConv2d)):
        raise ModelError("fused layers must pad as far as their windows reach")
    if len(grids) != 1 or x.shape[0] != 1:
        raise ModelError(
            f"fused layers need one grid of blocks and one input, got {sorted(grids)}, {x.shape[0]} inputs"
        )
    expected = _shapes(stack, x)
    first = next(layer for layer in stack if isinstance(layer, BlockConv2d))
    b_h, b_w = first.block(x.shape[2], x.shape[3])
    rows, peak, read, written = [], 0, 0, 0
    for top in range(0, x.shape[2], b_h):
        row = []
        for left in range(0, x.shape[3], b_w):
            tile = x[:, :, top : top + b_h, left : left + b_w]
            read += tile.numel()
            for layer in stack:
                after = layer.convolve(tile) if isinstance(layer, BlockConv2d) else layer(tile)
                if isinstance(layer, BlockConv2d):
                    peak = max(peak, tile.numel() + after.numel())
                tile = after
            row.append(tile)
            written += tile.numel()
        rows.append(torch.cat(row, 3))
    output = torch.cat(rows, 2)
    if output.shape != expected[-1]:
        raise ModelError(f"the blocks do not line up: {tuple(output.shape)} came out, not {tuple(expected[-1])}")
    return Fused(output, peak, read, written)


def buffer_size(stack: Sequence[nn.Module], x: Tensor) -> int:
    """The numbers that fused execution must hold: max over its convolutions of b_h b_w C_in + b_h' b_w' C_out."""
    shapes = [x.shape, *_shapes(stack, x)]
    sizes = []
    for layer, before in zip(stack, shapes, strict=False):
        if isinstance(layer, BlockConv2d):
            b_h, b_w = layer.block(before[2], before[3])
            outputs = (b_h // layer.stride[0]) * (b_w // layer.stride[1])
            sizes.append(b_h * b_w * layer.in_channels + outputs * layer.out_channels)
    return max(sizes)


def _shapes(stack: Sequence[nn.Module], x: Tensor) -> list[torch.Size]:
    """The shapes of the layers' outputs, layer by layer."""
    shapes = []
    with torch.no_grad():
        for layer in stack:
            x = layer(x)
            shapes.append(x.shape)
    return shapes
