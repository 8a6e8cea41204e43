"""Binary weights by hashing: signs and scales that keep a layer's responses, not its weights.

Hu, Wang, Cheng. From Hashing to CNNs: Training Binary-Weight Networks via Hashing. AAAI 2018. arXiv:1802.02733

    min over b in {-1, 1}^n, a  of  ||y - a X b||^2        each filter w alone; X (m, n) what it sees, y (m) its aim
    =  a^2 b^T G b - 2 a c^T b + const                     G = X^T X, c = X^T y
    a <- c^T b / b^T G b
    b_j <- sign(c_j / a - sum_{i != j} G_ji b_i)           discrete cyclic coordinate descent

The layers are solved from the first to the last. X is from the network whose earlier layers are binary already, y is
what the original responds, so that each layer makes up for the errors of those before it ("asymmetric"); or else
y = X w. Then training goes on as in BWN, its latent weight starting at |w| with the signs b and the mean magnitude a.

Departs from the paper: a is the best one for b at every comparison, not once a sweep: bit j changes where that raises
(c^T b)^2 / b^T G b, what is taken off ||y||^2. It starts from sign(w), so it is never worse than BWN, and from the
signs of the least squares solution G^-1 c, and keeps the better. To G and c the ridge r and r w are added, so that
what no input shows is decided by the weight. First and last layers stay as they are.

Without inputs, and for layers that are no plain convolution or linear layer, G is the identity: that is BWN, and the
plan's row says `fit: weights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dovetail.methods.constraint import bake, constrain
from dovetail.methods.decomposition import target_network
from dovetail.methods.layers import called
from dovetail.methods.method import Context, Kind, Plan, check, layer_path, weight_name
from dovetail.methods.quantize.bwn import BinaryWeight
from dovetail.methods.quantize.ends import KeepsEnds
from dovetail.methods.quantize.quantizer import sign
from dovetail.methods.reconstruction import settle_norms
from dovetail.methods.responses import outputs, patches

TINY = torch.finfo(torch.float32).tiny

FLOOR = 1e-6
"""The least magnitude of a latent weight, in units of its filter's mean: of zero the sign would be lost."""


@dataclass(frozen=True, kw_only=True)
class Bwnh(KeepsEnds):
    """Gives every filter one magnitude, its signs such that the layer responds as before."""

    name: ClassVar[str] = "bwnh"
    kind: ClassVar[Kind] = "share"

    asymmetric: bool = True
    """Whether the aim is the original's responses, and not what the weight makes of the inputs as they are now."""

    sweeps: int = 20
    """How often, at most, every bit is looked at."""

    ridge: float = 1e-3
    """The pull towards the weight's own signs, relative to the mean energy of an input."""

    seed: int = 0
    """For the order of the bits."""

    def __post_init__(self) -> None:
        check(self.sweeps >= 1, self.name, "sweeps", "1 or more", self.sweeps)
        check(self.ridge >= 0, self.name, "ridge", "0 or more", self.ridge)

    def plan(self, model: nn.Module, context: Context) -> Plan:
        names = self.inner(model, context, self.weights(model))
        seen = called(bake(model), context.example, _accepts) if context.inputs is not None else {}
        solved = [name for path in seen if (name := weight_name(path)) in names]
        rest = [name for name in names if name not in solved]
        return {
            name: {"bits": 1, "fit": fit} for fit, part in (("responses", solved), ("weights", rest)) for name in part
        }

    def apply(self, model: nn.Module, plan: Plan, stage: int, context: Context) -> nn.Module:
        model.eval()
        original = target_network(model, [layer_path(name) for name in plan], context)
        for name, row in plan.items():
            layer, weight = model.get_submodule(layer_path(name)), self.weights(model)[name]
            rows = weight.flatten(1)
            signs, scale = sign(rows), rows.abs().mean(1)
            if row["fit"] == "responses" and context.inputs is not None and not context.rebuilding:
                gram, cross = self._products(model, original, layer_path(name), rows.double(), context)
                signs, scale = hashed(rows.double(), gram, cross, sweeps=self.sweeps, seed=self.seed)
            latent = with_signs(rows, signs, scale).view_as(weight)
            constrain(model, name, BinaryWeight(latent.abs().max().clamp_min(1)))
            layer.weight = latent
        settle_norms(model, context)
        return model

    def _products(
        self, model: nn.Module, original: nn.Module, path: str, weight: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """G (n, n) and c (T, n) of the layer at `path` whose filters are `weight` (T, n), the ridge in them."""
        assert context.inputs is not None
        seen = patches(model, path, context.inputs).double()
        if self.asymmetric:
            bias = model.get_submodule(path).bias
            aim = outputs(original, [path], context.inputs)[path].double()
            aim = aim - bias.detach().double() if isinstance(bias, Tensor) else aim
        else:
            aim = seen @ weight.T
        gram = seen.T @ seen
        ridge = self.ridge * gram.diagonal().mean().clamp_min(1e-30)
        return gram + ridge * torch.eye(len(gram), dtype=gram.dtype), aim.T @ seen + ridge * weight


def with_signs(weight: Tensor, signs: Tensor, scale: Tensor) -> Tensor:
    """The weight (T, n) with other signs (T, n), each row in proportion, so that its mean magnitude is `scale` (T)."""
    size = weight.double().abs()
    size = torch.maximum(size, FLOOR * size.mean(1, keepdim=True)).clamp_min(TINY)
    return (signs * size * (scale / size.mean(1))[:, None]).to(weight.dtype)


def hashed(weight: Tensor, gram: Tensor, cross: Tensor, *, sweeps: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Signs b (T, n) and scales a (T), not negative, of which a^2 b^T G b - 2 a c^T b is small for each filter.

    G is `gram` (n, n), c a row of `cross` (T, n); the search starts from the signs of `weight` (T, n) and from those of
    c G^-1, and never ends above where it started.
    """
    regular = gram + 1e-9 * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    starts = [sign(weight), sign(torch.linalg.solve(regular, cross.T).T)]
    first, second = (descended(start, gram, cross, sweeps, seed) for start in starts)
    better = _taken_off(first, gram, cross) >= _taken_off(second, gram, cross)
    signs = torch.where(better[:, None], first, second)
    scale = (cross * signs).sum(1) / ((signs @ gram) * signs).sum(1).clamp_min(1e-300)
    return signs * sign(scale)[:, None], scale.abs()


def descended(signs: Tensor, gram: Tensor, cross: Tensor, sweeps: int, seed: int) -> Tensor:
    """The signs after changing single ones, all filters at once, until no change raises (c^T b)^2 / b^T G b."""
    signs, product = signs.clone(), signs @ gram
    match, energy = (cross * signs).sum(1), (product * signs).sum(1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(sweeps):
        changed = False
        for j in torch.randperm(len(gram), generator=generator).tolist():
            new_match = match - 2 * cross[:, j] * signs[:, j]
            new_energy = energy - 4 * product[:, j] * signs[:, j] + 4 * gram[j, j]
            better = new_match.square() * energy > match.square() * new_energy * (1 + 1e-9)
            if not better.any():
                continue
            changed = True
            match, energy = torch.where(better, new_match, match), torch.where(better, new_energy, energy)
            signs[better, j] *= -1
            product[better] += 2 * signs[better, j, None] * gram[j]
        if not changed:
            break
    return signs


def _taken_off(signs: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """What each filter's signs (T, n), at their best scale, take off the squared error."""
    return (cross * signs).sum(1).square() / ((signs @ gram) * signs).sum(1).clamp_min(1e-300)


def _accepts(layer: nn.Module) -> bool:
    """Whether what a layer sees can be sampled as rows that its weight multiplies."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
