"""What a chip of each kind must have beyond what every chip has."""

import re
from dataclasses import replace

import pytest

from dovetail.errors import TargetError
from dovetail.hardware import simulation
from dovetail.hardware.arch import CHIPS, chip_names, parse
from dovetail.hardware.cost import as_multiplied
from dovetail.hardware.layer import OPERANDS

SOURCE = '[[source]]\nkeys = ["latched"]\nsays = "us"\nstatus = "assumed"\n\n'


@pytest.mark.parametrize("name", chip_names())
def test_shipped_chips_have_all_parts(name: str) -> None:
    assert all(cost.picojoules > 0 for cost in simulation.check(parse((CHIPS / f"{name}.toml").read_text("utf-8"))))


@pytest.mark.parametrize(
    ("name", "there", "instead", "message"),
    [
        ("diannao", 'name = "NBin"', 'name = "inputs buffer"', "its memories are NBin, NBout, SB, DRAM, got inputs"),
        ("diannao", 'name = "outputs"', 'name = "neurons"', "its dimensions are outputs, inputs, got neurons, inputs"),
        ("diannao", "sum_bits", 'gates = ["I"]\nsum_bits', "does not count what zeros save: leave out gates and skips"),
        ("edge_npu", 'kind = "spatial"', 'kind = "diannao"', "its dimensions are outputs, inputs, got"),
        ("tpu_v1", "fifo_tiles = 4", "fifo_tiles = 0", "settings.fifo_tiles is a whole number of at least 1, got 0"),
        ("tpu_v1", "fifo_tiles = 4", 'fifo_tiles = "four"', "a whole number of at least 1, got 'four'"),
        ("tpu_v1", "shift_cycles = 256", "shift_cycles = nan", "settings.shift_cycles is a number of at least 0, got"),
        ("tpu_v1", "synchronisation_cycles = 3000", "synchronisation_cycles = -1", "a number of at least 0, got -1"),
        ("tpu_v1", "bytes = 262_144", "bytes = 256", "'weight_fifo' has 256 bytes, fifo_tiles = 4 tiles take 262144"),
        ("tpu_v1", "bytes = 4_194_304", "bytes = 1024", "'accumulators' has 1024 bytes, two vectors of sums take 2048"),
        ("angel_eye", "tile = 28", "tile = true", "settings.tile is a whole number of at least 1, got True"),
        (
            "angel_eye",
            "bytes = 1_990_656",
            "bytes = 128",
            "'maps' has 128 bytes, a pass of layer 'a convolution' takes",
        ),
        ("edge_npu", "[arithmetic]", "[settings]\nhalo_reuze = false\n\n[arithmetic]", "did you mean 'halo_reuse'?"),
        ("edge_npu", "[arithmetic]", "[settings]\nhalo_reuse = 'no'\n\n[arithmetic]", "is true or false, got 'no'"),
        (
            "edge_npu",
            "[arithmetic]",
            SOURCE + "[settings]\nlatched = 5\n\n[arithmetic]",
            "a list of some of I, W, O, got 5",
        ),
    ],
)
def test_what_is_missing_or_means_nothing_is_named(name: str, there: str, instead: str, message: str) -> None:
    text = (CHIPS / f"{name}.toml").read_text("utf-8")
    assert there in text
    with pytest.raises(TargetError, match=re.escape(message)):
        simulation.check(parse(text.replace(there, instead, 1)))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_diannao_gains_nothing_from_narrower_numbers(bits: int) -> None:
    chip = parse((CHIPS / "diannao.toml").read_text("utf-8"))
    model = simulation.model_of(chip)
    for layer in simulation.samples(chip):
        widths = (as_multiplied(chip, replace(layer, bits=dict.fromkeys(OPERANDS, width))) for width in (16, bits))
        (wide,), (narrow,) = (model(chip, [each]) for each in widths)
        assert narrow.picojoules == wide.picojoules and narrow.cycles == wide.cycles
