import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from dovetail.data import Classification, MatchOutputs, load_dataset
from dovetail.data.image_folder import read_image
from dovetail.errors import DataError
from dovetail.train import score

SHAPE = (3, 16, 16)


def paint(path, colour=(10, 20, 30), size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


def all_targets(dataset):
    return {
        name: dataset.split(name).batch(torch.arange(len(dataset.split(name))))[1].tolist()
        for name in ("train", "validation", "test")
    }


def test_sub_folders_are_classes(folder):
    for number in range(10):
        paint(folder / ("cat" if number % 2 else "ant") / f"{number}.png", (number, 0, 0))
    (folder / "cat" / "notes.txt").write_text("not a picture")
    dataset = load_dataset(str(folder), SHAPE)
    assert dataset.name == "pictures" and dataset.classes == ("ant", "cat") and dataset.task == Classification()
    assert len(dataset.train) + len(dataset.validation) == len(dataset.test) == 5
    for split in (dataset.train, dataset.test):
        images, targets = split.batch(torch.arange(len(split)))
        assert images.shape[1:] == SHAPE and images.dtype == torch.uint8
        assert (images[:, 0, 0, 0] % 2 == targets).all()


def test_a_split_is_the_same_every_time_and_leaves_no_image_out(folder):
    for number in range(30):
        paint(folder / f"{number:02}.png", (number, 0, 0))
    once, again = (load_dataset(str(folder), SHAPE) for _ in range(2))
    pixels = [
        [split.batch(torch.arange(len(split)))[0][:, 0, 0, 0].tolist() for split in (d.train, d.validation, d.test)]
        for d in (once, again)
    ]
    assert pixels[0] == pixels[1] and sorted(itertools.chain(*pixels[0])) == list(range(30))
    assert [len(split) for split in pixels[0]] == [14, 1, 15]


def test_images_alone_are_to_match_the_original(folder):
    paint(folder / "a.jpg")
    paint(folder / "b.JPG")
    dataset = load_dataset(str(folder))
    assert dataset.task == MatchOutputs() and dataset.classes == () and dataset.input_shape == (3, 224, 224)
    assert next(dataset.batches("test", 1))[0].shape == (1, 3, 224, 224)


def test_labels_are_read_from_a_list(folder):
    for name in ("a b.png", "c.png", "d.png", "e.png", "unlisted.png"):
        paint(folder / name)
    (folder / "labels.txt").write_text("a b.png 7\nc.png 2\n\nd.png 7\ne.png 0\n")
    dataset = load_dataset(str(folder), SHAPE)
    targets = all_targets(dataset)
    assert len(dataset.classes) == 8 and sorted(itertools.chain(*targets.values())) == [0, 2, 7, 7]


def test_labels_may_be_names(folder):
    for name in ("a.png", "b.png"):
        paint(folder / name)
    (folder / "labels.txt").write_text("a.png dog\nb.png 7\n")
    assert load_dataset(str(folder), SHAPE).classes == ("7", "dog")


def test_training_and_test_images_may_lie_apart(folder):
    for split, count in (("train", 20), ("test", 4), ("validation", 3)):
        for number in range(count):
            paint(folder / split / ("x" if number % 2 else "y") / f"{number}.png")
    dataset = load_dataset(str(folder), SHAPE)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [20, 3, 4]
    assert dataset.classes == ("x", "y") and all_targets(dataset)["test"] == [1, 1, 0, 0][::-1]


@pytest.mark.parametrize("size", [(24, 20), (16, 16), (300, 40), (5, 9)])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 12, 20)])
def test_images_are_fitted_to_the_shape(tmp_path, size, shape):
    paint(tmp_path / "a.png", (40, 40, 40), size)
    assert np.array_equal(read_image(tmp_path / "a.png", shape), np.full(shape, 40))


def test_of_two_images_none_is_left_to_validate_on(folder):
    for number in range(2):
        paint(folder / f"{number}.png")
    dataset = load_dataset(str(folder), SHAPE)
    assert list(dataset.batches("validation", 4)) == []
    with pytest.raises(DataError, match=r"validation split of data set pictures is empty.* give it more images"):
        score(lambda x: x.flatten(1), dataset, "validation", original=lambda x: x.flatten(1))


def test_the_middle_is_kept(tmp_path):
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, 16:48] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", (1, 28, 28)) == 200).all()  # 28 of the 32 in the middle, not resized


def test_wrong_folders_are_explained(folder):
    folder.mkdir()
    with pytest.raises(DataError, match="pictures holds 0 images, at least 2 are needed"):
        load_dataset(str(folder))
    paint(folder / "a.png")
    paint(folder / "x" / "b.png")
    with pytest.raises(DataError, match=r"some images in .*pictures have labels and some have none"):
        load_dataset(str(folder))
    (folder / "labels.txt").write_text("a.png 1\nmissing.png 2\n")
    with pytest.raises(DataError, match=r"labels.txt, line 2: expected `file label`.*found 'missing.png 2'"):
        load_dataset(str(folder))
    (folder / "labels.txt").write_text("a.png 1\nx/b.png 123456789\n")
    with pytest.raises(DataError, match="class numbers go up to 99999, found 123456789"):
        load_dataset(str(folder))
    with pytest.raises(DataError, match=r"\(1, H, W\) or \(3, H, W\), not \(2, 16, 16\)"):
        load_dataset(str(folder), (2, 16, 16))


def test_what_is_no_image_is_named(folder):
    paint(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    dataset = load_dataset(str(folder), SHAPE)
    with pytest.raises(DataError, match=r"b.png cannot be read as an image"):
        list(dataset.batches("train", 2)) + list(dataset.batches("test", 2))
