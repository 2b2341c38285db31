"""What a figure shows, as plain values: panels, series, and the words that say it to who cannot see it.

Nothing here draws (``figures.py`` does) or chooses what is worth drawing (``choosing.py`` does): every chart can be
tested, told as a table and read aloud without matplotlib.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from diffembed.report.tables import Cell, Score, Table

FEW = 10  # queries: a score of fewer says little
COLOURS = 7  # that a reader with any colour vision tells apart
GREY = COLOURS - 1  # the style of bars that no colour tells apart
GROUPED, DOTTED, PANELS = 10, 40, 12  # tasks in one chart of groups, of dots, of panels

T = TypeVar("T")
Form = Literal["groups", "dots", "panels"]
Scale = Literal["linear", "log2", "log10", "order"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or the bars of one colour.

    Attributes:
        label: in the legend.
        x: numbers, or names where the axis has no scale.
        y: ``[points]``.
        low, high: ``[points]`` ends of the intervals; ``None`` where none is known.
        seeds: ``[points]`` the score of each seed, empty where there is one.
        style: which colour and mark; the same model has the same one throughout a report.
        marks: ``[points]`` which mark a point has, where marks tell something of their own.
        counts: ``[points]`` queries behind a score, where they differ; below ``FEW`` a mark is hollow.
    """

    label: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    seeds: tuple[tuple[float, ...], ...] = ()
    style: int = 0
    marks: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    def interval(self, point: int) -> tuple[float, float] | None:
        """The interval of a point, if one is known."""
        low = self.low[point] if self.low else None
        high = self.high[point] if self.high else None
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True, slots=True)
class Guide:
    """What bounds a system: its limit (``at``), and the score that this limit leaves to be had (``ceiling``).

    ``style`` is that of the system.
    """

    style: int
    at: float | None = None
    ceiling: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]
    guides: tuple[Guide, ...] = ()


@dataclass(frozen=True, slots=True)
class _Said:
    """Attributes:
    name: of the files.
    title: over the figure.
    alt: what the picture shows, in one or two sentences.
    caption: what a reader must know; may be empty.
    """

    name: str
    title: str
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class BarChart(_Said):
    """Systems side by side on every task.

    ``form``: ``groups`` (a group of bars for each task), ``dots`` (a row of dots for each task, where there are many)
    or ``panels`` (a panel for each task with a bar for each system, where there are many systems or one task).
    ``order``: of what stands at the axis, from the top.
    """

    panels: tuple[Panel, ...]
    order: tuple[str, ...]
    x_label: str
    form: Form = "groups"

    def table(self) -> Table:
        """Every bar."""
        rows: list[tuple[Cell, ...]] = []
        for panel in self.panels:
            for series in panel.series:
                for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
                    task, system = (panel.title, str(x)) if self.form == "panels" else (str(x), series.label)
                    rows.append((task, system, Score(y, *(series.interval(i) or ()))))
        return Table(self.name, self.title, ("task", "system", "score"), tuple(rows))


@dataclass(frozen=True, slots=True)
class LineChart(_Said):
    """A score against something that grows, in one or several panels."""

    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    scale: Scale = "linear"

    def table(self) -> Table:
        """Every point."""
        rows: list[tuple[Cell, ...]] = []
        for panel in self.panels:
            for series in panel.series:
                for i, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
                    place = x if isinstance(x, str) else int(x) if float(x).is_integer() else x
                    rows.append((panel.title, series.label, place, Score(y, *(series.interval(i) or ()))))
        return Table(self.name, self.title, ("panel", "system", self.x_label, "score"), tuple(rows))


@dataclass(frozen=True, slots=True)
class Heat:
    """One matrix. ``values`` and ``spread`` are ``[rows][columns]``; ``spread`` is half the range over the seeds."""

    title: str
    values: tuple[tuple[float | None, ...], ...]
    spread: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class HeatMap(_Said):
    """Two settings against each other, a matrix for each task; ``sides`` are the settings of rows and columns."""

    panels: tuple[Heat, ...]
    sides: tuple[str, str]
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    def table(self) -> Table:
        """Every field."""
        lines: list[tuple[Cell, ...]] = [
            (panel.title, row, *(None if value is None else Score(value) for value in values))
            for panel in self.panels
            for row, values in zip(self.rows, panel.values, strict=True)
        ]
        return Table(self.name, self.title, ("task", "", *self.columns), tuple(lines))


@dataclass(frozen=True, slots=True)
class PointMap(_Said):
    """Documents in the plane, coloured by label: ``series`` holds one label each, with x and y as numbers."""

    series: tuple[Series, ...]

    def table(self) -> Table:
        """How many documents each label has."""
        rows = tuple((one.label, len(one.x)) for one in self.series)
        return Table(self.name, self.title, ("label", "documents"), rows)


Chart = BarChart | LineChart | HeatMap | PointMap


def pages(items: Sequence[T], size: int, name: str, title: str) -> list[tuple[str, str, list[T]]]:
    """The items in even parts of at most ``size``, with a name and a title for each.

    >>> pages(["a", "b", "c"], 2, "beir-scores", "beir")
    [('beir-scores-1', 'beir (1 of 2)', ['a', 'b']), ('beir-scores-2', 'beir (2 of 2)', ['c'])]
    """
    parts = math.ceil(len(items) / size)
    if parts < 2:
        return [(name, title, list(items))] if items else []
    even, rest = math.ceil(len(items) / parts), iter(items)
    return [(f"{name}-{i + 1}", f"{title} ({i + 1} of {parts})", list(islice(rest, even))) for i in range(parts)]


def slug(*names: str) -> str:
    """Names as the name of a file.

    >>> slug("MTEB(Code, v1)", "", "scores")
    'mteb-code-v1-scores'
    """
    return "-".join(part for name in names if (part := re.sub(r"[^\w.]+", "-", name.casefold()).strip("-."))) or "chart"


def count(items: Sequence[object] | Mapping[str, object], noun: str) -> str:
    """
    >>> count(["a", "b"], "task"), count(["a"], "task")
    ('2 tasks', '1 task')
    """
    return f"{len(items)} {noun}" + "s" * (len(items) != 1)


def trend(panels: Sequence[Panel]) -> str:
    """First and last point of each line of the first panels."""
    told = [
        f"{panel.title + ', ' if panel.title else ''}{series.label}: from {series.y[0]:.3f} at {_plain(series.x[0])} "
        f"to {series.y[-1]:.3f} at {_plain(series.x[-1])}"
        for panel in panels[:4]
        for series in panel.series[:6]
    ]
    return "; ".join(told) + "." if told else ""


def _plain(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}" if x >= 10 or float(x).is_integer() else f"{x:g}"
