"""The choice of a kernel: a possible one, remembered, and made again where the memory is damaged."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dovetail.errors import DovetailError
from dovetail.formats import Affine, Bitmap, Float
from dovetail.kernels import choice
from dovetail.kernels.choice import Reading, candidates, times_of, times_of_dense
from dovetail.kernels.convolution import Window
from dovetail.kernels.stored import kernels

RNG = np.random.default_rng(0)
SPARSE = np.where(RNG.random((40, 70)) < 0.1, RNG.standard_normal((40, 70)), 0)
FORMAT = Bitmap.encode(SPARSE, partial(Affine.encode, bits=8))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOVETAIL_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("integers", [True, False])
def test_chooses_what_can_hold_the_weights(integers: bool) -> None:
    reading = Reading(integers=integers)
    assert times_of(FORMAT, reading).keys() <= set(kernels(FORMAT, integers=integers))
    image = Affine.encode(RNG.standard_normal((16, 8, 3, 3)), bits=4)
    times = times_of(image, Reading(2, (6, 5), Window(padding=(1, 1, 1, 1)), integers))
    assert times and times.keys() <= set(kernels(image, integers=integers))
    vector = Reading(1, (2, 2), integers=integers, zeros=True)
    assert times_of_dense((20, 30, 2, 2), vector).keys() == {"inputs", "dense"}


@pytest.mark.parametrize("integers", [True, False])
def test_tries_rows_of_inputs_only_where_these_may_be_zero(integers: bool) -> None:
    behind = [candidates(FORMAT, integers=integers, zeros=zeros) for zeros in (False, True)]
    assert ["inputs" in able for able in behind] == [False, True]
    assert "inputs" in times_of(FORMAT, Reading(integers=integers, zeros=True))


@pytest.mark.parametrize("integers", [True, False])
def test_tries_kernels_for_zeros_only_where_there_are_many(integers: bool) -> None:
    dense = RNG.standard_normal((64, 32, 3, 3))
    blocks = (RNG.random((4, 8, 3, 3)) < 0.7).repeat(16, 0).repeat(4, 1)
    single = RNG.random(dense.shape) < 0.3
    tried = [candidates(Affine.encode(dense * keep, bits=8), integers=integers) for keep in (1, blocks, single)]
    assert tried == [("codes", "dense"), ("codes", "blocks", "dense"), ("codes", "mask", "slots", "dense")]


def test_remembers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = times_of(FORMAT, Reading(integers=True))
    (file,) = cache.rglob("*.json")
    with monkeypatch.context() as context:
        context.setattr(choice, "_measure", lambda *_: pytest.fail("measured again"))
        assert times_of(FORMAT, Reading(integers=True)) == first
    for damaged in ("", "[]", '{"seconds": [1]}', '{"seconds": {"codes": 1}}'):  # codes cannot hold a bitmap
        file.write_text(damaged)
        assert times_of(FORMAT, Reading(integers=True)).keys() == first.keys()


def test_weights_without_a_step() -> None:
    with pytest.raises(DovetailError, match="no kernel holds float32 for uint8 activations"):
        times_of(Float.encode(RNG.standard_normal((3, 4))), Reading(integers=True))
