import pytest
import torch

from dovetail.data import ShiftAndFlip
from dovetail.errors import DataError

IMAGES = torch.randint(1, 256, (1000, 3, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def changed(augment: ShiftAndFlip) -> torch.Tensor:
    return augment(IMAGES, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shift, flip", [(0, True), (2, False), (2, True)])
def test_each_image_is_one_of_its_shifts_and_mirrors(shift, flip):
    result = changed(ShiftAndFlip(shift=shift, flip=flip))
    assert result.shape == IMAGES.shape and result.dtype == torch.uint8
    seen = set()
    for image, original in zip(result, IMAGES, strict=True):
        for mirrored in (False, True)[: 1 + flip]:
            padded = torch.nn.functional.pad(original.flip(2) if mirrored else original, (shift,) * 4)
            for dy in range(2 * shift + 1):
                for dx in range(2 * shift + 1):
                    if torch.equal(image, padded[:, dy : dy + 7, dx : dx + 5]):
                        seen.add((mirrored, dy, dx))
                        break
    assert len(seen) == (1 + flip) * (2 * shift + 1) ** 2  # every possibility turns up among 1000 images
    assert IMAGES.min() > 0  # the originals are untouched


def test_nothing_is_changed_by_nothing():
    assert torch.equal(changed(ShiftAndFlip(shift=0, flip=False)), IMAGES)


def test_a_negative_shift_is_refused():
    with pytest.raises(DataError, match=r"ShiftAndFlip.shift is a number of pixels >= 0, got -1"):
        ShiftAndFlip(shift=-1, flip=False)
