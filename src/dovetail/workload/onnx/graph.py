"""An ONNX file as plain nodes and torch constants."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper
from torch import Tensor

from dovetail.errors import ModelError
from dovetail.workload.onnx.types import TORCH_TYPES, torch_type

OLDEST_OPSET = 9
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One operation. A missing optional input or output has the name ""; an attribute that is a graph holds a Graph."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    scope: str = ""

    @property
    def subgraphs(self) -> dict[str, Graph]:
        """The attributes that are graphs, by name."""
        return {name: value for name, value in self.attributes.items() if isinstance(value, Graph)}

    def __str__(self) -> str:
        return f"{self.operator} (node {self.name or self.outputs[0]!r})"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be run, and what they start from.

    `trainable` names the constants that training may change: tensors of floating-point numbers, single ones aside.
    `types` and `shapes` hold what the file and ONNX's shape inference say; an open size is None.
    """

    opset: int
    nodes: tuple[Node, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    constants: dict[str, Tensor] = field(default_factory=dict)
    trainable: frozenset[str] = frozenset()
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)

    def reads(self) -> Iterator[str]:
        """Every name that is read, here or in a subgraph."""
        for node in self.nodes:
            yield from filter(None, node.inputs)
            for subgraph in node.subgraphs.values():
                yield from subgraph.reads()
        yield from self.outputs


def load_graph(source: str | os.PathLike[str] | ModelProto) -> Graph:
    """Read a file, or a model in memory; ModelError if it is no ONNX model, or its opset is too old or too new."""
    proto = source if isinstance(source, ModelProto) else _load_file(Path(source))
    label = "The ONNX model" if isinstance(source, ModelProto) else f"The ONNX file {source}"
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = max(opsets.get(domain, 0) for domain in STANDARD_DOMAINS)
    newest = onnx.defs.onnx_opset_version()
    if not proto.graph.node or not opset:
        raise ModelError(f"{label} holds no network; expected a model with nodes and an opset")
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"{label} has opset {opset}, expected {OLDEST_OPSET} to {newest}; export it again with a newer opset"
        )
    proto = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    return _graph(_with_shapes(proto).graph, Graph(opset=opset))


def _load_file(path: Path) -> ModelProto:
    if not path.is_file():
        raise ModelError(f"There is no ONNX file {path}; check the path")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is not an ONNX file, or is cut off ({error}); export it again") from error
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} keeps weights in another file that cannot be read ({error}); put that file beside it"
        ) from error
    return proto


def _with_shapes(proto: ModelProto) -> ModelProto:
    """The model with the shapes and types of its values, or as it was where inference fails: they help, no more."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return proto


def tensor(proto: TensorProto) -> Tensor:
    """A tensor of an ONNX file; ModelError for types that torch does not have."""
    kind = torch_type(proto.data_type)
    array = np.ascontiguousarray(numpy_helper.to_array(proto)).reshape(tuple(proto.dims))
    if kind == torch.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if proto.data_type in (TensorProto.INT4, TensorProto.UINT4):
        array = array.astype(np.int8 if kind == torch.int8 else np.uint8)
    return torch.from_numpy(array.copy())


def _graph(proto: onnx.GraphProto, outer: Graph) -> Graph:
    """A graph, which sees the constants of those around it."""
    own = {initialiser.name: tensor(initialiser) for initialiser in proto.initializer}
    own |= {sparse.values.name: _dense(sparse) for sparse in proto.sparse_initializer}
    constant = [node.op_type == "Constant" and node.domain in STANDARD_DOMAINS for node in proto.node]
    own |= {
        node.output[0]: _constant(node) for node, is_constant in zip(proto.node, constant, strict=True) if is_constant
    }
    types, shapes = _known([*proto.value_info, *proto.input, *proto.output])
    types = {initialiser.name: initialiser.data_type for initialiser in proto.initializer} | types
    graph = Graph(
        opset=outer.opset,
        inputs=tuple(value.name for value in proto.input if value.name not in own),
        outputs=tuple(value.name for value in proto.output),
        constants={**outer.constants, **own},
        trainable=outer.trainable - own.keys() | {name for name, value in own.items() if is_trainable(name, value)},
        types={**outer.types, **types},
        shapes={**outer.shapes, **shapes},
    )
    nodes = (_node(node, graph) for node, is_constant in zip(proto.node, constant, strict=True) if not is_constant)
    return replace(graph, nodes=tuple(nodes))


def _known(values: Sequence[onnx.ValueInfoProto]) -> tuple[dict[str, int], dict[str, tuple[int | None, ...]]]:
    types, shapes = {}, {}
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type in TORCH_TYPES:
            types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim)
    return types, shapes


def is_trainable(name: str, value: Tensor) -> bool:
    """Whether training may change a constant: floating-point tensors, and single numbers with an axis and a path."""
    return value.is_floating_point() and value.ndim > 0 and (value.numel() > 1 or "." in name)


def _node(proto: onnx.NodeProto, graph: Graph) -> Node:
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.GRAPH:
            value = _graph(value, graph)
        elif attribute.type == AttributeProto.TENSOR:
            content = tensor(value)
            value = content.reshape(-1).tolist()[0] if content.numel() == 1 else content.tolist()
            attributes["dtype"] = attribute.t.data_type
        elif attribute.type == AttributeProto.STRING:
            value = value.decode()
        elif attribute.type == AttributeProto.STRINGS:
            value = [text.decode() for text in value]
        elif attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            value = list(value)
        attributes[attribute.name] = value
    domain = "" if proto.domain in STANDARD_DOMAINS else f"{proto.domain}::"
    return Node(domain + proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, _scope(proto))


def _scope(proto: onnx.NodeProto) -> str:
    """The path of the torch module that a node was exported from, where torch's exporter noted it."""
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    try:
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _constant(proto: onnx.NodeProto) -> Tensor:
    """The value of a Constant node, in any of the ways in which it can be written."""
    attribute = proto.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return tensor(value)
    if attribute.name == "sparse_value":
        return _dense(value)
    if attribute.name in ("value_float", "value_floats"):
        return torch.tensor(value, dtype=torch.float32)
    if attribute.name in ("value_int", "value_ints"):
        return torch.tensor(value, dtype=torch.int64)
    raise ModelError(f"The Constant node {proto.name or proto.output[0]!r} holds text, expected numbers; remove it")


def _dense(sparse: onnx.SparseTensorProto) -> Tensor:
    values, indices = tensor(sparse.values), tensor(sparse.indices)
    shape = tuple(sparse.dims)
    dense = torch.zeros(shape, dtype=values.dtype)
    if indices.ndim == 1:
        dense.view(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense
