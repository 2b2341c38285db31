"""Charts as PNG and SVG: the same bytes for the same chart and version of matplotlib.

Text in the SVG is text, so that a reader can search and enlarge it. matplotlib is imported when something is drawn, and
asks for no window system.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diffembed.report import bars, lines, planes
from diffembed.report.charts import BarChart, Chart, HeatMap, LineChart
from diffembed.report.style import PAPER, matplotlib_module, settings

Kind = Literal["png", "svg"]
_DPI = 150


def draw(chart: Chart, folder: Path) -> list[str]:
    """Write ``NAME.png`` and ``NAME.svg`` of a chart into a folder.

    Returns what a reader must know of the pictures: characters that no font of this machine has.

    Raises ``MissingExtraError`` where matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    svg, _ = render(chart, "svg")
    png, missing = render(chart, "png")
    (folder / f"{chart.name}.svg").write_bytes(svg)
    (folder / f"{chart.name}.png").write_bytes(png)
    if missing:
        return [f"{chart.name}.png: no font on this machine has {missing}; the SVG has them as text"]
    return []


def render(chart: Chart, kind: Kind) -> tuple[bytes, str]:
    """A chart as the bytes of a file, and the characters in it that no font of this machine has."""
    matplotlib = matplotlib_module()
    out = io.BytesIO()
    with matplotlib.rc_context(settings(chart.name)), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = _drawn(chart, matplotlib)
        if kind == "png":
            figure.savefig(out, format="png", dpi=_DPI, facecolor=PAPER, metadata={"Software": None})
        else:
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue(), _missing(caught)


def _drawn(chart: Chart, matplotlib: Any) -> Any:
    if isinstance(chart, BarChart):
        return bars.draw(chart, matplotlib)
    if isinstance(chart, LineChart):
        return lines.draw(chart, matplotlib)
    if isinstance(chart, HeatMap):
        return planes.draw_heat(chart, matplotlib)
    return planes.draw_points(chart, matplotlib)


def _missing(caught: Sequence[warnings.WarningMessage]) -> str:
    """The characters named by warnings of missing glyphs; any other warning goes on its way."""
    missing: dict[str, None] = {}
    for warning in caught:
        text = str(warning.message)
        if text.startswith("Glyph ") and " missing from " in text:
            missing[chr(int(text.split()[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return "".join(missing)
