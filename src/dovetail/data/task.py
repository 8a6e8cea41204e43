"""What a data set asks of a network: the loss to train with and the score to report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.errors import DataError


class Task(ABC):
    """The loss and the metric of a data set. Every task is a frozen dataclass."""

    metric: ClassVar[str]
    """What the mean of `score` is called in a report."""

    targets_from_original: ClassVar[bool] = False
    """True if the targets are the original network's outputs, so that whoever trains or scores has to run it."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch, a scalar."""

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One float32 score a sample, higher is better; their mean is the metric."""


@dataclass(frozen=True)
class Classification(Task):
    """One class of K for each input. Outputs are logits (N, K), targets are class indices (N)."""

    metric: ClassVar[str] = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy with the targets smoothed towards uniform (Szegedy et al. 2016, arXiv:1512.00567)."""
        return functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1.0 where the largest logit is at the target, else 0.0."""
        return (outputs.argmax(1) == targets).to(torch.float32)


@dataclass(frozen=True)
class MatchOutputs(Task):
    """Do what the original network does, for data without labels. Targets are the original's outputs (N, K, ...)."""

    metric: ClassVar[str] = "agreement"
    targets_from_original: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Kullback-Leibler divergence of the outputs' softmax over K from the targets'; smoothing is ignored.

        Networks that end in a softmax, as many ONNX files do, give probabilities, which are taken as they are.
        """
        log = _log if _are_probabilities(_checked(targets)) else functional.log_softmax
        log_q, log_p = (log(_checked(x), 1) for x in (outputs, targets))
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The fraction of positions (one, for outputs (N, K)) where both have their largest value in the same class."""
        agree = (_checked(outputs).argmax(1) == _checked(targets).argmax(1)).to(torch.float32)
        return agree.flatten(1).mean(1) if agree.ndim > 1 else agree


@dataclass(frozen=True)
class CloseOutputs(Task):
    """Give the outputs that the original network gives, of whatever shape. Targets are the original's outputs."""

    metric: ClassVar[str] = "fidelity"
    targets_from_original: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """||y - y'||^2 / ||y||^2 of all samples' outputs y' against the original's y; smoothing is ignored.

        Not of each: for a sample without any output, such as a picture without text, that says nothing.
        """
        return (outputs - targets).float().square().sum() / targets.float().square().sum().clamp_min(1e-30)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 - ||y - y'||^2 / ||y||^2, and 0 where the error is larger than the outputs themselves."""
        return (1 - _relative_error(outputs, targets)).clamp_min(0).to(torch.float32)


def matching(outputs: Tensor) -> Task:
    """The task of doing what the original does, for a network with such outputs.

    Scores (N, K) or (N, K, H, W) of K >= 2 classes are compared by which is the largest, all others by value.
    """
    return MatchOutputs() if outputs.ndim in (2, 4) and outputs.shape[1] > 1 else CloseOutputs()


def _are_probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


def _log(probabilities: Tensor, dimension: int) -> Tensor:
    return (probabilities / probabilities.sum(dimension, keepdim=True)).clamp_min(1e-7).log()


def _relative_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """One number a sample."""
    error, energy = (x.float().flatten(1).square().sum(1) for x in (outputs - targets, targets))
    return error / energy.clamp_min(1e-30)


def _checked(outputs: Tensor) -> Tensor:
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise DataError(
            "agreement compares which of K >= 2 outputs is largest, "
            f"but the network's output is {tuple(outputs.shape)}: use a data set with labels"
        )
    return outputs
