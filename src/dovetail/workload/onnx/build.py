"""From a graph to a torch.fx.GraphModule."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from dovetail.errors import ModelError
from dovetail.workload.onnx import names
from dovetail.workload.onnx.graph import Graph, Node
from dovetail.workload.onnx.host import HOST, LIMIT
from dovetail.workload.onnx.layers import LAYERS, Layer, make_layer
from dovetail.workload.onnx.operators import Operator, find_operator
from dovetail.workload.onnx.types import to_host, to_tensor
from dovetail.workload.onnx.window import pad_window

_EMPTY = nn.Module()


class Constant(nn.Module):
    """A tensor that is neither trained nor saved, but moves with its module."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self) -> Tensor:
        """The tensor."""
        return self.value


class Conditional(nn.Module):
    """ONNX's If: runs one of two branches, both on the same inputs."""

    def __init__(self, then_branch: nn.Module, else_branch: nn.Module) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch

    def forward(self, condition: Any, *inputs: Any) -> Any:
        """What the branch gives."""
        return self.then_branch(*inputs) if bool(condition) else self.else_branch(*inputs)


def check_supported(graph: Graph) -> None:
    """ModelError that names every operator that cannot be read, with one node of each."""
    missing: dict[str, str] = {}
    for node in _all_nodes(graph):
        if node.operator not in LAYERS and node.operator != "If" and not find_operator(node.operator, graph.opset):
            missing.setdefault(node.operator, node.name or node.outputs[0])
    if missing:
        listed = ", ".join(f"{name} (node {where!r})" for name, where in sorted(missing.items()))
        raise ModelError(
            f"The ONNX model uses operators that cannot be read: {listed}; export it without them or cut it there"
        )


def _all_nodes(graph: Graph) -> Iterable[Node]:
    for node in graph.nodes:
        yield node
        for subgraph in node.subgraphs.values():
            yield from _all_nodes(subgraph)


def build(graph: Graph) -> fx.GraphModule:
    """The module that runs the graph, in evaluation mode."""
    return _Builder(graph).run().eval()


class _Builder:
    """Walks the nodes once; knows where every value and every weight is."""

    def __init__(self, graph: Graph, hosts: Iterable[str] = ()) -> None:
        self.graph = graph
        self.module = fx.GraphModule(nn.Module(), fx.Graph())
        self.fx = fx.Graph()
        self.values: dict[str, fx.Node] = {}  # every value that has been computed
        self.hosts = set(hosts)  # those of them that are host values
        self.tensors: dict[str, fx.Node] = {}  # constants and host values as tensors
        self.places: dict[str, tuple[str, bool]] = {}  # initialiser -> path of its parameter, and whether transposed
        self.fixed: dict[str, str] = {}  # path of the buffer of a constant that is not trained -> its name
        self.layers: dict[str, tuple[str, Layer]] = {}  # first output of a node -> its module
        self.read = set(graph.reads())

    def run(self) -> fx.GraphModule:
        for name in self.graph.inputs:
            self.values[name] = self.fx.placeholder(names.identifier(name))
        self.like = next(iter(self.values.values()), None)
        self.plan_layers()
        for node in self.graph.nodes:
            self.emit(node)
        outputs = tuple(self.tensor(name) for name in self.graph.outputs)
        self.fx.output(outputs if len(outputs) > 1 else outputs[0])
        self.module.graph = self.fx
        self.module.meta["initialisers"] = {path: name for name, (path, _) in self.places.items()}
        self.module.meta["constants"] = self.fixed
        return self.module

    # Where modules and parameters are kept.

    def plan_layers(self) -> None:
        """Make the layers first, so that a weight that others read as well belongs to its layer."""
        seen: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.operator not in LAYERS:
                continue
            identity = f"{node.operator} {node.inputs[1:]} {node.attributes}"
            weight = node.inputs[1] if len(node.inputs) > 1 else ""
            if identity in seen and self.layers[seen[identity]][1].shared:
                self.layers[node.outputs[0]] = self.layers[seen[identity]]
                continue
            layer = make_layer(node, self.graph)
            if layer is None or (layer.shared and weight in self.places):
                continue
            path = self.claim(names.layer_paths(node, weight))
            self.module.add_submodule(path, layer.module)
            self.layers[node.outputs[0]] = (path, layer)
            seen[identity] = node.outputs[0]
            for tensor, source in layer.sources.items():
                transposed = layer.transposed and tensor == "weight"
                if self.graph.constants[source].ndim == getattr(layer.module, tensor).ndim:
                    self.places.setdefault(source, (f"{path}.{tensor}", transposed))

    def claim(self, candidates: list[str]) -> str:
        """The first path that is free, else the first of them with a number."""
        flat = candidates[0].replace(".", "_")  # where a level of the path is something else than a module
        numbered = (f"{path}_{i}" for i in itertools.count(1) for path in (candidates[0], flat))
        return next(path for path in itertools.chain(candidates, numbered) if self.is_free(path))

    def is_free(self, path: str) -> bool:
        """Whether something can be kept at a path: only modules above it, and nothing there."""
        module: Any = self.module
        *levels, last = path.split(".")
        for level in levels:
            module = getattr(module, level, _EMPTY)
            if not isinstance(module, nn.Module):
                return False
        return not hasattr(module, last)

    # What nodes read.

    def call(
        self, function: Any, arguments: tuple[Any, ...], name: str, keywords: dict[str, Any] | None = None
    ) -> fx.Node:
        return self.fx.create_node("call_function", function, arguments, keywords or {}, names.identifier(name))

    def tensor(self, name: str) -> fx.Node:
        """A value as a tensor."""
        if name in self.values and name not in self.hosts:
            return self.values[name]
        if name not in self.tensors:
            self.tensors[name] = self.make_tensor(name)
        return self.tensors[name]

    def make_tensor(self, name: str) -> fx.Node:
        if name in self.values:
            return self.call(to_tensor, (self.values[name], self.like), f"{name}_tensor")
        if name not in self.graph.constants:
            raise ModelError(f"The ONNX model reads {name!r}, which no node of it produces; export it again")
        value = self.graph.constants[name]
        if name not in self.graph.trainable and name not in self.places:
            path = self.claim([f"constants.{names.as_path(name).replace('.', '_')}"])
            self.module.add_submodule(path, Constant(value))
            self.fixed[f"{path}.value"] = name
            return self.fx.call_module(path)
        if name not in self.places:
            path = self.claim([names.as_path(name)])
            self.register(path, nn.Parameter(value.clone()))
            self.places[name] = (path, False)
        path, transposed = self.places[name]
        read = self.fx.get_attr(path)
        return self.call(torch.t, (read,), f"{name}_transposed") if transposed else read

    def register(self, path: str, parameter: nn.Parameter) -> None:
        module: nn.Module = self.module
        *levels, last = path.split(".")
        for level in levels:
            if not hasattr(module, level):
                module.add_module(level, nn.Module())
            module = getattr(module, level)
        module.register_parameter(last, parameter)

    def host(self, name: str) -> Any:
        """A value as plain numbers: a list or number if constant, else a host value."""
        if name in self.values:
            value = self.values[name]
            return value if name in self.hosts else self.call(to_host, (value,), f"{name}_numbers")
        if name not in self.graph.constants:
            raise ModelError(f"The ONNX model reads {name!r}, which no node of it produces; export it again")
        return self.graph.constants[name].tolist()

    # Nodes.

    def emit(self, node: Node) -> None:
        if node.outputs[0] in self.layers:
            self.emit_layer(node)
        elif node.operator == "If":
            self.emit_if(node)
        elif self.is_host(node):
            arguments = tuple(self.host(name) if name else None for name in node.inputs)
            result = self.call(HOST[node.operator], arguments, node.outputs[0], self.keywords(node))
            self.values[node.outputs[0]] = result
            self.hosts.add(node.outputs[0])
        else:
            self.emit_function(node)

    def is_host(self, node: Node) -> bool:
        """Whether a node computes with shapes: on host values and small constants only."""
        given = [name for name in node.inputs if name]
        small = all(
            name in self.hosts or (name in self.graph.constants and self.graph.constants[name].numel() <= LIMIT)
            for name in given
        )
        return node.operator in HOST and small and any(name in self.hosts for name in given)

    def emit_layer(self, node: Node) -> None:
        path, layer = self.layers[node.outputs[0]]
        if self.read.intersection(node.outputs[1:]):
            raise ModelError(f"Only the first output of {node} can be read; export the model for inference")
        x = self.tensor(node.inputs[0])
        if layer.padding:
            x = self.call(pad_window, (x,), f"{node.outputs[0]}_padded", layer.padding)
        self.values[node.outputs[0]] = self.fx.create_node(
            "call_module", path, (x,), {}, names.identifier(node.outputs[0])
        )

    def emit_if(self, node: Node) -> None:
        branches = node.subgraphs
        inner = {name for graph in branches.values() for name in graph.reads()}
        captured = [name for name in self.values if name in inner]
        if self.like is not None:
            captured = [self.graph.inputs[0], *(name for name in captured if name != self.graph.inputs[0])]
        modules = []
        for key in ("then_branch", "else_branch"):
            branch = replace(branches[key], inputs=tuple(captured))
            modules.append(_Builder(branch, self.hosts.intersection(captured)).run())
        path = self.claim([names.as_path(node.name or node.outputs[0])])
        self.module.add_submodule(path, Conditional(*modules))
        arguments = (self.host(node.inputs[0]), *(self.values[name] for name in captured))
        result = self.fx.create_node("call_module", path, arguments, {}, names.identifier(f"{node.outputs[0]}_if"))
        self.assign(node, result, many=len(node.outputs) > 1)

    def emit_function(self, node: Node) -> None:
        known = find_operator(node.operator, self.graph.opset)
        assert known is not None, node.operator
        arguments = [self.argument(known, i, name) for i, name in enumerate(node.inputs)]
        result = self.call(known.function, tuple(arguments), node.outputs[0], self.keywords(node, known))
        if node.operator in ("Shape", "Size"):
            self.hosts.add(node.outputs[0])
        self.assign(node, result, known.many)

    def argument(self, known: Operator, position: int, name: str) -> Any:
        if not name:
            return None
        if position in known.host:
            return self.host(name)
        constant = None if name in self.values else self.graph.constants.get(name)
        if known.scalars and constant is not None and constant.ndim == 0:
            return constant.item()
        return self.tensor(name)

    def keywords(self, node: Node, known: Operator | None = None) -> dict[str, Any]:
        """The node's attributes, and what else the function wants to know."""
        keywords = dict(node.attributes)
        if known is None:
            return keywords
        if "num_outputs" in known.parameters:
            keywords.setdefault("num_outputs", len(node.outputs))
        if "like" in known.parameters:
            keywords["like"] = self.like
        unknown = sorted(keywords.keys() - known.parameters)
        if unknown:
            raise ModelError(f"{node} has the attribute {unknown[0]!r}, which cannot be read; export it without")
        return keywords

    def assign(self, node: Node, result: fx.Node, many: bool) -> None:
        """Note a node's results, of which only those are taken apart that somebody reads."""
        if not many:
            if self.read.intersection(node.outputs[1:]):
                raise ModelError(f"Only the first output of {node} can be read; export the model without the others")
            self.values[node.outputs[0]] = result
            return
        for i, name in enumerate(node.outputs):
            if name in self.read:
                self.values[name] = self.call(operator.getitem, (result, i), name)
