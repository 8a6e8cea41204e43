"""Changes of a graph before it is built: fold what is constant, find linear layers, free the batch size."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dovetail.errors import ModelError
from dovetail.workload.onnx.graph import Graph, Node, is_trainable
from dovetail.workload.onnx.operators import Operator, find_operator
from dovetail.workload.onnx.types import to_tensor

WEIGHTS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "BatchNormalization": (1, 2, 3, 4)}
"""The inputs that a layer keeps as its weights."""


def drop_unused(graph: Graph) -> Graph:
    """Without the nodes and constants whose results nobody reads."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(filter(None, node.inputs))
            needed.update(name for subgraph in node.subgraphs.values() for name in subgraph.reads())
    constants = {name: value for name, value in graph.constants.items() if name in needed}
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)


def fold_constants(graph: Graph, outer: Mapping[str, Tensor] | None = None) -> Graph:
    """Nodes with constant inputs only become constants, and an If with a constant condition becomes its branch.

    A node that reads something trainable stays, so that training reaches it, unless its result is a layer's weight: a
    weight that is unquantised, reshaped or normalised first becomes a plain one. A transposed matrix stays: it may be
    shared.
    """
    constants, trainable = {**graph.constants, **(outer or {})}, set(graph.trainable)
    producers: dict[str, Node] = {}  # of values that come from constants alone, but are kept
    nodes: list[Node] = []
    pending = deque(graph.nodes)
    while pending:
        node = pending.popleft()
        if node.operator == "If" and node.inputs[0] in constants:
            branch = node.subgraphs["then_branch" if constants[node.inputs[0]] else "else_branch"]
            constants |= {name: value for name, value in branch.constants.items() if name not in constants}
            trainable |= branch.trainable
            pending.extendleft(reversed([*branch.nodes, *_rename(branch.outputs, node.outputs)]))
            continue
        for position in WEIGHTS.get(node.operator, ()):
            if position < len(node.inputs):
                trainable |= _fold_weight(node.inputs[position], producers, constants, graph.opset)
        operator = find_operator(node.operator, graph.opset)
        if (
            operator
            and _is_constant(node, constants)
            and (_shape_only(node) or not trainable.intersection(node.inputs))
        ):
            constants.update(_evaluate(node, operator, constants))
            continue
        inner = {name: fold_constants(subgraph, constants) for name, subgraph in node.subgraphs.items()}
        nodes.append(replace(node, attributes={**node.attributes, **inner}))
        if operator and not node.subgraphs and all(n in constants or n in producers for n in node.inputs if n):
            producers.update({name: node for name in node.outputs})
    nodes = [node for node in nodes if not all(name in constants for name in node.outputs if name)]
    return drop_unused(replace(graph, nodes=tuple(nodes), constants=constants, trainable=frozenset(trainable)))


def _rename(sources: Sequence[str], targets: Sequence[str]) -> list[Node]:
    return [Node("Identity", "", (old,), (new,), {}) for old, new in zip(sources, targets, strict=True)]


def _shape_only(node: Node) -> bool:
    """Whether the result depends on the input's shape alone."""
    return node.operator in ("Shape", "Size")


def _is_constant(node: Node, constants: Mapping[str, Tensor]) -> bool:
    return not node.subgraphs and all(name in constants for name in node.inputs if name)


def _fold_weight(name: str, producers: Mapping[str, Node], constants: dict[str, Tensor], opset: int) -> set[str]:
    """Compute a layer's weight ahead, if it comes from constants; the names that have become trainable."""
    node = producers.get(name)
    if name in constants or node is None:
        return set()
    found = set[str]()
    for source in filter(None, node.inputs):
        found |= _fold_weight(source, producers, constants, opset)
    operator = find_operator(node.operator, opset)
    if operator is None or _is_transposed_matrix(node) or not _is_constant(node, constants):
        return found
    constants.update(_evaluate(node, operator, constants))
    return found | {output for output in node.outputs if output and is_trainable(output, constants[output])}


def _is_transposed_matrix(node: Node) -> bool:
    return node.operator == "Transpose" and node.attributes.get("perm") in (None, [1, 0])


def _evaluate(node: Node, operator: Operator, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A node's results from its constant inputs."""
    arguments = []
    for position, name in enumerate(node.inputs):
        value = constants[name] if name else None
        plain = position in operator.host or (operator.scalars and value is not None and value.ndim == 0 and position)
        arguments.append(value.tolist() if plain and value is not None else value)
    keywords = dict(node.attributes)
    if node.operator == "Split" and "num_outputs" not in keywords:
        keywords["num_outputs"] = len(node.outputs)
    try:
        with torch.no_grad():
            result = operator.function(*arguments, **keywords)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelError(f"{node} of constants cannot be computed: {error}; export the model again") from error
    results = result if isinstance(result, tuple) else (result,)
    return {
        name: value if isinstance(value, Tensor) else to_tensor(value, None)
        for name, value in zip(node.outputs, results, strict=False)
        if name
    }


def drop_identities(graph: Graph, outer: Mapping[str, str] | None = None) -> Graph:
    """Readers of an Identity read what it reads, so that a constant has one name."""
    alias, nodes = dict(outer or {}), []
    for node in graph.nodes:
        inputs = tuple(alias.get(name, name) for name in node.inputs)
        if node.operator == "Identity":
            alias[node.outputs[0]] = inputs[0]
            continue
        inner = {name: drop_identities(subgraph, alias) for name, subgraph in node.subgraphs.items()}
        nodes.append(replace(node, inputs=inputs, attributes={**node.attributes, **inner}))
    outputs = tuple(alias.get(name, name) for name in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def name_types(graph: Graph) -> Graph:
    """CastLike becomes Cast where the wanted type is known, so that constants can be folded through it."""
    nodes = []
    for node in graph.nodes:
        if node.operator == "CastLike" and node.inputs[1] in graph.types:
            attributes = {**node.attributes, "to": graph.types[node.inputs[1]]}
            node = replace(node, operator="Cast", inputs=node.inputs[:1], attributes=attributes)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def free_batch(graph: Graph) -> Graph:
    """In a model exported for one batch size, reshapes keep the leading size instead of setting it.

    A guess, though one that changes nothing at the batch size that the file names.
    """
    batch = next((graph.shapes[name][0] for name in graph.inputs if graph.shapes.get(name)), None)
    if batch is None:
        return graph
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        target = constants.get(node.inputs[1]) if node.operator == "Reshape" else None
        if (
            target is not None
            and target[:1].tolist() == [batch]
            and graph.shapes.get(node.inputs[0], ())[:1] == (batch,)
        ):
            if not (node.attributes.get("allowzero") and (target == 0).any()):
                freed = f"{node.outputs[0]}.shape"
                constants[freed] = torch.cat([target.new_zeros(1), target[1:]])
                node = replace(node, inputs=(node.inputs[0], freed), attributes={})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def find_linear(graph: Graph) -> Graph:
    """Products with a constant matrix, and the bias added to them, become Linear nodes (X, W[, B]).

    The attribute `transposed` says that W is stored as (in, out).
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}
    uses = Counter(graph.reads())
    nodes: list[Node] = []
    places: dict[str, int] = {}
    for node in graph.nodes:
        linear = _as_linear(node, graph, producers)
        place = None if linear else _unbiased(node, graph, nodes, places, uses)
        if place is not None:
            product, bias = nodes[place], next(name for name in node.inputs if name in graph.trainable)
            nodes[place] = replace(product, inputs=(*product.inputs, bias), outputs=node.outputs)
            continue
        if linear and linear.operator == "Linear":
            places[linear.outputs[0]] = len(nodes)
        inner = {name: find_linear(subgraph) for name, subgraph in node.subgraphs.items()}
        nodes.append(linear or replace(node, attributes={**node.attributes, **inner}))
    return drop_unused(replace(graph, nodes=tuple(nodes)))


def _as_linear(node: Node, graph: Graph, producers: Mapping[str, Node]) -> Node | None:
    """MatMul and Gemm with a trainable matrix; None for all others."""
    if node.operator == "MatMul":
        weight, transposed, bias = node.inputs[1], 1, ""
    elif node.operator == "Gemm" and _is_plain_gemm(node, graph):
        weight, transposed = node.inputs[1], 1 - node.attributes.get("transB", 0)
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
    else:
        return None
    source = producers.get(weight)
    if source is not None and _is_transposed_matrix(source):
        weight, transposed = source.inputs[0], 1 - transposed
    if weight not in graph.trainable or graph.constants[weight].ndim != 2:
        return None
    inputs = (node.inputs[0], weight, bias) if bias else (node.inputs[0], weight)
    return replace(node, operator="Linear", inputs=inputs, attributes={"transposed": transposed})


def _is_plain_gemm(node: Node, graph: Graph) -> bool:
    attributes = node.attributes
    plain = attributes.get("alpha", 1) == 1 and attributes.get("beta", 1) == 1 and not attributes.get("transA", 0)
    if len(node.inputs) < 3 or not node.inputs[2]:
        return plain
    bias = graph.constants.get(node.inputs[2])
    return plain and bias is not None and bias.numel() == bias.shape[-1:].numel() and bias.ndim > 0


def _unbiased(
    node: Node, graph: Graph, nodes: Sequence[Node], places: Mapping[str, int], uses: Mapping[str, int]
) -> int | None:
    """Where the Linear node stands that an Add of a vector completes, if nobody else reads the product."""
    if node.operator != "Add":
        return None
    for product, bias in (node.inputs, node.inputs[::-1]):
        if product not in places or bias not in graph.trainable or uses[product] > 1:
            continue
        linear = nodes[places[product]]
        outputs = graph.constants[linear.inputs[1]].shape[1 if linear.attributes["transposed"] else 0]
        if len(linear.inputs) == 2 and graph.constants[bias].shape == (outputs,):
            return places[product]
    return None
