"""Nested states of training in one safetensors file: no pickle, written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dovetail.train.errors import TrainingError

TENSOR = "tensor"  # {"tensor": name} stands for a tensor in the JSON of the structure, {"dict": {...}} for a dict

State = dict[str, Any]
"""A nested dict or list of tensors, str, int, float, bool and None; the keys of dicts are strings."""


def save_state(path: Path, state: State) -> None:
    """Write `state` to `path`, replacing what is there in one move. Tensors come back on the CPU.

    Raises TypeError if there is anything else in it than `State` may hold, OSError if the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_pack(state, "", tensors))
    content = save(tensors, metadata={"structure": structure, "sha256": _digest(structure, tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_state(path: Path) -> State:
    """The state that `save_state` wrote. TrainingError if the file is missing, damaged or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise TrainingError(f"there is no saved state {path}") from error
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path} is not a saved state, or a damaged one ({error}): delete it and start again"
        ) from error
    structure = metadata.get("structure", "")
    if metadata.get("sha256") != _digest(structure, tensors):
        raise TrainingError(
            f"{path} is not a saved state, or a damaged one (wrong checksum): delete it and start again"
        )
    state = _unpack(json.loads(structure), tensors)
    assert isinstance(state, dict)
    return state


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved to `tensors` under their JSON pointers (RFC 6901)."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"the keys of a saved state are strings, but {path or 'the top'} has {list(value)}")
        names = {key: f"{path}/{key.replace('~', '~0').replace('/', '~1')}" for key in value}
        return {"dict": {key: _pack(item, names[key], tensors) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a saved state holds tensors and JSON values, but {path} is a {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _unpack(item, tensors) for key, item in value["dict"].items()}
    return value


def _digest(structure: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(structure.encode())
    for part in _parts(tensors):
        digest.update(part)
    return digest.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterable[bytes | memoryview]:
    for name, tensor in sorted(tensors.items()):
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        if tensor.numel():  # an empty tensor's strides may forbid a view
            yield tensor.reshape(-1).view(torch.uint8).numpy().data
