"""The diagonal of the Hessian of a network's loss by its weights, without labels: three estimators.

The loss compares the network with itself: the divergence of its outputs' softmax from what it was. At that point its
gradient is zero, as OBD assumes, and its Hessian is the Gauss-Newton one, J^T (diag(p) - p p^T) J.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 4
"""Inputs a backward pass in `gauss_newton`; independent signs keep them apart in expectation."""


def gauss_newton(model: nn.Module, weights: Sequence[Tensor], inputs: Tensor, draws: int, seed: int) -> list[Tensor]:
    """The Gauss-Newton diagonal of the mean over `inputs` (N, ...), for each weight in its shape.

    v = sqrt(p) z - p (sqrt(p) . z) with random signs z has E[v v^T] = diag(p) - p p^T, so the square of J^T v, one
    backward pass, estimates the diagonal without bias; `draws` of them are averaged for every input.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = [torch.zeros_like(weight) for weight in weights]
    for _ in range(draws):
        for x in torch.split(inputs, BATCH):
            outputs = _logits(model, x)
            p = outputs.detach().softmax(1)
            signs = _signs(p.shape, generator).to(p)
            v = p.sqrt() * signs - p * (p.sqrt() * signs).sum(1, keepdim=True)
            for total, gradient in zip(sums, _gradients(outputs, weights, v), strict=True):
                total.add_(gradient.square())
    return [total / (draws * len(inputs)) for total in sums]


def fisher(model: nn.Module, weights: Sequence[Tensor], inputs: Tensor) -> list[Tensor]:
    """The empirical Fisher: mean squared gradient of each input's cross-entropy with the class the network gives it.

    One backward pass an input. Of confident networks the gradients, and with them the estimate, are small.
    """
    sums = [torch.zeros_like(weight) for weight in weights]
    for x in torch.split(inputs, 1):
        outputs = _logits(model, x)
        p = outputs.detach().softmax(1)
        one_hot = functional.one_hot(p.argmax(1), p.shape[1]).movedim(-1, 1)
        for total, gradient in zip(sums, _gradients(outputs, weights, p - one_hot), strict=True):
            total.add_(gradient.square())
    return [total / len(inputs) for total in sums]


def self_divergence(model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """The mean over inputs of KL(outputs as they are now || outputs), to be differentiated by the weights."""
    with torch.no_grad():
        target = _logits(model, inputs).softmax(1)
    return lambda: functional.kl_div(_logits(model, inputs).log_softmax(1), target, reduction="sum") / len(inputs)


def hutchinson(loss: Callable[[], Tensor], weights: Sequence[Tensor], probes: int, seed: int) -> list[Tensor]:
    """diag(H) = E[z * (H z)] with random signs z, by double backpropagation; not biased, and not always positive.

    Bekas, Kokiopoulou, Saad. An estimator for the diagonal of a matrix. Applied Numerical Mathematics 2007.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), weights, create_graph=True, materialize_grads=True)
    sums = [torch.zeros_like(weight) for weight in weights]
    for _ in range(probes):
        signs = [_signs(weight.shape, generator).to(weight) for weight in weights]
        products = torch.autograd.grad(
            gradients, weights, signs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for total, sign, product in zip(sums, signs, products, strict=True):
            total.add_(sign * product)
    return [total / probes for total in sums]


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """(N, K, ...)"""
    with torch.enable_grad():
        outputs = model(x)
    return outputs if outputs.ndim > 1 else outputs[:, None]  # type: ignore[no-any-return]


def _gradients(outputs: Tensor, weights: Sequence[Tensor], v: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, weights, v, allow_unused=True, materialize_grads=True)


def _signs(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2 - 1
