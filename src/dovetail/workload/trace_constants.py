"""Which tensors that an operator sees are stored with the network, and under which name.

A weight reaches an operator as itself, as a view (transposed, a slice) or as something computed from weights alone
(cast, masked by a parametrization). All of these are recognised by their storage: the first two share it with the
parameter, the third is computed by operators that `derive` is told of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

_ORIGINAL = re.compile(r"parametrizations\.(\w+)\.original\d*$")
_PARAMETRIZATION = re.compile(r"((?:.*\.)?)parametrizations\.(\w+)")


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor stored with the network, whole. Holding it keeps its storage from being given to another tensor."""

    name: str
    tensor: Tensor
    is_parameter: bool

    def contains(self, view: Tensor) -> bool:
        """Whether `view`, of the same storage, begins inside this tensor."""
        first = self.tensor.storage_offset()
        sizes_strides = zip(self.tensor.shape, self.tensor.stride(), strict=True)
        last = first + sum((size - 1) * stride for size, stride in sizes_strides)
        return first <= view.storage_offset() <= last


class Constants:
    """The tensors stored with one network, found by storage, named as in the network without parametrizations."""

    def __init__(self, model: nn.Module) -> None:
        self._by_storage: dict[int, list[Constant]] = {}
        self._densities: dict[tuple[object, ...], float] = {}
        for name, parameter in model.named_parameters():
            self._add(Constant(_ORIGINAL.sub(r"\1", name), parameter, True))
        for name, buffer in model.named_buffers():
            self._add(Constant(name, buffer, False))

    def find(self, tensor: Tensor) -> Constant | None:
        """The constant that `tensor` is, is a view of or was derived from; None for an activation."""
        candidates = self._by_storage.get(storage(tensor), ())
        return next((constant for constant in candidates if constant.contains(tensor)), None)

    def derive(self, outputs: Iterable[Tensor], sources: Iterable[Constant]) -> None:
        """Note that `outputs` were computed from `sources` alone: they go by the name of the largest parameter."""
        source = max(sources, key=lambda constant: (constant.is_parameter, constant.tensor.numel()))
        for output in outputs:
            whole = output if output.shape == source.tensor.shape else source.tensor
            self._by_storage[storage(output)] = [_Derived(source.name, whole, source.is_parameter, output)]

    def name(self, outputs: Iterable[Tensor], name: str) -> None:
        """Note that `outputs` were computed by the parametrization of the weight `name`."""
        for output in outputs:
            self._by_storage[storage(output)] = [_Derived(name, output, True, output)]

    def forget(self, tensor: Tensor) -> None:
        """Note that an activation was written into the storage of `tensor`."""
        self._by_storage.pop(storage(tensor), None)

    def density(self, tensor: Tensor) -> float:
        """`density`, measured once for each view of a constant."""
        key = (storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride())
        if key not in self._densities:
            self._densities[key] = density(tensor)
        return self._densities[key]

    def _add(self, constant: Constant) -> None:
        self._by_storage.setdefault(storage(constant.tensor), []).append(constant)


@dataclass(frozen=True, eq=False)
class _Derived(Constant):
    """A constant under the name of what it was `computed` from, alone in its storage."""

    computed: Tensor

    def contains(self, view: Tensor) -> bool:
        return True


def parametrized(path: Sequence[str]) -> str | None:
    """The weight whose parametrization is among the running modules, by their paths; None if there is none."""
    matches = (_PARAMETRIZATION.match(module) for module in path)
    return next((match[1] + match[2] for match in matches if match), None)


def storage(tensor: Tensor) -> int:
    """What tells one storage from another; views of one tensor have the same, on the meta device too."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


def density(tensor: Tensor) -> float:
    """The fraction of nonzero elements; 1.0 where there are none, or no values (meta device)."""
    elements = math.prod(tensor.shape)
    if not elements or tensor.is_meta:
        return 1.0
    return int(tensor.count_nonzero()) / elements
