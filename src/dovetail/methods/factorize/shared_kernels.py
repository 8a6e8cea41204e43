"""The constraint that makes a convolution's weight of coefficients and a small basis of kernels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from dovetail.formats import Dense, Layout, Product
from dovetail.formats.product import ordered_product
from dovetail.methods.constraint import Constraint, Step

COEFFICIENTS, BASIS, BOTH = range(3)


class SharedKernels(Constraint):
    """Weight (T, S, R, Q) = coefficients (T, S, D) x basis (D, R Q). The latent weight below is empty.

    While it alternates, one half is held still, turn by turn: its gradient is zero, and whatever the optimiser makes
    of that (momentum, weight decay) is undone after the step, so that the half stays the same to the bit. With several
    processes every parameter still takes part in every step. The turns end with the training they were made for.
    """

    mask: Tensor

    def __init__(self, coefficients: Tensor, basis: Tensor, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.basis = nn.Parameter(basis)
        self.register_buffer("mask", torch.ones_like(coefficients, dtype=torch.bool))
        self.kernel = kernel
        self.alternating = False
        self.turn = COEFFICIENTS
        self.interval: float | None = 1.0
        self.strength = 0.0
        self._before: Tensor | None = None

    def alternate(self, interval: float | None, strength: float) -> None:
        """From the next training on: turns of `interval` of it, the coefficients first, with the penalty on theirs.

        Without an interval both halves are trained at once, all the time with the penalty.
        """
        self.interval, self.strength = interval, strength
        self.alternating, self.turn = True, BOTH if interval is None else COEFFICIENTS

    def stop(self) -> None:
        """Train both halves at once, without penalty."""
        self.alternating, self._before = False, None

    def forward(self, latent: Tensor) -> Tensor:
        coefficients: Tensor = self.kept()
        basis: Tensor = self.basis
        if self.alternating:
            resting = self._resting()
            if resting is not None and self.training and torch.is_grad_enabled():
                self._before = resting.detach().clone()
            if self.turn == COEFFICIENTS:
                basis = _still(basis)
            elif self.turn == BASIS:
                coefficients = _still(coefficients)
        return self.compose(coefficients, basis)

    def kept(self) -> Tensor:
        """The coefficients that are in use, the others zero."""
        return self.coefficients * self.mask

    def compose(self, coefficients: Tensor, basis: Tensor) -> Tensor:
        """The weight, to the bit what the stored file gives back."""
        product: Tensor = ordered_product(coefficients, basis)
        return product.reshape(*product.shape[:2], *self.kernel)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.new_empty(0)

    def penalty(self) -> Tensor:
        if not self.alternating or self.turn == BASIS or self.strength == 0:
            return torch.zeros((), device=self.coefficients.device)
        return self.strength * self.kept().abs().sum()

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        if not self.alternating:
            return
        if (resting := self._resting()) is not None and self._before is not None:
            resting.copy_(self._before)
            self._before = None
        if step.index >= step.total:
            self.stop()
        elif self.interval is not None:
            self.turn = int(step.progress / self.interval + 1e-9) % 2

    def freeze(self, layout: Layout) -> Layout:
        coefficients = self.kept().detach().float().cpu().numpy()
        stored = replace(layout, structure="smallest", entropy="none").encode(coefficients)
        basis = Dense.encode(self.basis.detach().float().cpu().numpy(), layout.values)
        return replace(layout, structure=partial(Product.encode, coefficients=stored, basis=basis))

    def get_extra_state(self) -> Tensor:
        """Whose turn it is, so that an interrupted training goes on as it would have."""
        return torch.tensor([int(self.alternating), self.turn])

    def set_extra_state(self, state: Tensor) -> None:
        self.alternating, self.turn = bool(state[0]), int(state[1])

    def _resting(self) -> Tensor | None:
        """The half that is held still."""
        return {COEFFICIENTS: self.basis, BASIS: self.coefficients}.get(self.turn)


def _still(tensor: Tensor) -> Tensor:
    """The same values; the gradient that reaches the tensor is zero."""
    return tensor.detach() + 0.0 * tensor
