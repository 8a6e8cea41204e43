"""Graphs that were tampered with: an answer, or one clear error; never a crash."""

import numpy as np
import onnx.parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto

from dovetail.errors import DovetailError
from dovetail.formats import Layout
from dovetail.runtime import Artefact
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.graph import compact

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
main_graph (float[batch, 3, 8, 8] x, float[4, 3, 3, 3] "a.weight", float[4, 1, 3, 3] "b.weight",
            float[5, 32] "c.weight")
    => (float[batch, 5] y)
    <int64[1] starts = {0}, int64[1] ends = {4}, int64[1] axes = {2}, int64[1] steps = {1},
     int64[8] pads = {0, 0, 0, 0, 0, 0, 0, 0}, int64[2] flat = {0, 32}, float scale = {0.05}, uint8 zero = {128}>
{
    xc = QuantizeLinear(x, scale, zero)
    xq = DequantizeLinear(xc, scale, zero)
    a = Conv <pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 1> (xq, "a.weight")
    r = Relu(a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2], pads = [0, 0, 0, 0]> (r)
    b = Conv <group = 4, pads = [1, 1, 1, 1]> (p, "b.weight")
    s = Add(b, p)
    t = Transpose <perm = [0, 1, 3, 2]> (s)
    c = Slice(t, starts, ends, axes, steps)
    d = Pad(c, pads)
    m = AveragePool <kernel_shape = [1, 2], strides = [1, 2]> (d)
    f = Reshape(m, flat)
    y = Gemm <transB = 1> (f, "c.weight")
}
"""
RNG = np.random.default_rng(0)
WEIGHTS = {"a.weight": (4, 3, 3, 3), "b.weight": (4, 1, 3, 3), "c.weight": (5, 32)}
TENSORS = {name: Layout().encode(RNG.standard_normal(shape).astype(np.float32)) for name, shape in WEIGHTS.items()}
GRAPH = compact(onnx.parser.parse_model(TEXT), set(WEIGHTS))
X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


def run(graph: bytes) -> None:
    """Through the file, so that all is checked that a stranger's file would be."""
    artefact = Artefact.from_bytes(Artefact(graph, TENSORS).to_bytes())
    try:
        EngineSession(artefact, 1)(X)
    except DovetailError as error:
        assert str(error)


def test_the_graph_itself_runs() -> None:
    y = EngineSession(Artefact(GRAPH, TENSORS), 1)(X)
    assert y.shape == (2, 5)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, len(GRAPH) - 1), new=st.binary(min_size=0, max_size=3), length=st.integers(0, 3))
def test_bytes_of_the_graph(place: int, new: bytes, length: int) -> None:
    run(GRAPH[:place] + new + GRAPH[place + length :])


NUMBERS = st.one_of(st.integers(-9, 9), st.sampled_from([0, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63)]))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_attributes_and_constants(data: st.DataObject) -> None:
    model = ModelProto.FromString(GRAPH)
    if data.draw(st.booleans()):
        node = data.draw(st.sampled_from([node for node in model.graph.node if node.attribute]))
        change(data, data.draw(st.sampled_from(list(node.attribute))))
    else:
        integers = [t for t in model.graph.initializer if t.data_type == t.INT64]
        tensor = data.draw(st.sampled_from(integers))
        values = np.frombuffer(tensor.raw_data, np.int64).copy() if tensor.raw_data else np.array(tensor.int64_data)
        values[data.draw(st.integers(0, values.size - 1))] = data.draw(NUMBERS)
        tensor.ClearField("int64_data")
        tensor.raw_data = values.tobytes()
    run(model.SerializeToString())


def change(data: st.DataObject, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.INTS:
        numbers = list(attribute.ints)
        numbers[data.draw(st.integers(0, len(numbers) - 1))] = data.draw(NUMBERS)
        attribute.ints[:] = numbers[: data.draw(st.integers(0, len(numbers)))] if data.draw(st.booleans()) else numbers
    else:
        attribute.i = data.draw(NUMBERS)
