"""Quantised sums of residual networks: where they are, that all is then computed in integers, in modules and graphs."""

from pathlib import Path

import pytest
import torch
from onnx import load as load_onnx
from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional as F

import dovetail
from dovetail.methods.method import Context
from dovetail.methods.quantize.ptq import Ptq
from dovetail.methods.quantize.quantizer import output_quantizers
from dovetail.methods.quantize.sums import make_places, places
from dovetail.runtime import Session, export_onnx, freeze

X = torch.randn(48, 2, 10, 10, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.block, self.head = Block(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.bn(self.stem(x))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    for norm in (model.bn, model.block.bn1, model.block.bn2):
        nn.init.normal_(norm.bias)
    model.train()(X)
    return model.eval()


def graph(folder: Path) -> nn.Module:
    """The same, read from an ONNX file."""
    export_onnx(freeze(network(), X), folder / "float.onnx")
    return dovetail.load_model(str(folder / "float.onnx")).module.eval()


def quantised(model: nn.Module, inputs: Tensor | None = X, **settings: object) -> nn.Module:
    context = Context(loss=lambda _: 0.0, example=X[:1], inputs=inputs)
    method = Ptq(**settings)
    return method.apply(model, method.plan(model, context), 0, context).eval()


def lost(model: nn.Module) -> float:
    with torch.no_grad():
        wanted = network()(X)
        return float((model(X) - wanted).square().sum() / wanted.square().sum())


def operators(model: nn.Module, folder: Path) -> set[str]:
    """What ONNX Runtime makes of the exported network."""
    export_onnx(freeze(model, X), folder / "model.onnx")
    options = SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "fused.onnx"), 4
    InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in load_onnx(folder / "fused.onnx").graph.node}


LAYERS = ["stem", "block.conv1", "block.conv2", "head"]


def test_places_are_the_terms_and_the_sum() -> None:
    found = {place.path: (place.layer, place.relu, place.readers) for place in places(network(), LAYERS)}
    assert found == {
        "bn": ("stem", True, ("block.conv1",)),
        "block.bn2": ("block.conv2", False, ()),
        "block": ("block.conv2", False, ()),
    }


def test_a_graph_gets_modules_for_its_places(tmp_path: Path) -> None:
    model = graph(tmp_path)
    with torch.no_grad():
        before = model(X)
    found = places(model, LAYERS)
    assert len(found) == 3 and all(place.path.startswith("quantised_") for place in found)
    for _ in range(2):  # twice is as once
        make_places(model, [place.path for place in found])
    with torch.no_grad():
        assert torch.equal(model(X), before)


@pytest.mark.parametrize("data", [True, False])
def test_residual_networks_are_computed_in_integers(data: bool, tmp_path: Path) -> None:
    for model in (network(), graph(tmp_path)):
        model = quantised(model, X if data else None)
        assert len(output_quantizers(model)) == 3 and lost(model) < (0.002 if data else 0.03)
        found = operators(model, tmp_path)
        assert {"QLinearConv", "QLinearAdd"} <= found
        assert not {"Conv", "FusedConv", "Add", "Relu", "GlobalAveragePool"} & found


def test_terms_and_sums_have_eight_bits_where_layers_read_four(tmp_path: Path) -> None:
    model = quantised(network(), weight_bits=4, activation_bits=4)
    assert {quantizer.bits for quantizer in output_quantizers(model).values()} == {8}
    plain = quantised(network(), weight_bits=4, activation_bits=4, sums=False)
    assert not output_quantizers(plain) and lost(model) < 1.2 * lost(plain) + 1e-3
    with torch.no_grad():
        found = Session(freeze(model, X))(X.numpy())
        assert torch.allclose(torch.from_numpy(found), model(X), atol=0.05)


def test_a_network_without_sums_has_none() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4)).eval()
    assert places(model, ["0", "3"]) == []
    with torch.no_grad():
        assert not output_quantizers(quantised(model))
