"""Label-free repair: make a compressed network's layers answer as the original's did, from unlabelled inputs.

He, Cheng. Learning Compression from Limited Unlabeled Data. ECCV 2018 (batch statistics); Zhang, Zou, He, Sun.
Accelerating Very Deep Convolutional Networks for Classification and Detection. TPAMI 2016. arXiv:1505.06798
(asymmetric reconstruction: inputs from the network as approximated so far, targets from the original).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dovetail.methods.method import Context
from dovetail.methods.responses import outputs, patches
from dovetail.methods.watching import BATCH, batches

RIDGE = 1e-4
"""Pull towards the weights there are, relative to the mean energy of an input: a layer sees fewer independent patches
than it has weights."""


def refit(model: nn.Module, original: nn.Module, path: str, last: str, inputs: Tensor, *, ridge: float = RIDGE) -> None:
    """Solve the layer `last` of `model` anew so that the stack at `path` answers as `original` does at `path`.

    `last` is the path of a linear layer or a convolution with groups 1 and ends the stack (it may be the stack itself).
    Its weight and bias are the ridge regression of the original's responses on what it sees now; a bias is added
    where there was none.
    """
    layer = model.get_submodule(last)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    target = outputs(original, [path], inputs)[path]
    seen = patches(model, last, inputs)
    weight, bias = regress(seen, target, layer.weight.detach().flatten(1), ridge)
    layer.weight.data.copy_(weight.view_as(layer.weight))
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype))
    else:
        layer.bias.data.copy_(bias)


def regress(seen: Tensor, target: Tensor, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """W (T, F) and b (T) that minimise ||Y - X W^T - b||^2 / n + ridge * e * ||W - W0||^2.

    X is `seen` (n, F), Y `target` (n, T), W0 `start` (T, F), and e the mean square of the entries of X about their
    column's mean.
    """
    weight, _ = normal_equations(seen, target, start, ridge)
    return weight.to(start.dtype), best_bias(seen, target, weight).to(start.dtype)


def normal_equations(seen: Tensor, target: Tensor, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """`regress`'s W, in float64, and the matrix G (F, F) of its objective.

    Another weight V, with its best bias, does worse by the sum of (V - W) G (V - W)^T over the rows. G is positive
    definite if `ridge` is positive.
    """
    x, y, w0 = seen.double(), target.double(), start.double()
    x, y = x - x.mean(0), y - y.mean(0)
    gram = x.T @ x / len(x)
    gram += ridge * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype)
    change = torch.linalg.solve(gram, x.T @ (y - x @ w0.T) / len(x)).T
    return w0 + change, gram


def best_bias(seen: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The bias (T), in float64, with which `weight` (T, F) answers best: the mean of what it leaves of the target."""
    return target.double().mean(0) - weight.double() @ seen.double().mean(0)


def reestimate_norms(model: nn.Module, inputs: Tensor) -> None:
    """Replace the running statistics of every batch normalisation by those of `inputs`, which need no labels."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for x in torch.split(inputs, BATCH):
            model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def settle_norms(model: nn.Module, context: Context) -> None:
    """`reestimate_norms`, where there are inputs, if the outputs come closer to the original's by it.

    It can do harm. Least squares shrinks what it cannot explain, and statistics taken anew blow it up again; and a
    network that was trained on shifted pictures has the statistics of these, not of the plain ones in `inputs`.
    """
    if context.inputs is None or context.rebuilding:
        return
    trial = copy.deepcopy(model)
    reestimate_norms(trial, context.inputs)
    if context.original is not None:
        before, after = (_distance(network, context.original, context.inputs) for network in (model, trial))
        if before <= after:
            return
    model.load_state_dict(trial.state_dict())


def _distance(model: nn.Module, original: nn.Module, inputs: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return sum(float((model(x) - original(x)).square().sum()) for x in batches(model, inputs))
