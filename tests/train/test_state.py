import string

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from dovetail.train import TrainingError, load_state, save_state

tensors = st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)).map(torch.from_numpy)
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text(string.ascii_letters + "/~.", max_size=5)
states = st.dictionaries(
    keys,
    st.recursive(
        tensors | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
    ),
)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=100, deadline=None)
@given(state=states)
def test_a_state_comes_back_as_it_was(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    save_state(path, state)
    assert same(load_state(path), state)


def test_an_optimizers_state_and_a_view_come_back(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    save_state(tmp_path / "s", {"a": whole, "view": whole.t(), "same": whole, "bf16": whole.bfloat16()})
    back = load_state(tmp_path / "s")
    assert torch.equal(back["view"], whole.t()) and torch.equal(back["same"], whole)
    assert back["bf16"].dtype == torch.bfloat16


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "s.safetensors"
    save_state(path, {"weights": torch.randn(50), "epoch": 3})
    return path


def test_any_flipped_bit_is_noticed(saved):
    content = saved.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(8 * len(content), (300,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        saved.write_bytes(damaged)
        with pytest.raises(TrainingError, match="not a saved state, or a damaged one"):
            load_state(saved)


def test_a_file_cut_short_is_noticed(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 7):
        saved.write_bytes(content[:length])
        with pytest.raises(TrainingError, match="not a saved state, or a damaged one"):
            load_state(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no saved state .*nothing"):
        load_state(tmp_path / "nothing")


@pytest.mark.parametrize("state", [{"a": object()}, {1: 2}, {"a": {1: 2}}])
def test_anything_else_is_refused_and_the_old_file_stays(saved, state):
    with pytest.raises(TypeError, match="saved state"):
        save_state(saved, state)
    assert load_state(saved)["epoch"] == 3
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_state(saved, {"epoch": 4})
    assert load_state(saved)["epoch"] == 3
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
