"""What processing passes of the row-stationary dataflow need, move and take: all in closed form.

Parameters come as tables, one pass a row in the order of `Pass`, so that a search counts all it looks at in one go. The
counts equal those that `row_stationary_array` makes while it convolves. Widths are in words of the chip's arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import operation_for
from dovetail.hardware.layer import OPERANDS, Layer, Operand

Whole = NDArray[np.int64]
Place = tuple[str, Operand, Literal["read", "write", "hop"]]
"""A memory, an operand and what is done with it; or a dimension of the array, an operand and "hop"."""


@dataclass(frozen=True)
class Pass:
    """One way to run a layer, by the parameters of JSSC'17, Table III.

    In an element p filters and q channels are interleaved; r sets of elements have different channels, t sets different
    filters; n images and e rows of outputs are computed at once. The buffer holds the sums of m filters.
    """

    m: int
    n: int
    e: int
    p: int
    q: int
    r: int
    t: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())

    def table(self) -> Whole:
        return np.array([astuple(self)])


@dataclass(frozen=True)
class Folding:
    """How sets of so many rows and columns of elements lie on an array.

    A set that is too high is cut into `folds`, one that is too wide into `strips`, which follow each other; a strip's
    `segments` lie above each other. `above` x `beside` such sets fit.
    """

    folds: int
    strips: int
    segments: int
    above: int
    beside: int


def folding(rows: int, columns: int, height: int, width: int) -> Folding:
    """Sets of `height` x `width` on an array of `rows` x `columns`, cut as little as they can be."""
    folds, wide = ceil(height, rows), ceil(width, columns)
    above, beside = max(1, rows // height), max(1, columns // width)
    segments = min(above, wide)
    return Folding(folds, ceil(wide, segments), segments, above // segments, beside)


@dataclass(frozen=True)
class Hardware:
    """What the model reads of a chip. Buses are in words a cycle."""

    rows: int
    columns: int
    vertical: str
    spads: dict[Operand, Memory]
    buffer: Memory
    prefetch: Memory
    dram: Memory
    mac_cycles: float
    word: int
    bank: int
    input_bus: float
    filter_bus: float
    sum_bus: float
    link: float
    pass_cycles: int

    @classmethod
    def of(cls, chip: Chip, layer: Layer) -> Hardware:
        """Raises TargetError if the chip is not made as Eyeriss is, or its arithmetic is narrower than the layer."""
        for problem in _problems(chip):
            raise TargetError(f"Chip {chip.name!r}: kind 'row_stationary' {problem}")
        operation, chains = operation_for(chip, layer), {operand: chip.chain(operand) for operand in OPERANDS}
        rows, columns = chip.dimension
        word, dram = operation.input_bits, chains["I"][2]
        return cls(
            rows=rows.size,
            columns=columns.size,
            vertical=rows.name,
            spads={operand: chain[0] for operand, chain in chains.items()},
            buffer=chains["I"][1],
            prefetch=chains["W"][1],
            dram=dram,
            mac_cycles=operation.cycles,
            word=word,
            bank=_setting(chip, "bank_bytes") * 8 // word,
            input_bus=_setting(chip, "input_bus_bits") / word,
            filter_bus=_setting(chip, "filter_bus_bits") / word,
            sum_bus=_setting(chip, "sum_bus_bits") / word,
            link=(dram.read_bandwidth or float("inf")) / word,
            pass_cycles=_setting(chip, "pass_cycles", least=0),
        )

    def words(self, memory: Memory) -> int:
        """What one instance of a memory holds."""
        return (memory.bytes or 0) * 8 // self.word

    def folds(self, layer: Layer) -> list[int]:
        """Filter rows of each fold of a set, the highest first."""
        height = ceil(layer.extents["R"], ceil(layer.extents["R"], self.rows))
        return [min(height, layer.extents["R"] - first) for first in range(0, layer.extents["R"], height)]


def needs(hardware: Hardware, layer: Layer, table: Whole) -> Iterator[tuple[str, Whole, int]]:
    """What each pass needs, how much of it, and how much there is."""
    m, n, e, p, q, r, t = table.T
    loops, height, words, spads = layer.extents, hardware.folds(layer)[0], hardware.words, hardware.spads
    yield "m, beyond a multiple of p * t: filters", m % (p * t), 0
    window = q * ((loops["S"] - 1) * layer.dilation[1] + 1)
    yield f"{spads['I'].name!r}, for a window of q channels: words", window, words(spads["I"])
    yield f"{spads['W'].name!r}, for a row of p filters and q channels: words", p * q * loops["S"], words(spads["W"])
    yield f"{spads['O'].name!r}, for a sum of p filters: words", p, words(spads["O"])
    segments, beside = ceils(e, hardware.columns), np.maximum(1, hardware.columns // e)
    yield "the array, for r x t sets: rows", height * segments * r * ceils(t, beside), hardware.rows
    filters = height * loops["S"] * p * q * r * t
    yield f"{hardware.prefetch.name!r}, for the filters of a pass: words", filters, words(hardware.prefetch)
    inputs = input_rows(layer, e, height) * input_columns(layer) * q * r * n
    banks = ceils(inputs, hardware.bank) + ceils(m * n * e * loops["Q"], hardware.bank)
    available = words(hardware.buffer) // hardware.bank
    yield f"{hardware.buffer.name!r}, for inputs of a pass and sums of m filters: banks", banks, available


def traffic(hardware: Hardware, layer: Layer, table: Whole) -> dict[Place, Whole]:
    """Elements moved everywhere, zeros included. Hops are counted where an element is delivered to."""
    m, _, e, p, q, _, _ = table.T
    loops, spads = layer.extents, {operand: memory.name for operand, memory in hardware.spads.items()}
    buffer, prefetch, dram, array = hardware.buffer.name, hardware.prefetch.name, hardware.dram.name, hardware.vertical
    tiles = Tiles.of(hardware, layer, table)
    weights, outputs, macs = layer.elements("W"), layer.elements("O"), np.full_like(m, layer.macs)

    loads = np.where(tiles.filters_stay, 1, tiles.images * tiles.strips)
    copies = np.where(tiles.filters_stay, np.minimum(e, loops["P"]), tiles.images * loops["P"])
    inputs = loops["G"] * loops["N"] * loops["C"] * tiles.rows * input_columns(layer)
    fetches = np.where(tiles.inputs_stay, 1, ceils(loops["K"], m))
    rows = loops["G"] * loops["N"] * loops["C"] * loops["R"] * loops["P"] * ceils(loops["K"], p)
    passed = outputs * loops["R"] * ceils(loops["C"], q)
    return {
        (dram, "W", "read"): weights * loads,
        (prefetch, "W", "write"): weights * loads,
        (prefetch, "W", "read"): weights * loads,
        (array, "W", "hop"): weights * copies,
        (spads["W"], "W", "write"): weights * copies,
        (spads["W"], "W", "read"): macs,
        (dram, "I", "read"): inputs * fetches,
        (buffer, "I", "write"): inputs * fetches,
        (buffer, "I", "read"): inputs * tiles.filters,
        (array, "I", "hop"): rows * input_columns(layer),
        (spads["I"], "I", "write"): rows * input_columns(layer),
        (spads["I"], "I", "read"): macs,
        (spads["O"], "O", "read"): macs,
        (spads["O"], "O", "write"): macs,
        (array, "O", "hop"): passed + outputs * (tiles.channels - 1),
        (buffer, "O", "write"): outputs * tiles.channels,
        (buffer, "O", "read"): outputs * tiles.channels,  # not before the first addition, but once to leave
        (dram, "O", "write"): np.full_like(m, outputs),
    }


@dataclass(frozen=True)
class Tiles:
    """How often the loops around a pass run.

    `rows` are those of the input in all strips and folds. Filters stay in the elements where all passes of an image's
    strip are one; inputs stay in the buffer where all filters use the same.
    """

    images: Whole
    strips: Whole
    channels: Whole
    filters: Whole
    rows: Whole
    filters_stay: NDArray[np.bool_]
    inputs_stay: NDArray[np.bool_]

    @classmethod
    def of(cls, hardware: Hardware, layer: Layer, table: Whole) -> Tiles:
        m, n, e, p, q, r, t = table.T
        loops, folds = layer.extents, hardware.folds(layer)
        images, strips = ceils(loops["N"], n), ceils(loops["P"], e)
        channels, filters = ceils(loops["C"], q * r) * len(folds), ceils(loops["K"], p * t)
        whole, rest = loops["P"] // e, loops["P"] % e
        return cls(
            images,
            strips,
            channels,
            filters,
            rows=sum((whole * input_rows(layer, e, fold) + input_rows(layer, rest, fold) for fold in folds), 0 * e),
            filters_stay=(channels == 1) & ((m == p * t) | (filters == 1)),
            inputs_stay=(channels == 1) & (images == 1) & (strips == 1),
        )


def cycles(hardware: Hardware, layer: Layer, table: Whole, moved: dict[Place, NDArray[Any]]) -> dict[str, Any]:
    """Cycles of the whole layer, by what they are spent on; `moved` are the bits of `traffic`.

    A pass begins (`pass_cycles`) and loads its filters (the array waits) and the first windows of its inputs. Then it
    steps along the columns of its outputs, image by image, as fast as the slowest of: the elements, the bus of inputs,
    the bus of sums out of the array (that into it has no more to do). At last the sums of the last column leave.
    The buffer is not double buffered: maps come from and go to DRAM while no pass runs. Filters are fetched meanwhile.
    """
    loops, tiles = layer.extents, Tiles.of(hardware, layer, table)
    loaded = np.where(tiles.filters_stay, 1 / (tiles.images * tiles.strips), 1.0)
    spent: dict[str, Any] = dict.fromkeys(("computing", "filling", "draining", "buffer"), np.zeros(len(table)))
    _, n, e, p, q, r, t = table.T
    kinds = itertools.product(
        _parts(loops["N"], n),
        _parts(loops["P"], e),
        _parts(loops["K"], p * t),
        _parts(loops["C"], q * r),
        Counter(hardware.folds(layer)).items(),
    )
    for (often_n, images), (often_e, strip), (often_k, filters), (often_c, channels), (height, folds) in kinds:
        often = loops["G"] * folds * often_n * often_e * often_k * often_c
        if not often.any():
            continue
        rows = input_rows(layer, strip, height) * channels
        window = rows * loops["S"] / hardware.input_bus
        loading = height * loops["S"] * filters * channels / hardware.filter_bus
        sums = filters * strip / hardware.sum_bus
        steps = images * loops["Q"]
        macs = steps * np.minimum(p, filters) * np.minimum(q, channels) * loops["S"]
        computing = macs * hardware.mac_cycles
        arriving = rows * images * input_columns(layer) / hardware.input_bus - window
        slowest = np.maximum.reduce([computing, arriving, steps * sums])
        spent["computing"] = spent["computing"] + often * computing
        spent["filling"] = spent["filling"] + often * (hardware.pass_cycles + window + loaded * loading)
        spent["draining"] = spent["draining"] + often * sums
        spent["buffer"] = spent["buffer"] + often * (slowest - computing)
    link = hardware.link * hardware.word
    maps = moved[hardware.dram.name, "I", "read"] + moved[hardware.dram.name, "O", "write"]
    late = np.maximum(0, moved[hardware.dram.name, "W", "read"] / link - sum(spent.values()))
    return spent | {"dram": maps / link + late}


def _parts(extent: int, size: Whole) -> tuple[tuple[Whole, Whole], tuple[Whole, Whole]]:
    """How many tiles of a loop are whole and how large they are; the same of what is left."""
    whole, rest = extent // size, extent % size
    return (whole, size), (np.minimum(rest, 1), rest)


def input_rows(layer: Layer, outputs: Whole, taps: int) -> Whole:
    """Rows of the input that so many rows of outputs touch with so many rows of a filter."""
    return _touched(outputs, taps, layer.stride[0], layer.dilation[0])


def input_columns(layer: Layer) -> int:
    """Columns of the input that are touched."""
    loops = layer.extents
    return int(_touched(np.array(loops["Q"]), loops["S"], layer.stride[1], layer.dilation[1]))


def _touched(outputs: Whole, taps: int, stride: int, dilation: int) -> Whole:
    """How many different numbers output * stride + tap * dilation there are.

    (output + dilation, tap) and (output, tap + stride) are the same, once a common divisor is taken out.
    """
    common = math.gcd(stride, dilation)
    again = np.maximum(0, outputs - dilation // common) * max(0, taps - stride // common)
    return np.asarray(outputs * taps - again)


def ceil(value: int, parts: int) -> int:
    return -(-value // parts)


def ceils(value: Whole | int, parts: Whole | int) -> Whole:
    return np.asarray(-(-value // parts))


def _problems(chip: Chip) -> Iterator[str]:
    """What a chip has that the model does not know, as the rest of a sentence."""
    chains = {operand: chip.chain(operand) for operand in OPERANDS}
    lengths = [len(chain) for chain in chains.values()]
    if len(chip.dimension) != 2 or lengths != [3, 3, 3]:
        yield (
            "takes two dimensions (rows, columns) and three memories for each operand (in the element, buffer, DRAM), "
            f"got {len(chip.dimension)} dimensions and {', '.join(map(str, lengths))} memories for I, W, O"
        )
    elif chains["I"][1:] != chains["O"][1:] or chains["W"][1] == chains["I"][1] or chains["W"][2] != chains["I"][2]:
        yield "has one buffer for inputs and sums, another for filters, and one DRAM behind both"
    if chip.arithmetic.skips or set(chip.arithmetic.gates) - {"I"}:
        yield "gates inputs (arithmetic.gates) and skips nothing"
    for memory in chip.memory:
        if memory.double_buffered or (memory.compressed and memory.bytes is not None):
            yield f"has nothing double buffered, and only DRAM compressed; leave that out of memory {memory.name!r}"
        if memory.bytes is None and memory.write_bandwidth is not None:
            yield f"has one link to {memory.name!r} for both ways: leave out write_bandwidth"


def _setting(chip: Chip, name: str, least: int = 1) -> int:
    value = chip.settings.get(name)
    if not isinstance(value, int) or value < least:
        raise TargetError(f"Chip {chip.name!r}: settings.{name} is a whole number of at least {least}, got {value!r}")
    return value
