"""Adaptive rounding: up or down for each weight, so that the layer's responses stay, not the weights themselves.

Nagel, Amjad, van Baalen, Louizos, Blankevoort. Up or Down? Adaptive Rounding for Post-Training Quantization. ICML 2020.
arXiv:2004.10568

    min over codes Q of ||Y - X (s Q)^T - b||^2 = (s Q - W*) G (s Q - W*)^T + const,     G = X^T X centred, b free

X is what the layer sees in the network quantised so far, Y what the original answers there (equation 25), W* the least
squares weight (`reconstruction.normal_equations`). The rows of Q do not depend on one another.

Departs from the paper, which relaxes Q by sigmoids and trains them for thousands of steps: here the columns are rounded
in order, of the largest G_jj first, and what a column got wrong is made up for by those still open,

    W_k <- W_k - (W_j - s Q_j) U_jk / U_jj,       U^T U = G^-1 (upper Cholesky factor)

(Frantar, Ashkboos, Hoefler, Alistarh. GPTQ. ICLR 2023. arXiv:2210.17323), and then each code in turn takes its best
value with the others held, until none changes. Both are exact in each step, take a hundredth of the time, and have
ended lower. A code is not bound to the two nearest ones. Nonlinearities are left out. Weights that are zero stay zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dovetail.methods.quantize.bias_correction import restored
from dovetail.methods.quantize.observation import Seen
from dovetail.methods.quantize.uniform import Uniform
from dovetail.methods.reconstruction import normal_equations
from dovetail.methods.responses import patches_at, with_positions
from dovetail.methods.watching import after_layers

RIDGE = 1e-3
"""Pull towards the trained weights, relative to the mean energy of an input."""

BLOCK = 128
"""Columns after which the others are brought up to date, all in one product (GPTQ, section 3.3)."""

SWEEPS = 20
"""Times, at most, that every code is reconsidered."""


def response_error(values: Tensor, wanted: Tensor, gram: Tensor) -> Tensor:
    """(V - W*) G (V - W*)^T for each row of `values` (T, n): (T,)."""
    difference = values - wanted
    return ((difference @ gram) * difference).sum(1)


def nearest_codes(weight: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """Each entry of `weight` (T, n) rounded to the nearest multiple of its row's scale (T, 1), saturating."""
    return torch.round(weight / scale).clamp(lowest, highest)


def adaptive_codes(weight: Tensor, wanted: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """Codes (T, n), as floats, of small response error; in no row is it above that of `nearest_codes` of `weight`.

    `weight` (T, n) is the trained one, whose zeros stay zero; `wanted` W* (T, n) gives the best response by Gram matrix
    `gram` (n, n), positive definite; `scale` is (T, 1), positive. All should be float64.
    """
    free = weight != 0
    nearest = nearest_codes(weight, scale, lowest, highest)
    codes = torch.where(free, _in_order(wanted, free, gram, scale, lowest, highest), 0)
    better = response_error(codes * scale, wanted, gram) < response_error(nearest * scale, wanted, gram)
    return _settled(torch.where(better[:, None], codes, nearest), wanted, free, gram, scale, lowest, highest)


def _in_order(wanted: Tensor, free: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """GPTQ: column by column, the error passed on to the columns that are left."""
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left, free, codes = wanted[:, order].clone(), free[:, order], torch.zeros_like(wanted)
    for block in _blocks(len(gram)):
        errors = torch.zeros_like(left[:, block])
        for j in range(block.start, block.stop):
            code = torch.round(left[:, j] / scale[:, 0]).clamp(lowest, highest) * free[:, j]
            error = errors[:, j - block.start] = (left[:, j] - code * scale[:, 0]) / upper[j, j]
            left[:, j + 1 : block.stop] -= error[:, None] * upper[j, j + 1 : block.stop]
            codes[:, order[j]] = code
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    return codes


def _settled(
    codes: Tensor, wanted: Tensor, free: Tensor, gram: Tensor, scale: Tensor, lowest: int, highest: int
) -> Tensor:
    """Coordinate descent: every code in turn to its best value, until none moves. Never raises the error."""
    for _ in range(SWEEPS):
        slope, before = (codes * scale - wanted) @ gram, codes.clone()
        for block in _blocks(len(gram)):
            near, start = slope[:, block].clone(), codes[:, block].clone()
            for j in range(block.start, block.stop):
                best = codes[:, j] - near[:, j - block.start] / (gram[j, j] * scale[:, 0])
                best = torch.round(best).clamp(lowest, highest) * free[:, j]
                near += ((best - codes[:, j]) * scale[:, 0])[:, None] * gram[j, block]
                codes[:, j] = best
            slope += ((codes[:, block] - start) * scale) @ gram[block]
        if torch.equal(codes, before):
            break
    return codes


def _blocks(columns: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK))


def fitted_scale(codes: Tensor, wanted: Tensor, gram: Tensor, scale: Tensor) -> Tensor:
    """The scale (T, 1) of least response error for these codes: (Q G W*^T) / (Q G Q^T); else the one there was."""
    weighted = codes @ gram
    fitted = (weighted * wanted).sum(1, keepdim=True) / (weighted * codes).sum(1, keepdim=True).clamp_min(1e-300)
    return torch.where(fitted > 0, fitted, scale)


def adapt(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    quantizers: Mapping[str, Uniform],
    targets: Mapping[str, Seen],
    inputs: Tensor,
    restore: bool,
) -> None:
    """Round the weight of each layer anew, front to back, on what it sees once those before it are rounded.

    weights: the effective ones before quantisation, by the layer's path, as the others are. targets: what the layers
    saw and answered then. inputs: one batch (N, ...) that is small enough to go through at once. restore: whether the
    means of the outputs are restored, of which the layers behind then see the result. Layers other than linear ones and
    convolutions in the plane are left as they are.
    """
    done: set[str] = set()

    def note(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
        target = targets[path]
        if path in done or target.places is None:
            return None
        done.add(path)
        seen = patches_at(layer, *with_positions(layer, x, y), target.places)
        layer.weight = reconstructed(weights[path], seen, target.patches, quantizers[path])
        answer: Tensor = layer.forward(x)
        return restored(layer, answer, target, None) if restore else answer

    after_layers(model, list(quantizers), inputs, note, batch=len(inputs))


def reconstructed(weight: Tensor, seen: Tensor, before: Tensor | None, quantizer: Uniform) -> Tensor:
    """The weight (T, ...) on its quantiser's grid, so that what it makes of `seen` is near what it made of `before`.

    seen: rows (n, groups * F) for weight.flatten(1) (T, F). before: the same rows as they were in the network that is
    not quantised; None takes `seen`. Where each output has a scale of its own, the quantiser gets better ones.
    """
    flat, scale = weight.detach().double().flatten(1), quantizer.scale.double()
    groups = seen.shape[1] // flat.shape[1]
    per_output = len(scale) > 1
    values, fitted = [], []
    for own, x, was, steps in zip(
        flat.chunk(groups),
        seen.double().chunk(groups, 1),
        (seen if before is None else before).double().chunk(groups, 1),
        scale.view(-1, 1).expand(len(flat), 1).chunk(groups),
        strict=True,
    ):
        wanted, gram = normal_equations(x, was @ own.T, own, RIDGE)
        codes = adaptive_codes(own, wanted, gram, steps, quantizer.lowest, quantizer.highest)
        if per_output:
            steps = fitted_scale(codes, wanted, gram, steps)
            codes = adaptive_codes(codes * steps, wanted, gram, steps, quantizer.lowest, quantizer.highest)
        values.append(codes * steps)
        fitted.append(steps)
    if per_output:
        quantizer.scale.copy_(torch.cat(fitted)[:, 0])
    return torch.cat(values).view_as(weight).to(weight.dtype)
