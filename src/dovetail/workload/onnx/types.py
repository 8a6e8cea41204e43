"""ONNX element types, and the two kinds of values that flow between nodes.

A value is a torch tensor, or, where it describes a shape, a *host value*: a numpy array of plain integers (of torch's
symbolic ones while the module is exported), so that shapes are computed without tensors and no batch size is frozen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from dovetail.errors import ModelError

Host = NDArray[Any]
Ints = Sequence[int] | Host
"""What an operator gets for an input that says a shape, axes, pads, ...: a list if constant, else a host value."""

TORCH_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
}


def torch_type(element_type: int) -> torch.dtype:
    """The torch type of an ONNX element type; ModelError if torch has none."""
    if element_type not in TORCH_TYPES:
        name = (
            TensorProto.DataType.Name(element_type) if element_type in TensorProto.DataType.values() else element_type
        )
        raise ModelError(f"The ONNX element type {name} cannot be read; use float, integer or boolean tensors")
    return TORCH_TYPES[element_type]


def ints(values: Ints | int) -> list[int]:
    """A list of plain (or symbolic) integers from a constant list, a host value or one number."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return list(listed) if isinstance(listed, Sequence) else [listed]


def host_array(sizes: Sequence[int | torch.SymInt]) -> Host:
    """A host value; symbolic sizes stay symbolic."""
    symbolic = any(isinstance(size, torch.SymInt) for size in sizes)
    return np.array(list(sizes), dtype=object if symbolic else np.int64)


def to_host(tensor: Tensor) -> Host:
    """A computed tensor where numbers are needed, such as a shape."""
    return np.asarray(tensor.tolist())


def to_tensor(values: Host, like: Tensor | None) -> Tensor:
    """A host value where a tensor is needed, on the device of `like`."""
    kind = torch.int64 if values.dtype == object else None
    return torch.tensor(values.tolist(), dtype=kind or numpy_type(values), device=None if like is None else like.device)


def numpy_type(values: Host) -> torch.dtype:
    """The torch type of a numpy array's elements."""
    return torch.from_numpy(np.zeros(0, values.dtype)).dtype
