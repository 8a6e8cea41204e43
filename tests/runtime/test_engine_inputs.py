"""Networks of several inputs and outputs, of other types than floats, and with graphs inside."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from dovetail.errors import ArtefactError, DovetailError
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.engine.plan_file import plan_bytes

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
two (float[N, 6] x, float[N, 6] y) => (float[N, 6] sum, float[N, 3] some, float[N, 6] x)
<float[6, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1}> {
    added = Add (x, y)  sum = Relu (added)  some = MatMul (sum, w)
}
"""

RECURRENT = """
<ir_version: 8, opset_import: ["" : 17]>
recurrent (float[batch, length] x, float[2, batch, 4] state, int64 rate) => (float[batch, 1] y, float[2, batch, 4] next)
<int64[1] all = {1}> {
    scale = Cast <to = 1> (rate)
    mean = ReduceMean <axes = [1], keepdims = 1> (x)
    y = Mul (mean, scale)
    row = Unsqueeze (y, zero)
    next = Add (state, row)
}
"""

ALONE = """
<ir_version: 8, opset_import: ["" : 17]>
alone (float[1, 4] x, float[3, 4] rows) => (float[3, 4] y) { y = Add (x, rows) }
"""

NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
nested (float[N, 4] x, bool first, bool second) => (float[N, 4] y) {
    low = Relu (x)
    high = Neg (low)
    y = If (first) <
        then_branch = g1 () => (float[N, 4] a) { inner = Exp (low)  a = Identity (inner) },
        else_branch = g2 () => (float[N, 4] b) {
            b = If (second) <
                then_branch = g3 () => (float[N, 4] c) { c = Abs (high) },
                else_branch = g4 () => (float[N, 4] d) { d = Add (low, low) }
            >
        }
    >
}
"""

DECODER = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (float[N, 1, 8] x, float[N, past, 8] cache) => (float[N, 1, 8] y, float[N, all, 8] grown) {
    grown = Concat <axis = 1> (cache, x)
    keys = Transpose <perm = [0, 2, 1]> (grown)
    scores = MatMul (x, keys)
    shares = Softmax (scores)
    y = MatMul (shares, grown)
}
"""


def parsed(text: str) -> ModelProto:
    model = onnx.parser.parse_model(text)
    if "zero" in text:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    return model


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def assert_as_elsewhere(session: EngineSession, model: ModelProto, **given: NDArray[np.generic]) -> None:
    """The same outputs, in types too, as ONNX Runtime has."""
    other = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(given)
    assert list(found) == [output.name for output in other.get_outputs()]
    for mine, theirs in zip(found.values(), other.run(None, given), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_all_of_them_in_one_native_program() -> None:
    session = EngineSession.from_onnx(parsed(TWO), 1)
    assert [(entry.name, entry.shape, entry.batch) for entry in session.inputs] == [
        ("x", (None, 6), 0), ("y", (None, 6), 0)
    ]  # fmt: skip
    assert session.outputs == ("sum", "some", "x") and all(row.runner == "native" for row in session.describe())
    for count in (1, 5):
        assert_as_elsewhere(session, parsed(TWO), x=normal(count, 6), y=normal(6, count).T.copy())


def test_a_state_that_has_the_batch_elsewhere_and_a_number() -> None:
    session = EngineSession.from_onnx(parsed(RECURRENT), 1)
    assert [entry.batch for entry in session.inputs] == [0, 1, None]
    for count, length in ((1, 7), (3, 7), (2, 9)):
        given = {"x": normal(count, length), "state": normal(2, count, 4), "rate": np.array(16, np.int64)}
        assert_as_elsewhere(session, parsed(RECURRENT), **given)
    assert len(session._planned) == 2  # a plan for each length, whatever the batch


def test_inputs_that_have_no_batch_in_common() -> None:
    session = EngineSession.from_onnx(parsed(ALONE), 1)
    assert_as_elsewhere(session, parsed(ALONE), x=normal(1, 4), rows=normal(3, 4))


def test_a_decoders_cache_grows_from_nothing() -> None:
    session, x, cache = EngineSession.from_onnx(parsed(DECODER), 1), normal(12, 2, 1, 8), normal(2, 0, 8)
    for step in range(12):
        assert_as_elsewhere(session, parsed(DECODER), x=x[step], cache=cache)
        assert is_native(session) == (1 <= step <= 8)
        cache = normal(2, step + 1, 8)
    with pytest.raises(DovetailError, match=r"Input x should be float32 of shape \(N, 1, 8\), N at least 1; got"):
        session.run({"x": x[0, :0], "cache": cache[:0]})


def test_a_shape_that_stays_is_planned_for() -> None:
    session = EngineSession.from_onnx(parsed(DECODER), 1)
    natives = []
    for length in (*range(1, 11), 10, 5, 1):
        assert_as_elsewhere(session, parsed(DECODER), x=normal(2, 1, 8), cache=normal(2, length, 8))
        natives.append(is_native(session))
    assert natives == [True] * 8 + [False, False, True, True, False]


def is_native(session: EngineSession) -> bool:
    assert session.memory().peak >= 0 and session.bits is None
    return all(row.runner == "native" for row in session.describe())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_graphs_inside_read_what_is_around_them(first: bool, second: bool) -> None:
    session = EngineSession.from_onnx(parsed(NESTED), 1)
    assert any(row.runner == "native" for row in session.describe())
    given = {"x": normal(3, 4), "first": np.array(first), "second": np.array(second)}
    assert_as_elsewhere(session, parsed(NESTED), **given)


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool", "double"])
def test_other_types_of_numbers(kind: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({kind}[N, 4] x) => (float[N, 4] y, {kind}[2] z) <{kind}[2] one'
    model = parsed(f"{text} = {{1, 0}}> {{ f = Cast <to = 1> (x)  y = Relu (f)  z = Identity (one) }}")
    session = EngineSession.from_onnx(model, 1)
    x = np.array([[3, 0, 1, 2], [1, 1, 0, 9]], session.inputs[0].type)
    assert_as_elsewhere(session, model, x=x)


def test_text_is_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (string[N, 4] x) => (string[N, 4] y) { y = Identity (x) }'
    with pytest.raises(ArtefactError, match="input x is no tensor of numbers"):
        EngineSession.from_onnx(parsed(text), 1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "The network reads x, y; got nothing"),
            ({"x": normal(2, 6), "z": normal(2, 6)}, "The network reads x, y; got x, z"),
            ({"x": normal(2, 6), "y": normal(3, 6)}, r"batches of \[2, 3\]; give as many of each"),
            ({"x": normal(2, 6), "y": normal(2, 5)}, r"Input y should be float32 of shape \(N, 6\), N at least 1; got"),
            ({"x": normal(2, 6), "y": [1.0]}, "Input y should be a numpy array"),
        ],
    )
    def test_is_named(self, given: dict[str, NDArray[np.float32]], message: str) -> None:
        with pytest.raises(DovetailError, match=message):
            EngineSession.from_onnx(parsed(TWO), 1).run(given)

    def test_there_is_no_plan_of_several(self) -> None:
        with pytest.raises(ArtefactError, match="from one batch to another"):
            plan_bytes(EngineSession.from_onnx(parsed(TWO), 1))

    def test_several_are_not_called_like_a_function(self) -> None:
        with pytest.raises(DovetailError, match="reads x, y and gives sum, some, x: call run with each by its name"):
            EngineSession.from_onnx(parsed(TWO), 1)(normal(1, 6))
