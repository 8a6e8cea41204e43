"""DianNao: 16 neurons of 16 synapses each in every cycle, between three buffers.

Chen, Du, Sun, Wang, Wu, Chen, Temam. DianNao: A Small-Footprint High-Throughput Accelerator for Ubiquitous
Machine-Learning. ASPLOS 2014. The neural functional unit (NFU) multiplies Ti inputs by Tn x Ti weights, adds the
products in Tn trees and, when a sum is complete, takes a nonlinear function of it:

    computing cycles = G ceil(K / Tn) ceil(C / Ti) N P Q R S
    peak = (Tn Ti multiplications + Tn (Ti - 1) additions) clock = 496 x 0.98 GHz = 486 GOP/s

(the paper gives 452, 7% less, which is 461 operations a cycle; it does not say which it left out). Every cycle reads
one line of NBin (inputs) and one of SB (weights). The loops, from the outside, as in the tiled code of the paper:

    for parts of K whose sums fit into NBout:               # all of K if no sum has to wait
      for blocks of a sum, whose inputs fit into NBin:      # after each, sums that are not complete leave the NFU
        for blocks of K whose weights fit into SB:
          for all pixels:                                   # weights stay: DRAM gives each of them once
            for Tn outputs, for Ti inputs or the next tap: one cycle

Where there are too many pixels for their sums to fit into NBout, sums that are not complete go to DRAM and back. A
window of NBin slides along a row: what of it the next pixel needs too stays, but the next row is fetched anew. DRAM
works at the same time as the NFU: a layer takes as long as the slower of the two, after its first window and weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import TargetError
from dovetail.hardware.arch import Chip
from dovetail.hardware.cost import Access, Counts, Cycles, LayerCost, Objective, price
from dovetail.hardware.layer import Layer, Operand
from dovetail.hardware.parts import Parts, require

PARTS = Parts(dimensions=("outputs", "inputs"), memories=("NBin", "NBout", "SB", "DRAM"))


def peak_operations_per_second(chip: Chip) -> float:
    """Multiplications and the additions of the trees, each one operation, as the paper counts."""
    outputs, inputs = _tile(chip)
    return (outputs * inputs + outputs * (inputs - 1)) * chip.clock_mhz * 1e6


def layer_costs(chip: Chip, layers: Sequence[Layer], objective: Objective = "energy") -> tuple[LayerCost, ...]:
    """What `layers` cost; there is one way to run each, whatever the objective.

    Raises:
        TargetError: a layer is wider than the multipliers, or the chip has other parts.
    """
    require(chip, PARTS)
    found = []
    for layer in layers:
        counts = layer_counts(chip, layer)
        outputs, inputs = _tile(chip)
        useful = layer.macs / (outputs * inputs * counts.cycles.computing)
        blocks = _blocks(chip, layer)
        note = f"NFU {outputs} x {inputs}; every sum in {blocks.visits} parts, {blocks.outputs} outputs' weights in SB"
        found.append(LayerCost(layer, counts, price(chip, layer, counts), useful, note=note))
    return tuple(found)


def layer_counts(chip: Chip, layer: Layer) -> Counts:
    """Accesses of the three buffers and of DRAM, and cycles; the loops are those of the module's docstring."""
    e, bits = layer.extents, layer.bits
    outputs, inputs = _tile(chip)
    blocks = _blocks(chip, layer)
    pixels, taps = e["N"] * e["P"] * e["Q"], e["R"] * e["S"]
    computing = e["G"] * math.ceil(e["K"] / outputs) * math.ceil(e["C"] / inputs) * pixels * taps
    sums = e["G"] * e["K"] * pixels
    spilled = 0 if blocks.sums_stay else sums * (blocks.visits - 1)
    rows = e["N"] * e["P"] * e["R"] * layer.input_size[1]  # a new row of pixels fetches its R rows anew
    fetched = e["G"] * e["C"] * rows * blocks.input_fetches
    weights = layer.elements("W")
    incomplete = chip.arithmetic.sum_bits
    passing = sums * bits["O"] + (sums * (blocks.visits - 1) + spilled) * incomplete  # NBout, each way
    accesses = (
        Access("NBin", "I", "write", fetched, fetched * bits["I"]),
        Access("NBin", "I", "read", computing * inputs, computing * inputs * bits["I"]),
        Access("SB", "W", "write", weights, weights * bits["W"]),
        Access("SB", "W", "read", computing * outputs * inputs, computing * outputs * inputs * bits["W"]),
        Access("NBout", "O", "write", sums * blocks.visits + spilled, passing),
        Access("NBout", "O", "read", sums * blocks.visits + spilled, passing),
        Access("DRAM", "I", "read", fetched, fetched * bits["I"]),
        Access("DRAM", "W", "read", weights, weights * bits["W"]),
        Access("DRAM", "O", "read", spilled, spilled * incomplete),
        Access("DRAM", "O", "write", sums + spilled, sums * bits["O"] + spilled * incomplete),
    )
    bandwidth = chip.memory[-1].read_bandwidth or math.inf
    moved = sum(access.bits for access in accesses if access.memory == "DRAM")
    first = inputs * taps * (bits["I"] + outputs * bits["W"])  # one window and its weights
    stalled = {"DRAM": max(0.0, moved / bandwidth - computing)}
    return Counts(layer.macs, accesses, Cycles(computing, filling=first / bandwidth, stalled=stalled))


@dataclass(frozen=True)
class _Blocks:
    """In how many parts a sum is made, how many outputs' weights are held, and what that means for the traffic."""

    visits: int
    outputs: int
    input_fetches: int
    sums_stay: bool


def _blocks(chip: Chip, layer: Layer) -> _Blocks:
    """In lines of the buffers: what one cycle reads of NBin and SB, and the sums of Tn outputs in NBout."""
    e = layer.extents
    outputs, inputs = _tile(chip)
    lines_in, lines_weights = (
        _lines(chip, "I", inputs, layer.bits["I"]),
        _lines(chip, "W", outputs * inputs, layer.bits["W"]),
    )
    lines_out = _lines(chip, "O", outputs, chip.arithmetic.sum_bits)
    pixels, tiles = e["N"] * e["P"] * e["Q"], math.ceil(e["K"] / outputs)
    steps = math.ceil(e["C"] / inputs) * e["R"] * e["S"]  # lines that make one sum
    length = min(steps, lines_in, lines_weights)
    visits = math.ceil(steps / length)
    together = lines_out // pixels  # tiles whose sums can wait in NBout
    block = lines_weights // length
    part = tiles if visits == 1 else (together or block)
    block = min(block, part, tiles)
    whole = pixels * length <= lines_in  # a block of inputs stays while all outputs of the part pass
    return _Blocks(visits, block * outputs, math.ceil(tiles / (part if whole else block)), together > 0)


def _tile(chip: Chip) -> tuple[int, int]:
    """Tn and Ti."""
    size = {dimension.name: dimension.size for dimension in chip.dimension}
    return size["outputs"], size["inputs"]


def _lines(chip: Chip, operand: Operand, elements: int, bits: int) -> int:
    """How many times so many elements fit into an operand's buffer.

    Raises:
        TargetError: not once.
    """
    buffer = chip.chain(operand)[0]
    lines = (buffer.bytes or 0) * 8 // (elements * bits)
    if lines < 1:
        raise TargetError(
            f"Chip {chip.name!r}: {buffer.name!r} holds {buffer.bytes} bytes, less than the {elements} elements of "
            f"{bits} bits that the NFU takes in a cycle"
        )
    return lines


@dataclass(frozen=True)
class Run:
    """What the functional simulator found: outputs (pixels, K), and the cycles that it went through."""

    outputs: NDArray[np.float64]
    cycles: int


def simulate(chip: Chip, inputs: NDArray[np.floating], weights: NDArray[np.floating], fraction_bits: int = 10) -> Run:
    """Really compute a layer, tile by tile, in 16-bit fixed point with `fraction_bits` after the point.

    Args:
        chip: a chip of this kind.
        inputs: (pixels, C, taps): what each output's window sees.
        weights: (K, C, taps).
        fraction_bits: the paper takes 10 of the 16. Sums are exact; what leaves the NFU is rounded and saturated.
    """
    tile_k, tile_c = _tile(chip)
    x, w = _fixed(inputs, fraction_bits), _fixed(weights, fraction_bits)
    pixels, channels, taps = x.shape
    sums = np.zeros((pixels, len(w)), np.int64)
    cycles = 0
    for pixel in range(pixels):
        for k in range(0, len(w), tile_k):
            for tap in range(taps):
                for c in range(0, channels, tile_c):
                    products = w[k : k + tile_k, c : c + tile_c, tap] * x[pixel, c : c + tile_c, tap]
                    sums[pixel, k : k + tile_k] += products.sum(1)
                    cycles += 1
    return Run(_fixed(sums / 4.0**fraction_bits, fraction_bits) / 2.0**fraction_bits, cycles)


def _fixed(values: NDArray[np.floating], fraction_bits: int) -> NDArray[np.int64]:
    """Rounded to 16-bit fixed point and saturated."""
    rounded: NDArray[np.int64] = np.rint(values * 2.0**fraction_bits).astype(np.int64)
    return rounded.clip(-(2**15), 2**15 - 1)
