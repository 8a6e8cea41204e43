"""How wide the integers are in which a quantised ONNX model (QDQ) computes."""

from __future__ import annotations

from onnx import TensorProto

from dovetail.workload.onnx.graph import Graph

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Flatten", "Identity", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators after which a value is still one of those that were dequantised."""

BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
}


def integers(graph: Graph) -> dict[str, tuple[int, int | None]]:
    """For each value that is dequantised and then multiplied as a weight: its bits, and those of what it multiplies.

    By every name that the value has on its way. None where what it multiplies was not dequantised.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}

    def followed(name: str) -> tuple[list[str], int | None]:
        """The names on the way back to a DequantizeLinear, and the bits of what that reads."""
        names = [name]
        while (node := producers.get(names[-1])) is not None and node.operator in MOVES:
            names.append(node.inputs[0])
        if node is None or node.operator != "DequantizeLinear":
            return names, None
        return names, BITS.get(graph.types.get(node.inputs[0], TensorProto.UNDEFINED))

    found: dict[str, tuple[int, int | None]] = {}
    for node in graph.nodes:
        if node.operator in PRODUCTS:
            names, bits = followed(node.inputs[1])
            if bits is not None:
                found |= dict.fromkeys(names, (bits, followed(node.inputs[0])[1]))
    return found
