"""Freezing: networks answer as before, their tensors lie in the file as asked, what cannot be frozen is said so."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dovetail.errors import DovetailError, ModelError
from dovetail.formats import Codebook, Float, Layout
from dovetail.methods import Magnitude
from dovetail.methods.method import Context
from dovetail.networks import NETWORKS
from dovetail.runtime import Artefact, EngineSession, Session, export_onnx, freeze, to_torch
from dovetail.runtime.container import unpack
from dovetail.runtime.session import assemble


class Branches(nn.Module):
    """Concatenation, padding, slices, a split, a strided view: what moves data about."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.right = nn.Conv2d(3, 4, (1, 5), padding=(0, 2), bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.up = nn.ConvTranspose2d(12, 5, 2, stride=2)
        self.head = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.left(x), F.leaky_relu(self.right(x), 0.1)], dim=1)
        y = F.pad(self.norm(y)[:, :, ::2, 1:], (0, 1, 0, 0, 1, 1))
        first, second = self.up(F.hardswish(y)).split(3, dim=2)[:2]
        scores: Tensor = self.head((first * second.sigmoid()).mean((2, 3)))
        return scores


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.places = nn.Parameter(torch.randn(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x) + self.places).mean(1))
        return out


def lively(model: nn.Module) -> nn.Module:
    """The module with batch statistics and affine maps that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def prune_and_share(model: nn.Module) -> dict[str, Layout]:
    """Put every matrix and kernel on a grid of multiples of 1/64 with many zeros; their layouts."""
    layouts = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and name.endswith("weight"):
            with torch.no_grad():
                weight.copy_(torch.where(weight.abs() > weight.std(), (weight * 64).round().clamp(-99, 99) / 64, 0.0))
            table = np.unique(np.append(weight.detach().numpy(), np.float32(0)))
            layouts[name] = Layout("relative_index", partial(Codebook.encode, table=table), 4)
    return layouts


INPUTS: Mapping[str, tuple[int, ...]] = {
    "lenet5": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "mobilenet_v2": (3, 32, 32),
    "branches": (3, 6, 6),
    "transformer": (5, 12),
}


@pytest.fixture(scope="module", params=INPUTS)
def frozen(request: pytest.FixtureRequest) -> Iterator[tuple[nn.Module, dict[str, Layout], Tensor, Artefact]]:
    torch.manual_seed(0)
    own = {"branches": Branches, "transformer": Transformer}
    build = own[request.param] if request.param in own else NETWORKS[request.param].build
    model = lively(build())
    layouts = prune_and_share(model)
    example = torch.randn(7, *INPUTS[request.param])
    yield model, layouts, example, freeze(model, example[:1], layouts=layouts, provenance={"seed": 0})


Frozen = tuple[nn.Module, dict[str, Layout], Tensor, Artefact]


class TestEveryNetwork:
    @pytest.mark.parametrize("count", [1, 7])
    def test_answers_as_the_module_does(self, count: int, frozen: Frozen) -> None:
        model, _, example, artefact = frozen
        with torch.no_grad():
            expected = model(example[:count]).numpy()
        found = Session(artefact, threads=1)(example[:count].numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_every_tensor_is_in_the_file_bit_for_bit(self, frozen: Frozen) -> None:
        model, layouts, _, artefact = frozen
        again = Artefact.from_bytes(artefact.to_bytes())
        state = model.state_dict()
        assert set(layouts) <= set(again.tensors)
        for name, tensor in again.tensors.items():
            if name in state:
                np.testing.assert_array_equal(tensor.decode(), state[name].numpy(), strict=True)
            else:
                assert name.endswith((".scale", ".shift"))
        assert not [name for name in again.tensors if "running" in name]

    def test_nothing_large_is_left_in_the_graph(self, frozen: Frozen) -> None:
        *_, artefact = frozen
        parts = artefact.parts()
        assert sum(parts.values()) == len(artefact.to_bytes())
        assert parts["graph"] < 2200
        assert parts["container"] < 330
        assert 8 * sum(parts[name] for name in artefact.tensors) == sum(t.bits for t in artefact.tensors.values())

    def test_exported_file_answers_bit_for_bit_as_the_session(self, frozen: Frozen, tmp_path: Path) -> None:
        _, _, example, artefact = frozen
        export_onnx(artefact, tmp_path / "a.onnx")
        peer = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        for count in (1, 7):
            x = example[:count].numpy()
            assert peer.run(None, {"input": x})[0].tobytes() == Session(artefact)(x).tobytes()

    def test_comes_back_as_a_module_that_freezes_to_the_same_tensors(self, frozen: Frozen) -> None:
        _, layouts, example, artefact = frozen
        module = to_torch(artefact)
        assert not module.training
        with torch.no_grad():
            found = module(example).numpy()
        np.testing.assert_allclose(found, Session(artefact)(example.numpy()), rtol=1e-4, atol=1e-4)
        new_names = {old: new for new, old in module.meta["initialisers"].items() if new != old}
        assert all(name.endswith(("in_proj_weight", "in_proj_bias")) for name in new_names)
        state = module.state_dict()
        for name, tensor in artefact.tensors.items():
            np.testing.assert_array_equal(state[new_names.get(name, name)].numpy(), tensor.decode())
        again = freeze(module, example, layouts={new_names.get(name, name): layout for name, layout in layouts.items()})
        parts, parts_again = unpack(artefact.to_bytes(), "it"), unpack(again.to_bytes(), "it")
        assert list(again.tensors) == [new_names.get(name, name) for name in artefact.tensors]
        assert parts_again["data"] == parts["data"]
        # The graph may spell out what was a default before, as the value that Pad fills with.
        assert len(parts_again["graph"]) < len(parts["graph"]) + 40


def test_a_second_freeze_gives_the_same_bytes_and_leaves_the_module_alone() -> None:
    model = lively(Branches())
    layouts, example = prune_and_share(model), torch.randn(3, 3, 6, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = freeze(model, example, layouts=layouts, provenance={"seed": 0})
    second = freeze(model, example[:1], layouts=layouts, provenance={"seed": 0})
    assert first.to_bytes() == second.to_bytes()
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_remaining_tensors_are_stored_as_asked(dtype: str) -> None:
    model = lively(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)))
    artefact = freeze(model, torch.randn(1, 1, 4, 4), layouts={"0.weight": Layout()}, remaining=dtype)
    described = {name: tensor.describe() for name, tensor in artefact.tensors.items()}
    assert described.pop("0.weight") == "dense > float32"
    assert list(described) == ["0.bias", "1.scale", "1.shift", "3.weight", "3.bias"]
    assert set(described.values()) == {f"dense > {dtype}"}


@pytest.mark.parametrize(
    ("norm", "shape", "stored"),
    [
        (nn.BatchNorm1d(4), (4,), (4,)),
        (nn.BatchNorm1d(4), (4, 3), (4, 1)),
        (nn.BatchNorm2d(4, affine=False), (4, 3, 2), (4, 1, 1)),
        (nn.BatchNorm3d(4, eps=0.1), (4, 3, 2, 2), (4, 1, 1, 1)),
        (nn.SyncBatchNorm(4), (4, 3, 2), (4, 1, 1)),
    ],
)
def test_a_batch_normalisation_is_one_scale_and_one_shift(
    norm: nn.Module, shape: tuple[int, ...], stored: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    if norm.affine:
        norm = lively(norm)
    model = nn.Sequential(nn.Identity(), norm, nn.Tanh()).eval()
    x = torch.randn(6, *shape)
    artefact = freeze(model, x)
    assert {name: tensor.shape for name, tensor in artefact.tensors.items()} == {"1.scale": stored, "1.shift": stored}
    np.testing.assert_allclose(Session(artefact)(x.numpy()), model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_normalisation_used_twice_and_one_at_the_top_are_folded() -> None:
    norm = lively(nn.BatchNorm1d(4))
    twice = freeze(nn.Sequential(norm, nn.ReLU(), norm), torch.randn(2, 4))
    assert sorted(twice.tensors) in (["0.scale", "0.shift"], ["2.scale", "2.shift"])
    assert list(freeze(norm, torch.randn(2, 4)).tensors) == ["scale", "shift"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 20, bias=False)
        self.second = nn.Linear(20, 20, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(4, 4)
        self.table: Tensor
        self.register_buffer("table", torch.randperm(20))
        self.register_buffer("few", torch.tensor([1.5]))
        self.register_buffer("places", torch.arange(20.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu() * self.few + self.places)
        return y[:, self.table]


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_a_shared_tensor_is_stored_once_and_an_unused_one_never(name: str) -> None:
    half = Layout(values=partial(Float.encode, dtype="float16"))
    artefact = freeze(Tied(), torch.randn(3, 20), layouts={name: half, "unused.weight": half})
    described = sorted(tensor.describe() for tensor in artefact.tensors.values())
    assert described == ["dense > float16", "dense > float32"]
    assert "places" in artefact.tensors and "table" not in artefact.tensors


def test_weights_are_never_folded_into_something_else() -> None:
    class Folding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))
            self.scale = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight * self.scale.reshape(1, 6)).T

    model = Folding()
    artefact = freeze(model, torch.randn(2, 6))
    for name, weight in model.state_dict().items():
        np.testing.assert_array_equal(artefact.tensors[name].decode(), weight.numpy())


class Responses(nn.Module):
    """Local response normalisation as a layer, of odd and of even size, and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.odd, self.even = nn.LocalResponseNorm(5, 0.1, 0.6, 2.0), nn.LocalResponseNorm(4, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(self.even(self.odd(x)), 3, 0.2)


def test_local_response_normalisation_is_one_node_where_onnx_has_the_same() -> None:
    module = Responses()
    artefact = freeze(module, torch.randn(2, 9, 4, 4))
    nodes = assemble(artefact).graph.node
    assert [node.op_type for node in nodes].count("LRN") == 1 and len(nodes) > 10
    x = torch.randn(3, 9, 4, 4)
    np.testing.assert_allclose(EngineSession(artefact, 1)(x.numpy()), module(x).numpy(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(module.odd(x), F.local_response_norm(x, 5, 0.1, 0.6, 2.0))  # the module is as it was
    freeze(nn.LocalResponseNorm(3), torch.randn(2, 9, 4))  # of three dimensions ONNX Runtime has none


def test_scalars_and_other_memory_orders_are_kept() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.tensor(3.0))
            self.conv = nn.Conv2d(4, 5, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x) / self.temperature
            return y

    model = Scaled()
    model.conv.weight.data = model.conv.weight.data.to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    artefact = freeze(model, x)
    assert {name: tensor.shape for name, tensor in artefact.tensors.items()} == {
        "temperature": (),
        "conv.weight": (5, 4, 3, 3),
    }
    np.testing.assert_allclose(Session(artefact)(x.numpy()), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Singular(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x)
        return values


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class OfTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4)


def test_constraints_say_how_their_weights_are_stored_and_others_are_baked() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), parametrizations.weight_norm(nn.Linear(30, 4)))
    method = Magnitude(sparsity=0.9, rounds=1, allocation="uniform", layers=("0",))
    context = Context(loss=lambda _: 0.0, example=torch.zeros(1, 20))
    method.apply(model, method.plan(model, context), 0, context)
    artefact = freeze(model, torch.randn(2, 20))
    assert artefact.tensors["0.weight"].density == pytest.approx(0.1)
    assert "dense" not in artefact.tensors["0.weight"].describe()
    assert np.array_equal(artefact.tensors["2.weight"].decode(), model[2].weight.detach().numpy())


REFUSED = {
    "control flow": (Chooses(), "cannot be exported to ONNX: Could not guard on data-dependent expression"),
    "an unknown operator": (Singular(), "cannot be exported to ONNX: No ONNX function found for .*svd"),
    "chance": (Noisy(), "does not compute what the module computes"),
    "two outputs": (Both(), "one tensor is expected, this one's is a tuple"),
    "two inputs": (OfTwo(), r"cannot be run on an input of shape \(1, 4\): .*missing 1 required positional"),
    "a fixed batch": (FixedBatch(), r"cannot be run on an input of shape \(1, 4\): shape '\[2, 4\]' is invalid"),
    "another input": (nn.Linear(5, 5), r"cannot be run on an input of shape \(1, 4\)"),
    "batch statistics": (
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)),
        "Layer '0' normalises by the batch",
    ),
    "infinity": (nn.Sequential(nn.BatchNorm1d(4, eps=0)), "Tensor '0.scale' cannot be stored: .*NaN, infinity"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_frozen_is_said_in_one_sentence(
    model: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for _, buffer in model.named_buffers():
        buffer.zero_()
    with pytest.raises(ModelError, match=message) as caught:
        freeze(model, torch.randn(3, 4))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_freezing_prints_and_warns_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    freeze(nn.Linear(4, 4), torch.randn(3, 4))
    assert capfd.readouterr() == ("", "")


def test_a_layout_for_a_tensor_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"layout is given for 'fc\.weight', but the network"):
        freeze(nn.Linear(4, 4), torch.randn(1, 4), layouts={"fc.weight": Layout()})


def test_a_layout_that_cannot_hold_its_tensor_is_named() -> None:
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, 1e6)
    with pytest.raises(ModelError, match=r"Tensor 'weight' cannot be stored: float16 cannot hold .*\d\.$"):
        freeze(model, torch.randn(1, 4), layouts={"weight": Layout(values=partial(Float.encode, dtype="float16"))})


@pytest.mark.parametrize("example", [torch.randn(()), torch.randn(0, 4)])
def test_the_example_is_a_batch(example: Tensor) -> None:
    with pytest.raises(DovetailError, match="example should be a batch of at least one input"):
        freeze(nn.Linear(4, 4), example)
