"""Attention: products of two values, softmaxes over them, and small networks of these beside ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto
from tests.runtime.test_engine_operators import in_onnxruntime, ints, model, normal

from dovetail.runtime.engine import EngineSession

BLOCK = """
q{i} = MatMul(h{i}, wq{i}) qs{i} = Reshape(q{i}, heads) qt{i} = Transpose <perm=[0,2,1,3]> (qs{i})
k{i} = MatMul(h{i}, wk{i}) ks{i} = Reshape(k{i}, heads) kt{i} = Transpose <perm=[0,2,3,1]> (ks{i})
v{i} = MatMul(h{i}, wv{i}) vs{i} = Reshape(v{i}, heads) vt{i} = Transpose <perm=[0,2,1,3]> (vs{i})
s{i} = MatMul(qt{i}, kt{i}) sf{i} = Div(s{i}, root) p{i} = Softmax <axis=-1> (sf{i})
o{i} = MatMul(p{i}, vt{i}) ot{i} = Transpose <perm=[0,2,1,3]> (o{i}) os{i} = Reshape(ot{i}, flat)
a{i} = MatMul(os{i}, wo{i}) r{i} = Add(a{i}, h{i}) n{i} = LayerNormalization <axis=-1> (r{i}, f, s)
u{i} = MatMul(n{i}, wu{i}) ub{i} = Add(u{i}, t) g{i} = Gelu(ub{i}) d{i} = MatMul(g{i}, wd{i})
e{i} = Add(d{i}, n{i}) h{next} = LayerNormalization <axis=-1> (e{i}, f, s)
"""


def transformer(layers: int, length: int, width: int, heads: int, inner: int) -> ModelProto:
    """As BERT's encoder is, without its tables."""
    body = (
        "h0 = Add(x, s) " + "".join(BLOCK.format(i=i, next=i + 1) for i in range(layers)) + f"y = Identity(h{layers})"
    )
    constants: dict[str, NDArray[np.generic]] = {
        "heads": ints(0, length, heads, width // heads),
        "flat": ints(0, length, width),
        "root": np.sqrt(np.float32(width // heads)),
        "f": normal(width),
        "s": normal(width),
        "t": normal(inner),
    }
    sides = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width),
             "u": (width, inner), "d": (inner, width)}  # fmt: skip
    for i in range(layers):
        constants |= {f"w{name}{i}": normal(*side) / np.float32(side[0] ** 0.5) for name, side in sides.items()}
    return model(f"N,{length},{width}", body, constants)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sides", [(7, 24, 3, 40), (16, 64, 4, 128), (33, 20, 1, 24)])
def test_a_transformer(sides: tuple[int, int, int, int], threads: int) -> None:
    proto = transformer(2, *sides)
    session = EngineSession.from_onnx(proto, threads)
    assert all(operation.kernel != "ONNX Runtime" for operation in session.describe()), session.describe()
    for batch in (1, 3):
        x = normal(batch, *sides[:2])
        expected = in_onnxruntime(proto, x)
        np.testing.assert_allclose(session(x), expected, rtol=0, atol=3e-5 * np.abs(expected).max())


@settings(max_examples=40, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 40)] * 3), heads=st.integers(0, 4))
def test_products_of_two_values_of_any_shape(sides: tuple[int, int, int], heads: int) -> None:
    rows, depth, columns = sides
    shape = (heads, rows, depth) if heads else (rows, depth)
    swapped = [0, 1, 3, 2] if heads else [0, 2, 1]
    body = f"a = Transpose <perm={swapped}> (x) b = MatMul(x, w) c = MatMul(a, b) y = Sigmoid(c)"
    proto = model(f"N,{','.join(map(str, shape))}", body, {"w": normal(depth, columns)})
    x = normal(2, *shape)
    expected = in_onnxruntime(proto, x)
    session = EngineSession.from_onnx(proto, 1)
    np.testing.assert_allclose(session(x), expected, rtol=0, atol=1e-5 * max(np.abs(expected).max(), 1))
