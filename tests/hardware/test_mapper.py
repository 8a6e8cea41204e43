"""The mapper: its bound is never above what anything costs; where windows do not slide, nothing is better."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from dovetail.errors import TargetError
from dovetail.hardware import mapper
from dovetail.hardware.arch import Chip, Dimension
from dovetail.hardware.cost import price
from dovetail.hardware.counts import count
from dovetail.hardware.layer import OPERANDS, Layer
from dovetail.hardware.mapper import best_mapping, value_of
from dovetail.hardware.mapping import problems

from . import spatial_chips
from .spatial_chips import every_mapping, eyeriss_like, random_small_chip, random_small_layer, some_mappings

OBJECTIVES = ("energy", "latency", "edp")
MOST_MAPPINGS = 2000
"""Of a layer whose every mapping is counted in a test."""


def cheapest(chip, layer, rng, most):
    """Of at most so many valid mappings in random order, the least of each objective."""
    least = dict.fromkeys(OBJECTIVES, math.inf)
    for mapping in some_mappings(chip, layer, rng):
        if most == 0:
            break
        if problems(chip, layer, mapping):
            continue
        most -= 1
        counts = count(chip, layer, mapping)
        least = {o: min(value, value_of(chip, layer, counts, o)) for o, value in least.items()}
    return least


@pytest.mark.parametrize("seed", range(60))
def test_nothing_costs_less_than_the_bound(seed):
    """Over everything that is counted: links, latches, bandwidths, holes from strides and dilations, idle power."""
    rng = random.Random(seed)
    chip, layer = random_small_chip(rng), random_small_layer(rng, 200)
    try:
        found = {objective: best_mapping(chip, layer, objective) for objective in OBJECTIVES}
    except TargetError as error:
        assert "bytes are missing" in str(error)
        return
    least = cheapest(chip, layer, rng, 150)
    for objective, mapped in found.items():
        assert not problems(chip, layer, mapped.mapping)
        assert mapped.value == value_of(chip, layer, count(chip, layer, mapped.mapping), objective)
        assert mapped.lower_bound <= mapped.value
        assert mapped.lower_bound <= least[objective] * (1 + 1e-9)


@pytest.mark.parametrize("name", ["micro_npu", "edge_npu"])
def test_what_is_best_otherwise_is_not_below_the_bound(name):
    """Of layers of real sizes, and where inputs have no memory of their own: elements on a diagonal share them."""
    chip, rng = Chip.load(name), random.Random(0)
    for _ in range(40):
        size, window, stride = rng.choice((7, 8, 14, 24)), rng.choice((1, 3, 5, 7)), rng.choice((1, 1, 2))
        extents = {"K": rng.choice((1, 8, 20, 64)), "C": rng.choice((1, 3, 6, 32)), "N": rng.choice((1, 1, 2))}
        extents |= {"P": size, "Q": size, "R": window, "S": window}
        layer = Layer("a layer", extents, (stride, stride), (1, 1), bits={"I": 8, "W": 8, "O": 8})
        found = {objective: best_mapping(chip, layer, objective) for objective in OBJECTIVES}
        for objective, mapped in found.items():
            least = min(value_of(chip, layer, other.counts, objective) for other in found.values())
            assert mapped.lower_bound <= least * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_very_small_layers_against_every_mapping_there_is(seed):
    """The best of all is found in energy; no bound lies above the best of all, whatever the objective."""
    rng = random.Random(1000 + seed)
    mappings = []
    while not 0 < len(mappings) <= MOST_MAPPINGS:
        chip, layer = random_small_chip(rng), random_small_layer(rng, 12)
        mappings = list(itertools.islice(every_mapping(chip, layer), MOST_MAPPINGS + 1))
    valid = [count(chip, layer, mapping) for mapping in mappings if not problems(chip, layer, mapping)]
    for objective in OBJECTIVES if valid else ():
        mapped = best_mapping(chip, layer, objective)
        least = min(value_of(chip, layer, counts, objective) for counts in valid)
        assert mapped.lower_bound <= least * (1 + 1e-9)
        assert mapped.value >= least * (1 - 1e-9)
        if objective == "energy":
            assert mapped.value == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_is_found_where_windows_do_not_slide(seed):
    rng = random.Random(seed)
    chip, layer = random_small_chip(rng), random_small_layer(rng, 60)
    layer = replace(layer, extents=layer.extents | {"R": 1, "S": 1})
    try:
        mapped = best_mapping(chip, layer)
    except TargetError:
        return
    assert mapped.complete
    assert mapped.value <= cheapest(chip, layer, rng, 400)["energy"] * (1 + 1e-9)
    if not chip.idle_milliwatts:  # the time to fill and drain is not in the bound
        assert mapped.exact


@pytest.mark.parametrize("objective", ["energy", "edp"])
def test_a_pointwise_layer_of_resnet_is_mapped_optimally(objective):
    mapped = best_mapping(eyeriss_like(), Layer("layer1.1.conv1", {"K": 64, "C": 256, "P": 56, "Q": 56}), objective)
    assert mapped.complete and mapped.exact


def test_the_gap_of_a_convolution_of_resnet_is_small():
    layer = Layer("layer4.1.conv2", {"K": 512, "C": 512, "P": 7, "Q": 7, "R": 3, "S": 3})
    mapped = best_mapping(eyeriss_like(), layer)
    assert mapped.complete and mapped.gap < 0.01


def test_more_effort_gives_no_worse_mapping_and_no_lower_bound(monkeypatch):
    layer = Layer("layer2.1.conv2", {"K": 128, "C": 128, "P": 28, "Q": 28, "R": 3, "S": 3})
    found = []
    for effort in (500, 5_000, 50_000):
        monkeypatch.setattr(mapper, "EFFORT", effort)
        found.append(best_mapping(eyeriss_like(), layer))
    assert not any(mapped.complete for mapped in found)
    for less, more in itertools.pairwise(found):
        assert more.value <= less.value and more.lower_bound >= less.lower_bound
    assert found[0].gap > found[-1].gap > 0


def test_no_time_at_all_still_gives_a_mapping():
    layer = Layer("layer2.1.conv2", {"K": 128, "C": 128, "P": 28, "Q": 28, "R": 3, "S": 3})
    mapped = best_mapping(eyeriss_like(), layer, seconds=0.0)
    assert not mapped.complete and not problems(eyeriss_like(), layer, mapped.mapping)
    assert 0 < mapped.lower_bound < mapped.value


def test_without_a_time_limit_the_answer_is_always_the_same():
    layer = Layer("conv1", {"K": 64, "C": 3, "P": 112, "Q": 112, "R": 7, "S": 7}, (2, 2))
    first, again = (best_mapping(eyeriss_like(), layer) for _ in range(2))
    assert (first.mapping, first.lower_bound) == (again.mapping, again.lower_bound)


def test_spatial_factors_need_not_divide_the_extents():
    layer = Layer("thirteen", {"K": 13, "C": 29, "P": 13, "Q": 13})
    mapped = best_mapping(eyeriss_like(), layer, "latency")
    assert mapped.counts.cycles.computing <= 1.3 * layer.macs / 168


def test_what_does_not_fit_is_named():
    chip = eyeriss_like()
    small = replace(chip, memory=(replace(chip.memory[0], bytes=1, width_bits=8), *chip.memory[1:]))
    message = "Layer 'conv1'.*memory 'I registers' has room for 1 bytes.*takes 2; 1 bytes are missing"
    with pytest.raises(TargetError, match=message):
        best_mapping(small, Layer("conv1", {"K": 4, "C": 4}))


def test_a_shared_memory_must_hold_one_element_of_every_operand():
    chip = eyeriss_like()
    small = replace(
        chip, memory=(*chip.memory[:3], replace(chip.memory[3], bytes=5, double_buffered=True), chip.memory[4])
    )
    with pytest.raises(
        TargetError, match=r"'buffer' has room for 2.5 bytes \(half of it.* of I, W, O takes 6; 3.5 bytes"
    ):
        best_mapping(small, Layer("conv1", {"K": 4, "C": 4}))


def test_outputs_that_come_finished_need_no_room_for_sums():
    """A buffer of one byte has room for an output of 8 bits, not for its sum of 16."""
    memory = spatial_chips.memory
    register, outside = memory("register", ("O",), bytes=2, per=("rows",)), memory("outside", OPERANDS)
    buffer = memory("buffer", ("O",), bytes=1)
    dimensions = (Dimension(name="rows", size=2, unroll=("K", "C")),)
    layer = Layer("product", {"K": 4, "C": 6}, bits=dict.fromkeys(OPERANDS, 8))
    plain = spatial_chips.chip(dimensions, (register, buffer, outside), 8)
    mapped = best_mapping(plain, layer)
    assert not problems(plain, layer, mapped.mapping) and mapped.exact
    with pytest.raises(TargetError, match=r"memory 'buffer' has room for 1 bytes.*takes 2"):
        best_mapping(replace(plain, memory=(buffer, outside)), layer)


def test_an_action_without_a_price_is_an_error():
    chip = eyeriss_like()
    free = replace(chip, memory=(*chip.memory[:4], replace(chip.memory[4], read_picojoules=None)))
    with pytest.raises(TargetError, match="no energy for a read of memory 'DRAM'"):
        best_mapping(free, Layer("conv1", {"K": 4, "C": 4}))


def test_an_unknown_objective_is_an_error():
    with pytest.raises(TargetError, match="energy, latency, edp, got 'area'"):
        best_mapping(eyeriss_like(), Layer("conv1", {"K": 4}), "area")


def test_a_layer_too_long_to_search_is_an_error():
    with pytest.raises(TargetError, match="has 40000 columns of input"):
        best_mapping(eyeriss_like(), Layer("sound", {"K": 4, "Q": 40000}))


def test_energy_falls_with_density_only_where_the_chip_can_use_it():
    layer = Layer("sparse", {"K": 32, "C": 32, "P": 8, "Q": 8}, density={"I": 0.3})
    dense, plain = replace(layer, density={}), eyeriss_like()
    able = replace(
        plain,
        arithmetic=replace(plain.arithmetic, gates=("I",)),
        memory=(*plain.memory[:4], replace(plain.memory[4], compressed=("I", "O"))),
    )

    def energy(chip, layer):
        return best_mapping(chip, layer).value

    assert energy(plain, layer) == energy(plain, dense)
    assert energy(able, layer) < 0.9 * energy(able, dense)


def test_bits_are_priced():
    chip = eyeriss_like()
    layer = Layer("eight", {"K": 32, "C": 32, "P": 8, "Q": 8}, bits=dict.fromkeys(OPERANDS, 8))
    wide = replace(layer, bits={})
    eight, sixteen = (best_mapping(chip, one) for one in (layer, wide))
    assert eight.value < sixteen.value
    assert sum(entry.picojoules for entry in price(chip, layer, eight.counts)) == pytest.approx(eight.value)
