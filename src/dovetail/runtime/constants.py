"""An ONNX model beside its constants, which are decoded when they are read, and copied only into a whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]
Floats = NDArray[np.float32]

SMALL = 1024
"""Elements up to which a constant's values may decide a shape."""


@dataclass(frozen=True)
class _Later:
    shape: tuple[int, ...]
    make: Callable[[], Floats]
    dtype = np.dtype(np.float32)


class Constants(MutableMapping[str, Array]):
    """Arrays by name, some of which are not there before they are read."""

    def __init__(self) -> None:
        self._entries: dict[str, Array | _Later] = {}

    def put_off(self, name: str, shape: tuple[int, ...], make: Callable[[], Floats]) -> None:
        """Let `make` give the array, of this shape, when it is first asked for."""
        self._entries[name] = _Later(shape, make)

    def joined(self, others: Mapping[str, Array]) -> Constants:
        """With others, of which none is made for it."""
        result = Constants()
        result._entries = self._entries | (others._entries if isinstance(others, Constants) else dict(others))
        return result

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._entries[name].dtype

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        if isinstance(entry, _Later):
            entry = self._entries[name] = entry.make()
        return entry

    def __setitem__(self, name: str, array: Array) -> None:
        self._entries[name] = array

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(eq=False)
class OpenModel:
    """proto: a model without initialisers, which lie in `constants`."""

    proto: ModelProto
    constants: Constants

    @classmethod
    def of(cls, model: ModelProto) -> Self:
        """The given model is left as it is; the arrays are its own memory."""
        constants, proto = Constants(), ModelProto()
        constants.update((tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer)
        proto.ir_version = model.ir_version
        proto.opset_import.extend(model.opset_import)
        proto.functions.extend(model.functions)
        for field, value in model.graph.ListFields():
            if field.name == "name":
                proto.graph.name = value
            elif field.name in ("node", "input", "output", "value_info"):
                getattr(proto.graph, field.name).extend(value)
        return cls(proto, constants)

    def of_shapes(self, shapes: Mapping[str, tuple[int | None, ...]]) -> OpenModel:
        """The same model for inputs of these shapes, None standing for what stays as it is.

        Its constants are its own; none is made for it.
        """
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        for entry in proto.graph.input:
            for side, size in zip(entry.type.tensor_type.shape.dim, shapes.get(entry.name, ()), strict=False):
                if size is not None:
                    side.dim_value = size
        return OpenModel(proto, self.constants.joined({}))

    def whole(self) -> ModelProto:
        """All in one, as it is written and as others take it."""
        model = ModelProto()
        model.CopyFrom(self.proto)
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.constants.items())
        return model


def evaluate(node: NodeProto, given: Mapping[str, Array], model: ModelProto) -> dict[str, Array]:
    """What a node of the model makes of these values. Raises whatever ONNX's evaluator of 200 operators does."""
    # Of a node alone the evaluator takes the newest version, whatever it is told.
    alone = ModelProto(ir_version=8, opset_import=model.opset_import)
    alone.graph.node.append(node)
    outputs = [name for name in node.output if name]
    for names, values in ((given, alone.graph.input), (outputs, alone.graph.output)):
        for name in names:
            values.add(name=name)
    results = ReferenceEvaluator(alone).run(None, dict(given))
    return dict(zip(outputs, map(np.asarray, results), strict=True))


def outlined(model: ModelProto, constants: Constants) -> ModelProto:
    """The model with what shapes and types can be told from: of large constants no more than theirs."""
    outline = ModelProto()
    outline.CopyFrom(model)
    for name in constants:
        shape = constants.shape(name)
        if math.prod(shape) <= SMALL:
            array = np.ascontiguousarray(constants[name]).reshape(shape)
            outline.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(constants.dtype(name))
            outline.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return outline
