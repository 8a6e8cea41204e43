"""Angel-Eye: line-buffer convolvers of 3 x 3 on a Zynq, tile by tile, and fully connected layers at DDR's pace.

Qiu et al. Going Deeper with Embedded FPGA Platform for Convolutional Neural Network. FPGA 2016. A pass streams one
tile of the input maps through the convolvers, a pixel a cycle: `outputs` maps of sums from `inputs` maps at once.
Larger windows take several passes, smaller ones leave multipliers idle:

    passes = G N ceil(K / outputs) ceil(C / inputs) ceil(R' / rows) ceil(S' / columns) tiles     (R' with its dilation)
    computing cycles = passes x tile^2                      (a small map takes a whole tile too)

The weights of a pass are not there before it begins: the convolvers wait while DDR fetches them, all those of a layer
once for every tile. Maps come and go meanwhile (ping-pong buffers) and hold the layer up only where that takes longer.
A fully connected layer has one pixel and spreads its inputs over all multipliers; it waits for its weights.

The one fitted number is the bandwidth of DDR, which the fully connected layers show (chips/angel_eye.toml).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import Access, Counts, Cycles, LayerCost, Objective, price
from dovetail.hardware.layer import Layer
from dovetail.hardware.parts import Parts, require, whole

PARTS = Parts(dimensions=("outputs", "inputs", "rows", "columns"), settings={"tile": whole(1)})


def layer_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    """What `layers` cost; there is one way to run each, whatever the objective.

    Raises:
        TargetError: a layer is wider than the multipliers, the chip has other parts, or a buffer does not hold what a
            pass takes.
    """
    require(chip, PARTS)
    found = []
    for layer in layers:
        counts = layer_counts(chip, layer)
        energy = price(chip, layer, counts)
        _check_room(chip, layer)
        useful = layer.macs / (chip.elements * counts.cycles.computing)
        note = f"tiles of {_tile(chip)} x {_tile(chip)} pixels; weights fetched {_tiles(chip, layer)} times"
        found.append(LayerCost(layer, counts, energy, useful, note=note))
    return tuple(found)


def layer_counts(chip: Chip, layer: Layer) -> Counts:
    """Accesses of DDR and of the buffers, and cycles, as the module's docstring says."""
    e, bits = layer.extents, layer.bits
    tiles = _tiles(chip, layer)
    weights, inputs, outputs = layer.elements("W") * tiles, _fetched(chip, layer), layer.elements("O")
    computing = computing_cycles(chip, layer, _tile(chip))
    ddr, maps, kernels = chip.memory[-1].name, chip.chain("I")[0].name, chip.chain("W")[0].name
    passes = computing / (1 if _one_pixel(layer) else _tile(chip) ** 2)
    lanes = _lanes(chip)
    streamed, sums = computing * lanes["inputs"], computing * lanes["outputs"]
    accesses = (
        Access(ddr, "W", "read", weights, weights * bits["W"]),
        Access(ddr, "I", "read", inputs, inputs * bits["I"]),
        Access(ddr, "O", "write", outputs, outputs * bits["O"]),
        Access(kernels, "W", "write", weights, weights * bits["W"]),
        Access(kernels, "W", "read", passes * chip.elements, passes * chip.elements * bits["W"]),
        Access(maps, "I", "write", inputs, inputs * bits["I"]),
        Access(maps, "I", "read", streamed, streamed * bits["I"]),
        Access(maps, "O", "write", sums, sums * chip.arithmetic.sum_bits),
        Access(
            maps, "O", "read", sums, sums * chip.arithmetic.sum_bits
        ),  # to add the next inputs' to, and to DDR at last
    )
    bandwidth = chip.memory[-1].read_bandwidth or math.inf
    moving = (inputs * bits["I"] + outputs * bits["O"]) / bandwidth
    waiting = weights * bits["W"] / bandwidth + max(0.0, moving - computing)
    first = min(e["C"], lanes["inputs"]) * inputs / (e["G"] * e["N"] * e["C"] * tiles)
    return Counts(layer.macs, accesses, Cycles(computing, first * bits["I"] / bandwidth, stalled={ddr: waiting}))


def computing_cycles(chip: Chip, layer: Layer, tile: int) -> int:
    """Cycles in which pixels of `layer` stream through the convolvers, in tiles of `tile` x `tile`."""
    e, lanes = layer.extents, _lanes(chip)
    above = math.ceil(((e["R"] - 1) * layer.dilation[0] + 1) / lanes["rows"])
    across = math.ceil(((e["S"] - 1) * layer.dilation[1] + 1) / lanes["columns"])
    inputs = lanes["inputs"]
    if _one_pixel(layer):
        inputs, tile = inputs * lanes["rows"] * lanes["columns"], 1
    height, width = (math.ceil(extent / tile) for extent in _streamed(layer))
    passes = math.ceil(e["K"] / lanes["outputs"]) * math.ceil(e["C"] / inputs) * above * across * height * width
    return e["G"] * e["N"] * passes * tile**2


def _streamed(layer: Layer) -> tuple[int, int]:
    """Rows and columns that go through a line buffer, padding apart: a stride leaves out results, not pixels."""
    return layer.extents["P"] * layer.stride[0], layer.extents["Q"] * layer.stride[1]


def _tiles(chip: Chip, layer: Layer) -> int:
    """Tiles of one map."""
    return math.prod(math.ceil(extent / _tile(chip)) for extent in _streamed(layer))


def _fetched(chip: Chip, layer: Layer) -> int:
    """Input elements that DDR gives: every tile with the border that its windows reach over."""
    e, tile = layer.extents, _tile(chip)
    sides = []
    for extent, side in zip(_streamed(layer), layer.input_size, strict=True):
        count = math.ceil(extent / tile)
        sides.append(side + (count - 1) * max(0, side - extent))
    return e["G"] * e["N"] * e["C"] * math.prod(sides)


def _one_pixel(layer: Layer) -> bool:
    return all(layer.extents[loop] == 1 for loop in ("P", "Q", "R", "S"))


def _tile(chip: Chip) -> int:
    tile: int = chip.settings["tile"]
    return tile


def _lanes(chip: Chip) -> dict[str, int]:
    """The sizes of the array's dimensions by name."""
    return {dimension.name: dimension.size for dimension in chip.dimension}


def _check_room(chip: Chip, layer: Layer) -> None:
    """The weights of a pass, and a tile of each map that it reads and of the sums that it writes."""
    lanes, pixels = _lanes(chip), 1 if _one_pixel(layer) else _tile(chip) ** 2
    maps = pixels * (lanes["inputs"] * layer.bits["I"] + lanes["outputs"] * chip.arithmetic.sum_bits)
    for memory, bits in ((chip.chain("W")[0], chip.elements * layer.bits["W"]), (chip.chain("I")[0], maps)):
        if memory.bytes is not None and memory.bytes * 8 < bits:
            raise TargetError(
                f"Chip {chip.name!r}: memory {memory.name!r} has {memory.bytes} bytes, a pass of layer {layer.name!r} "
                f"takes {bits / 8:.0f}"
            )
