"""What a chip is, as data: an array of processing elements, the memories around it, and what everything costs.

A chip is read from TOML (`chips/*.toml` are those that come with the package, `Chip.load` reads any other). Nothing has
a silent default that could price or place something: an action without an energy is an error that names it.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dovetail import keys
from dovetail.errors import TargetError
from dovetail.hardware.layer import OPERANDS, Loop, Operand
from dovetail.hardware.sources import unsourced
from dovetail.optional import lazy

if TYPE_CHECKING:
    from dovetail.hardware import simulation
    from dovetail.hardware.cost import ChipCost, Objective
    from dovetail.workload import Workload
else:
    simulation = lazy("dovetail.hardware.simulation")  # which imports the models, and these import this file

CHIPS = Path(__file__).parent / "chips"

MOST_ELEMENTS = 2**30
"""Along one dimension of an array."""

ROUNDING = 1e-9
"""A word that is full but for errors of rounding is full."""

Status = Literal["read", "derived", "memory", "assumed"]
"""How a number is known: seen in its source; arithmetic on numbers that were; from memory, unchecked; chosen by us."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where numbers come from: those called `keys` in the table it stands in, or all of them where none is named."""

    says: str
    status: Status
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of the array: so many processing elements, over which the loops in `unroll` may be spread.

    An operand that is the same for all elements along the dimension reaches them as `links` says: by one broadcast
    ("multicast", of inputs and weights; "reduce" for outputs, which are summed on their way), handed from neighbour to
    neighbour ("forward", both ways), or not at all ("none": each element has a transfer of its own). An input that
    neighbours share along a diagonal (rows of a convolution) is one transfer too, unless the link is "none".
    `hop_picojoules` is what moving one bit by one element along this dimension costs; on spatial chips where a link is
    "forward", for the wires of multicasts and reductions belong to the memories that they start from.
    """

    name: str
    size: int
    unroll: tuple[Loop, ...]
    links: Mapping[Operand, Literal["multicast", "reduce", "forward", "none"]] = field(
        default_factory=lambda: {"I": "multicast", "W": "multicast", "O": "reduce"}
    )
    hop_picojoules: float | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One memory, or one of as many equal ones as the array dimensions in `per` have elements.

    `bytes` is what one instance holds (None: unlimited, the outermost only), shared by its `operands`; if
    `double_buffered`, tiles may take half of it, for the next one arrives meanwhile. Bandwidths are bits per cycle and
    instance (None: no limit); with `shared_port` reads and writes share `read_bandwidth`. Energies are for `width_bits`
    moved. `compressed` names the operands it keeps without their zeros: density then shrinks what is moved and held.

    With `whole_words` every transfer takes whole words of `width_bits`, of energy and of bandwidth, however few bits of
    the last are wanted; without, words are full, as if transfers were packed. A transfer is what one instance takes in
    or gives out at once: a tile of it, or all that instances further in, or processing elements, are sent together.
    """

    name: str
    operands: tuple[Operand, ...]
    bytes: int | None = None
    per: tuple[str, ...] = ()
    width_bits: int
    read_bandwidth: float | None = None
    write_bandwidth: float | None = None
    shared_port: bool = False
    double_buffered: bool = False
    read_picojoules: float | None = None
    write_picojoules: float | None = None
    compressed: tuple[Operand, ...] = ()
    whole_words: bool = False
    source: tuple[Source, ...] = ()

    def carried(self, bits: float, transfers: float = 1) -> float:
        """The bits of the words in which so many equal transfers move `bits` in all."""
        if not self.whole_words or not bits:
            return bits
        return transfers * self.width_bits * math.ceil(bits / transfers / self.width_bits - ROUNDING)


@dataclass(frozen=True, kw_only=True)
class OperationEnergy:
    """What one multiply-accumulate of `input_bits` by `weight_bits` costs: energy, and cycles of one element."""

    input_bits: int
    weight_bits: int
    picojoules: float | None = None
    cycles: float = 1.0
    source: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The processing elements: the multiply-accumulates they can do, and what they make of zeros.

    A layer is computed by the cheapest operation that is wide enough for it. Partial sums have `sum_bits`. With `gates`
    an operation is not done (but its cycle is spent) where that operand is zero, with `skips` it takes no time either.
    """

    operation: tuple[OperationEnergy, ...]
    sum_bits: int
    gates: tuple[Operand, ...] = ()
    skips: tuple[Operand, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A digital accelerator.

    `kind` names the model that reads it: "spatial" (loops unrolled over an array, mapped by search), "systolic"
    (`settings.dataflow`), or one of a particular chip. `memory` runs from the innermost to the outermost; an operand
    passes through those that list it. `settings` are for the model of its kind alone. `idle_milliwatts` are drawn all
    the time. `source` speaks of every number that a source of its own table does not speak of. `validated` says in
    words which published figures the model reproduces with this file.
    """

    name: str
    title: str
    kind: str
    clock_mhz: float
    node_nm: float
    area_mm2: float | None = None
    idle_milliwatts: float
    dimension: tuple[Dimension, ...]
    arithmetic: Arithmetic
    memory: tuple[Memory, ...]
    source: tuple[Source, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    validated: str = ""

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise TargetError(f"Chip {self.name!r}: {problem}")

    @classmethod
    def load(cls, name: str | Path) -> Chip:
        """The chip shipped under `name`, or the one in the TOML file at a path that ends in .toml.

        Raises:
            TargetError: there is none, or something in it is missing, unknown or contradictory; it names the key.
        """
        path = Path(name) if str(name).endswith(".toml") else CHIPS / f"{name}.toml"
        if not path.is_file():
            raise TargetError(f"There is no chip {str(name)!r}: name a .toml file or one of {', '.join(chip_names())}")
        try:
            return parse(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise TargetError(f"Chip file {path} is no text in UTF-8: byte {error.start + 1} is not") from error
        except (OSError, TargetError) as error:
            raise TargetError(f"Chip file {path}: {error}") from error

    def cost(
        self, workload: Workload, *, batch: int = 1, objective: Objective = "energy", bits: int | None = None
    ) -> ChipCost:
        """What a network costs here: `hardware.simulate` with this chip."""
        return simulation.simulate(self, workload, batch=batch, objective=objective, bits=bits)

    @property
    def elements(self) -> int:
        """Processing elements."""
        return math.prod(dimension.size for dimension in self.dimension)

    @property
    def peak_macs_per_second(self) -> float:
        """With every element busy at the widest rate it has."""
        fastest = min(operation.cycles for operation in self.arithmetic.operation)
        return self.elements / fastest * self.clock_mhz * 1e6

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every source, of the chip as a whole and of its parts."""
        operations = (source for operation in self.arithmetic.operation for source in operation.source)
        return (*self.source, *operations, *(source for memory in self.memory for source in memory.source))

    @property
    def widest(self) -> int:
        """The most bits that both inputs and weights may have."""
        return max(min(operation.input_bits, operation.weight_bits) for operation in self.arithmetic.operation)

    def chain(self, operand: Operand) -> tuple[Memory, ...]:
        """The memories an operand passes through, from the processing element outwards."""
        return tuple(memory for memory in self.memory if operand in memory.operands)

    def instances(self, memory: Memory) -> int:
        """How many there are of a memory."""
        return math.prod(dimension.size for dimension in self.dimension if dimension.name in memory.per)


def chip_names() -> tuple[str, ...]:
    """The chips that come with the package."""
    return tuple(sorted(file.stem for file in CHIPS.glob("*.toml")))


def is_chip(name: str) -> bool:
    """Whether `name` is that of a chip that comes with the package, or of a .toml file."""
    return name in chip_names() or name.endswith(".toml")


def parse(text: str) -> Chip:
    """The chip that a TOML file describes.

    Raises:
        TargetError: a key is unknown, missing, given twice, of another type or without a source, or two contradict.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(_not_toml(str(error), text)) from error
    for where, reason in itertools.chain(keys.problems(tables, Chip), unsourced(tables)):
        raise TargetError(f"{where} {reason}")
    try:
        return msgspec.convert(tables, Chip)
    except msgspec.ValidationError as error:  # what __post_init__ said
        raise TargetError(str(error.__cause__ or error)) from error


def _not_toml(reason: str, text: str) -> str:
    """The parser's reason, with the line it speaks of; keys given twice are what it cannot overwrite."""
    line = re.search(r"at line (\d+)", reason)
    shown = f": {text.splitlines()[int(line[1]) - 1].strip()}" if line and int(line[1]) <= text.count("\n") + 1 else ""
    return f"{reason.replace('Cannot overwrite a value', 'a key is given twice')}{shown}"


def _problems(chip: Chip) -> Iterator[str]:
    """What contradicts itself, in the order in which it should be put right."""
    for name in ("clock_mhz", "node_nm", "area_mm2"):
        value = getattr(chip, name)
        if value is not None and not value > 0:
            yield f"{name} is a positive number, got {value}"
    if not chip.idle_milliwatts >= 0:
        yield f"idle_milliwatts is not negative, got {chip.idle_milliwatts}"
    names = Counter([*(dimension.name for dimension in chip.dimension), *(memory.name for memory in chip.memory)])
    yield from (f"two parts are called {name!r}; give each a name of its own" for name, n in names.items() if n > 1)
    if "" in names or not chip.name:
        yield "a name is empty; every part and the chip have one"
    known = {dimension.name for dimension in chip.dimension}
    yield from _arithmetic_problems(chip.arithmetic)
    for dimension in chip.dimension:
        yield from (f"dimension {dimension.name!r}: {problem}" for problem in _dimension_problems(dimension))
        if chip.kind == "spatial" and dimension.hop_picojoules and "forward" not in dimension.links.values():
            yield f"dimension {dimension.name!r}: hop_picojoules is the price of links that forward; none of these does"
    for memory in chip.memory:
        yield from (f"memory {memory.name!r}: {problem}" for problem in _memory_problems(memory, known))
        if memory.whole_words and chip.kind != "spatial":
            yield f"memory {memory.name!r}: whole_words are counted on chips of kind 'spatial', this is {chip.kind!r}"
    for operand in OPERANDS:
        yield from _chain_problems(chip.chain(operand), operand)


def _arithmetic_problems(arithmetic: Arithmetic) -> Iterator[str]:
    if not arithmetic.operation:
        yield "arithmetic.operation is empty; name at least one, with its input_bits and weight_bits"
    for operation in arithmetic.operation:
        widths = operation.input_bits, operation.weight_bits
        if min(widths) < 1:
            yield f"an operation multiplies at least 1 bit by 1, got {widths[0]} by {widths[1]}"
        if not operation.cycles > 0:
            yield f"cycles of an operation is a positive number, got {operation.cycles}"
        if arithmetic.sum_bits < max(widths):
            yield f"sum_bits is {arithmetic.sum_bits}, less than the {max(widths)} bits of what is multiplied"
    for name in ("gates", "skips"):
        if "O" in (operands := getattr(arithmetic, name)):
            yield f"{name} names operands that may be zero before they are multiplied, I and W, got O"
        yield from _twice(name, operands)
    prices = ((f"an operation of {o.input_bits} by {o.weight_bits} bits", o.picojoules) for o in arithmetic.operation)
    yield from _negative(prices)


def _dimension_problems(dimension: Dimension) -> Iterator[str]:
    if not 1 <= dimension.size <= MOST_ELEMENTS:
        yield f"size is from 1 to {MOST_ELEMENTS:,}, got {dimension.size}"
    yield from _twice("unroll", dimension.unroll)
    for operand in OPERANDS:
        allowed = ("reduce" if operand == "O" else "multicast", "forward", "none")
        if (link := dimension.links.get(operand)) not in allowed:
            yield f"links.{operand} is one of {', '.join(allowed)}, got {link or 'nothing'}"
    yield from _negative([("hop_picojoules", dimension.hop_picojoules)])


def _memory_problems(memory: Memory, dimensions: set[str]) -> Iterator[str]:
    yield from (f"per names dimension {name!r}, which is none" for name in memory.per if name not in dimensions)
    if not memory.operands:
        yield "operands is empty; name at least one of I, W, O"
    for name in ("operands", "per", "compressed"):
        yield from _twice(name, getattr(memory, name))
    if memory.width_bits < 1:
        yield f"width_bits is at least 1, got {memory.width_bits}"
    if memory.bytes is not None and 8 * memory.bytes < memory.width_bits:
        yield f"bytes is {memory.bytes}, which does not hold one word of width_bits = {memory.width_bits}"
    for name in ("read_bandwidth", "write_bandwidth"):
        bandwidth = getattr(memory, name)
        if bandwidth is not None and not bandwidth > 0:
            yield f"{name} is a positive number of bits a cycle, or left out for no limit, got {bandwidth}"
    yield from _negative((name, getattr(memory, name)) for name in ("read_picojoules", "write_picojoules"))
    if memory.shared_port and memory.write_bandwidth is not None:
        yield "with shared_port, writes share read_bandwidth: leave out write_bandwidth"
    yield from (
        f"compressed names operand {operand}, which it does not hold"
        for operand in memory.compressed
        if operand not in memory.operands
    )


def _chain_problems(chain: tuple[Memory, ...], operand: Operand) -> Iterator[str]:
    if not chain:
        yield f"no memory holds operand {operand}; add it to the operands of one"
    elif chain[-1].bytes is not None:
        yield f"the outermost memory of operand {operand}, {chain[-1].name!r}, must be unlimited: leave out its bytes"
    for inner, outer in itertools.pairwise(chain):
        if inner.bytes is None:
            yield f"memory {inner.name!r} is not the outermost of operand {operand} and needs bytes"
        if not set(outer.per) <= set(inner.per):
            yield f"memory {outer.name!r} lies outside {inner.name!r} but has more instances: check `per`"


def _twice(what: str, names: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{what} names {name} twice" for name, count in Counter(names).items() if count > 1)


def _negative(prices: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    for name, price in prices:
        if price is not None and not price >= 0:
            yield f"{name} costs no negative energy, got {price}"
