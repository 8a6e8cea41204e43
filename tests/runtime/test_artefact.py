"""The file: what goes in comes out, bit for bit, its size is the sum of its parts, and writing is all or nothing."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors

from dovetail.errors import ArtefactError
from dovetail.runtime import Artefact


def test_comes_back_from_the_file_as_it_was(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.dvt")
    again = Artefact.load(tmp_path / "a.dvt")
    assert again.graph == artefact.graph
    assert again.provenance == artefact.provenance
    assert list(again.tensors) == list(artefact.tensors)
    for name, tensor in artefact.tensors.items():
        assert again.tensors[name].decode().tobytes() == tensor.decode().tobytes()
        assert again.tensors[name].describe() == tensor.describe()
    assert again.to_bytes() == artefact.to_bytes()


def test_size_is_the_sum_of_the_parts(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(str(tmp_path / "a.dvt"))
    parts = artefact.parts()
    assert sum(parts.values()) == (tmp_path / "a.dvt").stat().st_size
    assert list(parts) == ["fc1.weight", "fc1.bias", "fc2.weight", "graph", "manifest", "container"]
    with safetensors.safe_open(tmp_path / "a.dvt", "np") as file:
        stored = file.get_tensor("data").nbytes
    assert 8 * stored == sum(tensor.bits for tensor in artefact.tensors.values())


def test_what_is_not_data_is_small(artefact: Artefact) -> None:
    parts = artefact.parts()
    assert parts["container"] < 320
    assert parts["graph"] < 220
    assert parts["manifest"] < 400


def test_any_safetensors_reader_opens_it(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.dvt")
    with safetensors.safe_open(tmp_path / "a.dvt", "np") as file:
        assert sorted(file.keys()) == ["data", "graph", "manifest"]
        assert file.metadata()["dovetail"].startswith("1 ")
        bias = artefact.tensors["fc1.bias"].decode().tobytes()
        assert bias in file.get_tensor("data").tobytes()


def test_may_hold_no_tensors_and_empty_ones(artefact: Artefact) -> None:
    empty = dataclasses.replace(artefact, tensors={})
    assert Artefact.from_bytes(empty.to_bytes()).tensors == {}
    assert sum(empty.parts().values()) == len(empty.to_bytes())


def test_an_array_at_an_odd_place_is_read(artefact: Artefact) -> None:
    bias = Artefact.from_bytes(artefact.to_bytes()).tensors["fc1.bias"].decode()
    assert artefact.tensors["fc1.weight"].bits // 8 % 4 != 0, "the test needs an odd length before the bias"
    np.testing.assert_array_equal(bias, artefact.tensors["fc1.bias"].decode())


def test_a_tensor_may_not_have_the_name_of_a_part(artefact: Artefact) -> None:
    with pytest.raises(ArtefactError, match="may not be named 'graph'"):
        dataclasses.replace(artefact, tensors={"graph": artefact.tensors["fc1.bias"]})


def test_provenance_is_json(artefact: Artefact) -> None:
    with pytest.raises(ArtefactError, match="provenance of an artefact should be plain JSON"):
        dataclasses.replace(artefact, provenance={"model": object()}).to_bytes()  # type: ignore[dict-item]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.dvt").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match=r"a\.dvt cannot be written: No space left on device\."):
        artefact.save(tmp_path / "a.dvt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.dvt"]
    assert (tmp_path / "a.dvt").read_bytes() == b"old"


def test_an_interrupted_save_leaves_the_old_file(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.dvt").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        artefact.save(tmp_path / "a.dvt")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_missing_folder_is_named(artefact: Artefact, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"nowhere/a\.dvt cannot be written: No such file or directory"):
        artefact.save(tmp_path / "nowhere" / "a.dvt")
