"""Lines: a score against something that grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffembed.report.charts import FEW, Guide, LineChart, Panel, Series
from diffembed.report.labels import natural
from diffembed.report.style import (
    DASHES,
    FAINT,
    MARKS,
    PALETTE,
    PAPER,
    add_legend,
    colour,
    legend_height,
    new_figure,
    wrapped,
)

_CEILING, _LIMIT = "ceiling: what its limit leaves", "limit in tokens"
_HOLLOW = f"fewer than {FEW} queries"
_WHOLE: dict[str, Any] = {"clip_on": False, "zorder": 3}  # at 0 as well a mark is a whole one, before the axis
_DASHED, _DOTTED = (0, (4, 2)), (0, (1, 1.5))


def draw(chart: LineChart, matplotlib: Any) -> Any:
    """The figure of a line chart: one panel, or a grid of them with one legend."""
    columns = min(len(chart.panels), 3)
    rows = math.ceil(len(chart.panels) / columns)
    series = dict.fromkeys(series.label for panel in chart.panels for series in panel.series)
    guides = [guide for panel in chart.panels for guide in panel.guides]
    labels = [
        *series,
        *[_CEILING] * any(g.ceiling for g in guides),
        *[_LIMIT] * any(g.at for g in guides),
        *[_HOLLOW] * any(count < FEW for panel in chart.panels for one in panel.series for count in one.counts),
        *_marks(chart),
    ]
    figure = new_figure(matplotlib, chart.title, (3.2 if rows == 1 else rows * 2.2) + 0.4 + legend_height(labels))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for number, (axes, panel) in enumerate(zip(grid.flat, chart.panels, strict=False)):
        axes.set_title(wrapped(panel.title, 78 // columns), loc="left")
        places = _x_axis(axes, chart, panel, columns)
        for guide in panel.guides:
            _guide(axes, guide)
        for order, one in enumerate(panel.series):
            size = 1 - order / len(panel.series)  # what lies below is wider, so that equal lines can all be seen
            handles.setdefault(one.label, _line(axes, one, [places[x] for x in one.x], _marks(chart), size))
        axes.grid(axis="y")
        if number + columns >= len(chart.panels):
            axes.set_xlabel(wrapped(chart.x_label, 78 // columns))
        if number % columns == 0:
            axes.set_ylabel(wrapped(chart.y_label, 40))
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_visible(False)
    grid[0][0].set_ylim(*_range(chart.panels))
    for mark, shape in _marks(chart).items():
        (handles[mark],) = grid[0][0].plot([], [], shape, color=FAINT, markersize=5)
    (handles[_CEILING],) = grid[0][0].plot([], [], color=FAINT, linestyle=_DASHED, linewidth=1.1)
    (handles[_LIMIT],) = grid[0][0].plot([], [], color=FAINT, linestyle=_DOTTED, linewidth=1.1)
    (handles[_HOLLOW],) = grid[0][0].plot([], [], "o", color=PAPER, markersize=5, markeredgecolor=FAINT)
    add_legend(figure, [handles[label] for label in labels], labels)
    return figure


def _marks(chart: LineChart) -> dict[str, str]:
    """The shape of each mark that tells something of its own."""
    named = {mark for panel in chart.panels for series in panel.series for mark in series.marks}
    return {mark: MARKS[i % len(MARKS)] for i, mark in enumerate(sorted(named, key=natural))}


def _line(axes: Any, series: Series, x: Sequence[float], marks: dict[str, str], size: float) -> Any:
    """The line with its marks, and a band where its ends are known."""
    shade, dash = colour(series.style), DASHES[series.style // len(PALETTE) % len(DASHES)]
    mark = "" if series.marks else MARKS[series.style % len(MARKS)]
    (handle,) = axes.plot(
        x,
        series.y,
        color=shade,
        linestyle=dash,
        marker=mark,
        markersize=3.5 + 3 * size,
        linewidth=1.2 + 1.6 * size,
        **_WHOLE,
    )
    for place, y, name in zip(x, series.y, series.marks, strict=bool(series.marks)):
        axes.plot([place], [y], marks[name], color=shade, markersize=6, **_WHOLE)
    for i, count in enumerate(series.counts):
        if count < FEW:
            hollow = {"color": PAPER, "markeredgecolor": shade, "markeredgewidth": 1.2, **_WHOLE}
            axes.plot([x[i]], [series.y[i]], mark, markersize=2.5 + 3 * size, **hollow)
    ends = [end for i in range(len(x)) if (end := series.interval(i)) is not None]
    if ends and len(ends) == len(x):
        low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=shade, alpha=0.14, linewidth=0)
    return handle


def _guide(axes: Any, guide: Guide) -> None:
    if guide.at is not None:
        axes.axvline(guide.at, color=colour(guide.style), linewidth=1.1, linestyle=_DOTTED, zorder=1)
    if guide.ceiling:
        x, y = zip(*guide.ceiling, strict=True)
        axes.plot(x, y, color=colour(guide.style), linewidth=1.1, linestyle=_DASHED, zorder=1.5)


def _x_axis(axes: Any, chart: LineChart, panel: Panel, columns: int) -> dict[float | str, float]:
    """Scale and ticks of a panel, and the place of each x on it."""
    values = list(dict.fromkeys(x for series in panel.series for x in series.x))
    most = 12 // columns  # ticks that have room
    if chart.scale == "order":
        names = sorted(map(str, values), key=natural)
        shown = [name if number in _spread(len(names), most) else "" for number, name in enumerate(names)]
        axes.set_xticks(range(len(names)), [wrapped(name, 12) for name in shown])
        return {value: float(names.index(str(value))) for value in values}
    numbers = sorted(x for x in values if not isinstance(x, str))
    if chart.scale != "linear":
        axes.set_xscale("log", base=2 if chart.scale == "log2" else 10)
        axes.minorticks_off()
        ticks = [numbers[number] for number in _spread(len(numbers), most)]
        axes.set_xticks(ticks, [short(tick) for tick in ticks])
    else:
        axes.locator_params(axis="x", nbins=max(5, most - 2))
        if numbers[-1] >= 1000:
            axes.xaxis.set_major_formatter("{x:,.0f}")
    return {number: number for number in numbers}


def _spread(count: int, most: int) -> list[int]:
    """At most so many of ``count`` places, evenly, the last among them.

    >>> _spread(5, 8), _spread(8, 4)
    ([0, 1, 2, 3, 4], [1, 3, 5, 7])
    """
    step = math.ceil(count / most)
    return sorted(range(count - 1, -1, -step))


def _range(panels: Sequence[Panel]) -> tuple[float, float]:
    """Of the scores: from 0, and to 1 where some come near it."""
    series = [series for panel in panels for series in panel.series]
    values = [*(y for one in series for y in one.y), *(high for one in series for high in one.high if high is not None)]
    most, least = max(values), min(0.0, *values)
    return least * 1.1, 1.04 if 0.6 < most <= 1 else (most * 1.12 or 1.0)


def short(number: float) -> str:
    """A number for a tick.

    >>> [short(n) for n in (48, 512, 4096, 32768, 10_000, 1_500_000, 0.25, 3_000)]
    ['48', '512', '4k', '32k', '10k', '1.5M', '0.25', '3k']
    """
    for size, sign in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{sign}"
    if number >= 1024 and number % 1024 == 0:
        return f"{number / 1024:g}k"
    return f"{number / 1e3:g}k" if number >= 1000 else f"{number:g}"
