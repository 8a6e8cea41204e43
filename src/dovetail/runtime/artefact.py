"""The artefact: one .dvt file that holds a compressed network, ready to run.

It is a safetensors file with three entries of bytes: `data` (the arrays of every Format, one after the other), `graph`
(the ONNX model without these tensors, compressed) and `manifest` (headers of the Formats, types and shapes of their
arrays, provenance; JSON, compressed). One entry per array would cost about 80 bytes each: 8 kB for ResNet-20, an
eighth of the whole file at 16x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ArtefactError, FormatError
from dovetail.formats import Format, Json, from_arrays
from dovetail.runtime.container import HEADER_LIMIT, UNREADABLE, compress, expand, pack, read_header, unpack
from dovetail.runtime.files import write_atomically

DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f2", "f4", "f8"}
"""Types of stored arrays, little-endian, as numpy's array protocol writes them."""
MAX_ELEMENTS = 1 << 32
OTHER_PARTS = ("graph", "manifest", "container")


class _Stored(msgspec.Struct):
    """What the manifest says about one tensor: its Format's header; type and shape of each array, in order."""

    header: dict[str, Any]
    arrays: dict[str, tuple[str, tuple[int, ...]]]


class _Manifest(msgspec.Struct):
    tensors: dict[str, _Stored]
    provenance: dict[str, Any]
    activations: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Artefact:
    """A compressed network.

    graph: serialised ONNX ModelProto that does not define the tensors below (runtime/graph.py).
    tensors: every weight by its initialiser's name, which is its name in the state_dict.
    provenance: where it comes from (recipe, seed, versions, ...), JSON-able.
    activations: {"bits": b} of what a layer reads, by the layer's path, where it is quantised; all else is float32.
    """

    graph: bytes
    tensors: Mapping[str, Format]
    provenance: Mapping[str, Json] = field(default_factory=dict)
    activations: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in OTHER_PARTS:
            if name in self.tensors:
                raise ArtefactError(f"A tensor may not be named {name!r}, as a part of the file is; rename it.")

    def to_bytes(self) -> bytes:
        """The file. The same artefact always gives the same bytes."""
        return pack(self._encoded())

    @classmethod
    def from_bytes(cls, file: bytes, name: str = "The artefact") -> Self:
        """The inverse of `to_bytes`; `name` is what errors call the file. Nothing in the file is ever executed.

        Raises ArtefactError on a file that is truncated, altered, foreign or of a newer version.
        """
        encoded = unpack(file, name)
        try:
            manifest = msgspec.json.decode(expand(encoded["manifest"], name), type=_Manifest)
        except UNREADABLE:
            raise ArtefactError(f"{name} has a manifest that cannot be read; make the artefact anew.") from None
        tensors = _read_tensors(manifest.tensors, encoded["data"], name)
        return cls(expand(encoded["graph"], name), tensors, manifest.provenance, manifest.activations)

    def save(self, path: str | Path) -> None:
        """Write the file at once or not at all. Raises ArtefactError if it cannot be written."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and verify a file. Raises ArtefactError if there is none, or on any that `save` did not write."""
        path = Path(path)
        try:
            with path.open("rb") as stream:
                beginning = stream.read(8 + HEADER_LIMIT)
                read_header(beginning, str(path))
                stream.seek(0)
                file = stream.read()
        except FileNotFoundError:
            raise ArtefactError(f"{path} does not exist; make an artefact with `dovetail compress`.") from None
        except OSError as error:
            raise ArtefactError(f"{path} cannot be read: {error.strerror or error}.") from None
        return cls.from_bytes(file, str(path))

    def parts(self) -> dict[str, int]:
        """Bytes by part: every tensor, then "graph", "manifest" and "container". They sum to the file's size."""
        encoded = self._encoded()
        parts = {name: tensor.bits // 8 for name, tensor in self.tensors.items()}
        parts |= {"graph": len(encoded["graph"]), "manifest": len(encoded["manifest"])}
        return parts | {"container": len(pack(encoded)) - sum(parts.values())}

    def _encoded(self) -> dict[str, bytes]:
        """The three entries of the file."""
        stored: dict[str, _Stored] = {}
        data = bytearray()
        for name, tensor in self.tensors.items():
            arrays = {key: _little_endian(array) for key, array in tensor.arrays().items()}
            described = {key: (array.dtype.str[1:], array.shape) for key, array in arrays.items()}
            stored[name] = _Stored(tensor.header(), described)
            for array in arrays.values():
                data += array.tobytes()
        manifest = _Manifest(stored, dict(self.provenance), dict(self.activations))
        try:
            text = msgspec.json.encode(manifest)
        except (TypeError, OverflowError) as error:
            raise ArtefactError(f"The provenance of an artefact should be plain JSON: {error}.") from None
        return {"data": bytes(data), "graph": compress(self.graph), "manifest": compress(text)}


def _read_tensors(stored: Mapping[str, _Stored], data: memoryview, name: str) -> dict[str, Format]:
    """Every tensor from the arrays that lie in `data` one after the other."""
    tensors: dict[str, Format] = {}
    offset = 0
    for tensor_name, entry in stored.items():
        arrays: dict[str, NDArray[Any]] = {}
        for key, (dtype, shape) in entry.arrays.items():
            if dtype not in DTYPES or len(shape) > 32 or min(shape, default=0) < 0:
                raise ArtefactError(f"{name} holds an array of an impossible type or shape: {dtype!r}, {shape}.")
            count = math.prod(shape)
            size = count * np.dtype(dtype).itemsize
            if size > len(data) - offset or math.prod(side or 1 for side in shape) > MAX_ELEMENTS:
                raise ArtefactError(f"{name} does not hold all of tensor {tensor_name!r}; make the artefact anew.")
            array = np.frombuffer(data, f"<{dtype}", count, offset).reshape(shape)
            arrays[key] = np.require(array, requirements="A")
            offset += size
        try:
            tensors[tensor_name] = from_arrays(entry.header, arrays)
        except FormatError as error:
            raise ArtefactError(f"{name} holds a tensor {tensor_name!r} that cannot be read: {error}.") from None
    if offset != len(data):
        raise ArtefactError(f"{name} holds {len(data) - offset} bytes of no tensor; make the artefact anew.")
    return tensors


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")
