"""ONNX nodes that become torch modules with weights, so that compression methods find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from dovetail.workload.onnx.graph import Graph, Node
from dovetail.workload.onnx.window import is_symmetric

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Layer:
    """A module, the initialisers that its tensors are copied from, and the padding that it cannot do itself.

    `shared` layers with the same initialisers and attributes are one module; normalisations never are, since exporters
    merge equal vectors.
    """

    module: nn.Module
    sources: dict[str, str]
    transposed: bool = False
    padding: dict[str, Any] = field(default_factory=dict)
    shared: bool = True


def _bias(node: Node, graph: Graph, position: int) -> tuple[bool, Tensor | None]:
    """Whether the bias is constant (or absent), and the bias; one of zeros that no initialiser holds is none."""
    name = node.inputs[position] if len(node.inputs) > position else ""
    value = graph.constants.get(name)
    if value is not None and name not in graph.trainable and not value.any():
        return True, None
    return not name or value is not None, value


def _convolution(node: Node, graph: Graph) -> Layer | None:
    weight = graph.constants.get(node.inputs[1])
    known, bias = _bias(node, graph, 2)
    if weight is None or not known or not weight.is_floating_point() or weight.ndim - 2 not in CONVOLUTIONS:
        return None
    rank, attributes = weight.ndim - 2, node.attributes
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    pads, auto_pad = attributes.get("pads", [0] * 2 * rank), attributes.get("auto_pad", "NOTSET")
    kernel = list(weight.shape[2:])
    totals = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    if auto_pad.startswith("SAME") and max(strides) == 1 and not any(total % 2 for total in totals):
        pads, auto_pad = [total // 2 for total in totals] * 2, "NOTSET"
    padding: dict[str, Any] = {}
    if auto_pad.startswith("SAME") or not is_symmetric(pads):
        padding = {
            "kernel_shape": kernel,
            "strides": strides,
            "dilations": dilations,
            "pads": pads,
            "auto_pad": auto_pad,
        }
    group = attributes.get("group", 1)
    module = _empty(
        CONVOLUTIONS[rank],
        weight.shape[1] * group,
        weight.shape[0],
        tuple(kernel),
        stride=tuple(strides),
        padding=(0,) * rank if padding or auto_pad == "VALID" else tuple(pads[:rank]),
        dilation=tuple(dilations),
        groups=group,
        bias=bias is not None,
        dtype=weight.dtype,
    )
    return Layer(module, _sources(node, weight=1, bias=2 if bias is not None else 0), padding=padding)


def _transposed_convolution(node: Node, graph: Graph) -> Layer | None:
    weight = graph.constants.get(node.inputs[1])
    known, bias = _bias(node, graph, 2)
    if weight is None or not known or not weight.is_floating_point() or weight.ndim - 2 not in TRANSPOSED:
        return None
    rank, attributes = weight.ndim - 2, node.attributes
    pads = attributes.get("pads", [0] * 2 * rank)
    automatic = attributes.get("auto_pad", "NOTSET").startswith("SAME") or "output_shape" in attributes
    if automatic or not is_symmetric(pads) or not weight.is_floating_point():
        return None
    group = attributes.get("group", 1)
    module = _empty(
        TRANSPOSED[rank],
        weight.shape[0],
        weight.shape[1] * group,
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * rank)),
        padding=tuple(pads[:rank]),
        output_padding=tuple(attributes.get("output_padding", [0] * rank)),
        groups=group,
        bias=bias is not None,
        dilation=tuple(attributes.get("dilations", [1] * rank)),
        dtype=weight.dtype,
    )
    return Layer(module, _sources(node, weight=1, bias=2 if bias is not None else 0))


def _linear(node: Node, graph: Graph) -> Layer | None:
    weight = graph.constants[node.inputs[1]]
    _, bias = _bias(node, graph, 2)
    transposed = bool(node.attributes["transposed"])
    outputs, inputs = weight.shape[::-1] if transposed else weight.shape
    if bias is not None and bias.numel() != outputs:
        return None
    module = _empty(nn.Linear, inputs, outputs, bias=bias is not None, dtype=weight.dtype)
    return Layer(module, _sources(node, weight=1, bias=2 if bias is not None else 0), transposed)


def _batch_normalization(node: Node, graph: Graph) -> Layer | None:
    rank = len(graph.shapes.get(node.inputs[0], ()))
    vectors = [graph.constants.get(name) for name in node.inputs[1:5]]
    if rank not in BATCH_NORMS or any(vector is None for vector in vectors) or node.attributes.get("training_mode"):
        return None
    assert vectors[0] is not None
    module = _empty(
        BATCH_NORMS[rank],
        vectors[0].numel(),
        eps=node.attributes.get("epsilon", 1e-5),
        momentum=1 - node.attributes.get("momentum", 0.9),
        dtype=vectors[0].dtype,
    )
    module.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return Layer(module, _sources(node, weight=1, bias=2, running_mean=3, running_var=4), shared=False)


def _dropout(node: Node, graph: Graph) -> Layer | None:
    ratio = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return Layer(nn.Dropout(node.attributes.get("ratio", 0.5) if ratio is None else ratio.item()), {}, shared=False)


def _sources(node: Node, **positions: int) -> dict[str, str]:
    return {name: node.inputs[position] for name, position in positions.items() if position}


def _empty(kind: type[nn.Module], *arguments: Any, **keywords: Any) -> nn.Module:
    """A module whose tensors are still to be set; random numbers are left for those who need them."""
    module: nn.Module = skip_init(kind, *arguments, **keywords)  # type: ignore[no-untyped-call]
    return module


LAYERS: dict[str, Callable[[Node, Graph], Layer | None]] = {
    "BatchNormalization": _batch_normalization,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Dropout": _dropout,
    "Linear": _linear,
}
"""Operator -> the layer of a node, or None where its weights are computed: the operator's function serves then."""


def make_layer(node: Node, graph: Graph) -> Layer | None:
    """The module of a node, holding its weights; None if the node is to be a plain function."""
    if node.operator not in LAYERS:
        return None
    layer = LAYERS[node.operator](node, graph)
    if layer is None:
        return None
    for name, source in layer.sources.items():
        value = graph.constants[source]
        value = value.T if layer.transposed and name == "weight" else value
        old = getattr(layer.module, name)
        new = value.reshape(old.shape).contiguous().clone()
        setattr(layer.module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    return layer
