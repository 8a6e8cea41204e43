"""Systolic arrays: the closed form is what the array does cycle by cycle, which is the matrix product."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Dimension
from dovetail.hardware.cost import Counts
from dovetail.hardware.layer import OPERANDS, Layer, Operand
from dovetail.hardware.published import SCALESIM
from dovetail.hardware.systolic import Plan, Tiling, count, layer_costs, plans
from dovetail.hardware.systolic_array import SPREAD, Array, Axis, Dataflow, lowered
from dovetail.hardware.systolic_steps import Run, run

DATAFLOWS: tuple[Dataflow, ...] = ("ws", "os", "is")
CHIPS = {dataflow: Chip.load(f"systolic_{dataflow}") for dataflow in DATAFLOWS}
INT8 = dict.fromkeys(OPERANDS, 8)
OVERLAP = pytest.mark.parametrize("overlap", [False, True])
EACH = pytest.mark.parametrize("dataflow", DATAFLOWS)

shapes = st.tuples(*(st.integers(1, top) for top in (6, 6, 14, 14, 14)))
"""Rows and columns of the array, pixels, window and filters of the product."""


def chip_of(dataflow: Dataflow, rows: int, columns: int, overlap: bool) -> Chip:
    chip, sizes = CHIPS[dataflow], {"rows": rows, "columns": columns}

    def sized(dimension: Dimension) -> Dimension:
        return dataclasses.replace(dimension, size=sizes[dimension.name])

    dimensions = tuple(sized(dimension) for dimension in chip.dimension)
    return dataclasses.replace(chip, dimension=dimensions, settings={"dataflow": dataflow, "overlap": overlap})


def whole(chip: Chip, layer: Layer) -> Counts:
    """What the layer does in one piece."""
    array, extents = Array.of(chip), lowered(layer).extents
    tile = array.tile(extents, extents[SPREAD[array.dataflow][2]])
    order = tuple(axis for axis in tile if tile[axis] < extents[axis])
    held = {memory.name: dict.fromkeys(memory.operands, 0) for memory in chip.memory}
    return count(chip, array, Plan(Tiling(layer, extents, tile, order), 1, held))


def product(pixels: int, window: int, filters: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    random = np.random.default_rng(pixels + 100 * window + 10_000 * filters)
    inputs, weights = (random.integers(-128, 128, shape) for shape in ((pixels, window), (window, filters)))
    return inputs.astype(np.int32), weights.astype(np.int32)


def stepped(dataflow: Dataflow, rows: int, columns: int, overlap: bool, *extents: int) -> Run:
    return run(*product(*extents), rows, columns, dataflow, overlap)


@OVERLAP
@EACH
class TestCycleByCycle:
    @settings(max_examples=40, deadline=None)
    @given(shape=shapes)
    def test_the_closed_form_is_what_the_array_does(
        self, dataflow: Dataflow, overlap: bool, shape: tuple[int, int, int, int, int]
    ) -> None:
        rows, columns, pixels, window, filters = shape
        chip = chip_of(dataflow, rows, columns, overlap)
        counts = whole(chip, Layer("product", {"N": pixels, "C": window, "K": filters}, bits=INT8))
        happened = stepped(dataflow, rows, columns, overlap, pixels, window, filters)
        inputs, weights = product(pixels, window, filters)
        assert (happened.output == inputs @ weights).all()
        array = Array.of(chip)
        tiles = math.prod(
            math.ceil({"pixels": pixels, "window": window, "filters": filters}[axis] / size)
            for axis, size in zip(SPREAD[dataflow], (rows, columns), strict=False)
        )
        stream = {"pixels": pixels, "window": window, "filters": filters}[SPREAD[dataflow][2]]
        assert happened.cycles == array.cycles(tiles, stream).total
        assert happened.macs == counts.macs == pixels * window * filters
        assert happened.reads + Counter() == at_the_edge(counts, "read")
        assert happened.writes + Counter() == at_the_edge(counts, "write")
        assert happened.hops == hops(counts)

    def test_no_tile_can_start_sooner(self, dataflow: Dataflow, overlap: bool) -> None:
        """One cycle less between tiles than the closed form says, and the product is wrong."""
        if not overlap:
            return
        for extents in ((9, 9, 9), (3, 9, 9), (9, 9, 3), (9, 3, 9)):
            inputs, weights = product(*extents)
            stream = dict(zip(("pixels", "window", "filters"), extents, strict=True))[SPREAD[dataflow][2]]
            sooner = run(inputs, weights, 5, 4, dataflow, True, period=max(stream, 5) - 1)
            assert (sooner.output != inputs @ weights).any()


@EACH
@given(stream=st.integers(1, 40), tiles=st.integers(1, 4), cut=st.integers(1, 40), each=st.sampled_from([1, 2]))
def test_a_stream_in_pieces_is_tiles_of_several_lengths(
    dataflow: Dataflow, stream: int, tiles: int, cut: int, each: int
) -> None:
    lengths = [min(cut, stream - start) for start in range(0, stream, cut)]
    length = math.ceil(stream / len(lengths))
    lengths = [length] * (len(lengths) - 1) + [stream - length * (len(lengths) - 1)]
    rows, columns = 5, 7
    streams = [each * length for length in lengths] * tiles
    alone = [stream + 2 * rows + columns - 2 for stream in streams]
    serial, overlapping = (
        Array(rows, columns, dataflow, overlap).cycles(tiles, stream, len(lengths), each).total
        for overlap in (False, True)
    )
    assert serial == sum(alone)
    assert overlapping == sum(max(stream, rows) for stream in streams[:-1]) + alone[-1]


def at_the_edge(counts: Counts, action: str) -> Counter[Operand]:
    """Elements read and written beyond the registers and short of DRAM, for or by the array."""
    found: Counter[Operand] = Counter()
    for access in counts.accesses:
        if access.action == action and access.memory.endswith("_buffer"):
            found[access.operand] += int(access.elements)
    return found - transfers(counts, action)


def transfers(counts: Counts, action: str) -> Counter[Operand]:
    """What the buffers exchanged with DRAM."""
    opposite = {"read": "write", "write": "read"}[action]
    found: Counter[Operand] = Counter()
    for access in counts.accesses:
        if access.memory == "dram" and access.action == opposite:
            found[access.operand] += int(access.elements)
    return found


def hops(counts: Counts) -> Counter[Operand]:
    widths = {"I": 8, "W": 8, "O": 32}
    found: Counter[Operand] = Counter()
    for entry in counts.hops:
        found[entry.operand] += int(entry.bits / widths[entry.operand])
    return found


class TestScaleSim:
    """Compute cycles of SCALE-Sim 3.0.0."""

    @pytest.mark.parametrize("layer", SCALESIM)
    def test_alexnet_output_stationary_on_32_by_32(self, layer: str) -> None:
        pixels, filters, window, reported = SCALESIM[layer]
        assert scalesim("os", 32, 32, pixels, window, filters) == reported

    def test_what_its_user_counted_as_ten_cycles_and_it_as_nine(self) -> None:
        """Its issue 125, 4 x 4 x 4 on 4 x 4: ten until the last multiplication, four more until all sums are out."""
        assert scalesim("os", 4, 4, 4, 4, 4) == 9
        cycles = Array(4, 4, "os", overlap=False).cycles(1, 4)
        assert (cycles.computing, cycles.draining) == (10, 4)
        assert stepped("os", 4, 4, False, 4, 4, 4).cycles == 14


def scalesim(dataflow: Dataflow, rows: int, columns: int, pixels: int, window: int, filters: int) -> float:
    extents = {"pixels": pixels, "window": window, "filters": filters}
    across, along, stream = SPREAD[dataflow]
    tiles = math.ceil(extents[across] / rows) * math.ceil(extents[along] / columns)
    cycles = Array(rows, columns, dataflow, overlap=False).cycles(tiles, extents[stream])
    return cycles.computing + cycles.filling - 1


CONVOLUTION = Layer("conv", {"N": 2, "K": 20, "C": 6, "P": 9, "Q": 10, "R": 3, "S": 3}, (2, 1), bits=INT8)


@EACH
class TestMemories:
    def test_traffic_is_that_of_the_loops_over_tiles(self, dataflow: Dataflow) -> None:
        """Weights and outputs exactly; inputs, which move by whole rows wherever they begin, never less than those."""
        chip = small(dataflow)
        layer = Layer("conv", {"N": 2, "K": 6, "C": 2, "P": 4, "Q": 3, "R": 3, "S": 2}, (2, 1), bits=INT8)
        for plan in plans(chip, Array.of(chip), layer):
            tiling = plan.tiling
            for operand, (name, held) in itertools.product(OPERANDS, plan.held.items()):
                if operand in held:
                    fetched, largest = loops(tiling, operand, held[operand])
                    if operand == "I":
                        windows = tiling.visits("I", held["I"]) * tiling.extents["pixels"] * tiling.extents["window"]
                        assert tiling.fetched("I", held["I"]) >= min(fetched, windows), name
                        tile = tiling.reach("pixels", held["I"]) * tiling.reach("window", held["I"])
                        assert tiling.held_elements("I", held["I"]) >= min(largest, tile), name
                    else:
                        assert tiling.fetched(operand, held[operand]) == fetched, name
                        assert tiling.held_elements(operand, held[operand]) == largest, name

    def test_everything_fits_and_is_priced(self, dataflow: Dataflow) -> None:
        (cost,) = layer_costs(small(dataflow), [CONVOLUTION])
        assert cost.picojoules > 0 and 0 < cost.utilisation <= 1
        assert {entry.place for entry in cost.energy} >= {"arithmetic", "dram", "input_buffer", "registers"}

    def test_the_objective_is_what_is_least(self, dataflow: Dataflow) -> None:
        (energy,), (latency,), (both,) = (
            layer_costs(small(dataflow), [CONVOLUTION], objective) for objective in ("energy", "latency", "edp")
        )
        assert energy.picojoules <= min(latency.picojoules, both.picojoules)
        assert latency.cycles <= min(energy.cycles, both.cycles)

    def test_a_large_buffer_brings_every_element_once(self, dataflow: Dataflow) -> None:
        (cost,) = layer_costs(CHIPS[dataflow], [CONVOLUTION])
        moved = {a.operand: a.elements for a in cost.counts.accesses if a.memory == "dram"}
        assert moved == {operand: CONVOLUTION.elements(operand) for operand in OPERANDS}

    def test_slow_memory_stalls_the_array(self, dataflow: Dataflow) -> None:
        chip = CHIPS[dataflow]
        slow = dataclasses.replace(chip.memory[-1], read_bandwidth=1.0)
        chip = dataclasses.replace(chip, memory=(*chip.memory[:-1], slow))
        (cost,) = layer_costs(chip, [CONVOLUTION])
        assert cost.counts.cycles.stalled["dram"] > 0
        assert cost.cycles >= sum(CONVOLUTION.elements(operand) * 8 for operand in OPERANDS)

    def test_groups_are_products_of_their_own(self, dataflow: Dataflow) -> None:
        alone = dataclasses.replace(CONVOLUTION, extents={**CONVOLUTION.extents, "N": 1})
        grouped = dataclasses.replace(alone, extents={**alone.extents, "G": 3})
        one, three = (whole(CHIPS[dataflow], layer) for layer in (alone, grouped))
        assert three.macs == 3 * one.macs
        assert three.cycles.computing == 3 * one.cycles.computing
        assert three.bits("dram", "W") == 3 * one.bits("dram", "W")

    def test_zeros_gain_only_where_the_chip_gates(self, dataflow: Dataflow) -> None:
        chip = CHIPS[dataflow]
        sparse = dataclasses.replace(CONVOLUTION, density={"I": 0.5, "W": 0.25, "O": 1.0})
        (dense,), (plain,) = layer_costs(chip, [CONVOLUTION]), layer_costs(chip, [sparse])
        assert plain.picojoules == dense.picojoules
        gating = dataclasses.replace(chip, arithmetic=dataclasses.replace(chip.arithmetic, gates=("I",)))
        (gated,) = layer_costs(gating, [sparse])
        assert gated.counts.macs == 0.5 * dense.counts.macs and gated.cycles == dense.cycles

    def test_what_does_not_fit_is_named(self, dataflow: Dataflow) -> None:
        buffer = dataclasses.replace(CHIPS[dataflow].memory[2], bytes=32)
        memory = (*CHIPS[dataflow].memory[:2], buffer, *CHIPS[dataflow].memory[3:])
        chip = dataclasses.replace(CHIPS[dataflow], memory=memory)
        with pytest.raises(TargetError, match=r"Layer 'conv' on chip .* memory 'weight_buffer' has 16 bytes"):
            layer_costs(chip, [CONVOLUTION])


def small(dataflow: Dataflow) -> Chip:
    """An array of 4 x 4 with buffers that hold little."""
    chip = chip_of(dataflow, 4, 4, overlap=False)
    sizes = {"input_buffer": 160, "weight_buffer": 64, "sum_buffer": 300}
    memories = (dataclasses.replace(m, bytes=sizes[m.name]) if m.name in sizes else m for m in chip.memory)
    return dataclasses.replace(chip, memory=tuple(memories))


def loops(tiling: Tiling, operand: Operand, held: int) -> tuple[int, int]:
    """Elements fetched by a memory that keeps a tile until it changes, and those of its largest tile."""
    outside = [axis for axis in tiling.order[held:]][::-1]
    before: frozenset[tuple[int, ...]] = frozenset()
    fetched = largest = 0
    for index in itertools.product(*(range(tiling.trips(axis)) for axis in outside)):
        ranges: dict[Axis, range] = {}
        for axis, extent in tiling.extents.items():
            reach = tiling.reach(axis, held)
            first = reach * index[outside.index(axis)] if axis in outside else 0
            ranges[axis] = range(first, min(first + reach, extent))
        tile = touched(tiling.layer, operand, ranges)
        fetched += len(tile - before) if operand == "I" or tile != before else 0
        largest, before = max(largest, len(tile)), tile
    return fetched, largest


def touched(layer: Layer, operand: Operand, ranges: dict[Axis, range]) -> frozenset[tuple[int, ...]]:
    loops, stride = layer.extents, layer.stride[0]
    if operand == "W":
        return frozenset(itertools.product(ranges["window"], ranges["filters"]))
    if operand == "O":
        return frozenset(itertools.product(ranges["pixels"], ranges["filters"]))
    found = set()
    for pixel, element in itertools.product(ranges["pixels"], ranges["window"]):
        n, p, _ = np.unravel_index(pixel, (loops["N"], loops["P"], loops["Q"]))
        c, r, _ = np.unravel_index(element, (loops["C"], loops["R"], loops["S"]))
        found |= {(int(n), int(c), int(p * stride + r), column) for column in range(layer.input_size[1])}
    return frozenset(found)


class TestBadChips:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"settings": {"dataflow": "nlr", "overlap": False}}, "settings.dataflow is one of ws, is, os, got 'nlr'"),
            ({"settings": {"dataflow": "ws"}}, "settings.overlap is missing; it is true or false"),
            ({"settings": {"dataflow": "ws", "overlap": 1}}, "settings.overlap is true or false, got 1"),
            ({"settings": {"dataflow": "ws", "overlap": True, "speed": 2}}, "settings.speed is unknown"),
            (
                {"settings": {"dataflow": "is", "overlap": True}},
                "with the dataflow 'is': links that forward of dimension 'rows' are I, O, got O, W",
            ),
            (
                {"settings": {"dataflow": "os", "overlap": True}},
                "with the dataflow 'os': unroll of dimension 'rows' are N, P, Q, got C, R, S",
            ),
        ],
    )
    def test_are_refused_with_the_key(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(TargetError, match=message):
            layer_costs(dataclasses.replace(CHIPS["ws"], **change), [CONVOLUTION])  # type: ignore[arg-type]
