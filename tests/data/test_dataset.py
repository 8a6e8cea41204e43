import pytest
import torch

from dovetail.data import DATASETS, Classification, Dataset, ShiftAndFlip, TensorSplit, load_dataset
from dovetail.data.dataset import hold_out
from dovetail.errors import DataError


@pytest.fixture
def numbered() -> Dataset:
    """103 images whose first pixel and target are their number."""
    images = torch.randint(0, 256, (103, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(103)
    train, validation = hold_out(TensorSplit(images, torch.arange(103)))
    return Dataset(
        name="numbered",
        task=Classification(),
        train=train,
        validation=validation,
        test=TensorSplit(images, torch.arange(103)),
        input_shape=(3, 6, 5),
        classes=tuple(map(str, range(103))),
        mean=(0.5, 0.4, 0.3),
        std=(0.1, 0.2, 0.3),
        augment=ShiftAndFlip(shift=1, flip=True),
    )


def targets(batches) -> list[int]:
    return torch.cat([target for _, target in batches]).tolist()


def test_batches_come_in_order_and_whole(numbered):
    batches = list(numbered.batches("test", 25))
    assert [len(inputs) for inputs, _ in batches] == [25, 25, 25, 25, 3]
    assert targets(batches) == list(range(103))
    inputs, _ = batches[0]
    assert inputs.dtype == torch.float32 and inputs.shape == (25, 3, 6, 5)


def test_inputs_are_normalised(numbered):
    pixels = numbered.test.batch(torch.arange(103))[0].to(torch.float64) / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (numbered.mean, numbered.std))
    (inputs, _), *rest = numbered.batches("test", 103)
    assert not rest
    torch.testing.assert_close(inputs, ((pixels - mean) / std).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_a_seed_shuffles_and_decides(numbered, augment):
    first, again, other = (list(numbered.batches("train", 10, seed=s, augment=augment)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(first, again, strict=True))
    assert targets(first) != targets(other) != sorted(targets(other)) == list(range(93))


def test_a_limit_takes_the_first_or_a_random_choice(numbered):
    assert targets(numbered.batches("test", 4, limit=6)) == [0, 1, 2, 3, 4, 5]
    some = targets(numbered.batches("test", 4, limit=6, seed=1))
    assert len(set(some)) == 6 and some != sorted(some)
    assert len(targets(numbered.batches("test", 50, limit=1000))) == 103


def test_the_splits_do_not_overlap(numbered):
    assert targets(numbered.batches("train", 50)) == list(range(93))
    assert targets(numbered.batches("validation", 50)) == list(range(93, 103))


def test_mistakes_are_named(numbered):
    with pytest.raises(DataError, match="has the splits train, validation, test, not 'valid'"):
        list(numbered.batches("valid", 5))
    with pytest.raises(DataError, match="give batches"):
        list(numbered.batches("train", 5, augment=True))
    with pytest.raises(DataError, match=r"uint8 images .* got torch.float32 \(2, 1, 3, 3\) and 2 targets"):
        TensorSplit(torch.zeros(2, 1, 3, 3), torch.zeros(2))
    with pytest.raises(DataError, match="2 targets"):
        TensorSplit(torch.zeros(3, 1, 3, 3, dtype=torch.uint8), torch.zeros(2))


def test_an_unknown_data_set_is_answered_with_the_known_ones():
    with pytest.raises(DataError, match=r"no data set or folder 'minst'.*mnist, fashion_mnist, fashion_mnist_sample"):
        load_dataset("minst")


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"has images of \(1, 28, 28\).*but the network takes \(3, 32, 32\)"):
        load_dataset("fashion_mnist_sample", (3, 32, 32))


def test_every_data_set_says_what_it_is():
    assert all(load.__doc__ and load.__doc__.splitlines()[0].endswith(".") for load in DATASETS.values())
