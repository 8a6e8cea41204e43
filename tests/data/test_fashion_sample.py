import numpy as np
import torch
from PIL import Image

from dovetail.data import load_dataset
from dovetail.data.fashion_sample import FOLDER, PER_CLASS, from_sheet, to_sheet, write_sheets


def test_it_is_whole_and_balanced_from_the_first_image_on():
    dataset = load_dataset("fashion_mnist_sample")
    for split, per_class in PER_CLASS.items():
        (_, targets), *_ = dataset.batches(split, 10_000)
        assert torch.bincount(targets).tolist() == [per_class] * 10
        assert targets[:20].tolist() == [*range(10), *range(10)]


def test_no_image_is_in_two_splits():
    dataset = load_dataset("fashion_mnist_sample")
    images = [dataset.split(split).batch(torch.arange(10 * count))[0] for split, count in PER_CLASS.items()]
    train, validation, test = ({image.numpy().tobytes() for image in split} for split in images)
    assert not (train & validation or train & test or validation & test)


def test_a_sheet_gives_its_images_back():
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
    sheet = to_sheet(images)
    assert sheet.shape == (56, 1400) and np.array_equal(sheet[28:, 28:56], images[51])
    assert np.array_equal(from_sheet(sheet), images)


def test_it_is_small_and_has_its_licence():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000
    assert "Zalando SE" in (FOLDER / "LICENSE.txt").read_text()


def test_the_sheets_are_made_by_their_rule(fashion_mnist_folder, tmp_path):
    write_sheets(tmp_path)
    for split in PER_CLASS:
        with Image.open(tmp_path / f"{split}.png") as made, Image.open(FOLDER / f"{split}.png") as shipped:
            assert np.array_equal(np.asarray(made), np.asarray(shipped))
