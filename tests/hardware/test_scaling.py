"""Scaling between processes: published ratios, monotone, there and back."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.scaling import NODES, area_at, energy_at, scaled

CHIP = Chip.load("diannao")
nodes = st.floats(7, 180)


def numbers(chip: Chip) -> list[float]:
    """What scaling changes."""
    assert chip.area_mm2 is not None
    energies = [o.picojoules for o in chip.arithmetic.operation]
    energies += [energy for m in chip.memory for energy in (m.read_picojoules, m.write_picojoules)]
    return [chip.area_mm2, chip.idle_milliwatts, *(energy for energy in energies if energy is not None)]


@given(one=nodes, other=nodes)
def test_a_smaller_node_takes_no_more(one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert energy_at(small) <= energy_at(large) and area_at(small) <= area_at(large)


def test_at_its_own_node_it_is_the_same_chip() -> None:
    assert scaled(CHIP, CHIP.node_nm) is CHIP


@given(node=nodes)
def test_there_and_back(node: float) -> None:
    back = scaled(scaled(CHIP, node), CHIP.node_nm)
    assert back.node_nm == CHIP.node_nm
    assert numbers(back) == pytest.approx(numbers(CHIP))


def test_says_what_was_scaled_and_leaves_dram_and_the_machine_alone() -> None:
    small = scaled(CHIP, 28)
    ratio = energy_at(28) / energy_at(65)
    assert ratio < 0.3
    assert small.memory[-1] == CHIP.memory[-1]
    assert (small.clock_mhz, small.elements) == (CHIP.clock_mhz, CHIP.elements)
    for before, after in zip(CHIP.memory[:-1], small.memory[:-1], strict=True):
        assert after.read_picojoules == pytest.approx(before.read_picojoules * ratio)  # type: ignore[operator]
        assert "from 65 to 28 nm" in after.source[-1].says and after.source[-1].status == "derived"
    assert "from 65 to 28 nm" in small.arithmetic.operation[0].source[-1].says
    assert "area_mm2" in small.source[-1].keys


@pytest.mark.parametrize(("source", "target", "published"), [(130, 65, 0.23), (45, 7, 0.059), (32, 16, 0.41)])
def test_areas_are_the_published_ratios(source: int, target: int, published: float) -> None:
    """The paper's table is rounded to two digits."""
    assert area_at(target) / area_at(source) == pytest.approx(published, rel=0.05)


def test_what_has_no_number_gets_none() -> None:
    assert scaled(dataclasses.replace(CHIP, area_mm2=None), 45).area_mm2 is None


@pytest.mark.parametrize("node", [5.0, 250.0])
def test_nodes_beyond_the_equations_are_refused(node: float) -> None:
    with pytest.raises(TargetError, match=f"known from {min(NODES)} to {max(NODES)} nm, got {node:g}"):
        scaled(CHIP, node)
