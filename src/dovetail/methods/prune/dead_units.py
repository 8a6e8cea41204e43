"""Weights that no input reaches or that reach no output.

Han, Pool, Tran, Dally. Learning both Weights and Connections for Efficient Neural Networks. NeurIPS 2015.
arXiv:1506.02626, section 3.5: neurons left without input or output connections are removed with all their edges.

A weight lies on a path from input to output exactly if the output's derivative by it is not zero in a network of the
same connections whose weights are all positive, so that nothing cancels and no ReLU is off. One backward pass of that
network finds all such weights, whatever the graph: residual sums, concatenations, slices and padding included.

Departs from the paper: a bias counts as an input. A unit that has lost all its inputs still gives the constant its bias
makes, and its edges carry that on; only where there is no bias either do they go. So the network's function stays
exactly what it is, without retraining.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.methods.constraint import bake

TRIALS = 8
"""Random inputs, so that each weight meets one at which max pooling lets it through."""

TOLERANCE = 1e-5
"""Relative change of the outputs at which the search is taken to have gone wrong."""


def live(model: nn.Module, masks: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """The masks without the weights that have no part in the output, by the weight's name.

    `example` (1, ...) is run to see that leaving them out changes nothing. If it does, as it may in networks that
    compute with more than sums, products, pooling and growing activations, the masks come back as they are.
    """
    if not example.is_floating_point():
        return masks
    reached = _gradients(model, masks, example)
    found = {name: mask & (reached[name] != 0) for name, mask in masks.items()}
    return found if _same(model, masks, found, example) else masks


def _gradients(model: nn.Module, masks: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """The derivatives by the masked weights of a random sum of the outputs, in the network of positive weights."""
    generator = torch.Generator().manual_seed(0)

    def positive(shape: torch.Size) -> Tensor:
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)

    plain = bake(model).double().eval()
    for module in plain.modules():
        if isinstance(mean := getattr(module, "running_mean", None), Tensor):
            shift = getattr(module, "bias", None)
            if isinstance(shift, Tensor):
                shift.data = shift.data.abs() + mean.abs()
            mean.zero_()
            module.running_var.fill_(1.0)  # type: ignore[operator]
    parameters = dict(plain.named_parameters())
    for name, parameter in parameters.items():
        connected = masks[name] if name in masks else parameter.data != 0
        # Means of the inputs, not sums: no activation is to saturate.
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.data = connected * positive(parameter.shape) / fan_in
        parameter.requires_grad_(name in masks)
    names = list(masks)
    with torch.enable_grad():
        outputs = plain(positive(torch.Size((TRIALS, *example.shape[1:]))))
        summed = (outputs * positive(outputs.shape)).sum()
        gradients = torch.autograd.grad(summed, [parameters[name] for name in names], materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def _same(model: nn.Module, masks: dict[str, Tensor], fewer: dict[str, Tensor], example: Tensor) -> bool:
    plain = bake(model).eval()
    parameters = dict(plain.named_parameters())
    answers = []
    with torch.no_grad():
        for chosen in (masks, fewer):
            for name, mask in chosen.items():
                parameters[name].mul_(mask)
            answers.append(plain(example[:1]))
    expected, found = answers
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())
