"""The TPU v1 (chips of kind "tpu"): a weight-stationary array fed from a queue of weight tiles.

    N. P. Jouppi et al., In-Datacenter Performance Analysis of a Tensor Processing Unit, ISCA 2017

Weights come from DRAM tile by tile into a queue (Weight FIFO), from there into the second set of the array's registers,
and are used on all vectors of a layer, or as many as the accumulators hold. Each step waits for what the paper says:

    arrival   for the tile before, and for a free place in the queue
    shift     for its arrival, and for the tile before to be in use, which frees the second set
    use       for its shift, for the tile before to be done, and for the activations it reads

The last of these is the paper's "delay slot": activations are there when the last sums have left the array (R + C - 2
cycles), have gone through the activation unit (a vector a cycle) and both have been synchronised. With at most half of
the accumulators in use, sums are activated while the other half is filled, so that only the end of a layer waits.
Whole tiles are fetched and used, also where a layer fills them in part. Where no step waits for the DRAM, this is the
array of systolic_array.py with `overlap`.

Cycles are counted as the paper's Table 3 does: the array is active; it waits for weights from DRAM (weight stall); it
waits for weights being shifted in (weight shift); the rest is "non-matrix".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip, Memory
from dovetail.hardware.cost import Access, Counts, Cycles, LayerCost, Objective, operation_for, price
from dovetail.hardware.layer import OPERANDS, Layer, Loop
from dovetail.hardware.parts import Parts, number, require, whole
from dovetail.hardware.systolic_array import lowered

PARTS = Parts(
    dimensions=("rows", "columns"),
    memories=("accumulators", "weight_fifo", "unified_buffer", "weight_dram", "host"),
    settings={"fifo_tiles": whole(1), "shift_cycles": number(0), "synchronisation_cycles": number(0)},
)


@dataclass(frozen=True)
class Span:
    """Cycles of a layer, by what the matrix unit does or waits for."""

    active: float = 0.0
    weight_stall: float = 0.0
    weight_shift: float = 0.0
    non_matrix: float = 0.0

    @property
    def total(self) -> float:
        return self.active + self.weight_stall + self.weight_shift + self.non_matrix

    def __add__(self, other: Span) -> Span:
        return Span(
            self.active + other.active,
            self.weight_stall + other.weight_stall,
            self.weight_shift + other.weight_shift,
            self.non_matrix + other.non_matrix,
        )


@dataclass(frozen=True)
class _Work:
    """A layer as the matrix unit sees it: blocks of outputs, each of so many tiles that use so many vectors."""

    tiles: int
    blocks: tuple[int, ...]
    """Vectors of each block."""
    each: float
    """Cycles that a vector takes."""
    arrival: float
    """Cycles until a tile has come from DRAM."""
    exposed: bool
    """Whether a block needs more than half of the accumulators, so that the next waits for its activation."""


def layer_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    """What each layer costs between others like it, its activations in the unified buffer; there is only one way.

    Raises:
        TargetError: the activations of a layer do not fit into the unified buffer, or numbers are too wide.
    """
    return tuple(_layer_cost(chip, layer) for layer in layers)


def _layer_cost(chip: Chip, layer: Layer) -> LayerCost:
    (span,) = timeline(chip, [layer])
    stalled = {
        "weight_dram": span.weight_stall,
        "weight_shift": span.weight_shift,
        "synchronisation": span.non_matrix,
    }
    counts = Counts(layer.macs, tuple(_accesses(chip, layer)), Cycles(span.active, stalled=stalled))
    note = "weights tile by tile from DRAM; activations stay in the unified buffer, transfers from the host not counted"
    utilisation = layer.macs * operation_for(chip, layer).cycles / (chip.elements * span.active)
    return LayerCost(layer, counts, price(chip, layer, counts), utilisation, note=note)


def timeline(
    chip: Chip, layers: Sequence[Layer], *, dependent: int | None = None, from_host: bool = False
) -> tuple[Span, ...]:
    """Where the time of each layer goes when the network runs again and again.

    Args:
        dependent: how many layers wait for the one before, with those that have no product in them (and are as many
            more synchronisations); by default, `layers` do.
        from_host: the network's input comes from the host before its first layer starts.

    Raises:
        TargetError: the activations of a layer do not fit into the unified buffer, or numbers are too wide.
    """
    require(chip, PARTS)
    clock = _Clock(chip)
    synchronisation = chip.settings["synchronisation_cycles"] * (dependent or len(layers)) / len(layers)
    works = [_work(chip, layer) for layer in layers]
    spans: list[Span] = []
    for _ in range(2):  # the first run finds the queue empty, the second what the first left there
        spans = []
        if from_host:
            bandwidth = chip.chain("I")[-1].read_bandwidth or math.inf
            clock.ready = clock.end + layers[0].elements("I") * layers[0].bits["I"] / bandwidth
        for work in works:
            spans.append(clock.run(work))
            clock.ready = clock.end + clock.drain + work.blocks[-1] + synchronisation
    return tuple(spans)


class _Clock:
    """When the last tiles arrived, were shifted in, and were used."""

    def __init__(self, chip: Chip) -> None:
        sizes = {dimension.name: dimension.size for dimension in chip.dimension}
        self.drain = sizes["rows"] + sizes["columns"] - 2
        self.shift: float = chip.settings["shift_cycles"]
        self.shifted = [0.0] * chip.settings["fifo_tiles"]  # when the last tiles left the queue
        self.arrived = self.start = self.end = self.ready = 0.0

    def run(self, work: _Work) -> Span:
        """One layer; its time begins where that of the one before ends."""
        span = Span()
        for block, vectors in enumerate(work.blocks):
            if block and work.exposed:
                self.ready = self.end + self.drain + work.blocks[block - 1]
            for _ in range(work.tiles):
                span += self._tile(work, vectors * work.each)
        return span

    def _tile(self, work: _Work, cycles: float) -> Span:
        self.arrived = max(self.arrived, self.shifted[0]) + work.arrival
        shift = max(self.arrived, self.start)
        self.shifted = [*self.shifted[1:], shift + self.shift]
        free = max(self.end, self.ready)  # from here on, only weights are missing
        start = max(shift + self.shift, free)
        shifting = max(shift, free)
        span = Span(cycles, min(shifting, start) - free, max(start - shifting, 0.0), free - self.end)
        self.start, self.end = start, start + cycles
        return span


def _check_room(chip: Chip, memory: Memory, bits: float, what: str) -> None:
    if memory.bytes is not None and memory.bytes * 8 < bits:
        raise TargetError(
            f"Chip {chip.name!r}: memory {memory.name!r} has {memory.bytes} bytes, {what} take {bits / 8:.0f}"
        )


def _work(chip: Chip, layer: Layer) -> _Work:
    sizes = {dimension.name: dimension.size for dimension in chip.dimension}
    product = lowered(layer)
    extents = product.extents
    accumulators, unified, dram = chip.chain("O")[0], chip.chain("I")[0], chip.chain("W")[-1]
    taken = sum(layer.elements(operand) * layer.bits[operand] for operand in ("I", "O")) / 8
    if unified.bytes is not None and taken > unified.bytes:
        raise TargetError(
            f"Layer {layer.name!r} on chip {chip.name!r}: memory {unified.name!r} has {unified.bytes} bytes, inputs "
            f"and outputs take {taken:.0f}. Take a smaller batch"
        )
    _check_room(chip, accumulators, 2 * sizes["columns"] * chip.arithmetic.sum_bits, "two vectors of sums")
    tiles, narrow = chip.settings["fifo_tiles"], min(operation.weight_bits for operation in chip.arithmetic.operation)
    _check_room(chip, chip.chain("W")[0], tiles * chip.elements * narrow, f"fifo_tiles = {tiles} tiles")
    assert accumulators.bytes is not None
    most = accumulators.bytes * 8 // (sizes["columns"] * chip.arithmetic.sum_bits)
    pixels = extents["pixels"]
    pieces = 1 if pixels <= most else math.ceil(pixels / (most // 2))
    lengths = [pixels // pieces + (piece < pixels % pieces) for piece in range(pieces)]
    across = math.ceil(extents["filters"] / sizes["columns"])
    return _Work(
        tiles=math.ceil(extents["window"] / sizes["rows"]),
        blocks=tuple(length for length in lengths for _ in range(across)) * product.count,
        each=operation_for(chip, layer).cycles,
        arrival=chip.elements * layer.bits["W"] / (dram.read_bandwidth or math.inf),
        exposed=lengths[0] > most // 2,
    )


def _accesses(chip: Chip, layer: Layer) -> Iterator[Access]:
    work, product = _work(chip, layer), lowered(layer)
    extents, bits = product.extents, layer.bits
    (accumulators, unified, *_), (queue, dram) = chip.chain("O"), chip.chain("W")
    fetched = work.tiles * len(work.blocks) * chip.elements
    sums = layer.elements("O") * work.tiles
    (columns,) = (dimension.size for dimension in chip.dimension if dimension.name == "columns")
    read = product.count * extents["pixels"] * extents["window"] * math.ceil(extents["filters"] / columns)
    yield Access(dram.name, "W", "read", fetched, fetched * bits["W"])
    yield Access(queue.name, "W", "write", fetched, fetched * bits["W"])
    yield Access(queue.name, "W", "read", fetched, fetched * bits["W"])
    yield Access(unified.name, "I", "read", read, read * bits["I"])
    for action in ("write", "read"):  # the last read is the activation unit's
        yield Access(accumulators.name, "O", action, sums, sums * chip.arithmetic.sum_bits)
    yield Access(unified.name, "O", "write", layer.elements("O"), layer.elements("O") * bits["O"])


@dataclass(frozen=True)
class Application:
    """One of the paper's applications: its layers with products, and how many layers it has in all."""

    layers: tuple[Layer, ...]
    dependent: int


def applications() -> dict[str, Application]:
    """Three of the six in the paper's Table 1, as far as it tells their shapes.

    It gives the number of layers of each kind, of weights, and the batch. The rest is inferred:
        MLP0    5 layers, 20M weights: 2000 x 2000 each.
        LSTM0   24 layers with 52M weights, none unused in Table 3, so whole tiles: 33 of 256 x 256 each (3 x 11), and
                34 vector layers. 16-bit activations: useful MACs (8.2 %) are twice what 3.7 of 92 TOPS would need.
        CNN0    AlphaGo (Table 1 names it; the other CNN is Inception). 2888 operations a weight are 8 boards of 19 x 19
                at once; no MACs unused: 256 channels. First 5 x 5 on AlphaGo's 48 planes (Silver et al., Nature 2016),
                13 of 3 x 3 and two of 1 x 1 make 16 layers and 8.1M weights.
    """
    byte = dict.fromkeys(OPERANDS, 8)
    mlp = [Layer(f"fc{i}", {"N": 200, "C": 2000, "K": 2000}, bits=byte) for i in range(5)]
    lstm = [Layer(f"gates{i}", {"N": 64, "C": 768, "K": 2816}, bits={"I": 16, "W": 8, "O": 16}) for i in range(24)]
    board: dict[Loop, int] = {"N": 8, "K": 256, "P": 19, "Q": 19}
    shapes = [(48, 5), *[(256, 3)] * 13, *[(256, 1)] * 2]
    cnn = [
        Layer(f"conv{i}", {**board, "C": channels, "R": side, "S": side}, bits=byte)
        for i, (channels, side) in enumerate(shapes)
    ]
    return {
        "MLP0": Application(tuple(mlp), 5),
        "LSTM0": Application(tuple(lstm), 58),
        "CNN0": Application(tuple(cnn), 16),
    }


def tera_operations(chip: Chip, application: Application) -> tuple[float, Span]:
    """Operations (two to a multiply-accumulate) a second, in 1e12, and where the time of a batch goes."""
    spans = timeline(chip, application.layers, dependent=application.dependent, from_host=True)
    whole = sum(spans, Span())
    seconds = whole.total / (chip.clock_mhz * 1e6)
    return 2 * sum(layer.macs for layer in application.layers) / seconds / 1e12, whole
