"""Charts as plotly figures: plain JSON, drawn in the page by plotly.js, which also colours them for light and dark."""

from __future__ import annotations

import html
import math
from typing import Any

from dovetail.report.charts import BEFORE, Chart, Series, format_number

FONT_SIZE = 12
ROW_HEIGHT = {"bars": 26, "stacked": 30, "line": 26}
ROW_HEIGHT_PER_SERIES = 16
AXIS_HEIGHT = 46
SCATTER_HEIGHT = 320
CHARACTER_WIDTH = 7.2
"""Of the digits and letters of a font of 12 pixels, in pixels, generously."""


def figure(chart: Chart) -> dict[str, Any]:
    """The chart as {"data": traces, "layout": layout}, without the colours that depend on the page's theme."""
    return _scatter(chart) if chart.kind == "scatter" else _rows(chart)


def height(chart: Chart) -> int:
    """Height of the drawing in pixels."""
    if chart.kind == "scatter":
        return SCATTER_HEIGHT
    row = ROW_HEIGHT[chart.kind]
    if chart.kind == "bars" and len(chart.series) > 1:
        row = ROW_HEIGHT_PER_SERIES * len(chart.series) + 14
    return row * len(chart.labels) + AXIS_HEIGHT


def _rows(chart: Chart) -> dict[str, Any]:
    """One row a label: its name at the left, its number in a column at the right, what is drawn between them."""
    draw = _points if chart.kind == "line" else _bars
    right = max((len(text) for text in chart.texts), default=0) * CHARACTER_WIDTH + 16
    beyond = 1.0 if chart.kind == "line" else 1.02
    axis: dict[str, Any] = {
        "title": {"text": chart.unit, "standoff": 6, "font": {"size": FONT_SIZE}},
        "zeroline": False,
        "nticks": 6,
    }
    if chart.kind != "line":
        axis |= {"range": [0, beyond * chart.largest or 1]}
    return {
        "data": [draw(chart, series) | _offset(chart, index) for index, series in enumerate(chart.series)],
        "layout": _layout(chart)
        | {
            "barmode": ("overlay" if chart.starts else "stack") if chart.kind == "stacked" else "group",
            "bargap": 0.35,
            "margin": {"l": 8, "r": right, "t": 4, "b": AXIS_HEIGHT - 4},
            "xaxis": axis,
            "yaxis": {
                "tickvals": list(range(len(chart.labels))),
                "ticktext": [html.escape(label) for label in chart.short_labels],
                "range": [len(chart.labels) - 0.5, -0.5],
                "automargin": True,
                "ticks": "",
                "ticklabelstandoff": 8,
                "showgrid": chart.kind == "line",
                "zeroline": False,
            },
            "annotations": [
                {
                    "x": 1,
                    "xref": "paper",
                    "xanchor": "left",
                    "xshift": 8,
                    "y": row,
                    "text": html.escape(text),
                    "showarrow": False,
                    "align": "left",
                }
                for row, text in enumerate(chart.texts)
            ],
        },
    }


def _layout(chart: Chart) -> dict[str, Any]:
    return {
        "height": height(chart),
        "font": {"size": FONT_SIZE},
        "showlegend": False,
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
    }


def _trace(chart: Chart, series: Series) -> dict[str, Any]:
    """What bars and points have in common."""
    words = [[html.escape(label), html.escape(_describe(chart, series, row))] for row, label in enumerate(chart.labels)]
    return {
        "name": html.escape(series.name),
        "x": list(series.values),
        "y": list(range(len(chart.labels))),
        "customdata": words,
        "hovertemplate": "%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    }


def _describe(chart: Chart, series: Series, row: int) -> str:
    value = series.values[row]
    if value is None:
        return ""
    words = f"{series.name}: {format_number(value)} {chart.unit}"
    low, high = (ends[row] if ends else None for ends in (series.low, series.high))
    if low is not None and high is not None:
        words += f" ({format_number(low)} to {format_number(high)})"
    return words


def _bars(chart: Chart, series: Series) -> dict[str, Any]:
    trace = _trace(chart, series) | {"type": "bar", "orientation": "h", "marker": {"color": series.colour}}
    if series.low and series.high:
        ends = list(zip(series.values, series.low, series.high, strict=True))
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [0 if v is None or high is None else high - v for v, _, high in ends],
            "arrayminus": [0 if v is None or low is None else v - low for v, low, _ in ends],
            "thickness": 1.5,
            "width": 4,
        }
    return trace


def _offset(chart: Chart, index: int) -> dict[str, Any]:
    """Where the bars of a series begin, in a chart whose rows have starts; plotly stacks from 0 only."""
    return {"base": [ends[index] for ends in chart.ends()]} if chart.starts else {}


def _points(chart: Chart, series: Series) -> dict[str, Any]:
    return _trace(chart, series) | {
        "type": "scatter",
        "mode": "lines+markers",
        "line": {"color": series.colour, "width": 2},
        "marker": {"color": series.colour, "size": 8},
        "cliponaxis": False,
    }


def _scatter(chart: Chart) -> dict[str, Any]:
    """Points with their labels beside them, towards the middle, so that none is cut off."""
    low, high = min(chart.positions), max(chart.positions)
    sides = [f"{'bottom' if chart.curve else 'middle'} {side}" for side in sides_of(chart)]
    traces = [
        _points(chart, series)
        | {"mode": "markers+text", "text": [html.escape(text) for text in chart.texts], "textposition": sides}
        | {"x": list(chart.positions), "y": list(series.values)}
        for series in chart.series
    ]
    margin = 0.06 * (high - low or high)
    if chart.curve:
        return {"data": [_curve(chart), *traces], "layout": _logarithmic(chart)}
    return {
        "data": traces,
        "layout": _layout(chart)
        | {
            "margin": {"l": 56, "r": 16, "t": 12, "b": AXIS_HEIGHT},
            "xaxis": {
                "title": {"text": chart.position_unit, "font": {"size": FONT_SIZE}},
                "zeroline": False,
                "range": [low - margin, high + margin],
            },
            "yaxis": {"title": {"text": chart.unit, "font": {"size": FONT_SIZE}}, "zeroline": False},
        },
    }


def sides_of(chart: Chart) -> list[str]:
    """Of each point of a scatter: the side on which its label is nearer to the middle."""
    ends = [x for x, _ in chart.curve] or chart.positions
    low, high = min(ends), max(ends)
    middle = math.sqrt(low * high) if chart.curve else (low + high) / 2
    return ["right" if position <= middle else "left" for position in chart.positions]


def _curve(chart: Chart) -> dict[str, Any]:
    """The curve behind the points."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in chart.curve],
        "y": [y for _, y in chart.curve],
        "line": {"color": BEFORE, "width": 2},
        "hoverinfo": "skip",
    }


def _logarithmic(chart: Chart) -> dict[str, Any]:
    axis = {"type": "log", "zeroline": False, "dtick": 1, "tickformat": ",~g"}
    units = {"xaxis": chart.position_unit, "yaxis": chart.unit}
    axes = {
        name: axis | {"range": list(ends), "title": {"text": unit, "font": {"size": FONT_SIZE}}}
        for (name, unit), ends in zip(units.items(), decades(chart), strict=True)
    }
    return _layout(chart) | {"margin": {"l": 56, "r": 16, "t": 12, "b": AXIS_HEIGHT}} | axes


def decades(chart: Chart) -> tuple[tuple[int, int], tuple[int, int]]:
    """The powers of ten around all points and the curve, across and up."""
    heights = [value for series in chart.series for value in series.values if value]
    return (
        _around([*chart.positions, *(x for x, _ in chart.curve)]),
        _around([*(0.7 * value for value in heights), *(1.05 * y for _, y in chart.curve)]),  # nothing at the edge
    )


def _around(values: list[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
