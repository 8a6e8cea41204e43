"""A small artefact that needs no PyTorch: two layers, one of them pruned and with shared weights."""

from functools import partial

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray

from dovetail.formats import Codebook, Layout
from dovetail.runtime import Artefact
from dovetail.runtime.graph import compact

MODEL = """
<ir_version: 10, opset_import: ["" : 20], doc_string: "from nowhere">
main_graph (float[batch, 1, 12, 12] images, float[32, 144] "fc1.weight", float[32] "fc1.bias",
            float[10, 32] "fc2.weight") => (float[batch, 10] scores)
    <int64[2] flat = {0, -1}, int64[2] flat_again = {0, -1}>
{
    long_name_of_a_value = Reshape(images, flat)
    hidden = Gemm <transB: int = 1> (long_name_of_a_value, "fc1.weight", "fc1.bias")
    active = Relu(hidden)
    still_flat = Reshape(active, flat_again)
    scores = Gemm <transB: int = 1> (still_flat, "fc2.weight")
}
"""


def shared_weights(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> NDArray[np.float32]:
    weights = np.round(np.clip(rng.standard_normal(shape), -3, 3) * 4) / 4
    return (weights * (rng.random(shape) < density)).astype(np.float32)


@pytest.fixture
def artefact() -> Artefact:
    rng = np.random.default_rng(0)
    table = np.arange(-12, 13, dtype=np.float32) / 4
    sparse = Layout("relative_index", partial(Codebook.encode, table=table), 5)
    return Artefact(
        compact(onnx.parser.parse_model(MODEL), {"fc1.weight", "fc1.bias", "fc2.weight"}),
        {
            "fc1.weight": sparse.encode(shared_weights(rng, (32, 144), 0.12)),
            "fc1.bias": Layout().encode(rng.standard_normal(32).astype(np.float32)),
            "fc2.weight": sparse.encode(shared_weights(rng, (10, 32), 0.3)),
        },
        provenance={"recipe": "by hand", "seed": 0, "loss": 0.25, "steps": [{"name": "prune", "layers": ["fc*"]}]},
    )
