"""The network's graph: an ONNX model from which the weights were taken out, and into which they are put back.

In an artefact the graph's nodes name its weights, but nothing defines them until `complete` does. Whatever no runtime
reads (names of nodes and values, notes of the exporter, inferred shapes) is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import count

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from dovetail.errors import ArtefactError
from dovetail.runtime.constants import Constants, OpenModel, outlined
from dovetail.runtime.sizes import check_sizes

LARGEST_MODEL = 2**31 - 2**24
"""Bytes of weights that fit in one ONNX file (protobuf ends at 2 GiB; the rest is room for the graph)."""


def compact(model: ModelProto, weights: Set[str]) -> bytes:
    """The serialised graph of `model` without the tensors named in `weights`, and without what only people read.

    Initialisers that are not weights stay; equal ones are merged. The input is named "input" and the output "output".
    """
    graph = model.graph
    constants, merged = _merge_constants(graph, weights)
    renamed = _short_names(graph, weights, merged)
    lean = GraphProto(
        name="main",
        node=[_lean_node(node, renamed) for node in graph.node],
        initializer=[_renamed_tensor(tensor, renamed[tensor.name]) for tensor in constants],
        input=[_lean_value(value, renamed) for value in graph.input if value.name not in weights],
        output=[_lean_value(value, renamed) for value in graph.output],
    )
    result = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=lean)
    serialised: bytes = result.SerializeToString(deterministic=True)
    return serialised


def complete(graph: bytes, weights: Mapping[str, NDArray[np.float32]]) -> ModelProto:
    """The model that `graph` and `weights` make up, as `open_graph` takes them."""
    constants = Constants()
    constants.update((name, np.asarray(weight, np.float32, order="C")) for name, weight in weights.items())
    return open_graph(graph, constants).whole()


def open_graph(graph: bytes, weights: Constants) -> OpenModel:
    """The same beside its constants.

    Raises ArtefactError if `graph` is no ONNX model, refers to other files, or does not fit the weights.
    """
    model = ModelProto()
    try:
        model.ParseFromString(graph)
    except DecodeError:
        raise ArtefactError("The artefact's graph is not an ONNX model; make the artefact anew.") from None
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise ArtefactError("The artefact's graph refers to another file for its data, which is never followed.")
    ends = (*model.graph.input, *model.graph.output)
    if (len(model.graph.input), len(model.graph.output)) != (1, 1) or not all(_is_batch(end) for end in ends):
        raise ArtefactError("The artefact's graph does not lead from one batch to another; make the artefact anew.")
    for value in (*model.graph.initializer, *model.graph.input):
        if value.name in weights:
            raise ArtefactError(f"The artefact's graph and tensors do not fit together (both define {value.name!r}).")
    outline = outlined(model, weights)
    try:
        onnx.checker.check_model(outline)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtefactError(f"The artefact's graph and tensors do not fit together ({reason}).") from None
    check_sizes(outline)
    opened = OpenModel.of(model)
    return OpenModel(opened.proto, opened.constants.joined(weights))


def _merge_constants(graph: GraphProto, weights: Set[str]) -> tuple[list[TensorProto], dict[str, str]]:
    """The initialisers that are no weights, each once, and for each of their names the one that stands for it."""
    kept: dict[bytes, TensorProto] = {}
    merged: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name not in weights:
            anonymous = _renamed_tensor(tensor, "").SerializeToString(deterministic=True)
            merged[tensor.name] = kept.setdefault(anonymous, tensor).name
    return list(kept.values()), merged


def _short_names(graph: GraphProto, weights: Set[str], merged: Mapping[str, str]) -> dict[str, str]:
    """New names by old: weights keep theirs, all others become v0, v1, ... in order of appearance."""
    renamed = {name: name for name in weights} | {"": ""}
    fresh = (name for name in (f"v{i}" for i in count()) if name not in weights)
    if not {"input", "output"} & weights:
        renamed |= {value.name: "output" for value in graph.output}
        renamed |= {value.name: "input" for value in graph.input if value.name not in weights}
    for node in _nodes(graph):
        for name in (*node.input, *node.output):
            name = merged.get(name, name)
            if name not in renamed:
                renamed[name] = next(fresh)
    for name in (*merged.values(), *(value.name for value in (*graph.input, *graph.output))):
        if name not in renamed:
            renamed[name] = next(fresh)
    return renamed | {name: renamed[kept] for name, kept in merged.items()}


def _lean_node(node: NodeProto, renamed: Mapping[str, str]) -> NodeProto:
    result = NodeProto(
        op_type=node.op_type,
        domain=node.domain,
        input=[renamed[name] for name in node.input],
        output=[renamed[name] for name in node.output],
        attribute=node.attribute,
    )
    for attribute in result.attribute:
        attribute.ClearField("doc_string")
        for subgraph in _subgraphs(attribute):
            nodes = [_lean_node(inner, renamed) for inner in subgraph.node]
            subgraph.ClearField("node")
            subgraph.node.extend(nodes)
            subgraph.ClearField("value_info")
            for value in (*subgraph.input, *subgraph.output, *subgraph.initializer):
                value.name = renamed.get(value.name, value.name)
    return result


def _lean_value(value: ValueInfoProto, renamed: Mapping[str, str]) -> ValueInfoProto:
    return ValueInfoProto(name=renamed[value.name], type=value.type)


def _renamed_tensor(tensor: TensorProto, name: str) -> TensorProto:
    result = TensorProto()
    result.CopyFrom(tensor)
    result.name = name
    result.ClearField("doc_string")
    result.ClearField("metadata_props")
    return result


def _is_batch(value: ValueInfoProto) -> bool:
    """Whether the value is a tensor of at least one dimension."""
    return len(value.type.tensor_type.shape.dim) > 0


def _subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    return [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs (of If and Loop) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                yield from _nodes(subgraph)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor stored in the graph: initialisers and attributes, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for subgraph in _subgraphs(attribute):
                yield from _tensors(subgraph)
