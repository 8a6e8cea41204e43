import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from dovetail.data import load_dataset
from dovetail.data.idx import IdxSource, parse_idx
from dovetail.errors import DataError

FILES = tuple(
    f"{split}-{kind}.gz" for split in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A public source with a small data set, and a machine that has nothing yet."""
    images = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
    labels = np.array([1, 0, 2, 1, 0], np.uint8)
    contents = [idx(array) for array in (images, labels, images[:2], labels[:2])]
    (tmp_path / "public").mkdir()
    for file, content in zip(FILES, contents, strict=True):
        (tmp_path / "public" / file).write_bytes(gzip.compress(content))
    monkeypatch.delenv("DOVETAIL_DATA", raising=False)
    monkeypatch.delenv("DOVETAIL_OFFLINE", raising=False)
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path / "cache"))
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in zip(FILES, contents, strict=True)}
    return IdxSource(name="tiny", folder="tiny-data", url=(tmp_path / "public").as_uri() + "/", sha256=sums)


def test_files_are_downloaded_once(public, tmp_path):
    train, test = public.splits()
    assert len(train) == 5 and len(test) == 2
    images, labels = train.batch(torch.tensor([2]))
    assert images.tolist() == [[[[12, 13], [14, 15], [16, 17]]]] and labels.tolist() == [2]
    assert sorted(path.name for path in (tmp_path / "cache/tiny-data").iterdir()) == sorted(FILES)
    for path in (tmp_path / "public").iterdir():
        path.unlink()
    assert len(public.splits()[0]) == 5


def test_the_given_folder_comes_first(public, tmp_path, monkeypatch):
    monkeypatch.setenv("DOVETAIL_DATA", str(tmp_path))
    (tmp_path / "public").rename(tmp_path / "tiny-data")
    assert len(public.splits()[0]) == 5 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("variable, why", [("DOVETAIL_OFFLINE", "forbids"), ("", "it cannot be downloaded")])
def test_what_is_missing_is_said(public, tmp_path, monkeypatch, variable, why):
    if variable:
        monkeypatch.setenv(variable, "1")
    (tmp_path / "public" / FILES[3]).unlink()
    monkeypatch.setenv("DOVETAIL_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError) as error:
        public.splits()
    assert all(part in str(error.value) for part in (why, *FILES, str(tmp_path / "mine" / "tiny-data")))


def test_a_damaged_download_is_not_kept(public, tmp_path):
    path = tmp_path / "public" / FILES[0]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"damaged .*fetch it again from file://.*train-images"):
        public.splits()
    assert list((tmp_path / "cache/tiny-data").iterdir()) == []


def test_another_file_of_that_name_is_refused(public, tmp_path):
    (tmp_path / "public" / FILES[0]).write_bytes(gzip.compress(idx(np.zeros((5, 3, 2), np.uint8))))
    with pytest.raises(DataError, match=r"is not the official train-images-idx3-ubyte.gz of tiny"):
        public.splits()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (2, 3, 4)])
def test_an_array_comes_back(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    back = parse_idx(idx(array), name="x")
    assert back.shape == shape and np.array_equal(back, array)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x0d\x01" + bytes(8), r"not an idx file of unsigned bytes: it starts with 00 00 0d 01"),
        (b"\x00\x00\x08\x03" + bytes(5), "truncated: its header of 16 bytes ends after 9"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"damaged: 6 bytes \(2, 3\) expected, 5 found"),
        (idx(np.zeros((2, 3), np.uint8)) + b"x", r"damaged: 6 bytes \(2, 3\) expected, 7 found"),
    ],
)
def test_what_is_no_idx_file_is_said(content, message):
    with pytest.raises(DataError, match=f"x is {message}"):
        parse_idx(content, name="x")


def test_mnist_is_there(mnist_folder):
    dataset = load_dataset("mnist")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (55_000, 5_000, 10_000)
    (inputs, targets), *_ = dataset.batches("train", 5)
    assert targets.tolist() == [5, 0, 4, 1, 9] and inputs.shape[1:] == dataset.input_shape
