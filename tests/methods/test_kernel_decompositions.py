"""What holds for every stack of convolutions that takes the place of one: Tucker-2, CP (both forms), block terms."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dovetail.errors import RecipeError
from dovetail.methods import BlockTerm, Cp, Tucker2
from dovetail.methods.decomposition import Setting
from dovetail.methods.layers import macs, parameters
from dovetail.methods.lowrank.kernels import KernelDecomposition

CASES: dict[str, tuple[KernelDecomposition, Setting]] = {
    "tucker2": (Tucker2(), {"rank_in": 3, "rank_out": 4}),
    "cp": (Cp(restarts=0), {"rank": 4}),
    "cp_split": (Cp(restarts=0, form="spatial_split"), {"rank": 4}),
    "block_term": (BlockTerm(restarts=0, sweeps=2), {"groups": 2, "rank_in": 3, "rank_out": 2}),
}
WEIGHTS = {"cp": "tr,sr,rij->tsij", "cp_split": "tr,sr,ri,rj->tsij", "tucker2": "tb,sa,baij->tsij"}

each = pytest.mark.parametrize(("name", "method", "setting"), [(n, m, s) for n, (m, s) in CASES.items()], ids=CASES)


def kernel(name: str, stack: nn.Sequential, kernel_size: tuple[int, int]) -> torch.Tensor:
    """The weight (T, S, d, d) of the convolution that the stack is."""
    parts = {key: part.weight.detach().double() for key, part in stack.named_children()}
    outward, inward = parts["expand"][:, :, 0, 0], parts["reduce"][:, :, 0, 0].T
    if name == "block_term":
        core = parts["core"]
        whole = core.new_zeros(len(core), inward.shape[1], *kernel_size)
        rank_in, rank_out = core.shape[1], len(core) // stack[1].groups
        for g in range(stack[1].groups):
            rows = slice(g * rank_out, (g + 1) * rank_out)
            whole[rows, g * rank_in : (g + 1) * rank_in] = core[rows]
        return torch.einsum(WEIGHTS["tucker2"], outward, inward, whole)
    match name:
        case "tucker2":
            middle = [parts["core"]]
        case "cp":
            middle = [parts["depthwise"][:, 0]]
        case _:
            middle = [parts["vertical"][:, 0, :, 0], parts["horizontal"][:, 0, 0, :]]
    return torch.einsum(WEIGHTS[name], outward, inward, *middle)


def equals_its_kernel(name: str, layer: nn.Conv2d, x: torch.Tensor) -> None:
    method, setting = CASES[name]
    stack = method.build(layer, setting)
    whole = copy.deepcopy(layer)
    whole.weight.data.copy_(kernel(name, stack, layer.kernel_size))
    with torch.no_grad():
        expected = whole(x)
        assert torch.allclose(stack(x), expected, atol=1e-5 * float(expected.abs().max()))


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(list(CASES)),
    size=st.sampled_from([(3, 3), (1, 3), (3, 2), (5, 3), (3, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1)]),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    bias=st.booleans(),
)
def test_a_stack_is_the_convolution_of_its_kernel(
    name: str,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    bias: bool,
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, size, stride, padding, dilation, bias=bias)
    equals_its_kernel(name, layer, torch.randn(2, 6, 13, 12))


@pytest.mark.parametrize("name", CASES)
def test_padding_by_name_and_of_other_modes_moves_into_the_stack(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 8)
    equals_its_kernel(name, nn.Conv2d(6, 8, 3, padding="same"), x)
    equals_its_kernel(name, nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), x)


class TestEach:
    @each
    def test_keeps_precision(self, name: str, method: KernelDecomposition, setting: Setting) -> None:
        stack = method.build(nn.Conv2d(6, 8, 3, bias=False).double(), setting)
        assert {parameter.dtype for parameter in stack.parameters()} == {torch.float64}
        assert stack[-1].bias is None

    @each
    def test_a_kernel_of_zeros_stays_one(self, name: str, method: KernelDecomposition, setting: Setting) -> None:
        layer = nn.Conv2d(6, 8, 3)
        nn.init.zeros_(layer.weight)
        stack = method.build(layer, setting)
        x = torch.randn(1, 6, 5, 5)
        assert torch.allclose(stack(x), layer(x), atol=1e-6)

    @each
    def test_takes_dense_spatial_convolutions_only(
        self, name: str, method: KernelDecomposition, setting: Setting
    ) -> None:
        assert method.accepts(nn.Conv2d(6, 8, 3)) and method.accepts(nn.Conv2d(6, 8, (1, 3)))
        assert not method.accepts(nn.Conv2d(6, 8, 1)) and not method.accepts(nn.Conv2d(6, 6, 3, groups=3))
        assert not method.accepts(nn.Linear(6, 8)) and not method.accepts(nn.ConvTranspose2d(6, 8, 3))

    @each
    def test_options_shrink(self, name: str, method: KernelDecomposition, setting: Setting) -> None:
        layer = nn.Conv2d(16, 32, 3)
        sizes = [parameters(method.structure(layer, option)) for option in method.options(layer)]
        assert len(sizes) >= 8 and sizes == sorted(sizes, reverse=True) and sizes[0] < parameters(layer)
        assert sizes[-1] < parameters(layer) / 10

    @each
    def test_first_convolutions_get_cheaper_options_or_none(
        self, name: str, method: KernelDecomposition, setting: Setting
    ) -> None:
        layer = nn.Conv2d(3, 16, 3)
        for option in method.options(layer):
            assert parameters(method.build(layer, option)) < parameters(layer)

    @each
    @pytest.mark.parametrize("wrong", [0, -1, 10**6, 2.5, True, "many"])
    def test_refuses_impossible_ranks(
        self, name: str, method: KernelDecomposition, setting: Setting, wrong: object
    ) -> None:
        key = next(reversed(setting))
        with pytest.raises(RecipeError, match=rf"{method.name}: {key} must be a whole number from 1 to \d+ here, got"):
            method.build(nn.Conv2d(6, 8, 3), setting | {key: wrong})

    @each
    def test_refuses_settings_of_others(self, name: str, method: KernelDecomposition, setting: Setting) -> None:
        with pytest.raises(RecipeError, match=rf"{method.name}: a setting has the keys \[.*\], got \['kept'\]"):
            method.build(nn.Conv2d(6, 8, 3), {"kept": 3})


@pytest.mark.parametrize("stride", [1, 2])
def test_multiply_accumulates_are_the_formulas(stride: int) -> None:
    """The first 1 x 1 convolution works at the resolution of the input."""
    layer, shape = nn.Conv2d(12, 20, 3, stride, padding=1), (1, 12, 10, 8)
    read, written = 10 * 8, 10 * 8 // stride**2
    tucker = Tucker2().structure(layer, {"rank_in": 5, "rank_out": 7})
    assert macs(tucker, shape) == read * 12 * 5 + written * (5 * 7 * 9 + 7 * 20)
    terms = BlockTerm().structure(layer, {"groups": 2, "rank_in": 3, "rank_out": 4})
    assert macs(terms, shape) == read * 12 * 2 * 3 + written * (2 * 3 * 4 * 9 + 2 * 4 * 20)
    assert macs(Cp().structure(layer, {"rank": 6}), shape) == 6 * (read * 12 + written * (9 + 20))
    split = Cp(form="spatial_split").structure(layer, {"rank": 6})
    # The d x 1 convolution takes the vertical stride, so it writes rows of the output at columns of the input.
    assert macs(split, shape) == 6 * (read * 12 + written * stride * 3 + written * 3 + written * 20)


def test_vgg16_by_block_terms_has_five_times_fewer_multiply_accumulates() -> None:
    """All convolutions but the first in four groups, reduced to half of their channels: analytic, nothing is fitted."""
    method = BlockTerm()
    before = after = 0
    inputs, resolution = 3, 224
    for block, width in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True):
        for _ in range(block):
            layer, shape = nn.Conv2d(inputs, width, 3, padding=1, device="meta"), (1, inputs, resolution, resolution)
            before += macs(layer, shape)
            rank = min(inputs, width) // 8
            stack = layer if inputs == 3 else method.structure(layer, {"groups": 4, "rank_in": rank, "rank_out": rank})
            after += macs(stack, shape)
            inputs = width
        resolution //= 2
    assert before == 15_346_630_656  # the published 15.3 G
    assert before / after >= 5
