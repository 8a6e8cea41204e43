"""Energy tables: the shipped ones hold what they say, and prices between and beyond their points are monotone."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import TargetError
from dovetail.hardware import EnergyTable
from dovetail.hardware.prices import TABLES

NAMES = sorted(path.stem for path in TABLES.glob("*.toml"))
HOROWITZ = EnergyTable.load("horowitz_45nm")
widths = st.integers(1, 128)


@pytest.mark.parametrize("name", NAMES)
class TestEveryTable:
    def test_is_named_after_its_file_and_every_number_has_a_source(self, name: str) -> None:
        table = EnergyTable.load(name)
        assert table.name == name and table.source
        assert all(price.source for price in table.prices)

    def test_no_number_is_from_memory(self, name: str) -> None:
        assert EnergyTable.load(name).unverified == ()

    @given(bits=widths, more=widths)
    def test_is_monotone_in_bits(self, name: str, bits: int, more: int) -> None:
        table = EnergyTable.load(name)
        narrow, wide = sorted((bits, more))
        for kind in ("int", "float"):
            assert table.addition(f"{kind}{narrow}") <= table.addition(f"{kind}{wide}") * (1 + 1e-12)
            assert table.multiplication(f"{kind}{narrow}") <= table.multiplication(f"{kind}{wide}") * (1 + 1e-12)
        assert table.dram(narrow) <= table.dram(wide)

    @given(one=st.integers(1, 1 << 34), other=st.integers(1, 1 << 34))
    def test_is_monotone_in_capacity_and_dram_is_the_dearest(self, name: str, one: int, other: int) -> None:
        table = EnergyTable.load(name)
        small, large = sorted((one, other))
        assert table.sram(small, 32) <= table.sram(large, 32) * (1 + 1e-12) <= table.dram(32) * (1 + 1e-9)


def test_listed_points_come_back() -> None:
    assert HOROWITZ.multiplication("int8") == 0.2
    assert HOROWITZ.addition("float32") == 0.9
    assert HOROWITZ.sram(32 << 10, 64) == 20
    assert HOROWITZ.dram(32) == 650
    assert EnergyTable.load("eie_45nm").dram(32) == 640


def test_beyond_its_points_a_multiplication_goes_by_the_square_and_an_addition_by_the_width() -> None:
    assert HOROWITZ.multiplication("int4") == pytest.approx(0.2 / 4)
    assert HOROWITZ.addition("int4") == pytest.approx(0.03 / 2)
    assert HOROWITZ.multiplication("int64") == pytest.approx(3.1 * 4)
    assert HOROWITZ.sram(2 << 10, 64) == pytest.approx(10 / 2)


def test_between_its_points_a_price_lies_between_theirs() -> None:
    assert HOROWITZ.multiplication("int8") < HOROWITZ.multiplication("int16") < HOROWITZ.multiplication("int32")
    assert HOROWITZ.sram(32 << 10, 32) < HOROWITZ.sram(128 << 10, 32) < HOROWITZ.sram(1 << 20, 32)


def test_a_multiplier_of_two_widths_costs_what_the_square_one_of_the_same_area_costs() -> None:
    assert HOROWITZ.multiplication("int4", "int16") == pytest.approx(HOROWITZ.multiplication("int8"))
    with pytest.raises(TargetError, match="one kind"):
        HOROWITZ.multiplication("int8", "float16")


def test_bfloat16_is_priced_as_float16() -> None:
    assert HOROWITZ.multiplication("bfloat16") == HOROWITZ.multiplication("float16")


def test_scale_multiplies_every_price() -> None:
    half = dataclasses.replace(HOROWITZ, scale=0.5)
    assert half.dram(32) == HOROWITZ.dram(32) / 2
    assert half.sram(8192, 32) == HOROWITZ.sram(8192, 32) / 2
    assert half.addition("int8") == HOROWITZ.addition("int8") / 2


def test_high_takes_the_upper_end_of_each_range() -> None:
    assert HOROWITZ.high().dram(64) == 2600
    assert HOROWITZ.high().sram(8192, 64) == HOROWITZ.sram(8192, 64)


class TestErrors:
    def test_an_unknown_table_is_answered_with_the_known_ones(self) -> None:
        with pytest.raises(TargetError, match=r"no energy table 'tsmc'.*horowitz_45nm"):
            EnergyTable.load("tsmc")

    def test_a_number_type_has_a_kind_and_a_width(self) -> None:
        for wrong in ("int", "fp32", "int0", ""):
            with pytest.raises(TargetError, match="int<bits>"):
                HOROWITZ.addition(wrong)

    def test_a_kind_without_points_has_no_price(self) -> None:
        integers = tuple(price for price in HOROWITZ.operation if price.number.startswith("int"))
        with pytest.raises(TargetError, match="no price for the addition of float"):
            dataclasses.replace(HOROWITZ, operation=integers).addition("float32")

    def test_a_scale_is_positive(self) -> None:
        with pytest.raises(TargetError, match="positive factor, got 0"):
            dataclasses.replace(HOROWITZ, scale=0)

    def test_a_capacity_is_positive(self) -> None:
        with pytest.raises(TargetError, match="at least one byte"):
            HOROWITZ.sram(0, 32)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("picojoules = 0.03", "picojoules = 0.2", "must not get cheaper"),
            ("picojoules = 0.03", "picojoules = -1", "positive"),
            ('kind = "dram"', 'kind = "tape"', "tape"),
            ("word_bits = 64", "", "word_bits"),
            ("[[memory]]", "[[memory", "TOML|Expected"),
        ],
    )
    def test_a_table_of_ones_own_that_is_wrong_says_where(
        self, tmp_path: Path, old: str, new: str, message: str
    ) -> None:
        path = tmp_path / "mine.toml"
        path.write_text((TABLES / "horowitz_45nm.toml").read_text().replace(old, new, 1))
        with pytest.raises(TargetError, match=message):
            EnergyTable.load(path)
