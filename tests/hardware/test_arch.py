"""A chip file says all it must and nothing else; every chip of the package loads, is priced and is sourced."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dovetail.errors import TargetError
from dovetail.hardware import MODELS, Chip, ChipCost, chip_names
from dovetail.hardware.arch import parse
from dovetail.hardware.cost import as_multiplied
from dovetail.hardware.layer import OPERANDS, Operand
from dovetail.hardware.simulation import check, model_of, samples

BROKEN = [
    ("bytes = 4096", "byts = 4096", r"memory\[0\]\.byts is unknown; did you mean 'bytes'\?"),
    ('title = "A chip of four multipliers"', "", "title is missing; it must be text"),
    ("width_bits = 64", "", r"memory\[0\]\.width_bits is missing; it must be a whole number"),
    ("bytes = 4096", "bytes = 4096\nbytes = 5", "a key is given twice .*: bytes = 5"),
    ('kind = "tiny"', 'kind = "tiny', "line 4.*: kind ="),
    ("bytes = 4096", 'bytes = "4 KB"', r"memory\[0\]\.bytes must be a whole number, got '4 KB'"),
    ("clock_mhz = 100", "clock_mhz = true", "clock_mhz must be a number, got True"),
    ("area_mm2 = 2.5", "area_mm2 = nan", "area_mm2 must be a number, got nan"),
    ('operands = ["I", "W", "O"]', 'operands = ["I", "X"]', r"operands must be a list, each one of I, W, O, got"),
    ('unroll = ["C"]', 'unroll = ["Z"]', r"dimension\[0\]\.unroll must be a list, each one of G, N, K, C"),
    ("[[dimension]]", "[dimension]", "dimension must be a list of tables"),
    ('status = "assumed"', 'status = "known"', r"source\[0\]\.status must be one of read, derived, memory, assumed"),
    (
        '[[source]]\nsays = "invented for tests"\nstatus = "assumed"',
        "",
        "source is missing; it must be a list of tables",
    ),
    ('status = "assumed"', 'status = "assumed"\nkeys = ["area"]', "source names the key 'area', which is not there"),
    ('status = "assumed"', 'status = "assumed"\nkeys = ["memory"]', "clock_mhz has no source; add a"),
    ("clock_mhz = 100", "clock_mhz = 0", "'tiny': clock_mhz is a positive number, got 0"),
    ("area_mm2 = 2.5", "area_mm2 = -2.5", "area_mm2 is a positive number"),
    ("idle_milliwatts = 1.0", "idle_milliwatts = -1", "idle_milliwatts is not negative"),
    ("read_bandwidth = 32", "read_bandwidth = 0", "memory 'dram': read_bandwidth is a positive number of bits a cycle"),
    ("read_bandwidth = 32", "write_bandwidth = 32", "with shared_port, writes share read_bandwidth"),
    ("read_picojoules = 2", "read_picojoules = -2", "memory 'buffer': read_picojoules costs no negative energy"),
    ("picojoules = 0.5", "picojoules = -0.5", "an operation of 8 by 8 bits costs no negative energy"),
    ("picojoules = 0.5", "cycles = 0", "cycles of an operation is a positive number"),
    ("bytes = 4096", "bytes = 7", "memory 'buffer': bytes is 7, which does not hold one word of width_bits = 64"),
    (
        "bytes = 4096",
        "bytes = 4096\nwhole_words = true",
        "'buffer': whole_words are counted on chips of kind 'spatial', ",
    ),
    ("bytes = 4096", "", "memory 'buffer' is not the outermost of operand I and needs bytes"),
    (
        "bytes = 4096",
        'bytes = 4096\nper = ["columns"]',
        "memory 'buffer': per names dimension 'columns', which is none",
    ),
    ('name = "dram"', 'name = "dram"\nper = ["rows"]', "memory 'dram' lies outside 'buffer' but has more instances"),
    ('name = "dram"', 'name = "dram"\nbytes = 9', "the outermost memory of operand I, 'dram', must be unlimited"),
    ('name = "dram"', 'name = "buffer"', "two parts are called 'buffer'"),
    ('operands = ["I", "W", "O"]', "operands = []", "memory 'buffer': operands is empty"),
    ('operands = ["I", "W", "O"]', 'operands = ["I"]\ncompressed = ["W"]', "compressed names operand W"),
    ('operands = ["I", "W", "O"]', 'operands = ["I", "W", "O", "I"]', "memory 'buffer': operands names I twice"),
    ("sum_bits = 32", 'sum_bits = 32\ngates = ["I", "I"]', "gates names I twice"),
    (
        "sum_bits = 32",
        'sum_bits = 32\nskips = ["O"]',
        "skips names operands that may be zero before they are multiplied",
    ),
    ('name = "dram"', 'name = ""', "a name is empty"),
    ("sum_bits = 32", "sum_bits = 4", "sum_bits is 4, less than the 8 bits of what is multiplied"),
    ("size = 4", "size = 0", "dimension 'rows': size is from 1 to 1,073,741,824"),
    ("size = 4", 'size = 4\nlinks = { I = "multicast" }', "links.W is one of multicast, forward, none, got nothing"),
    ("size = 4", 'size = 4\nlinks = { I = "none", W = "none", O = "multicast" }', "links.O is one of reduce, forward"),
    ("size = 4", 'size = 4\nlinks = { P = "none" }', r"links must be a table whose keys are one of I, W, O and values"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_mistake_is_one_sentence_that_names_the_key(old: str, new: str, message: str, tiny_text: str) -> None:
    assert old in tiny_text
    with pytest.raises(TargetError, match=message) as raised:
        parse(tiny_text.replace(old, new, 1))
    assert "\n" not in str(raised.value)


WRONG = (
    "-1",
    "0",
    "nan",
    "1e400",
    '""',
    '"x"',
    "[]",
    "[[]]",
    '[1, "a"]',
    "{}",
    "[{}]",
    "true",
    "1979-05-27",
    f"{10**30}",
)


@pytest.mark.parametrize("value", WRONG)
def test_whatever_stands_at_a_key_it_is_read_or_refused(value: str, tiny_text: str, tiny: Chip) -> None:
    lines = tiny_text.splitlines()
    for index, line in enumerate(lines):
        if " = " in line:
            changed = [*lines[:index], f"{line.partition(' = ')[0]} = {value}", *lines[index + 1 :]]
            with contextlib.suppress(TargetError):
                check(parse("\n".join(changed)))


def test_a_file_cut_short_is_refused(tiny_text: str) -> None:
    for length in range(0, tiny_text.index("[[memory]]"), 5):
        with pytest.raises(TargetError):
            parse(tiny_text[:length])


def test_no_memory_for_an_operand(tiny_text: str) -> None:
    with pytest.raises(TargetError, match="no memory holds operand W; add it"):
        parse(tiny_text.replace('["I", "W", "O"]', '["I", "O"]'))


def test_a_file_is_named_with_its_mistake(tiny_text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny_text)
    assert Chip.load(path).name == "tiny"
    path.write_bytes(b"\xff")
    with pytest.raises(TargetError, match=r"mine\.toml is no text in UTF-8: byte 1 is not"):
        Chip.load(path)
    path.write_text("")
    with pytest.raises(TargetError, match=r"mine\.toml: name is missing"):
        Chip.load(path)
    with pytest.raises(TargetError, match=r"There is no chip 'absent\.toml': name a \.toml file or one of"):
        Chip.load("absent.toml")


def test_what_a_chip_says_of_itself(tiny: Chip) -> None:
    assert tiny.elements == 4 and tiny.peak_macs_per_second == 4e8 and tiny.widest == 8
    assert [memory.name for memory in tiny.chain("W")] == ["buffer", "dram"]
    assert [source.status for source in tiny.sources] == ["assumed", "memory"]


def quicker(chip: Chip) -> Chip:
    """The chip with twice the bandwidth everywhere."""

    def twice(bandwidth: float | None) -> float | None:
        return bandwidth and 2 * bandwidth

    memory = tuple(
        replace(each, read_bandwidth=twice(each.read_bandwidth), write_bandwidth=twice(each.write_bandwidth))
        for each in chip.memory
    )
    return replace(chip, memory=memory)


@pytest.mark.parametrize("name", chip_names())
class TestEveryChip:
    def test_loads_under_its_own_name_with_sources_and_what_it_was_validated_against(self, name: str) -> None:
        chip = Chip.load(name)
        assert chip.name == name and chip.title and chip.sources
        assert all(source.says for source in chip.sources)
        assert chip.kind in MODELS

    def test_knows_every_energy(self, name: str) -> None:
        """Of all that can happen: what holds weights alone, and nothing lies outside it, is never written."""
        chip = Chip.load(name)
        assert all(operation.picojoules is not None for operation in chip.arithmetic.operation)
        for memory in chip.memory:
            only_read = "O" not in memory.operands and all(chip.chain(o)[-1] is memory for o in memory.operands)
            assert memory.read_picojoules is not None, memory.name
            assert memory.write_picojoules is not None or only_read, memory.name

    def test_costs_small_layers_and_their_energy_adds_up(self, name: str) -> None:
        chip = Chip.load(name)
        outermost = {chip.chain(operand)[-1].name for operand in OPERANDS}
        for layer, sample in zip(check(chip), samples(chip), strict=True):
            cost = ChipCost(chip, (layer,), 1)
            assert layer.layer == sample and (layer.mapping is not None or layer.note)
            assert cost.cycles >= layer.counts.cycles.computing > 0 and layer.counts.macs > 0
            assert 0 < layer.utilisation <= 1 + 1e-9 and 0 < cost.utilisation <= 1 + 1e-9
            assert cost.picojoules == layer.picojoules > 0
            for view in ("place", "operand"):
                assert math.fsum(cost.by(view).values()) == pytest.approx(cost.picojoules)
            assert any(layer.counts.bits(memory) for memory in outermost)
            assert layer.lower_bound is None or layer.lower_bound <= (layer.value or 0) * (1 + 1e-9)

    @pytest.mark.parametrize("operand", OPERANDS)
    def test_zeros_save_what_the_chip_can_make_of_them_and_nothing_else(self, name: str, operand: Operand) -> None:
        chip = Chip.load(name)
        used = {*chip.arithmetic.gates, *chip.arithmetic.skips, *(o for each in chip.memory for o in each.compressed)}
        sparse = [replace(layer, density={operand: 0.5}) for layer in samples(chip)]
        for dense, thin in zip(check(chip), model_of(chip)(chip, sparse), strict=True):
            if operand in used:
                assert thin.picojoules < dense.picojoules
            else:
                assert thin.picojoules == pytest.approx(dense.picojoules) and thin.cycles == dense.cycles

    def test_fewer_bits_never_cost_more(self, name: str) -> None:
        chip = Chip.load(name)
        halves = ({operand: bits // 2 for operand, bits in layer.bits.items()} for layer in samples(chip))
        layers = zip(samples(chip), halves, strict=True)
        narrow = [as_multiplied(chip, replace(layer, bits=half)) for layer, half in layers]
        for objective, measure in (("energy", "picojoules"), ("latency", "cycles")):
            wide, thin = (model_of(chip)(chip, each, objective) for each in (samples(chip), narrow))
            for more, less in zip(wide, thin, strict=True):
                assert getattr(less, measure) <= getattr(more, measure) * (1 + 1e-12)

    def test_more_bandwidth_is_never_slower(self, name: str) -> None:
        chip = Chip.load(name)
        slow, fast = (model_of(chip)(each, samples(chip), "latency") for each in (chip, quicker(chip)))
        for before, after in zip(slow, fast, strict=True):
            assert after.cycles <= before.cycles * (1 + 1e-9)
