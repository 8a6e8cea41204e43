"""Channel labels: which channel every element of a tensor belongs to, and which channels must stay or go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.int64]

CONSTANT = 0
"""The label of what belongs to no channel: inputs, numbers, constant tensors. It never goes."""


class Classes:
    """Sets of labels that go together (a union-find), some of them frozen for a reason."""

    def __init__(self) -> None:
        self._parents = [CONSTANT]
        self._reasons = {CONSTANT: "it is an input or a constant of the network"}

    def fresh(self, count: int) -> Array:
        """New labels, each a class of its own."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def roots(self, labels: Array) -> Array:
        """The class of each label, named by one of its members."""
        unique, inverse = np.unique(labels, return_inverse=True)
        found = np.array([self._find(int(label)) for label in unique], dtype=np.int64)
        return found[inverse].reshape(labels.shape)

    def union(self, a: Array, b: Array) -> None:
        """Element by element (with broadcasting), make the two classes one."""
        a, b = np.broadcast_arrays(self.roots(a), self.roots(b))
        pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
        for left, right in pairs.T.tolist():
            self._join(left, right)

    def freeze(self, labels: Array, reason: str) -> None:
        """These must stay; the first reason is remembered."""
        for root in np.unique(self.roots(labels)).tolist():
            self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """Why a class is frozen; None if it may go."""
        return self._reasons.get(root)

    def _find(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def _join(self, left: int, right: int) -> None:
        low, high = sorted((self._find(left), self._find(right)))
        if low == high:
            return
        self._parents[high] = low
        reason = self._reasons.pop(high, None)
        if reason is not None:
            self._reasons.setdefault(low, reason)


@dataclass(frozen=True, eq=False)
class Labels:
    """The label of every element of a tensor of this shape. `ids` has size 1 along axes on which it does not depend."""

    ids: Array
    shape: tuple[int, ...]

    def full(self) -> Array:
        """Of the tensor's shape (a view)."""
        return np.broadcast_to(self.ids, self.shape)

    def tensor(self) -> Tensor:
        """The same as numbers that every torch function takes; 2**53 labels are exact."""
        return torch.from_numpy(self.full().astype(np.float64, order="C"))

    def vector(self, axis: int) -> Array:
        """The labels along one axis, at the first position of all others."""
        index = tuple(slice(None) if i == axis % len(self.shape) else 0 for i in range(len(self.shape)))
        return self.full()[index]


def constant(shape: Sequence[int]) -> Labels:
    """Labels of a tensor without channels."""
    return Labels(np.full((1,) * len(shape), CONSTANT, dtype=np.int64), tuple(shape))


def along(ids: Array, shape: Sequence[int], axis: int) -> Labels:
    """Labels that depend on one axis only."""
    sizes = [1] * len(shape)
    sizes[axis] = len(ids)
    return Labels(ids.reshape(sizes), tuple(shape))


def compact(ids: Array) -> Array:
    """Size 1 along every axis on which nothing depends."""
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1:
            first = ids.take([0], axis)
            if (ids == first).all():
                ids = first
    return ids


def from_tensor(tensor: Tensor) -> Labels:
    """Labels from the numbers that a function made of `Labels.tensor`."""
    ids = tensor.numpy().astype(np.int64, order="C")
    return Labels(compact(ids), tuple(tensor.shape)) if math.prod(tensor.shape) else constant(tensor.shape)
