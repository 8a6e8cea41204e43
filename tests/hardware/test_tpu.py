"""The TPU v1 against its paper (Jouppi et al., ISCA 2017), and against the array in it."""

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import TargetError
from dovetail.hardware import published
from dovetail.hardware.arch import Chip
from dovetail.hardware.layer import OPERANDS, Layer
from dovetail.hardware.systolic_array import Array
from dovetail.hardware.tpu import Span, applications, layer_costs, tera_operations, timeline

TPU = Chip.load("tpu_v1")
INT8 = dict.fromkeys(OPERANDS, 8)
NAMES = ("MLP0", "LSTM0", "CNN0")


def faster(chip: Chip, factors: Mapping[str, float], clock: float = 1.0) -> Chip:
    """With memories whose bandwidth in bits a second is multiplied, and another clock."""

    def scaled(name: str, bandwidth: float | None) -> float | None:
        return None if bandwidth is None else bandwidth * factors.get(name, 1.0) / clock

    memories = tuple(
        dataclasses.replace(memory, read_bandwidth=scaled(memory.name, memory.read_bandwidth)) for memory in chip.memory
    )
    return dataclasses.replace(chip, clock_mhz=chip.clock_mhz * clock, memory=memories)


def wider(chip: Chip, factor: int) -> Chip:
    """With a larger array, which takes longer to fill, and a queue of as many of its tiles."""
    dimensions = tuple(dataclasses.replace(d, size=d.size * factor) for d in chip.dimension)
    settings = {**chip.settings, "shift_cycles": chip.settings["shift_cycles"] * factor}
    memories = tuple(
        dataclasses.replace(m, bytes=m.bytes * factor**2) if m.name == "weight_fifo" else m for m in chip.memory
    )
    return dataclasses.replace(chip, dimension=dimensions, settings=settings, memory=memories)


def share(span: Span) -> dict[str, float]:
    return {name: 100 * value / span.total for name, value in dataclasses.asdict(span).items()}


def microseconds(chip: Chip, name: str) -> float:
    return tera_operations(chip, applications()[name])[1].total / chip.clock_mhz


class TestThePaper:
    def test_peak_is_92_tops_and_the_knee_at_1350(self) -> None:
        assert 2e-12 * TPU.peak_macs_per_second == pytest.approx(published.TPU_PEAK_TOPS, rel=0.005)
        bytes_per_cycle = (TPU.chain("W")[-1].read_bandwidth or 0) / 8
        assert TPU.elements / bytes_per_cycle == pytest.approx(published.TPU_RIDGE, rel=0.005)

    @pytest.mark.parametrize(
        ("name", "weights", "intensity"), [("MLP0", 20, 200), ("LSTM0", 52, 64), ("CNN0", 8, 2888)]
    )
    def test_the_applications_are_those_of_table_1(self, name: str, weights: float, intensity: float) -> None:
        layers = applications()[name].layers
        found = sum(layer.elements("W") for layer in layers)
        assert found / 1e6 == pytest.approx(weights, rel=0.02)
        assert sum(layer.macs for layer in layers) / found == pytest.approx(intensity)

    @pytest.mark.parametrize(("name", "tops"), published.TPU_TOPS.items())
    def test_tops_of_table_3(self, name: str, tops: float) -> None:
        """12.4, 4.2 and 70 here. CNN0's 86 TOPS do not agree with its 78.2 % active (72), as the table itself says."""
        assert tera_operations(TPU, applications()[name])[0] == pytest.approx(tops, rel=0.2)

    @pytest.mark.parametrize("name", NAMES)
    def test_where_the_time_goes(self, name: str) -> None:
        """Table 3, rows 1, 4, 5 and 6. The largest difference is MLP0's non-matrix time, 9.1 % here."""
        found = share(tera_operations(TPU, applications()[name])[1])
        active, _, _, *others, _ = published.TPU_PERCENT[name]
        assert tuple(found.values()) == pytest.approx((active, *others), abs=10)

    def test_bounds(self) -> None:
        spans = {name: tera_operations(TPU, applications()[name])[1] for name in NAMES}
        assert all(spans[name].weight_stall > spans[name].active for name in ("MLP0", "LSTM0"))
        assert spans["CNN0"].weight_stall == spans["CNN0"].weight_shift == 0

    def test_input_stalls_of_mlp0(self) -> None:
        """Row 8: 6.1 % of the time waits for input from the host."""
        first, *others = timeline(TPU, applications()["MLP0"].layers, from_host=True)
        stalls = published.TPU_PERCENT["MLP0"][-1]
        assert 100 * first.non_matrix / sum(others, first).total == pytest.approx(stalls, abs=1)

    def test_power_is_the_measured_40_watts(self) -> None:
        """Not fitted: 28 W idle, and operations and accesses at scaled prices of 45 nm."""
        for name in NAMES:
            costs = layer_costs(TPU, applications()[name].layers)
            seconds = sum(cost.cycles for cost in costs) / (TPU.clock_mhz * 1e6)
            assert sum(cost.picojoules for cost in costs) / 1e12 / seconds == pytest.approx(40, rel=0.2)


class TestOtherDesigns:
    """Section 7 and Figure 11."""

    def test_four_times_the_bandwidth_is_three_times_as_fast_on_average(self) -> None:
        chip = faster(TPU, {"weight_dram": 4})
        gain = {name: microseconds(TPU, name) / microseconds(chip, name) for name in NAMES}
        assert gain["MLP0"] == pytest.approx(3, rel=0.2) and gain["LSTM0"] == pytest.approx(3, rel=0.2)
        assert gain["CNN0"] == pytest.approx(1, rel=0.01)
        mix = {"MLP0": 61, "LSTM0": 29, "CNN0": 5}  # per cent of deployed TPUs, Table 1, by kind
        assert sum(gain[name] * mix[name] for name in NAMES) / sum(mix.values()) == pytest.approx(3, rel=0.1)

    def test_four_times_the_clock_gains_only_for_convolutions(self) -> None:
        """The paper has about 2 for the two CNNs together, the other of which has fully connected layers."""
        chip = faster(TPU, {}, clock=4)
        gain = {name: microseconds(TPU, name) / microseconds(chip, name) for name in NAMES}
        assert gain["MLP0"] == pytest.approx(1, rel=0.05) and gain["LSTM0"] == pytest.approx(1, rel=0.05)
        assert 2 < gain["CNN0"] < 3

    def test_a_larger_array_is_slower_on_a_600_by_600_matrix(self) -> None:
        """18 us on 256 x 256, 32 us on 512 x 512: 9 tiles, and 4 that take four times as long."""
        layer = Layer("lstm", {"N": 96, "C": 600, "K": 600}, bits=INT8)
        for factor, expected in ((1, 18), (2, 32)):
            (span,) = timeline(wider(TPU, factor), [layer])
            assert span.total / TPU.clock_mhz == pytest.approx(expected, rel=0.05)


class TestModel:
    @settings(max_examples=50, deadline=None)
    @given(vectors=st.integers(1, 2048), window=st.integers(1, 2000), filters=st.integers(1, 1000))
    def test_without_waiting_for_dram_it_is_the_array_with_overlap(
        self, vectors: int, window: int, filters: int
    ) -> None:
        """A first tile is shifted in while the layer before is activated; then both run alike."""
        chip = faster(TPU, {"weight_dram": 1e9})
        layer = Layer("product", {"N": vectors, "C": window, "K": filters}, bits=INT8)
        (span,) = timeline(chip, [layer])
        tiles = -(-window // 256) * -(-filters // 256)
        array = Array(256, 256, "ws", overlap=True).cycles(tiles, vectors)
        between = chip.settings["synchronisation_cycles"] + vectors
        assert span.total == pytest.approx(array.total - 256 + between, abs=1e-3)

    def test_a_tile_takes_the_longest_of_its_steps(self) -> None:
        """In the long run: using it, shifting it in, or fetching it."""
        for vectors, bandwidth, expected in ((1500, 1, 1500), (300, 1, 1349.2), (300, 100, 300), (10, 100, 256)):
            chip = faster(TPU, {"weight_dram": bandwidth})
            few, many = (Layer("product", {"N": vectors, "C": 256 * n, "K": 256}, bits=INT8) for n in (20, 40))
            spans = [timeline(chip, [layer])[0].total for layer in (few, many)]
            assert (spans[1] - spans[0]) / 20 == pytest.approx(expected, rel=0.001)

    def test_zeros_gain_nothing(self) -> None:
        dense = Layer("product", {"N": 100, "C": 1000, "K": 1000}, bits=INT8)
        sparse = dataclasses.replace(dense, density={"I": 0.3, "W": 0.1, "O": 1.0})
        (one,), (other,) = layer_costs(TPU, [dense]), layer_costs(TPU, [sparse])
        assert (one.cycles, one.picojoules) == (other.cycles, other.picojoules)

    def test_wide_numbers_take_longer(self) -> None:
        """Half speed with one operand of 16 bits, a quarter with both."""
        active = []
        for bits in ((8, 8), (16, 8), (16, 16)):
            layer = Layer("wide", {"N": 2000, "C": 512, "K": 512}, bits={"I": bits[0], "W": bits[1], "O": 8})
            active.append(timeline(TPU, [layer])[0].active)
        assert active == [active[0], 2 * active[0], 4 * active[0]]

    def test_activations_that_do_not_fit_are_named(self) -> None:
        layer = Layer("huge", {"N": 100_000, "C": 200, "K": 200}, bits=INT8)
        with pytest.raises(TargetError, match=r"Layer 'huge' .*'unified_buffer' has 25165824 bytes.* take 40000000"):
            layer_costs(TPU, [layer])
