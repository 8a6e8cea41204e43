"""Truncated SVD of a layer's weight, across channels or across space.

Zhang, Zou, He, Sun. Accelerating Very Deep Convolutional Networks for Classification and Detection. TPAMI 2016.
arXiv:1505.06798 (channels; response space). Jaderberg, Vedaldi, Zisserman. Speeding up Convolutional Neural Networks
with Low Rank Expansions. BMVC 2014. arXiv:1405.3866 (space).

Of a convolution of T filters on S channels, d x d' taps (a linear layer has one tap):

    "channel"   M (T, S d d') = P Q       Q: R filters d x d',     P: T filters 1 x 1      R (S d d' + T) per output
    "spatial"   M (S d, T d') = V H       V: R filters d x 1,      H: T filters 1 x d'     R (S d + T d') per output

Both factors get the square root of the singular values. In "response" space it is not the weight's error that is
least, but that of the layer's responses y to real inputs, each channel scaled by the batch normalisation that follows:

    min_{rank(A) <= R} sum_i ||g (y_i - ybar) - A g (y_i - ybar)||^2  =>  A = U U^T,   U eigenvectors of cov(g y)
    P Q = diag(1/g) A diag(g) M,    bias b' = ybar - (1/g) A g (ybar - b)

Departs from the papers: "spatial" in response space treats the columns of H as filters of their own, so the response is
that of a d x 1 convolution with T d' filters; "best" takes for each layer and cost the form whose weight loses less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.methods.decomposition import Decomposition, Setting
from dovetail.methods.junctions import inverted, norm_after
from dovetail.methods.lowrank.reduced_rank import ReducedRank, split
from dovetail.methods.lowrank.stacks import through_channels, through_space
from dovetail.methods.method import Context, check
from dovetail.methods.responses import patches

FORMS = ("channel", "spatial", "best")
COSTS = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0625)
"""What the options of a layer cost, as fractions of the layer."""


@dataclass(frozen=True, kw_only=True)
class Svd(Decomposition):
    """Makes each convolution (groups 1) and linear layer two with few channels between them, by truncated SVD."""

    name: ClassVar[str] = "svd"

    form: str = "best"
    """ "channel", "spatial", or "best" of the two. A 1x1 convolution or linear layer has only the first."""

    space: str = "weight"
    """ "weight", or "response": least error on real inputs (without data the weight's)."""

    def __post_init__(self) -> None:
        check(self.form in FORMS, self.name, "form", '"channel", "spatial" or "best"', self.form)
        check(self.space in ("weight", "response"), self.name, "space", '"weight" or "response"', self.space)

    def accepts(self, layer: nn.Module) -> bool:
        return accepts(layer)

    def options(self, layer: nn.Module) -> list[Setting]:
        forms = [self.form] if self.form != "best" else ["channel", "spatial"]
        curves = {form: (ranks(layer, form), lost(layer, form)) for form in forms if form in forms_of(layer)}
        curves = curves or {"channel": (ranks(layer, "channel"), lost(layer, "channel"))}
        found: list[Setting] = []
        for level in range(len(COSTS)):
            form = min(curves, key=lambda form: float(curves[form][1][curves[form][0][level]]))
            setting = {"form": form, "rank": curves[form][0][level]}
            if setting not in found:
                found.append(setting)
        return found

    def build(self, layer: nn.Module, setting: Setting) -> nn.Sequential:
        form, rank = self._checked(layer, setting)
        return _stack(layer, form, as_matrix(layer, form), rank, _bias(layer))

    def solve(self, model: nn.Module, path: str, settings: list[Setting], context: Context) -> list[nn.Sequential]:
        if self.space == "weight" or context.inputs is None or context.rebuilding:
            return super().solve(model, path, settings, context)
        layer = model.get_submodule(path)
        scale, _ = norm_after(model, path)
        seen = patches(model, path, context.inputs)
        found = {}
        for form in {self._checked(layer, setting)[0] for setting in settings}:
            found[form] = _Responses(layer, form, seen, scale)
        return [found[form].stack(rank) for form, rank in (self._checked(layer, setting) for setting in settings)]

    def _checked(self, layer: nn.Module, setting: Setting) -> tuple[str, int]:
        form = setting.get("form", "channel" if self.form == "best" else self.form)
        check(form in FORMS[:2], self.name, "form", '"channel" or "spatial"', form)
        form = form if form in forms_of(layer) else "channel"
        return form, checked_rank(self.name, layer, form, setting)


class _Responses:
    """The principal components of a layer's responses."""

    def __init__(self, layer: nn.Module, form: str, patches: Tensor, scale: Tensor) -> None:
        self.layer, self.form = layer, form
        self.weight = as_matrix(layer, form)
        self.scale = scale.double()
        if form == "spatial":
            assert isinstance(layer, nn.Conv2d)
            columns = layer.kernel_size[1]
            patches = patches.view(len(patches), -1, columns)[:, :, columns // 2]
            self.scale = self.scale.repeat_interleave(columns)
        self.responses = self.scale * (patches.double() @ self.weight.T)
        self.regression = ReducedRank(self.responses)

    def stack(self, rank: int) -> nn.Sequential:
        fit = self.regression.solve(self.responses, rank)
        inverse = inverted(self.scale)
        weight = inverse[:, None] * fit.matrix @ (self.scale[:, None] * self.weight)
        # Of the layer's bias nothing is lost, because it is none of the responses; what their mean loses is added.
        added = (inverse * fit.bias).view(len(_rows(self.layer)), -1).sum(1)
        bias = _bias(self.layer)
        return _stack(self.layer, self.form, weight, rank, added if bias is None else bias + added)


def accepts(layer: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution that is not grouped."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def forms_of(layer: nn.Module) -> tuple[str, ...]:
    """The forms in which the layer can be factored; of one tap there is nothing to split across space."""
    several = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    return FORMS[:2] if several else FORMS[:1]


def as_matrix(layer: nn.Module, form: str) -> Tensor:
    """The weight as (T, S d d') or, for "spatial", as (T d', S d), in double precision."""
    weight = _rows(layer).double()
    return weight.flatten(1) if form == "channel" else weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def ranks(layer: nn.Module, form: str) -> list[int]:
    """The ranks at which the factors have these fractions (COSTS) of the weight's numbers; at least 1."""
    rows, columns = as_matrix(layer, form).shape
    weight = _rows(layer)
    highest = min(rows, columns)
    return [min(highest, max(1, int(cost * weight.numel() / (rows + columns)))) for cost in COSTS]


def lost(layer: nn.Module, form: str) -> Tensor:
    """By rank, from 0: what the best approximation of that rank loses of the weight's energy, as a fraction."""
    energy = torch.linalg.svdvals(as_matrix(layer, form)).square()
    kept = torch.cat([energy.new_zeros(1), energy.cumsum(0)])
    return 1 - kept / kept[-1].clamp_min(1e-30)


def checked_rank(method: str, layer: nn.Module, form: str, setting: Setting) -> int:
    """The rank of a setting. RecipeError if the layer has no such rank."""
    rank, shape = setting.get("rank"), as_matrix(layer, form).shape
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= min(shape):
        raise RecipeError(
            f"{method}: the rank must be a whole number from 1 to {min(shape)} for a weight of shape "
            f"{tuple(_rows(layer).shape)} ({form}: a matrix of {shape[0]} x {shape[1]}), got {rank!r}"
        )
    return rank


def _stack(layer: nn.Module, form: str, matrix: Tensor, rank: int, bias: Tensor | None) -> nn.Sequential:
    left, right = split(matrix, rank)
    if form == "channel":
        return through_channels(layer, left, right, bias)
    assert isinstance(layer, nn.Conv2d)
    return through_space(layer, right, left, bias)


def _rows(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight.detach()


def _bias(layer: nn.Module) -> Tensor | None:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return None if layer.bias is None else layer.bias.detach().double()
