"""Bars and rows of dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffembed.report.charts import BarChart, Panel, Series
from diffembed.report.style import (
    FAINT,
    HATCHES,
    INK,
    MARKS,
    PALETTE,
    PAPER,
    add_legend,
    colour,
    legend_height,
    new_figure,
    row_height,
    wrapped,
)

_BAR = 0.17  # inches
_TASK, _SYSTEM = 30, 36  # characters of a line of their names
_VALUES = 40  # bars that still have room for their figures

Bar = tuple[float, float, float]  # place, score, right end of whatever is drawn there


def draw(chart: BarChart, matplotlib: Any) -> Any:
    """The figure of a bar chart, by its form."""
    return _panels(chart, matplotlib) if chart.form == "panels" else _groups(chart, matplotlib)


def _groups(chart: BarChart, matplotlib: Any) -> Any:
    """One pair of axes: a group of bars, or a row of dots, for each task."""
    (panel,) = chart.panels
    tasks = chart.order
    labels = [series.label for series in panel.series]
    count, dots = len(labels), chart.form == "dots"
    least = row_height(tasks, _TASK)
    pitch = max(least, 0.26, 0.085 * count) if dots else max(least, _BAR * count + 0.14)  # inches of a task
    figure = new_figure(matplotlib, chart.title, max(1.0, pitch * len(tasks)) + 0.6 + legend_height(labels))
    axes = figure.subplots()
    step = (0.7 if dots else 0.84) / count
    handles, bars = [], list[Bar]()
    for number, series in enumerate(panel.series):
        places = [tasks.index(str(x)) + (number - (count - 1) / 2) * step for x in series.x]
        handles.append(_dots(axes, series, places) if dots else _bars(axes, series, places, step))
        _whiskers(axes, series, places, colour(series.style) if dots else INK)
        bars += _ends(series, places)
    axes.set_yticks(range(len(tasks)), [wrapped(task, _TASK) for task in tasks])
    axes.set_ylim(len(tasks) - 0.45, -0.55)
    _score_axis(axes, chart.panels, chart.x_label, values=not dots and len(bars) <= _VALUES)
    if dots:
        for border in range(1, len(tasks)):
            axes.axhline(border - 0.5, color=FAINT, linewidth=0.3)
    elif len(bars) <= _VALUES:
        _figures(axes, bars)
    add_legend(figure, handles, labels)
    return figure


def _panels(chart: BarChart, matplotlib: Any) -> Any:
    """A panel for each task with a bar for each system; their names stand at the left."""
    drawn = {str(x) for panel in chart.panels for series in panel.series for x in series.x}
    names = [name for name in chart.order if name in drawn]
    columns = min(len(chart.panels), 3)
    rows = math.ceil(len(chart.panels) / columns)
    figure = new_figure(
        matplotlib, chart.title, rows * (max(0.24, row_height(names, _SYSTEM)) * len(names) + 0.6) + 0.35
    )
    grid = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False)
    for number, (axes, panel) in enumerate(zip(grid.flat, chart.panels, strict=False)):
        axes.set_title(wrapped(panel.title, 75 // columns), loc="left")
        for series in panel.series:
            places = [float(names.index(str(x))) for x in series.x]
            _bars(axes, series, places, 0.8)
            _whiskers(axes, series, places, INK)
            _figures(axes, _ends(series, places))
        axes.set_yticks(range(len(names)), [wrapped(name, _SYSTEM) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        _score_axis(axes, chart.panels, "", values=True)
        axes.tick_params(axis="x", labelbottom=number + columns >= len(chart.panels))  # the lowest of its column
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_visible(False)
    figure.supxlabel(chart.x_label, fontsize=9)
    return figure


def _bars(axes: Any, series: Series, places: Sequence[float], thick: float) -> Any:
    hatch = HATCHES[series.style // len(PALETTE) % len(HATCHES)]
    return axes.barh(
        places, series.y, thick * 0.92, color=colour(series.style), hatch=hatch, edgecolor=PAPER, linewidth=0
    )


def _dots(axes: Any, series: Series, places: Sequence[float]) -> Any:
    mark = MARKS[series.style % len(MARKS)]
    (handle,) = axes.plot(series.y, places, mark, color=colour(series.style), markersize=4.5)
    return handle


def _whiskers(axes: Any, series: Series, places: Sequence[float], ink: str) -> None:
    for i, place in enumerate(places):
        if (ends := series.interval(i)) is not None:
            axes.plot(ends, (place, place), "-", color=ink, linewidth=1.0, solid_capstyle="butt")
        if series.seeds and series.seeds[i]:
            seeds = series.seeds[i]
            axes.plot(
                seeds, [place] * len(seeds), "o", color=PAPER, markersize=3, markeredgecolor=INK, markeredgewidth=0.7
            )


def _ends(series: Series, places: Sequence[float]) -> list[Bar]:
    return [(place, series.y[i], _right_end(series, i)) for i, place in enumerate(places)]


def _right_end(series: Series, point: int) -> float:
    return max(0.0, series.y[point], *(series.interval(point) or ()), *(series.seeds[point] if series.seeds else ()))


def _figures(axes: Any, bars: Sequence[Bar]) -> None:
    """The scores in figures, right of bars and whiskers."""
    for place, score, end in bars:
        axes.annotate(f"{score:.3f}", (end, place), (5, 0), textcoords="offset points", va="center", fontsize=7.5)


def _score_axis(axes: Any, panels: Sequence[Panel], label: str, *, values: bool) -> None:
    """The horizontal axis, with room for the figures."""
    series = [series for panel in panels for series in panel.series]
    most = max((_right_end(one, i) for one in series for i in range(len(one.y))), default=1.0) or 1.0
    low = 1.1 * min(0.0, *(y for one in series for y in one.y))
    axes.set_xlim(low, most + (most - low) * ((0.06 + 0.1 * min(len(panels), 3)) if values else 0.04))
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.locator_params(axis="x", nbins=4 if len(panels) > 1 else 8)
    if low < 0:
        axes.axvline(0, color=FAINT, linewidth=0.8)
