"""Networks that read indices of characters: an embedding, a recurrent layer, one score for each character."""

from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn

from dovetail.errors import DovetailError
from dovetail.methods import Qnn
from dovetail.methods.method import Context
from dovetail.runtime import Artefact, Session, export_onnx, freeze, to_torch

TEXT = torch.randint(20, (6, 9), generator=torch.Generator().manual_seed(0))


class Characters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.lstm, self.write = nn.Embedding(20, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 20)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.write(self.lstm(self.read(x))[0])
        return scores


@pytest.fixture(scope="module", params=["float", "4 bits"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Artefact]:
    torch.manual_seed(0)
    model: nn.Module = Characters().eval()
    if request.param == "4 bits":
        method = Qnn(weight_bits=4, activation_bits=4, keep_ends=False)
        context = Context(loss=lambda _: 0.0, example=TEXT[:1], inputs=TEXT)
        model = method.apply(model, method.plan(model, context), 0, context).eval()
    return model, freeze(model, TEXT[:2])


def test_the_session_takes_indices(pair: tuple[nn.Module, Artefact]) -> None:
    model, artefact = pair
    session = Session(Artefact.from_bytes(artefact.to_bytes()))
    assert session.input.type == np.int64 and session.input.one == (9,)
    with torch.no_grad():
        np.testing.assert_allclose(session(TEXT.numpy()), model(TEXT).numpy(), atol=1e-4)
    with pytest.raises(DovetailError, match=r"int64 of shape \(N, 9\), N at least 1; got float32 of shape \(6, 9\)"):
        session(TEXT.float().numpy())


def test_the_exported_file_answers_as_the_session(pair: tuple[nn.Module, Artefact], tmp_path: Path) -> None:
    _, artefact = pair
    export_onnx(artefact, tmp_path / "model.onnx", integers=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": TEXT.numpy()})
    np.testing.assert_array_equal(found, Session(artefact)(TEXT.numpy()))


def test_comes_back_as_a_module(pair: tuple[nn.Module, Artefact]) -> None:
    _, artefact = pair
    with torch.no_grad():
        found = to_torch(artefact)(TEXT).numpy()
    np.testing.assert_allclose(found, Session(artefact)(TEXT.numpy()), atol=1e-4)


def test_its_weights_are_as_small_as_their_bits() -> None:
    torch.manual_seed(0)
    model = Characters().eval()
    method = Qnn(weight_bits=4, activation_bits=32, keep_ends=False)
    context = Context(loss=lambda _: 0.0, example=TEXT[:1], inputs=TEXT)
    artefact = freeze(method.apply(model, method.plan(model, context), 0, context), TEXT[:2])
    parts = artefact.parts()
    for name in ("read.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "write.weight"):
        numbers = int(np.prod(artefact.tensors[name].shape))
        assert parts[name] <= numbers // 2 + 16 * 4
