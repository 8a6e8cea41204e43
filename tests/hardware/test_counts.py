"""The closed form equals a simulation that runs all loops, access for access, and what it computes is the layer."""

import itertools
from collections.abc import Mapping as Table
from dataclasses import replace
from random import Random

import pytest

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.cost import price
from dovetail.hardware.counts import count
from dovetail.hardware.layer import LOOPS, OPERANDS, Layer, Operand
from dovetail.hardware.loops import Element, Machine
from dovetail.hardware.mapping import Mapping, occupied

from .random_mappings import random_chip, random_layer


def random_values(random: Random, layer: Layer) -> dict[Operand, dict[Element, int]]:
    """Integers for every input and weight, by their place."""
    e = layer.extents
    shapes: dict[Operand, tuple[int, ...]] = {
        "I": (e["G"], e["N"], e["C"], *layer.input_size),
        "W": (e["G"], e["K"], e["C"], e["R"], e["S"]),
    }
    return {
        operand: {place: random.randint(-9, 9) for place in itertools.product(*map(range, shape))}
        for operand, shape in shapes.items()
    }


def convolution(layer: Layer, values: Table[Operand, Table[Element, int]]) -> dict[Element, int]:
    """The outputs as layer.py defines them."""
    (down, right), (rows, columns) = layer.stride, layer.dilation
    sums: dict[Element, int] = {}
    for g, n, k, c, p, q, r, s in itertools.product(*(range(layer.extents[loop]) for loop in LOOPS)):
        product = values["W"][g, k, c, r, s] * values["I"][g, n, c, p * down + r * rows, q * right + s * columns]
        sums[g, n, k, p, q] = sums.get((g, n, k, p, q), 0) + product
    return sums


def check(chip: Chip, layer: Layer, mapping: Mapping, values: Table[Operand, Table[Element, int]]) -> None:
    """The mapping computes the layer, and the closed form says what it took."""
    machine = Machine(chip, layer, mapping, values)
    outputs, tally, counts = machine.run(), machine.tally, count(chip, layer, mapping)
    told = f"{chip}\n{layer}\n{mapping}"

    assert outputs.items() >= convolution(layer, values).items(), told
    accesses = {(access.memory, access.operand, access.action): access for access in counts.accesses}
    assert {kind: access.elements for kind, access in accesses.items()} == tally.elements, told
    assert {kind: access.bits for kind, access in accesses.items()} == pytest.approx(tally.bits), told
    assert {kind: access.words for kind, access in accesses.items()} == pytest.approx(tally.words), told
    assert {(hops.dimension, hops.operand): hops.bits for hops in counts.hops} == +tally.hops, told
    room = occupied(chip, layer, mapping)
    assert all(bits / 8 <= room[memory][operand] * (1 + 1e-9) for (memory, operand), bits in machine.most.items()), told
    simulated = machine.cycles()
    for part in ("computing", "filling", "draining", "stalled"):
        assert getattr(counts.cycles, part) == pytest.approx(getattr(simulated, part)), f"{part}: {told}"


@pytest.mark.parametrize("seed", range(40))
def test_closed_form_equals_simulation(seed: int) -> None:
    random = Random(seed)
    for _ in range(50):
        chip = random_chip(random)
        layer, mapping = random_layer(random, chip)
        check(chip, layer, mapping, random_values(random, layer))


def accelerator(**changes: object) -> Chip:
    """Two by two elements with registers, a buffer and an outermost memory."""
    chip = Chip(
        name="square",
        title="",
        kind="spatial",
        clock_mhz=1.0,
        node_nm=1.0,
        idle_milliwatts=0.0,
        dimension=(Dimension(name="x", size=4, unroll=LOOPS), Dimension(name="y", size=4, unroll=LOOPS)),
        arithmetic=Arithmetic(operation=(OperationEnergy(input_bits=16, weight_bits=16),), sum_bits=32),
        memory=(
            Memory(name="register", operands=OPERANDS, bytes=1 << 10, per=("x", "y"), width_bits=16),
            Memory(name="buffer", operands=OPERANDS, bytes=1 << 20, width_bits=16),
            Memory(name="dram", operands=OPERANDS, width_bits=16),
        ),
        source=(Source(says="made up", status="assumed"),),
    )
    return replace(chip, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "spatial"), [(0, {}), (1, {"x": (("P", 2),), "y": (("R", 2),)})])
def test_every_order_and_every_tile(seed: int, spatial: dict[str, tuple[tuple[str, int], ...]]) -> None:
    chip = accelerator()
    layer = Layer("layer", {"K": 2, "C": 2, "P": 4 if spatial else 3, "R": 4 if spatial else 2}, stride=(2, 1))
    values = random_values(Random(seed), layer)
    loops = (("K", 2), ("C", 2), ("P", 2 if spatial else 3), ("R", 2))
    for temporal in itertools.permutations(loops):
        for held in itertools.combinations_with_replacement(range(5), 2):
            mapping = Mapping(spatial, temporal, 1, dict.fromkeys(OPERANDS, held))
            check(chip, layer, mapping, values)


def elements(chip: Chip, layer: Layer, mapping: Mapping, memory: str, operand: Operand) -> float:
    counts = count(chip, layer, mapping)
    return sum(access.elements for access in counts.accesses if (access.memory, access.operand) == (memory, operand))


@pytest.mark.parametrize("seed", range(20))
def test_holding_more_never_increases_traffic_further_out(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        chip = random_chip(random)
        chip = replace(chip, settings={**chip.settings, "halo_reuse": True})
        layer, mapping = random_layer(random, chip, most=1000)
        for operand in OPERANDS:
            held = mapping.held[operand]
            for level, outer in enumerate(chip.chain(operand)[1:]):
                if held[level] < (*held, len(mapping.temporal))[level + 1]:
                    more = tuple(number + (index == level) for index, number in enumerate(held))
                    larger = replace(mapping, held={**mapping.held, operand: more})
                    before = elements(chip, layer, mapping, outer.name, operand)
                    assert elements(chip, layer, larger, outer.name, operand) <= before


def test_a_matrix_product_by_hand() -> None:
    """8 x 8 by 8 x 8, tiles of 4 x 4, each element one output: the figures of any textbook."""
    layer = Layer("product", {"N": 8, "C": 8, "K": 8}, bits={"O": 8})
    mapping = Mapping(
        {"x": (("N", 4),), "y": (("K", 4),)},
        temporal=(("C", 8), ("K", 2), ("N", 2)),
        inside=0,
        held={"I": (0, 1), "W": (0, 3), "O": (1, 1)},
    )
    found = {(a.memory, a.operand, a.action): a.elements for a in count(accelerator(), layer, mapping).accesses}
    macs = 8 * 8 * 8
    assert found["register", "I", "read"] == found["register", "O", "write"] == macs
    assert found["register", "O", "read"] == macs - 64 + 64  # not for the first term; but for draining each output
    assert found["buffer", "I", "read"] == found["buffer", "W", "read"] == macs // 4  # multicast to four
    assert found["dram", "I", "read"] == 64  # four rows of N by all of C, for both K
    assert found["dram", "W", "read"] == 64  # all held
    assert found["dram", "O", "write"] == found["buffer", "O", "write"] == 64
    assert ("dram", "O", "read") not in found


def test_rows_of_a_window_are_fetched_once() -> None:
    """Five rows of output, three of the filter: seven of the input, unless halos are fetched again."""
    layer = Layer("convolution", {"P": 5, "R": 3})
    mapping = Mapping({}, (("R", 3), ("P", 5)), 0, {"I": (1, 1), "W": (2, 2), "O": (0, 2)})
    forgetful = accelerator(settings={"halo_reuse": False})
    assert elements(accelerator(), layer, mapping, "dram", "I") == 7
    assert elements(forgetful, layer, mapping, "dram", "I") == 15


def test_rows_are_shared_along_diagonals() -> None:
    """As in Eyeriss: filter rows across, output rows along; the nine elements take five rows of the input."""
    layer = Layer("convolution", {"P": 3, "R": 3})
    mapping = Mapping({"x": (("P", 3),), "y": (("R", 3),)}, (), 0, {"I": (0, 0), "W": (0, 0), "O": (0, 0)})
    chip = accelerator()
    assert elements(chip, layer, mapping, "dram", "I") == 5
    found = {(a.memory, a.operand, a.action): a.elements for a in count(chip, layer, mapping).accesses}
    assert found["buffer", "I", "read"] == 5
    assert found["register", "I", "write"] == 9
    assert found["buffer", "O", "write"] == 3


def test_bandwidth_stalls_and_buffers_hide_it() -> None:
    """Eight steps, each of one new weight of 16 bits through a port of 8 bits a cycle: 16 cycles."""
    layer = Layer("product", {"K": 8})
    mapping = Mapping({}, (("K", 8),), 0, {"I": (1, 1), "W": (0, 0), "O": (1, 1)})
    chip = accelerator()
    for double_buffered, stalled in ((True, {"dram": 14.0 - 8}), (False, {"buffer": 14.0})):
        memory = tuple(
            replace(m, double_buffered=double_buffered, read_bandwidth=8 if m.name == "dram" else None)
            for m in chip.memory
        )
        cycles = count(replace(chip, memory=memory), layer, mapping).cycles
        assert (cycles.computing, cycles.filling, cycles.stalled) == (8, 4, stalled)  # first one weight and one input


def test_the_last_word_of_every_transfer_is_paid_for_whole() -> None:
    """Weights of 8 bits, three at a time into each of four registers, through words of 16 and 64 bits."""
    layer = Layer("product", {"K": 4, "C": 6}, bits={"W": 8})
    mapping = Mapping({"x": (("K", 4),)}, (("C", 3), ("C", 2)), 0, {"I": (0, 2), "W": (1, 2), "O": (2, 2)})
    chip = accelerator()
    prices = {"read_picojoules": 1.0, "write_picojoules": 0.0}
    register, buffer, dram = (replace(memory, whole_words=True, **prices) for memory in chip.memory)  # type: ignore
    free = OperationEnergy(input_bits=16, weight_bits=16, picojoules=0.0)
    chip = replace(
        chip,
        memory=(register, replace(buffer, width_bits=64, read_bandwidth=32), dram),
        arithmetic=replace(chip.arithmetic, operation=(free,)),
    )
    counts = count(chip, layer, mapping)
    words = {(a.memory, a.action): (a.bits, a.words) for a in counts.accesses if a.operand == "W"}
    assert words["register", "write"] == (4 * 6 * 8, 4 * 2 * 2)  # 24 bits are two words
    assert words["register", "read"] == (4 * 6 * 8, 4 * 6)  # one byte at a time
    assert words["buffer", "read"] == (4 * 6 * 8, 2 * 2)  # 96 bits for all four at once, twice
    assert words["buffer", "write"] == (4 * 6 * 8, 3)  # all at once
    assert counts.cycles.stalled["register"] == 2 * 2 * 64 / 32 + 6 * 1 * 64 / 32  # and an input for each of six steps
    paid = sum(e.picojoules for e in price(chip, layer, counts) if (e.place, e.operand) == ("buffer", "W"))
    assert paid == 2 * 2


MAPPING = Mapping({"x": (("K", 4),)}, (("C", 4), ("K", 4), ("N", 4)), 1, {"I": (1, 1), "W": (1, 2), "O": (1, 2)})


@pytest.mark.parametrize("how", ["compressed", "gates", "skips", "nothing"])
def test_zeros_gain_only_what_the_chip_exploits(how: str) -> None:
    dense = Layer("product", {"N": 4, "C": 4, "K": 16})
    sparse = replace(dense, density={"I": 0.5})
    chip = accelerator()
    if how == "compressed":
        chip = replace(chip, memory=(*chip.memory[:-1], replace(chip.memory[-1], compressed=("I",))))
    elif how != "nothing":
        chip = replace(chip, arithmetic=replace(chip.arithmetic, **{how: ("I",)}))
    before, after = count(chip, dense, MAPPING), count(chip, sparse, MAPPING)
    if how == "nothing":
        assert after == before
    done = 0.5 if how in ("gates", "skips") else 1.0
    assert after.macs == before.macs * done
    assert after.cycles.computing == before.cycles.computing * (0.5 if how == "skips" else 1.0)
    for operand in OPERANDS:
        saved = done if operand == "W" else 1.0  # a zero input saves the weight, but has to be read itself
        assert after.bits("register", operand, "read") == pytest.approx(
            before.bits("register", operand, "read") * saved if operand != "O" else after.bits("register", "O", "read")
        )
    assert after.bits("register", "O") <= before.bits("register", "O")
    assert after.bits("dram", "I") == before.bits("dram", "I") * (0.5 if how == "compressed" else 1.0)


def test_what_is_stored_is_what_moves() -> None:
    layer = Layer("product", {"N": 4, "C": 4, "K": 16}, bits={"W": 8}, stored_bits={"W": 100})
    chip = accelerator()
    chip = replace(chip, memory=(*chip.memory[:-1], replace(chip.memory[-1], compressed=("W",))))
    counts = count(chip, layer, replace(MAPPING, held={**MAPPING.held, "W": (1, 3)}))
    assert counts.bits("dram", "W") == pytest.approx(100)
    assert counts.bits("buffer", "W", "write") == 4 * 16 * 8
