"""Words and names of charts: what they are called, and what is said of them to who cannot see them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TypeVar

from diffembed.report.charts import Panel

T = TypeVar("T")

COLOURS = 7  # that a reader with any colour vision tells apart
GROUPED, DOTTED, PANELS = 10, 40, 12  # tasks in one chart of groups, of dots, of panels


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
