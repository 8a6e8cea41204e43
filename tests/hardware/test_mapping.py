"""A mapping that cannot run says why, in one sentence that names the layer, the chip and what is missing."""

from dataclasses import replace
from random import Random

import pytest

from dovetail.hardware.arch import Arithmetic, Chip, Dimension, Memory, OperationEnergy, Source
from dovetail.hardware.layer import OPERANDS, Layer
from dovetail.hardware.mapping import Mapping, draw, occupied, problems

from .random_mappings import random_chip, random_layer

CHIP = Chip(
    name="square",
    title="",
    kind="spatial",
    clock_mhz=1.0,
    node_nm=1.0,
    idle_milliwatts=0.0,
    dimension=(Dimension(name="x", size=4, unroll=("K", "P")), Dimension(name="y", size=4, unroll=("C", "R"))),
    arithmetic=Arithmetic(operation=(OperationEnergy(input_bits=16, weight_bits=16),), sum_bits=32),
    memory=(
        Memory(name="register", operands=("W", "O"), bytes=8, per=("x", "y"), width_bits=16),
        Memory(name="buffer", operands=("I", "O"), bytes=512, width_bits=16, double_buffered=True),
        Memory(name="dram", operands=OPERANDS, width_bits=16),
    ),
    source=(Source(says="made up", status="assumed"),),
)
LAYER = Layer("conv", {"K": 8, "C": 4, "P": 6, "R": 3})
MAPPING = Mapping(
    spatial={"x": (("K", 4),), "y": (("R", 3),)},
    temporal=(("C", 2), ("P", 6), ("C", 2), ("K", 2)),
    inside=1,
    held={"I": (3,), "W": (1,), "O": (0, 2)},
)


def test_a_valid_mapping_has_no_problems() -> None:
    assert problems(CHIP, LAYER, MAPPING) == []


def test_what_the_tiles_take() -> None:
    """I: 2 channels in 2 rounds, 8 rows; W: 2 channels; O: sums of 32 bits, 4 x 6 in the buffer."""
    assert occupied(CHIP, LAYER, MAPPING) == {
        "register": {"W": 2 * 2, "O": 4},
        "buffer": {"I": 4 * 8 * 2, "O": 4 * 6 * 4},
        "dram": {},
    }
    summed = replace(LAYER, extents={"K": 8, "P": 6})
    alone = replace(MAPPING, spatial={"x": (("K", 4),)}, temporal=(("C", 1), ("P", 6), ("C", 1), ("K", 2)))
    assert occupied(CHIP, summed, alone)["buffer"]["O"] == 4 * 6 * 2  # nothing is summed


@pytest.mark.parametrize(
    ("changes", "bytes_each"),
    [
        ({}, 4),  # the second C lies outside of the loop over P, which changes the register's output
        ({"temporal": (("C", 2), ("C", 2), ("P", 6), ("K", 2)), "held": MAPPING.held | {"O": (0, 3)}}, 2),
        ({"temporal": (("C", 2), ("C", 2), ("P", 6), ("K", 2)), "held": MAPPING.held | {"O": (3, 3)}}, 2),
        ({"temporal": (("P", 6), ("C", 2), ("C", 2), ("K", 2)), "held": MAPPING.held | {"O": (1, 1)}}, 2),
        ({"temporal": (("P", 6), ("C", 2), ("C", 2), ("K", 2)), "held": MAPPING.held | {"O": (0, 1)}}, 4),
    ],
)
@pytest.mark.parametrize("link", ["reduce", "forward", "none"])
def test_outputs_are_as_narrow_as_they_come(changes: dict[str, object], bytes_each: int, link: str) -> None:
    """24 of them lie in the buffer; where each element sends its own part of a sum, they are finished there."""
    links = {"I": "multicast", "W": "multicast", "O": link}
    chip = replace(CHIP, dimension=tuple(replace(dimension, links=links) for dimension in CHIP.dimension))
    taken = occupied(chip, LAYER, replace(MAPPING, **changes))  # type: ignore[arg-type]
    assert taken["buffer"]["O"] == 24 * (4 if link == "none" else bytes_each)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"held": {"I": (4,), "W": (3,), "O": (0, 2)}}, "memory 'register' has room for 8 bytes, its tiles take 12"),
        (
            {"temporal": (("C", 2), ("P", 7), ("C", 2), ("K", 2)), "held": {"I": (4,), "W": (1,), "O": (0, 4)}},
            "memory 'buffer' has room for 256 bytes (half of it, for it is double-buffered), its tiles take 296 "
            "(I 72, O 224)",
        ),
        (
            {"spatial": {"x": (("K", 4), ("P", 2)), "y": (("R", 3),)}},
            "'x' has 4 processing elements, the mapping uses 8",
        ),
        ({"spatial": {"x": (("R", 3),), "y": ()}}, "dimension 'x' unrolls K, P, but not R"),
        ({"spatial": {"z": (("R", 3),)}}, "the array has no dimension 'z', only x, y"),
        ({"temporal": (("C", 2), ("P", 5), ("C", 2), ("K", 2))}, "the factors of loop P make 5, its extent is 6"),
        ({"temporal": (("C", 2), ("P", 6), ("C", 0), ("K", 2))}, "factor 0 of loop C is less than 1"),
        ({"inside": 5}, "5 factors run within a processing element, but there are 4 temporal factors"),
        ({"held": {"I": (3,), "W": (1,), "O": (0,)}}, "held['O'] has a number for each memory but the outermost"),
        ({"held": {"W": (1,), "O": (0, 2)}}, "(buffer), got []"),
        ({"held": {"I": (3,), "W": (1,), "O": (2, 0)}}, "held['O'] grows outwards"),
        ({"held": {"I": (5,), "W": (1,), "O": (0, 2)}}, "held['I'] grows outwards from 0 to the 4 temporal factors"),
    ],
)
def test_problems(changes: dict[str, object], says: str) -> None:
    found = problems(CHIP, LAYER, replace(MAPPING, **changes))  # type: ignore[arg-type]
    assert all(problem.startswith("Layer 'conv' on chip 'square': ") for problem in found)
    assert any(says in problem for problem in found), found


def test_drawing() -> None:
    assert draw(CHIP, LAYER, MAPPING).splitlines() == [
        "conv on square",
        "for k in 2",
        "  -- buffer holds I 32",
        "  for c in 2",
        "    -- buffer holds O 24",
        "    for p in 6",
        "      along x: k in 4",
        "        along y: r in 3",
        "          -- each register holds W 2",
        "          for c in 2",
        "            -- each register holds O 1",
        "            O[g, n, k, p, q] += W[g, k, c, r, s] * I[g, n, c, p, q, r, s]",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_random_mappings_are_drawn_and_checked(seed: int) -> None:
    random = Random(seed)
    for _ in range(50):
        chip = random_chip(random)
        layer, mapping = random_layer(random, chip)
        assert problems(chip, layer, mapping) == []
        drawing = draw(chip, layer, mapping)
        assert drawing.count("for ") == sum(number > 1 for _, number in mapping.temporal)
        assert all(memory.name in drawing for memory in chip.memory if memory.bytes)
