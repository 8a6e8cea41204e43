"""DianNao: its peak, its cycles, its traffic and power on layers of the paper's kind, and what 16 bits cost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dovetail.errors import TargetError
from dovetail.hardware import published
from dovetail.hardware.arch import CHIPS, Chip, parse
from dovetail.hardware.cost import LayerCost
from dovetail.hardware.diannao import layer_costs, layer_counts, peak_operations_per_second, simulate
from dovetail.hardware.layer import Layer

CHIP = Chip.load("diannao")


def convolution(name: str, width: int, height: int, kernel: int, C: int, K: int) -> Layer:
    return Layer(name, {"C": C, "K": K, "P": height - kernel + 1, "Q": width - kernel + 1, "R": kernel, "S": kernel})


CONVOLUTIONS = (  # the benchmark of the paper (from memory)
    convolution("CONV1", 500, 375, 9, 32, 48),
    convolution("CONV3", 32, 32, 4, 108, 200),
    convolution("CONV4", 32, 32, 7, 16, 512),
    convolution("CONV5", 256, 256, 11, 256, 384),
)
CLASSIFIERS = (Layer("CLASS1", {"C": 2560, "K": 2560}), Layer("CLASS3", {"C": 960, "K": 20}))


def milliwatts(cost: LayerCost) -> float:
    """Of the chip, without DRAM, as the paper's 485 mW."""
    own = sum(entry.picojoules for entry in cost.energy if entry.place != "DRAM")
    return own * 1e-9 / (cost.cycles / (CHIP.clock_mhz * 1e6))


def test_the_peak_follows_from_the_structure() -> None:
    """496 operations a cycle at 0.98 GHz; the published 452 GOP/s are 461 of them, and the paper does not say which."""
    peak = peak_operations_per_second(CHIP)
    assert peak == (256 + 240) * 0.98e9
    assert 1 <= peak / (1e9 * published.DIANNAO_GOPS) <= 1.08


@pytest.mark.parametrize("layer", [*CONVOLUTIONS, *CLASSIFIERS], ids=lambda layer: layer.name)
def test_power_is_within_a_quarter_of_the_published(layer: Layer) -> None:
    (cost,) = layer_costs(CHIP, [layer])
    assert milliwatts(cost) == pytest.approx(published.DIANNAO_MILLIWATTS, rel=0.25)


def test_power_over_the_convolutions_is_the_published() -> None:
    costs = layer_costs(CHIP, CONVOLUTIONS)
    seconds = [cost.cycles for cost in costs]
    mean = sum(milliwatts(cost) * time for cost, time in zip(costs, seconds, strict=True)) / sum(seconds)
    assert mean == pytest.approx(published.DIANNAO_MILLIWATTS, rel=0.05)


@given(
    extents=st.fixed_dictionaries(
        {"G": st.integers(1, 2), "N": st.integers(1, 3), "K": st.integers(1, 80), "C": st.integers(1, 1500)}
        | {loop: st.integers(1, 5) for loop in "PQRS"}
    )
)
def test_cycles_and_accesses_follow_the_loops(extents: dict[str, int]) -> None:
    layer = Layer("any", extents)  # type: ignore[arg-type]
    e, counts = layer.extents, layer_counts(CHIP, layer)
    tiles = math.ceil(e["K"] / 16) * math.ceil(e["C"] / 16)
    computing = e["G"] * e["N"] * tiles * e["P"] * e["Q"] * e["R"] * e["S"]
    assert counts.cycles.computing == computing and counts.macs == layer.macs
    assert counts.bits("SB", action="read") == computing * 4096
    assert counts.bits("NBin", action="read") == computing * 256
    assert counts.bits("DRAM", "W") == counts.bits("SB", action="write") == layer.elements("W") * 16
    assert counts.bits("DRAM", "I") == counts.bits("NBin", action="write") >= layer.elements("I") * 16
    assert counts.bits("DRAM", "O", "write") - counts.bits("DRAM", "O", "read") == layer.elements("O") * 16
    assert counts.bits("NBout", action="read") == counts.bits("NBout", action="write") >= layer.elements("O") * 16


def test_traffic_of_a_fully_connected_layer_by_hand() -> None:
    """4096 sums of 4096 products: 1024 sums at once in NBout, whose inputs pass in four blocks of 1024."""
    counts = layer_counts(CHIP, Layer("fc", {"C": 4096, "K": 4096}))
    assert counts.bits("DRAM", "W") == 4096 * 4096 * 16
    assert counts.bits("DRAM", "I") == 4 * 4096 * 16
    assert counts.bits("DRAM", "O") == 4096 * 16
    assert counts.bits("NBout", action="write") == 4 * 4096 * 16


def test_a_classifier_waits_for_its_weights_and_a_convolution_does_not() -> None:
    waits, works = layer_costs(CHIP, [CLASSIFIERS[0], CONVOLUTIONS[0]])
    assert waits.counts.cycles.stalled["DRAM"] > 0.9 * waits.counts.cycles.computing
    assert works.counts.cycles.stalled["DRAM"] == 0


def test_a_buffer_without_a_line_is_named() -> None:
    text = (CHIPS / "diannao.toml").read_text().replace("bytes = 32_768", "bytes = 512")
    assert layer_counts(parse(text), CLASSIFIERS[0]).macs
    text = text.replace("bytes = 512", "bytes = 256").replace("width_bits = 4096", "width_bits = 2048")
    with pytest.raises(TargetError, match="'SB' holds 256 bytes, less than the 256 elements of 16 bits"):
        layer_counts(parse(text), CLASSIFIERS[0])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), K=st.integers(1, 35), C=st.integers(1, 35), kernel=st.sampled_from([1, 3]))
def test_sixteen_bits_are_within_their_rounding_and_take_the_cycles_of_the_formula(
    seed: int, K: int, C: int, kernel: int
) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.random((1, C, 6, 6)), rng.normal(0, 0.2, (K, C, kernel, kernel))
    expected = functional.conv2d(torch.from_numpy(x), torch.from_numpy(w))[0].flatten(1).T.numpy()
    windows = functional.unfold(torch.from_numpy(x), kernel)[0].T.reshape(-1, C, kernel**2).numpy()
    run = simulate(CHIP, windows, w.reshape(K, C, -1))
    half = 2.0**-11  # of what the last of ten fraction bits is worth: every operand and every output is off by so much
    operands = windows.sum((1, 2))[:, None] + np.abs(w).sum((1, 2, 3)) + windows[0].size * half
    assert (np.abs(run.outputs - expected) <= half * (operands + 1) * (1 + 1e-9)).all()
    side = 7 - kernel
    layer = Layer("conv", {"K": K, "C": C, "P": side, "Q": side, "R": kernel, "S": kernel})
    assert run.cycles == layer_counts(CHIP, layer).cycles.computing
