"""Graphs at which ONNX's shape inference, and ONNX Runtime with it, would end the process."""

import onnx.parser
import pytest
from onnx import ModelProto

from dovetail.errors import ArtefactError
from dovetail.runtime.engine import EngineSession
from dovetail.runtime.graph import complete
from dovetail.runtime.sizes import check_sizes


def model(body: str) -> ModelProto:
    """From float[N, 1, 8, 8] x to y, with the last of what a Slice of m leaves."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]> g (float[N,1,8,8] x) => (float[N,C,H,W] y)
        <int64[1] three = {{3}}, int64[1] one = {{1}}, float[1,1,2,2] w = {{1, 2, 3, 4}},
         int64[8] pads = {{0, 0, 0, 0, 0, 0, 0, -9}}>
        {{ {body} y = Slice(m, one, three, three) }}"""
    return onnx.parser.parse_model(text)


BELOW_ZERO = {
    "a dilation": "m = Conv <dilations=[1,40]> (x, w)",
    "a window": "m = MaxPool <kernel_shape=[1,12]> (x)",
    "after another cut": "c = Slice(x, one, three, three) m = Conv <dilations=[1,20]> (c, w)",
    "padding": "m = Pad(x, pads)",
}
WINDOWS = {
    "strides": "m = Conv <strides=[1,0]> (x, w)",
    "dilations": "m = Conv <dilations=[1,-1]> (x, w)",
    "pads": "m = MaxPool <kernel_shape=[1,1], pads=[0,0,0,-3]> (x)",
    "kernel_shape": "m = AveragePool <kernel_shape=[2147483647,1]> (x)",
}


@pytest.mark.parametrize("name", BELOW_ZERO)
def test_sizes_below_zero_are_refused(name: str) -> None:
    with pytest.raises(ArtefactError, match="would be of shape"):
        complete(model(BELOW_ZERO[name]).SerializeToString(), {})
    with pytest.raises(ArtefactError, match="would be of shape"):
        EngineSession.from_onnx(model(BELOW_ZERO[name]), 1)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ArtefactError, match=f"{name} of a .* should be [01] to "):
        complete(model(WINDOWS[name]).SerializeToString(), {})


def test_a_sound_graph_is_left_alone() -> None:
    check_sizes(model("c = Slice(x, one, three, three) m = Conv <pads=[3,3,3,3]> (c, w)"))
