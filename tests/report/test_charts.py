"""Charts say what the record says, and both ways of drawing them take every chart."""

import io
import math

import plotly.graph_objects as go
import pytest
from PIL import Image

from dovetail.evaluation import Record
from dovetail.report.charts import Chart, charts, format_bytes, format_number, shorten, trade_off
from dovetail.report.figures import figure, height
from dovetail.report.pictures import picture

KEYS = (
    "size",
    "accuracy_by_step",
    "size_by_step",
    "parts",
    "latency",
    "energy_45nm_by_level",
    "energy_45nm_by_operand",
    "tensors",
    "density",
    "bits_per_weight",
    "sensitivity0",
)


@pytest.fixture(scope="module")
def by_key(record: Record) -> dict[str, Chart]:
    return {chart.key: chart for chart in (*charts(record), trade_off([record, record]))}


def total(chart: Chart, row: int) -> float:
    return math.fsum(series.values[row] or 0.0 for series in chart.series)


def test_a_full_record_gives_every_chart(record: Record) -> None:
    assert tuple(chart.key for chart in charts(record)) == KEYS


@pytest.mark.parametrize("key", [*KEYS, "trade_off"])
class TestEveryChart:
    def test_has_a_value_for_every_label(self, by_key: dict[str, Chart], key: str) -> None:
        chart = by_key[key]
        assert chart.title and chart.note and chart.unit
        assert all(len(series.values) == len(chart.labels) for series in chart.series)
        assert len(chart.texts) == len(chart.labels)

    def test_is_a_figure_that_plotly_accepts(self, by_key: dict[str, Chart], key: str) -> None:
        assert len(go.Figure(figure(by_key[key])).data) == len(by_key[key].series)

    def test_is_a_picture_with_something_on_it(self, by_key: dict[str, Chart], key: str) -> None:
        image = Image.open(io.BytesIO(picture(by_key[key]))).convert("RGB")
        colours = {tuple(bytes.fromhex(series.colour[1:])) for series in by_key[key].series if any(series.values)}
        found = {colour for _, colour in image.getcolors(1 << 24) or ()}
        assert len(colours & found) >= min(len(colours), 3)
        assert image.width > 1000 and image.height > height(by_key[key])


class TestNumbers:
    def test_sizes_are_those_of_the_file(self, record: Record, by_key: dict[str, Chart]) -> None:
        size = by_key["size"]
        assert size.unit == "MB" and total(size, 0) * 1e6 == pytest.approx(record.original_bytes)
        assert total(size, 1) * 1e6 == pytest.approx(record.file_bytes)
        parts = by_key["parts"]
        assert sum(total(parts, row) for row in range(len(parts.labels))) * 1e3 == pytest.approx(record.file_bytes)

    def test_the_bytes_by_layer_are_those_of_all_tensors(self, record: Record, by_key: dict[str, Chart]) -> None:
        chart = by_key["tensors"]
        bits = sum(tensor.bits for tensor in record.tensors)
        assert sum(total(chart, row) for row in range(len(chart.labels))) * 8e3 == pytest.approx(bits)
        assert chart.labels[-1] == "38 other tensors"

    def test_energy_rows_sum_to_the_energy(self, record: Record, by_key: dict[str, Chart]) -> None:
        for view in ("level", "operand"):
            chart = by_key[f"energy_45nm_by_{view}"]
            for row, costs in enumerate((record.original_costs, record.costs)):
                assert total(chart, row) == pytest.approx(costs[-1].quantities["energy"].value)
            assert "not measured" in chart.note

    def test_latency_has_its_spread(self, by_key: dict[str, Chart]) -> None:
        chart = by_key["latency"]
        assert chart.note.startswith("Measured")
        for series in chart.series:
            assert all(
                low < value < high for low, value, high in zip(series.low, series.values, series.high, strict=True)
            )

    def test_without_an_original_there_are_no_rows_before(self, record: Record) -> None:
        alone = {field: getattr(record, field) for field in record.__dataclass_fields__}
        alone |= {"original_costs": (), "history": (), "original_accuracy": None}
        found = {chart.key: chart for chart in charts(Record(**alone))}
        assert found["energy_45nm_by_level"].labels == ("after",)
        assert [series.name for series in found["latency"].series] == ["compressed"]
        assert "accuracy_by_step" not in found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00012, "0.00012"),
        (0.1234, "0.123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (999.4, "999"),
        (12345, "12,345"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_bytes_have_a_unit_of_thousands() -> None:
    assert [format_bytes(count) for count in (0, 999, 1000, 39_800, 1_720_000, 5e9)] == [
        "0 B",
        "999 B",
        "1.00 KB",
        "39.8 KB",
        "1.72 MB",
        "5.00 GB",
    ]


def test_long_labels_lose_their_middle() -> None:
    assert shorten("conv1") == "conv1"
    assert shorten("features.denseblock4.denselayer16.conv2") == "features.de…yer16.conv2"
