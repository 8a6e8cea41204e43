"""Whole networks in the native engine beside ONNX Runtime; what it says of itself; inputs that it refuses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from tests.runtime.quantised_networks import X, chain, quantise, residual
from torch import nn

from dovetail.errors import DovetailError
from dovetail.methods.constraint import layouts
from dovetail.networks import NETWORKS, load_model
from dovetail.networks.mobilenet import MobileNetV2
from dovetail.runtime import Artefact, Session, freeze, to_qdq
from dovetail.runtime.engine import EngineSession

TOLERANCE = 1e-5
"""Of float32, as a share of the largest output."""


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    known = NETWORKS[name]
    model = known.build() if known.weights is None else load_model(name).module
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and known.weights is None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, 0, 0.1)
    return model.eval(), known.input_shape


def batch_of(count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)


def in_onnxruntime(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    assert isinstance(y, np.ndarray)
    return y


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "resnet8_fashion", "resnet20", "vgg16_cifar"])
def test_a_network_gives_the_session_s_answers(name: str) -> None:
    model, shape = network(name)
    artefact = freeze(model, torch.randn(1, *shape))
    session = Session(artefact, threads=1)
    for threads in (1, 2):
        engine = EngineSession(artefact, threads)
        assert all(operation.kernel != "ONNX Runtime" for operation in engine.describe())
        for count in (1, 2, 3, 5, 33):
            x = batch_of(count, shape)
            assert_close(engine(x), session(x))


def test_mobile_net_in_one_native_program() -> None:
    torch.manual_seed(0)
    artefact = freeze(MobileNetV2().eval(), torch.randn(1, 3, 32, 32))
    engine, x = EngineSession(artefact, 2), batch_of(2, (3, 32, 32))
    assert_close(engine(x), Session(artefact, 1)(x))
    assert len(engine.stages) == 1


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("build", [chain, residual])
def test_codes_are_those_of_onnx_runtime(build: Callable[[], nn.Sequential], bits: int) -> None:
    model = quantise(build(), bits, outputs=("0",) if build is residual else ())
    artefact = freeze(model, X, layouts=layouts(model))
    expected = in_onnxruntime(to_qdq(artefact)[0], X.numpy())
    for threads in (1, 2):
        engine = EngineSession(artefact, threads)
        found = np.concatenate([engine(X.numpy()[:1]), engine(X.numpy()[1:])])
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
        assert (np.abs(found - expected) > TOLERANCE).mean() < 0.1
        assert sum("int8" in operation.kernel for operation in engine.describe()) == 4


def test_one_session_serves_many_callers() -> None:
    model, shape = network("resnet8_fashion")
    artefact = freeze(model, torch.randn(1, *shape))
    engine, session = EngineSession(artefact, 2), Session(artefact, 1)
    inputs = [batch_of(1 + i % 3, shape) for i in range(24)]
    with ThreadPoolExecutor(6) as callers:
        for found, x in zip(callers.map(engine, inputs), inputs, strict=True):
            assert_close(found, session(x))


def test_memory_is_the_least_that_can_be() -> None:
    model, shape = network("resnet20")
    engine = EngineSession(freeze(model, torch.randn(1, *shape)), 1)
    for count in (1, 7, 100):
        memory = engine.memory(count)
        assert memory.bound <= memory.peak <= 1.05 * memory.bound
    assert engine.memory(400).peak < 200 * engine.memory(1).peak
    assert sum(operation.weight_bytes for operation in engine.describe()) > 4 * 250_000


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_a_batch_that_goes_through_in_parts_has_the_answers_of_its_images(name: str) -> None:
    model, shape = network(name)
    engine = EngineSession(freeze(model, torch.randn(1, *shape)), 2)
    x = batch_of(67 if name == "resnet20" else 5, shape)
    parts = engine.stages[0].program.images_at_once(len(x))
    assert len(set(parts)) > 1 and 1 <= min(parts) < max(parts) <= len(x)
    assert np.array_equal(engine(x), np.concatenate([engine(each) for each in np.split(x, len(x))]))


@pytest.fixture(scope="module")
def integers() -> Artefact:
    model = quantise(chain())
    return freeze(model, X, layouts=layouts(model))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 2, 12, 13), np.float32), r"shape \(N, 2, 12, 12\).* got float32 of shape \(1, 2, 12, 13\)"),
        (np.zeros((2, 12, 12), np.float32), "got float32 of shape"),
        (np.zeros((0, 2, 12, 12), np.float32), "N at least 1"),
        (np.zeros((1, 2, 12, 12), np.float64), "got float64"),
        ([[1.0]], "got list"),
        (np.full((1, 2, 12, 12), np.nan, np.float32), "NaN"),
    ],
)
def test_what_is_no_input_is_refused(integers: Artefact, x: object, message: str) -> None:
    with pytest.raises(DovetailError, match=message):
        EngineSession(integers, 1)(x)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 1000, 1.5, True])
def test_threads_that_cannot_be(integers: Artefact, threads: int) -> None:
    with pytest.raises(DovetailError, match="1 to 256 threads"):
        EngineSession(integers, threads)
