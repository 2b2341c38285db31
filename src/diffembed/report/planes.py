"""Matrices of scores, and documents in the plane."""

from __future__ import annotations

import math
from typing import Any

from diffembed.report.charts import Heat, HeatMap, PointMap
from diffembed.report.style import (
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

_MAP = 5.6  # inches, both ways


def draw_heat(chart: HeatMap, matplotlib: Any) -> Any:
    """A grid of matrices; each has its own range of colours, since tasks differ in what is a good score."""
    most = 1 if len(chart.columns) > 5 else 2 if len(chart.columns) > 3 else 3
    columns = min(len(chart.panels), most)
    rows = math.ceil(len(chart.panels) / columns)
    figure = new_figure(
        matplotlib, chart.title, rows * (max(0.42, row_height(chart.rows, 24)) * len(chart.rows) + 0.75) + 0.35
    )
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for number, (axes, panel) in enumerate(zip(grid.flat, chart.panels, strict=False)):
        axes.set_title(wrapped(panel.title, 66 // columns), loc="left")
        _matrix(axes, panel, matplotlib)
        axes.set_xticks(range(len(chart.columns)), [wrapped(name, 14) for name in chart.columns], fontsize=8)
        axes.set_yticks(range(len(chart.rows)), [wrapped(name, 24) for name in chart.rows])
        if number % columns == 0:
            axes.set_ylabel(chart.sides[0])
        if number + columns >= len(chart.panels):
            axes.set_xlabel(chart.sides[1])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_visible(False)
    return figure


def _matrix(axes: Any, panel: Heat, matplotlib: Any) -> None:
    known = [value for row in panel.values for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    # The darkest and the brightest end are left out: figures must be readable on every field.
    scale = matplotlib.colormaps["cividis"]
    for row, values in enumerate(panel.values):
        for column, value in enumerate(values):
            if value is None:
                axes.text(column, row, "-", ha="center", va="center")
                continue
            shade = scale(0.1 + 0.85 * (value - low) / span)
            axes.add_patch(_field(matplotlib, column, row, shade))
            spread = panel.spread[row][column]
            text = f"{value:.3f}" + (f"\n±{spread:.3f}" if spread is not None else "")
            ink = "#000000" if _luminance(shade) > 0.179 else "#ffffff"  # whichever has more contrast
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink, linespacing=1.1)
    axes.set_xlim(-0.5, len(panel.values[0]) - 0.5)
    axes.set_ylim(len(panel.values) - 0.5, -0.5)


def _field(matplotlib: Any, column: int, row: int, shade: Any) -> Any:
    return matplotlib.patches.Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=shade, linewidth=0)


def _luminance(shade: Any) -> float:
    """Relative luminance as WCAG 2 defines it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in shade[:3])
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def draw_points(chart: PointMap, matplotlib: Any) -> Any:
    """Points without axes: only who is near whom means something."""
    labels = [series.label for series in chart.series]
    figure = new_figure(matplotlib, chart.title, _MAP + legend_height(labels))
    axes = figure.subplots()
    handles = []
    for series in chart.series:
        mark = MARKS[(series.style + series.style // len(PALETTE)) % len(MARKS)]
        (handle,) = axes.plot(
            series.x,
            series.y,
            mark,
            color=colour(series.style),
            markersize=5.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.4,
        )
        handles.append(handle)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(True)
    add_legend(figure, handles, labels)
    return figure
