"""Networks on chips: charts and tables say what the record says; the card refuses what cannot be compared."""

import io
import math
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
from PIL import Image
from rich.console import Console

from dovetail.errors import DovetailError, TargetError
from dovetail.hardware import Chip, ChipRecord
from dovetail.hardware.cost import ChipCost
from dovetail.hardware.mapping import Mapping
from dovetail.hardware.published import EYERISS_ALEXNET, EYERISS_ISCA, EYERISS_ISCA_LAYERS
from dovetail.hardware.row_stationary import cost as row_stationary_cost
from dovetail.hardware.row_stationary import layer_costs
from dovetail.report import benchmark_card, chip_tables, chips_table, sources_table, write_chip_report
from dovetail.report.charts import Chart
from dovetail.report.chip_charts import chip_charts, energy_unit, off_chip_bits
from dovetail.report.chip_published import beside_published, energy_beside_published
from dovetail.report.figures import figure
from dovetail.report.pictures import picture

HOSTILE = '</script><script>alert("no")</script>'
KEYS = ("energy_by_layer", "timeline", "roofline", "energy_by_memory")


@pytest.fixture
def record(chip_record: ChipRecord) -> ChipRecord:
    return chip_record


def chart(record: ChipRecord, key: str) -> Chart:
    return next(found for found in chip_charts(record) if found.key == key)


def shown(*tables: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


class TestCharts:
    @pytest.mark.parametrize("key", KEYS)
    def test_are_drawn_by_plotly_and_as_pictures(self, record: ChipRecord, key: str) -> None:
        found = chart(record, key)
        assert found.title and found.note and found.unit and len(found.texts) == len(found.labels)
        assert all(len(series.values) == len(found.labels) for series in found.series)
        assert go.Figure(figure(found)).data
        assert Image.open(io.BytesIO(picture(found))).width > 1000

    @pytest.mark.parametrize("key", ["energy_by_layer", "energy_by_memory"])
    def test_energies_sum_to_the_whole(self, record: ChipRecord, key: str) -> None:
        found = chart(record, key)
        scale = {"pJ": 1.0, "nJ": 1e3, "µJ": 1e6}[found.unit]
        total = math.fsum(value or 0.0 for series in found.series for value in series.values)
        assert scale * total == pytest.approx(record.cost.picojoules)

    def test_each_layer_begins_where_the_last_one_ended(self, record: ChipRecord) -> None:
        waiting = [
            replace(layer, counts=replace(layer.counts, cycles=replace(layer.counts.cycles, stalled={"dram": 100.0})))
            for layer in record.cost.layers
        ]
        record = replace(record, cost=replace(record.cost, layers=tuple(waiting)))
        found = chart(record, "timeline")
        assert [series.name for series in found.series] == ["computing", "waiting for dram"]
        ends = found.ends()
        assert ends[0][0] == 0
        assert [row[-1] for row in ends] == pytest.approx([*(row[0] for row in ends[1:]), 1e3 * record.cost.seconds])
        assert found.largest == pytest.approx(1e3 * record.cost.seconds)
        for index, drawn in enumerate(figure(found)["data"]):
            assert drawn["base"] == [row[index] for row in ends]

    def test_no_layer_is_above_the_roof(self, record: ChipRecord) -> None:
        found = chart(record, "roofline")
        (left, low), (ridge, peak), (_, flat) = found.curve
        assert peak == flat == pytest.approx(2e-9 * record.cost.chip.peak_macs_per_second)
        assert low / left == pytest.approx(peak / ridge) == pytest.approx(32 / 8 * 0.1)  # 32 bits a cycle at 100 MHz
        for across, up in zip(found.positions, found.series[0].values, strict=True):
            assert up is not None and up <= min(peak, across * peak / ridge) * (1 + 1e-9)

    def test_a_chip_without_a_limit_of_bandwidth_has_a_flat_roof(self, record: ChipRecord) -> None:
        cost = record.cost
        memory = (cost.chip.memory[0], replace(cost.chip.memory[1], read_bandwidth=None))
        free = replace(record, cost=replace(cost, chip=replace(cost.chip, memory=memory)))
        assert {y for _, y in chart(free, "roofline").curve} == {2e-9 * cost.chip.peak_macs_per_second}

    def test_without_traffic_there_is_no_roofline(self, record: ChipRecord) -> None:
        layers = tuple(replace(layer, counts=replace(layer.counts, accesses=())) for layer in record.cost.layers)
        still = replace(record, cost=replace(record.cost, layers=layers))
        assert [found.key for found in chip_charts(still)] == [key for key in KEYS if key != "roofline"]

    def test_energies_have_a_fitting_unit(self) -> None:
        assert [energy_unit(value)[1] for value in (1, 1e3, 2e6, 3e9, 4e12)] == ["pJ", "nJ", "µJ", "mJ", "J"]


class TestTables:
    def test_have_every_layer_and_the_total(self, record: ChipRecord) -> None:
        text = shown(*chip_tables(record))
        assert text.count("total") == 3 and "validated against: arithmetic in one's head." in text
        assert f"{record.cost.cycles:,.0f}" in text and "dram" in text and "Nothing is zero." in text

    def test_a_bound_is_shown_where_there_is_one(self, record: ChipRecord) -> None:
        assert "optimal" not in shown(chip_tables(record)[0])
        layers = tuple(
            replace(layer, value=2.0, lower_bound=bound)
            for layer, bound in zip(record.cost.layers, (2.0, 1.6, 2.0), strict=True)
        )
        text = shown(chip_tables(replace(record, cost=replace(record.cost, layers=layers)))[0])
        assert text.count("optimal") == 2 and "25.00% at most" in text

    def test_chips_and_their_sources(self, tiny: Chip) -> None:
        text = shown(chips_table([tiny]), sources_table(tiny))
        assert "buffer 4 KiB, dram" in text and "0.8 GOP/s" in text and "1 assumed, 1 memory" in text
        assert "dram: read_picojoules, write_picojoules" in text and "invented for tests" in text


class TestPage:
    def test_stands_beside_its_record_and_pictures(self, record: ChipRecord, tmp_path: Path) -> None:
        page = write_chip_report(record, tmp_path / "new")
        assert {path.name for path in page.parent.iterdir()} == {
            "report.html", "record.json", *(f"{key}.png" for key in KEYS)
        }  # fmt: skip
        assert ChipRecord.from_json((page.parent / "record.json").read_text()) == record
        text = page.read_text("utf-8")
        assert "all at once" in text and "invented for tests" in text and "Benchmark card" in text

    def test_draws_the_loops_where_there_is_a_mapping(self, record: ChipRecord, tmp_path: Path) -> None:
        extents = record.cost.layers[0].layer.extents
        temporal = tuple((loop, size) for loop, size in extents.items() if size > 1)
        mapping = Mapping({"rows": ()}, temporal, 0, {operand: (1,) for operand in ("I", "W", "O")})  # type: ignore[dict-item]
        layers = (replace(record.cost.layers[0], mapping=mapping), *record.cost.layers[1:])
        text = write_chip_report(replace(record, cost=replace(record.cost, layers=layers)), tmp_path).read_text("utf-8")
        assert "for k in 8" in text and "buffer holds" in text

    def test_what_a_file_says_is_never_run(self, record: ChipRecord, tmp_path: Path) -> None:
        chip = replace(record.cost.chip, title=HOSTILE, validated=HOSTILE)
        hostile = replace(record, network=HOSTILE, command=HOSTILE, cost=replace(record.cost, chip=chip))
        assert HOSTILE not in write_chip_report(hostile, tmp_path).read_text("utf-8")

    def test_a_folder_that_cannot_be_made(self, record: ChipRecord, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DovetailError, match="cannot be made"):
            write_chip_report(record, tmp_path / "file")


class TestBenchmarkCard:
    def test_says_all_that_is_needed_to_compare(self, record: ChipRecord) -> None:
        card = benchmark_card(record)
        assert card.batch == 2 and card.bits == ("8 x 8",) and card.area_mm2 == 2.5
        assert card.macs == card.nonzero_macs == sum(layer.layer.macs for layer in record.cost.layers) / 2
        assert card.throughput == pytest.approx(2 / record.cost.seconds)
        assert card.off_chip_bytes == sum(off_chip_bits(layer, record.cost.chip) for layer in record.cost.layers) / 16
        assert len(card.rows()) == 12

    def test_zeros_do_not_count_as_operations(self, record: ChipRecord) -> None:
        first = record.cost.layers[0]
        sparse = replace(first, layer=replace(first.layer, density={"I": 0.5, "W": 0.5}))
        card = benchmark_card(replace(record, cost=replace(record.cost, layers=(sparse,))))
        assert card.nonzero_macs == card.macs / 4

    @pytest.mark.parametrize(
        "missing", ["area_mm2", "power_milliwatts", "off_chip_bytes", "batch", "bits", "utilisation"]
    )
    def test_refuses_to_be_without(self, record: ChipRecord, missing: str) -> None:
        with pytest.raises(TargetError, match=f"net on tiny needs {missing.replace('_', ' ')}"):
            replace(benchmark_card(record), **{missing: () if missing == "bits" else 0})

    def test_a_page_says_what_is_missing(self, record: ChipRecord, tmp_path: Path) -> None:
        chip = replace(record.cost.chip, area_mm2=None)
        page = write_chip_report(replace(record, cost=replace(record.cost, chip=chip)), tmp_path)
        assert "needs area mm2, got None" in page.read_text("utf-8")


class TestBesideTheChip:
    def alexnet(self, batch: int) -> ChipCost:
        """AlexNet's convolutions on Eyeriss, with the chip's own passes."""
        chip, network = Chip.load("eyeriss"), EYERISS_ALEXNET
        layers = [(network.layers[name].layer(name, batch), passes) for name, passes in network.passes.items()]
        return ChipCost(chip, tuple(row_stationary_cost(chip, *each) for each in layers), batch)

    def test_a_network_that_was_measured_is_shown_so(self) -> None:
        page = beside_published(self.alexnet(4))
        assert EYERISS_ALEXNET.source in page and "the passes that its designers chose" in page
        assert page.count("<tr>") == 6
        for measured in EYERISS_ALEXNET.measured.values():
            assert all(f">{value:,.1f}</td>" in page for value in measured)

    def test_the_bars_of_a_paper_stand_beside_ours(self) -> None:
        chip, layers = Chip.load("eyeriss_isca"), tuple(EYERISS_ISCA_LAYERS.values())
        cost = ChipCost(chip, layer_costs(chip, layers), 16)
        beside = energy_beside_published(cost)
        assert beside is not None and Image.open(io.BytesIO(picture(beside))).width > 1000
        for level, series in enumerate(beside.series):
            for name, ours, paper in zip(EYERISS_ISCA, series.values[::2], series.values[1::2], strict=True):
                assert paper == EYERISS_ISCA[name][level] and ours == pytest.approx(paper, rel=0.15, abs=0.01)
        assert energy_beside_published(replace(cost, layers=cost.layers[1:])) is None
        assert energy_beside_published(self.alexnet(16)) is None

    def test_others_are_not(self, record: ChipRecord) -> None:
        assert not beside_published(self.alexnet(1)) and not beside_published(record.cost)
        other = self.alexnet(4)
        assert not beside_published(replace(other, chip=replace(other.chip, name="mine")))
