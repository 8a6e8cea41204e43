"""Charts as PNG pictures, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullFormatter

from dovetail.report.charts import BEFORE, Chart, Series
from dovetail.report.figures import decades, height, sides_of

WIDTH_INCHES, DOTS_PER_INCH = 7.5, 160
PIXELS_PER_INCH = 80
"""Of the page's heights, so that a picture has its proportions."""
TITLE_INCHES, MARGIN = 0.9, 0.12
INK, FAINT = "#1e293b", "#cbd5e1"


def picture(chart: Chart) -> bytes:
    """The chart as a PNG on white."""
    size = (WIDTH_INCHES, height(chart) / PIXELS_PER_INCH + TITLE_INCHES)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout=ConstrainedLayoutEngine(w_pad=MARGIN, h_pad=MARGIN))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(chart.title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=12)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="both" if chart.kind == "scatter" else "x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    if chart.kind == "scatter":
        _draw_scatter(chart, axes)
    else:
        _draw_rows(chart, axes)
    if chart.has_legend:
        figure.legend(loc="outside lower center", ncols=min(len(chart.series), 4), frameon=False, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw_rows(chart: Chart, axes: Axes) -> None:
    rows = range(len(chart.labels))
    for index, series in enumerate(chart.series):
        if chart.kind == "line":
            axes.plot(_numbers(series.values), rows, "o-", color=series.colour, label=series.name)
        elif chart.kind == "stacked":
            begins = [ends[index] for ends in chart.ends()]
            axes.barh(rows, _numbers(series.values), 0.65, begins, color=series.colour, label=series.name)
        else:
            _draw_bars(chart, series, index, axes)
    axes.set_yticks(rows, chart.short_labels)
    axes.set_ylim(len(chart.labels) - 0.5, -0.5)
    if chart.kind != "line":
        axes.set_xlim(0, 1.02 * chart.largest or 1)
    axes.set_xlabel(chart.unit, color=INK, fontsize=9)
    for row, text in enumerate(chart.texts):
        axes.annotate(
            text,
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
            annotation_clip=False,
        )


def _draw_bars(chart: Chart, series: Series, index: int, axes: Axes) -> None:
    """The bars of one series, beside those of the others."""
    thickness = 0.7 / len(chart.series)
    middle = (len(chart.series) - 1) / 2
    places = [row + (index - middle) * thickness for row in range(len(chart.labels))]
    values = _numbers(series.values)
    spread = None
    if series.low and series.high:
        low = [0.0 if end is None else v - end for v, end in zip(values, series.low, strict=True)]
        high = [0.0 if end is None else end - v for v, end in zip(values, series.high, strict=True)]
        spread = [low, high]
    whiskers = {"ecolor": INK, "capsize": 2, "elinewidth": 1}
    axes.barh(places, values, thickness, color=series.colour, label=series.name, xerr=spread, error_kw=whiskers)


def _draw_scatter(chart: Chart, axes: Axes) -> None:
    below = 10 if chart.curve else 0
    if chart.curve:
        axes.plot(*zip(*chart.curve, strict=True), color=BEFORE, linewidth=2)
    for series in chart.series:
        values = _numbers(series.values)
        axes.plot(chart.positions, values, "o", color=series.colour, markersize=8)
        for position, value, text, where in zip(chart.positions, values, chart.texts, sides_of(chart), strict=True):
            offset, side = (9, "left") if where == "right" else (-9, "right")
            axes.annotate(
                text, (position, value), (offset, -below), textcoords="offset points", ha=side, va="center", fontsize=9
            )
    if chart.curve:
        across, up = decades(chart)
        axes.set(xscale="log", yscale="log", xlim=[10.0**end for end in across], ylim=[10.0**end for end in up])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.9g}")
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.margins(0.06, 0.15)
    axes.set_xlabel(chart.position_unit, color=INK, fontsize=9)
    axes.set_ylabel(chart.unit, color=INK, fontsize=9)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [0.0 if value is None else value for value in values]
