import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch

from dovetail.data import cifar10, load_dataset
from dovetail.data.cifar10 import FILES, RECORD_BYTES, read_records
from dovetail.errors import DataError


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A public archive in the official form, with 20 records a file, and a machine that has nothing yet."""
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in FILES:
            table = generator.integers(0, 256, (20, RECORD_BYTES), np.uint8)
            table[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = table.nbytes
            tar.addfile(member, io.BytesIO(table.tobytes()))
    path = tmp_path / "cifar-10-binary.tar.gz"
    monkeypatch.setattr("dovetail.data.cifar10.RECORDS", 20)
    monkeypatch.setattr("dovetail.data.cifar10.URL", path.as_uri())
    monkeypatch.setattr("dovetail.data.cifar10.MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    monkeypatch.delenv("DOVETAIL_OFFLINE", raising=False)
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "cache"))
    return path


def test_the_archive_is_downloaded_and_taken_apart(archive, tmp_path):
    dataset = load_dataset("cifar10")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 20)
    folder = tmp_path / "cache/cifar-10-batches-bin"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    record = np.fromfile(folder / "data_batch_2.bin", np.uint8)[RECORD_BYTES : 2 * RECORD_BYTES]
    images, targets = dataset.train.batch(torch.tensor([21]))
    assert targets.tolist() == [record[0]] and images.numpy().ravel().tolist() == record[1:].tolist()


def test_another_archive_is_refused_and_not_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("dovetail.data.cifar10.MD5", "0" * 32)
    with pytest.raises(DataError, match="has changed or was damaged on the way: its md5 should be 000"):
        load_dataset("cifar10")
    assert list((tmp_path / "cache/cifar-10-batches-bin").iterdir()) == []


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(2 * RECORD_BYTES - 1))
    with pytest.raises(DataError, match=r"data_batch_1.bin is damaged: 6146 bytes expected, 6145 found"):
        read_records(path, 2)
    path.write_bytes(b"\x0a" * 2 * RECORD_BYTES)
    with pytest.raises(DataError, match=r"labels are 0 to 9, found 10"):
        read_records(path, 2)


def test_cifar10_is_there(cifar10_folder):
    dataset = cifar10.cifar10()
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (45_000, 5_000, 10_000)
    (_, targets), *_ = dataset.batches("test", 10_000)
    assert torch.bincount(targets).tolist() == [1_000] * 10
