"""The page in a real browser: all is drawn, nothing sticks out, nothing is fetched, nothing that a file says is run."""

import io
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, ElementHandle, Page, sync_playwright

from dovetail.errors import DovetailError
from dovetail.evaluation import Record
from dovetail.hardware import ChipRecord
from dovetail.report import write_chip_report, write_report
from dovetail.report.charts import charts
from dovetail.report.chip_charts import chip_charts

from .conftest import HOSTILE, build_record

WIDTHS = {"wide": 1280, "tablet": 800, "phone": 390}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        installed = (shutil.which(name) for name in NAMES)
        path = os.environ.get("CHROME") or next((found for found in installed if found), None)
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.fail(
                "The report is looked at in Chromium, and there is none: install the package chromium or "
                "google-chrome, run `python -m playwright install chromium`, or name an executable in CHROME"
            )
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([record], tmp_path_factory.mktemp("report"))


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page that notes every error, every dialogue and every request beyond the report itself."""
    page = browser.new_page(viewport={"width": WIDTHS["wide"], "height": 900})
    page.set_default_timeout(120_000)
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialogue: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url.endswith("/report.html") else complaints.append(request.url))
    yield page
    page.close()


def plots(page: Page) -> list[ElementHandle]:
    return page.query_selector_all(".js-plotly-plot")


def wait_until(page: Page, condition: str) -> None:
    """Wait for a JavaScript expression to hold. Playwright's own waiting evals in the page; its policy forbids that."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never became true: {condition}")


class TestInABrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_plot_is_drawn(
        self, page: Page, report: Path, record: Record, complaints: list[str], scheme: str, tmp_path: Path
    ) -> None:
        page.emulate_media(color_scheme=scheme)
        page.goto(report.as_uri())
        expected = charts(record)
        found = plots(page)
        assert len(found) == len(expected)
        whole = Image.open(io.BytesIO(page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True))).convert("RGB")
        for plot, chart in zip(found, expected, strict=True):
            assert plot.query_selector("svg.main-svg"), chart.key
            assert plot.evaluate("plot => plot.data.length") == len(chart.series)
            drawn = plot.evaluate("plot => plot.querySelectorAll('.trace').length")
            assert drawn == len(chart.series), chart.key
            box = plot.bounding_box()
            assert box is not None
            image = whole.crop((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]))
            background = image.getpixel((1, 1))
            inked = sum(count for count, colour in image.getcolors(1 << 24) or () if colour != background)
            assert inked > 0.01 * image.width * image.height, f"{chart.key} is almost blank"
        assert not complaints

    @pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
    def test_nothing_sticks_out_or_overlaps(self, page: Page, report: Path, width: int, complaints: list[str]) -> None:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for plot in plots(page):
            box = plot.bounding_box()
            assert box is not None
            texts = [text.bounding_box() for text in plot.query_selector_all(".ytick text, .annotation-text")]
            for text in texts:
                assert text is not None
                assert text["x"] >= box["x"] - 1 and text["x"] + text["width"] <= box["x"] + box["width"] + 1
            labels = [text.bounding_box() for text in plot.query_selector_all(".ytick text")]
            for above, below in itertools.pairwise(labels):
                assert above is not None and below is not None
                assert abs(above["y"] - below["y"]) >= min(above["height"], below["height"]) - 2
        for card in page.query_selector_all(".card"):
            assert card.evaluate("card => card.scrollWidth <= card.clientWidth")
        assert not complaints

    def test_changing_to_dark_recolours_the_plots(self, page: Page, report: Path, complaints: list[str]) -> None:
        page.emulate_media(color_scheme="light")
        page.goto(report.as_uri())
        colour = "() => document.querySelector('.js-plotly-plot').layout.font.color"
        light = page.evaluate(colour)
        page.emulate_media(color_scheme="dark")
        wait_until(page, f"({colour})() !== '{light}'")
        assert not complaints

    def test_a_click_on_a_heading_sorts_the_tensors(self, page: Page, report: Path, record: Record) -> None:
        page.goto(report.as_uri())
        names = "() => [...document.querySelectorAll('.tall tbody tr')].map(row => row.cells[0].textContent)"
        heading = page.locator("th button:text-is('stored')")
        heading.click()
        by_bits = [tensor.name for tensor in sorted(record.tensors, key=lambda tensor: tensor.bits)]
        assert page.evaluate(names) == by_bits
        heading.click()
        assert page.evaluate(names)[0] == max(record.tensors, key=lambda tensor: tensor.bits).name

    def test_a_click_in_the_legend_hides_a_series(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        button = page.locator("figure:has(h3:text('Latency by target')) .legend button").first
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        plot = page.locator("figure:has(h3:text('Latency by target')) .js-plotly-plot")
        assert plot.evaluate("plot => plot.data.map(trace => trace.visible ?? true)") == [False, True]

    def test_hovering_names_the_layer_and_its_number(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        page.locator("figure:has(h3:text('Density by layer')) .js-plotly-plot .point path").nth(1).hover(force=True)
        page.wait_for_selector(".hoverlayer .hovertext")
        assert "layer1.0.conv1" in (page.text_content(".hoverlayer .hovertext") or "")

    def test_measured_and_modelled_are_told_apart(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        texts = (page.locator(f".card .{part}").all_text_contents() for part in ("title", "badge"))
        badges = [list(pair) for pair in zip(*texts, strict=True)]
        assert badges == [
            ["Size", "exact"],
            ["Accuracy", "measured"],
            ["Latency, torch", "measured"],
            ["Latency, onnxruntime", "measured"],
            ["Energy, energy_45nm", "modelled"],
        ]

    def test_what_a_file_says_is_shown_and_never_run(
        self, page: Page, hostile_record: Record, tmp_path: Path, complaints: list[str]
    ) -> None:
        page.goto(write_report([hostile_record], tmp_path).as_uri())
        assert page.text_content("h1") == HOSTILE
        assert len(plots(page)) == len(charts(hostile_record))
        assert page.evaluate("document.querySelectorAll('main b').length") == 0
        assert not complaints

    def test_several_records_stand_side_by_side(self, page: Page, tmp_path: Path, complaints: list[str]) -> None:
        records = [
            build_record(blocks=1),
            build_record("lenet5 with a longer name", compressed_to=0.5, accuracy=0.902, blocks=1),
        ]
        page.goto(write_report(records, tmp_path).as_uri())
        assert len(plots(page)) == 1 + sum(len(charts(record)) for record in records)
        assert page.locator("nav a").all_text_contents() == ["resnet20", "lenet5 with a longer name"]
        page.set_viewport_size({"width": WIDTHS["phone"], "height": 900})
        plot = page.locator("figure:has(h3:text('Accuracy against size')) .js-plotly-plot")
        wait_until(page, "document.querySelector('.js-plotly-plot').getBoundingClientRect().width < 390")
        # Drawn again once the page has its new width, a while later.
        right = "text => text.getBoundingClientRect().right <= document.documentElement.clientWidth"
        wait_until(page, f"[...document.querySelectorAll('.textpoint text')].every({right})")
        (box, texts) = (plot.bounding_box(), [text.bounding_box() for text in plot.locator(".textpoint text").all()])
        assert len(texts) == 2
        for text in texts:
            assert box and text and box["x"] <= text["x"] and text["x"] + text["width"] <= box["x"] + box["width"]
        assert (tmp_path / "trade_off.png").exists() and (tmp_path / "2_lenet5_with_a_longer_name_size.png").exists()
        assert not complaints


class TestChipInABrowser:
    def test_is_drawn_and_nothing_sticks_out(
        self, page: Page, chip_record: ChipRecord, complaints: list[str], tmp_path: Path
    ) -> None:
        path = write_chip_report(chip_record, tmp_path)
        for width in WIDTHS.values():
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            assert len(plots(page)) == len(chip_charts(chip_record))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not complaints


class TestFiles:
    def test_a_picture_of_every_chart_stands_beside_the_page(self, report: Path, record: Record) -> None:
        names = {path.name for path in report.parent.iterdir()}
        assert names == {"report.html", *(f"{chart.key}.png" for chart in charts(record))}

    def test_the_page_refers_to_nothing_outside_itself(self, report: Path) -> None:
        text = report.read_text("utf-8")
        own = text.replace(text[text.index("<script>") : text.index("</script>")], "")
        for word in ("http://", "https://", " src=", "@import", "url("):
            assert word not in own
        assert "Content-Security-Policy" in own

    def test_one_record_need_not_be_in_a_list(self, record: Record, tmp_path: Path) -> None:
        assert write_report(record, tmp_path / "new" / "folder").exists()

    def test_no_record_and_a_folder_that_cannot_be_are_refused(self, record: Record, tmp_path: Path) -> None:
        with pytest.raises(DovetailError, match="at least one record"):
            write_report([], tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(DovetailError, match="cannot be made"):
            write_report([record], tmp_path / "file")
