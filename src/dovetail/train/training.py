"""The configuration of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from dovetail.errors import RecipeError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train: one stage of a recipe. Raises RecipeError, naming the field, if a value is out of range.

    `sgd` has Nesterov momentum (Sutskever et al. 2013) where `momentum` > 0; `adamw` ignores it and uses betas 0.9 and
    0.999 (Loshchilov, Hutter 2019, arXiv:1711.05101). Weight decay leaves alone what has fewer than two dimensions:
    biases, normalisation, codebooks. `cosine` falls from `learning_rate` to 0 (arXiv:1608.03983) after
    `warmup_epochs` of a linear rise. With `distillation` d and a teacher the loss is
    (1 - d) task + d T^2 KL(teacher / T || student / T) at temperature T (Hinton et al. 2015, arXiv:1503.02531).
    `max_gradient_norm` scales gradients down whose norm over all parameters is greater (Pascanu et al. 2013,
    arXiv:1211.5063); None leaves them. `images` is how many training images an epoch takes, a fresh random choice each
    time; None is all of them. `compiled` compiles the network first (torch.compile; on a CPU with a C++ compiler).
    """

    epochs: int = 1
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    augment: bool = True
    precision: str = "float32"
    compiled: bool = False
    max_gradient_norm: float | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        self._check("epochs", _is_whole(self.epochs, 0), "a whole number >= 0")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "a number > 0")
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        self._check("momentum", 0 <= self.momentum < 1, "a fraction in [0, 1)")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "a number >= 0")
        self._check("batch_size", _is_whole(self.batch_size, 1), "a whole number >= 1")
        self._check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        self._check("warmup_epochs", 0 <= self.warmup_epochs < math.inf, "a number >= 0")
        self._check("label_smoothing", 0 <= self.label_smoothing < 1, "a fraction in [0, 1)")
        self._check("distillation", 0 <= self.distillation <= 1, "a fraction in [0, 1]")
        self._check("temperature", 0 < self.temperature < math.inf, "a number > 0")
        self._check("augment", isinstance(self.augment, bool), "true or false")
        self._check("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        self._check("compiled", isinstance(self.compiled, bool), "true or false")
        norm = self.max_gradient_norm
        self._check("max_gradient_norm", norm is None or 0 < norm < math.inf, "a number > 0")
        self._check("images", self.images is None or _is_whole(self.images, 1), "a whole number >= 1")

    def _check(self, field: str, valid: bool, expected: str) -> None:
        if not valid:
            raise RecipeError(f"Training.{field} is {expected}, got {getattr(self, field)!r}")

    def steps_per_epoch(self, available: int) -> int:
        """Optimiser steps in an epoch of a training set of `available` images; an incomplete last batch is left out."""
        return max(1, min(available, self.images or available) // self.batch_size)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of optimiser step `step`, counted from 0 over all epochs."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        total = self.epochs * steps_per_epoch
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """The optimiser of the parameters of `model` that require a gradient."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        if self.optimizer == "adamw":
            return AdamW(groups, lr=self.learning_rate)
        return SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.momentum > 0)


def _is_whole(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
