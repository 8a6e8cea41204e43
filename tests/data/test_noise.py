"""Noise where no data are given: of the right shape, the same every time, smooth, and compared by value."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dovetail.data import CloseOutputs, load_dataset, noise


@pytest.mark.parametrize("shape", [(3, 40, 33), (1, 5, 5), (21, 34, 3), (17,), (6, 9), (2, 3, 4, 5)])
def test_noise_has_the_networks_shape_and_is_always_the_same(shape: tuple[int, ...]) -> None:
    first, again = (next(load_dataset("noise", shape).batches("test", 4))[0] for _ in range(2))
    assert first.shape == (4, *shape) and torch.equal(first, again)
    assert first.std() == pytest.approx(1, abs=0.35) and first.isfinite().all()
    assert not torch.equal(first[0], first[1])


def test_images_of_noise_are_smooth_whichever_way_they_lie() -> None:
    for shape, side in (((3, 64, 64), 2), ((64, 64, 3), 1)):
        image = noise(shape).example()
        step = image.diff(dim=side).square().mean() / image.var()
        assert step < 0.5  # of white noise it is 2


def test_the_splits_differ() -> None:
    data = noise((1, 8, 8))
    inputs = torch.cat([next(data.batches(name, 16))[0] for name in ("train", "validation", "test")])
    assert len(torch.unique(inputs, dim=0)) == 48


def test_noise_says_that_it_is_synthetic() -> None:
    data = noise()
    assert data.synthetic and data.task == CloseOutputs() and data.input_shape == (3, 224, 224)


def test_large_inputs_come_in_small_batches() -> None:
    assert noise((3, 32, 32)).fitting(500) == 500
    assert noise((3, 1024, 1024)).fitting(500) == 5
    assert noise((3, 8192, 8192)).fitting(500) == 1


def test_images_can_be_given_with_their_channels_last(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 90, 0)).save(tmp_path / f"{number}.png")
    last, first = (load_dataset(str(tmp_path), shape) for shape in ((12, 16, 3), (3, 12, 16)))
    assert last.example().shape == (1, 12, 16, 3)
    assert torch.equal(last.example().permute(0, 3, 1, 2), first.example())
    assert (len(last.train), len(last.validation), len(last.test)) == (1, 1, 2)
