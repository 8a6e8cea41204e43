"""Whole models through the ONNX reader: names, round trips, training, batch sizes, and files that cannot be read."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dovetail.errors import ModelError
from dovetail.networks import NETWORKS
from dovetail.workload import read_onnx

HEADER = '<ir_version: 10, opset_import: ["" : {opset}]>'


def parsed(graph: str, opset: int = 20, **initialisers: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text; in the names of initialisers "__" stands for "." ."""
    model = onnx.parser.parse_model(HEADER.format(opset=opset) + graph)
    for name, values in initialisers.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name.replace("__", ".")))
    return model


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def check(model: onnx.ModelProto, *inputs: np.ndarray) -> nn.Module:
    """Read the model and compare its outputs with ONNX Runtime's."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {entry.name: x for entry, x in zip(session.get_inputs(), inputs, strict=True)})
    module = read_onnx(model)
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs))
    for ours, theirs in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)
    return module


class Mixed(nn.Module):
    """A bit of everything: batch normalisation, an affine map, a linear layer on rows, attention, a tied embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.embedding = nn.Embedding(8, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.act = nn.PReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.layer1(x)) * self.gamma
        rows = x.flatten(2).transpose(1, 2)
        rows = self.norm(rows + self.attention(rows, rows, rows, need_weights=False)[0])
        rows = rows @ self.embedding.weight.T + self.embedding(rows.argmax(-1))
        return self.act(self.up(rows.transpose(1, 2).reshape(x.shape))).mean((2, 3))


def exported(module: nn.Module, x: Tensor, *, optimize: bool = False, dynamic: bool = True) -> onnx.ModelProto:
    """What torch's exporter makes of a module; its warnings are not ours."""
    shapes = ({0: "batch"},) if dynamic else None
    program = torch.onnx.export(module, (x,), dynamo=True, optimize=optimize, dynamic_shapes=shapes, verbose=False)
    return program.model_proto


def randomise(module: nn.Module) -> nn.Module:
    """Away from the ones and zeros of a fresh batch normalisation, which would hide mistakes."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    return module.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mobilenet_v2"])
def test_a_network_exported_from_torch_comes_back(name: str) -> None:
    network = randomise(NETWORKS[name].build())
    x = torch.randn(2, *(NETWORKS[name].input_shape if name != "mobilenet_v2" else (3, 64, 64)))
    module = read_onnx(exported(network, x))
    torch.testing.assert_close(module(x), network(x), rtol=1e-4, atol=1e-4)
    state, original = module.state_dict(), network.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in original if not key.endswith("num_batches_tracked"))
    module.load_state_dict(original)
    count = lambda m, kind: sum(isinstance(layer, kind) for layer in m.modules())  # noqa: E731
    for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d):
        assert count(module, kind) == count(network, kind)


@pytest.mark.filterwarnings("ignore")
def test_a_mixed_module_survives_two_round_trips() -> None:
    network = randomise(Mixed())
    x = torch.randn(2, 3, 8, 8)
    once = read_onnx(exported(network, x))
    twice = read_onnx(exported(once, x, optimize=True))
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(once(x), network(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(twice(x), network(x), rtol=1e-4, atol=1e-5)
    renamed = {"attention.in_proj_weight", "attention.in_proj_bias", "layer1.1.num_batches_tracked"}
    assert network.state_dict().keys() - once.state_dict().keys() <= renamed


@pytest.mark.filterwarnings("ignore")
def test_a_model_exported_for_one_batch_size_takes_others() -> None:
    network = randomise(NETWORKS["lenet5"].build())
    module = read_onnx(exported(network, torch.randn(1, 1, 28, 28), optimize=True, dynamic=False))
    x = torch.randn(7, 1, 28, 28)
    torch.testing.assert_close(module(x), network(x), rtol=1e-4, atol=1e-5)


AFFINE = """
net (float[N,3,8,8] x) => (float[N,10] y) {
  c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, layer1.0.conv1.weight)
  m = Mul(c, layer1.0.bn1.scale)
  a = Add(layer1.0.bn1.shift, m)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB=1>(f, linear.weight, linear.bias)
}"""


def affine() -> onnx.ModelProto:
    text = AFFINE
    for name in ("layer1.0.conv1.weight", "layer1.0.bn1.scale", "layer1.0.bn1.shift", "linear.weight", "linear.bias"):
        text = text.replace(name, name.replace(".", "__"))
    model = parsed(
        text,
        layer1__0__conv1__weight=normal(6, 3, 3, 3),
        layer1__0__bn1__scale=normal(6, 1, 1),
        layer1__0__bn1__shift=normal(1, 6, 1, 1),
        linear__weight=normal(10, 6),
        linear__bias=normal(10),
    )
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    return model


def test_names_and_shapes_of_initialisers_are_those_of_the_state_dict() -> None:
    model = affine()
    module = check(model, normal(4, 3, 8, 8))
    wanted = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == wanted
    assert isinstance(module.get_submodule("layer1.0.conv1"), nn.Conv2d)
    assert isinstance(module.get_submodule("linear"), nn.Linear)
    assert {name for name, _ in module.named_parameters()} == wanted.keys()


@pytest.mark.parametrize("batch", [1, 7])
def test_every_weight_is_trained(batch: int) -> None:
    module = read_onnx(affine()).train()
    before = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(batch, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    optimizer.step()
    pairs = zip(before.state_dict().values(), module.state_dict().values(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


def test_a_copy_is_equal_and_apart() -> None:
    module = read_onnx(affine())
    twin = copy.deepcopy(module)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(module(x), twin(x)) and module.state_dict().keys() == twin.state_dict().keys()
    nn.init.zeros_(twin.get_submodule("linear").weight)
    assert not torch.equal(module(x), twin(x))


def test_reading_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    read_onnx(affine())
    assert torch.equal(state, torch.get_rng_state())


def test_shapes_are_computed_for_every_batch_size() -> None:
    model = parsed("""
        net (float[N,4,6] x) => (float[M,K] y, float[N,O] z) {
          s = Shape(x)
          zero = Constant<value_int = 0>()
          n = Gather(s, zero)
          axes = Constant<value_ints = [0]>()
          n1 = Unsqueeze(n, axes)
          two = Constant<value_ints = [2]>()
          m1 = Mul(n1, two)
          rest = Constant<value_ints = [-1]>()
          target = Concat<axis=0>(m1, rest)
          y = Reshape(x, target)
          f = Cast<to=1>(n1)
          half = Constant<value_floats = [0.5]>()
          h = Mul(f, half)
          u = Floor(h)
          i = Cast<to=7>(u)
          ones = Expand(half, i)
          total = ReduceSum<keepdims=0>(ones)
          flat = Flatten(x)
          z = Add(flat, total)
        }""")
    for batch in (1, 4, 7):
        check(model, normal(batch, 4, 6))


def test_tied_weights_stay_tied() -> None:
    model = parsed(
        """
        net (int64[N,T] x) => (float[N,T,V] y, float[N,T,D] z) {
          e = Gather(embed, x)
          t = Transpose<perm=[1,0]>(embed)
          y = MatMul(e, t)
          a = MatMul(e, square)
          z = MatMul(a, square)
        }""",
        embed=normal(9, 4),
        square=normal(4, 4),
    )
    module = check(model, np.array([[1, 2, 8]]))
    assert len(list(module.parameters())) == 2
    assert len(module.state_dict()) == 2


def test_a_weight_with_two_kinds_of_use_has_one_home() -> None:
    model = parsed(
        """
        net (float[N,3,8,8] x) => (float[N,3,H,W] y) {
          a = Conv<pads=[1,1,1,1]>(x, shared)
          y = Conv<strides=[2,2]>(a, shared)
        }""",
        shared=normal(3, 3, 3, 3),
    )
    module = check(model, normal(2, 3, 8, 8))
    assert len(module.state_dict()) == 1


def test_weights_that_are_made_of_constants_become_plain_layers() -> None:
    model = parsed(
        """
        net (float[N,3] x) => (float[N,4] y) {
          w = DequantizeLinear<axis=0>(w_quantised, w_scale)
          v = Transpose<perm=[1,0]>(w)
          b = Identity(b0)
          c = Identity(b)
          p = MatMul(x, v)
          y = Add(p, c)
        }""",
        w_quantised=np.arange(12, dtype=np.int8).reshape(4, 3),
        w_scale=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        b0=normal(4),
    )
    module = check(model, normal(2, 3))
    (layer,) = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert layer.weight.shape == (4, 3) and layer.bias is not None


BRANCHES = """
net (float[N,4] x, {condition}) => (float[N,4] y) {{
  {constant}
  y = If (flag) <
    then_branch = left () => (float[N,4] a) {{ t = MatMul(x, w)  a = Relu(t) }},
    else_branch = right () => (float[N,4] b) {{ b = Neg(x) }}
  >
}}"""


@pytest.mark.parametrize("flag", [True, False])
def test_if_runs_the_chosen_branch(flag: bool) -> None:
    model = parsed(BRANCHES.format(condition="bool flag", constant=""), w=normal(4, 4))
    check(model, normal(3, 4), np.array(flag))


def test_an_if_that_is_decided_is_its_branch() -> None:
    text = BRANCHES.format(
        condition="float[N,4] unused", constant="one = Constant<value_int = 1>() flag = Cast<to=9>(one)"
    )
    module = check(parsed(text, w=normal(4, 4)), normal(3, 4), normal(3, 4))
    assert list(module.state_dict()) == ["w.weight"]


def test_initialisers_may_be_inputs_too() -> None:
    weight = normal(4, 2)
    model = parsed("net (float[N,4] x, float[4,2] w) => (float[N,2] y) { y = MatMul(x, w) }", w=weight)
    module = read_onnx(model)
    x = torch.randn(3, 4)
    torch.testing.assert_close(module(x), x @ torch.from_numpy(weight))
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {"w.weight": (2, 4)}


def test_names_of_other_exporters_become_paths() -> None:
    model = parsed(
        """
        net (float[N,3,8,8] x) => (float[N,4,H,W] y) {
          y = Conv(x, kernel)
        }""",
        kernel=normal(4, 3, 3, 3),
    )
    node = model.graph.node[0]
    for weight, name, path in (
        ("features/conv1/kernel:0", "", "features.conv1"),
        ("onnx::Conv_12", "/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("conv2d_1.w_0", "Conv.0", "conv2d_1"),
        ("forward.weight", "", "forward_1"),
        ("half.conv.weight", "", "half_conv_1"),
        ("weight", "", "weight"),
    ):
        node.name = name
        node.input[1] = model.graph.initializer[0].name = weight
        module = read_onnx(model)
        assert list(module.state_dict()) == [f"{path}.weight"]
        assert module.meta["initialisers"] == {f"{path}.weight": weight}


def test_external_data(tmp_path: Path) -> None:
    onnx.save_model(affine(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(read_onnx(tmp_path / "net.onnx")(x), read_onnx(affine())(x))
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match="keeps weights in another file that cannot be read"):
        read_onnx(tmp_path / "net.onnx")


def test_all_unsupported_operators_are_named_at_once() -> None:
    model = parsed("""
        net (float[N,4] x) => (float[N,4] y) {
          a = Bernoulli(x)
          b = com.example.Magic(a)
          c = Relu(b)
          y = RandomNormalLike(c)
        }""")
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match=r"Bernoulli \(node 'a'\), RandomNormalLike.*com.example::Magic \(node 'b'\)"):
        read_onnx(model)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x07", b"\x00" * 64])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        read_onnx(tmp_path / "net.onnx")


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    content = affine().SerializeToString()
    for length in range(0, len(content), 97):
        (tmp_path / "net.onnx").write_bytes(content[:length])
        with pytest.raises(ModelError):
            read_onnx(tmp_path / "net.onnx")


def test_a_missing_file_an_old_opset_and_a_missing_value(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no ONNX file"):
        read_onnx(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="opset 7, expected 9 to"):
        read_onnx(parsed("net (float[N] x) => (float[N] y) { y = Relu(x) }", opset=7))
    with pytest.raises(ModelError, match="reads 'z', which no node"):
        read_onnx(parsed("net (float[N] x) => (float[N] y) { y = Add(x, z) }"))


def test_damaged_models_get_a_clear_error(tmp_path: Path) -> None:
    random, content = np.random.default_rng(0), affine().SerializeToString()
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, 700, 3):
            damaged[position] = random.integers(0, 256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            read_onnx(tmp_path / "net.onnx")
        except ModelError as error:
            assert str(error)
