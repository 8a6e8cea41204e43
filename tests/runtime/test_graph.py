"""The graph as it is stored: nothing in it that no runtime reads, and nothing else lost."""

import numpy as np
import onnx.parser
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from dovetail.runtime import Artefact
from dovetail.runtime.graph import compact, complete

BRANCHES = """
<ir_version: 10, opset_import: ["" : 20]>
chosen (float[batch, 4] pictures, float[4] "layer.scale") => (float[batch, 4] result)
<float zero = {0}, float[4] unused = {1, 2, 3, 4}>
{
    total = ReduceSum <keepdims: int = 0> (pictures)
    positive = Greater(total, zero)
    result = If (positive) <
        then_branch: graph = one () => (float[batch, 4] scaled) {
            scaled = Mul(pictures, "layer.scale")
        },
        else_branch: graph = other () => (float[batch, 4] shifted) <float[4] inner_constant = {1, 1, 1, 1}> {
            moved = Add(pictures, inner_constant)
            shifted = Add(moved, "layer.scale")
        }
    >
}
"""


def test_only_what_is_needed_is_kept(artefact: Artefact) -> None:
    model = ModelProto.FromString(artefact.graph)
    assert not (model.doc_string or model.producer_name or model.metadata_props or model.graph.value_info)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Gemm", "Relu", "Reshape", "Gemm"]
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert names == {"input", "output", "fc1.weight", "fc1.bias", "fc2.weight", "v0", "v1", "v2", "v3", "v4"}
    assert len(model.graph.initializer) == 1, "equal constants are stored once"
    assert [value.name for value in model.graph.input] == ["input"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.name or node.doc_string for node in model.graph.node)


def test_branches_keep_their_names_apart_and_together() -> None:
    model = onnx.parser.parse_model(BRANCHES)
    scale = np.array([1, 2, 3, 4], np.float32)
    whole = complete(compact(model, {"layer.scale"}), {"layer.scale": scale})
    x = np.array([[1, 2, 3, 4]], np.float32)
    for sign, expected in ((1, x * scale), (-1, -x + 1 + scale)):
        reference = ReferenceEvaluator(whole)
        (found,) = reference.run(None, {"input": sign * x})
        np.testing.assert_array_equal(found, expected)


def test_a_weight_named_as_a_short_name_is_safe() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n, 2] x, float[2] v0, float[2] input) => (float[n, 2] y) { z = Add(x, v0) y = Mul(z, input) }"""
    weights = {"v0": np.array([1, 2], np.float32), "input": np.array([3, 4], np.float32)}
    whole = complete(compact(onnx.parser.parse_model(text), set(weights)), weights)
    (name,) = (value.name for value in whole.graph.input)
    (found,) = ReferenceEvaluator(whole).run(None, {name: np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(found, [[6, 12]])


def test_complete_puts_the_weights_back_as_they_were() -> None:
    scale = np.array([1, -0.0, 1e-40, 3], np.float32)
    whole = complete(compact(onnx.parser.parse_model(BRANCHES), {"layer.scale"}), {"layer.scale": scale})
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    assert numpy_helper.to_array(stored["layer.scale"]).tobytes() == scale.tobytes()
