"""What one operation and one memory access cost in energy: tables of published figures, read from TOML.

A table lists a few widths and a few memory sizes. Between two listed points a price follows the power law through
both; beyond them it follows the law of the circuit:

    addition        ~ bits            (a ripple of full adders)
    multiplication  ~ bits^2          (an array of them)
    SRAM read       ~ sqrt(capacity)  (the length of its word and bit lines)

so prices are monotone in bits and in capacity wherever the table's own points are. Memory is priced per bit moved: a
narrow code shares its word with its neighbours. Number types are "int<bits>", "float<bits>" and "bfloat16", which is
priced as float16 (an upper bound, since its significand is shorter).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from dovetail.errors import TargetError

TABLES = Path(__file__).parent / "tables"
EXPONENTS = {"addition": 1.0, "multiplication": 2.0}
SRAM_EXPONENT = 0.5

Status = Literal["read", "derived", "memory"]


@dataclass(frozen=True)
class OperationPrice:
    """Energy of one operation on numbers of one type, in pJ."""

    operation: Literal["addition", "multiplication"]
    number: str
    picojoules: float
    status: Status
    source: str


@dataclass(frozen=True)
class MemoryPrice:
    """Energy of reading or writing one word of `word_bits`; `high_picojoules` is the upper end of a published range."""

    kind: Literal["sram", "dram"]
    capacity_bytes: int
    word_bits: int
    picojoules: float
    high_picojoules: float
    status: Status
    source: str


@dataclass(frozen=True)
class EnergyTable:
    """Named energy prices of one process. `scale` multiplies all of them, for a rough move to another process."""

    name: str
    process: str
    source: str
    operation: tuple[OperationPrice, ...]
    memory: tuple[MemoryPrice, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise TargetError(f"EnergyTable.scale is a positive factor, got {self.scale}")
        for price in self.prices:
            if not price.picojoules > 0:
                raise TargetError(
                    f"Energy table {self.name!r}: every price is positive, got {price.picojoules} pJ in {price}"
                )
        for operation in EXPONENTS:
            for kind in ("int", "float"):
                _check_increasing(self.name, f"{operation} of {kind}", self._operation_points(operation, kind))
        _check_increasing(self.name, "SRAM read", self._sram_points())
        if not self._sram_points() or not any(memory.kind == "dram" for memory in self.memory):
            raise TargetError(f"Energy table {self.name!r} needs at least one memory of kind sram and one of kind dram")

    @classmethod
    def load(cls, name: str | Path) -> EnergyTable:
        """The table shipped under `name`, or the one in the TOML file at a path that ends in .toml."""
        path = Path(name) if str(name).endswith(".toml") else TABLES / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in TABLES.glob("*.toml")))
            raise TargetError(f"There is no energy table {str(name)!r}: name a .toml file or one of {known}")
        try:
            return msgspec.convert(tomllib.loads(path.read_text()), cls)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise TargetError(f"Energy table {path}: {error}") from error

    def high(self) -> EnergyTable:
        """The same table at the upper end of every published range."""
        memory = tuple(dataclasses.replace(price, picojoules=price.high_picojoules) for price in self.memory)
        return dataclasses.replace(self, memory=memory)

    @property
    def prices(self) -> tuple[OperationPrice | MemoryPrice, ...]:
        """Every price of the table."""
        return (*self.operation, *self.memory)

    @property
    def unverified(self) -> tuple[OperationPrice | MemoryPrice, ...]:
        """The prices that nobody has checked against a source."""
        return tuple(price for price in self.prices if price.status == "memory")

    def addition(self, number: str) -> float:
        """Energy of one addition, in pJ."""
        kind, bits = _parse(number)
        return self.scale * self._operation("addition", kind, bits)

    def multiplication(self, number: str, by: str | None = None) -> float:
        """Energy of one multiplication, in pJ; of a x b bits, by a multiplier of sqrt(a b) bits square."""
        kind, bits = _parse(number)
        other_kind, other_bits = _parse(by or number)
        if other_kind != kind:
            raise TargetError(f"A multiplier takes two numbers of one kind, got {number} and {by}")
        return self.scale * self._operation("multiplication", kind, math.sqrt(bits * other_bits))

    def sram(self, capacity_bytes: float, bits: float) -> float:
        """Energy of moving `bits` to or from an SRAM bank of `capacity_bytes`, in pJ; never above DRAM's."""
        if capacity_bytes <= 0:
            raise TargetError(f"An SRAM holds at least one byte, got a capacity of {capacity_bytes}")
        per_bit = _power_law(self._sram_points(), capacity_bytes, SRAM_EXPONENT)
        return min(self.scale * per_bit * bits, self.dram(bits))

    def dram(self, bits: float) -> float:
        """Energy of moving `bits` to or from DRAM, in pJ."""
        price = next(memory for memory in self.memory if memory.kind == "dram")
        return self.scale * price.picojoules / price.word_bits * bits

    def _operation(self, operation: str, kind: str, bits: float) -> float:
        points = self._operation_points(operation, kind)
        if not points:
            raise TargetError(f"Energy table {self.name!r} has no price for the {operation} of {kind} numbers")
        return _power_law(points, bits, EXPONENTS[operation])

    def _operation_points(self, operation: str, kind: str) -> list[tuple[float, float]]:
        prices = [(price, *_parse(price.number)) for price in self.operation if price.operation == operation]
        return sorted((float(bits), price.picojoules) for price, its_kind, bits in prices if its_kind == kind)

    def _sram_points(self) -> list[tuple[float, float]]:
        """(capacity in bytes, pJ per bit), by capacity."""
        return sorted((float(m.capacity_bytes), m.picojoules / m.word_bits) for m in self.memory if m.kind == "sram")


def _parse(number: str) -> tuple[str, int]:
    """ "int8" -> ("int", 8)."""
    match = re.fullmatch(r"(int|float|bfloat)([1-9]\d*)", number)
    if match is None:
        raise TargetError(f"A number type is int<bits>, float<bits> or bfloat16, got {number!r}")
    return match[1].removeprefix("b"), int(match[2])


def _power_law(points: Sequence[tuple[float, float]], x: float, exponent: float) -> float:
    """The piecewise power law through `points`, continued beyond both ends with `exponent`."""
    (first, low), (last, high) = points[0], points[-1]
    if x <= first:
        return low * math.pow(x / first, exponent)
    if x >= last:
        return high * math.pow(x / last, exponent)
    index = next(i for i, (here, _) in enumerate(points) if here >= x)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 * math.pow(y1 / y0, math.log(x / x0) / math.log(x1 / x0))


def _check_increasing(table: str, what: str, points: Sequence[tuple[float, float]]) -> None:
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 == x0 or y1 < y0:
            raise TargetError(
                f"Energy table {table!r}: {what} must not get cheaper with size, got {y0:g} pJ at {x0:g} "
                f"and {y1:g} pJ at {x1:g}"
            )
