"""Every figure, drawn from a small results file: there, the same each time, and no text over another."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.report.sample import result

from diffembed.errors import MissingExtraError
from diffembed.report import figures
from diffembed.report.charts import COLOURS, BarChart, Chart, LineChart, Panel, PointMap, Series
from diffembed.report.choosing import charts_of
from diffembed.report.collection import collect
from diffembed.report.figures import render
from diffembed.report.report import Report
from diffembed.report.style import INK, PALETTE, PAPER, matplotlib_module, settings

matplotlib = pytest.importorskip("matplotlib")

KINDS = [
    "beir-scores",
    "tongues-many-language",
    "longdoc-length",
    "longdoc-depth",
    "scale-documents",
    "amount-samples",
    "widths-scores",
    "widths-bytes",
    "study-scores",
    "study-backbone-pooling",
]


def chart_of(report: Report, name: str) -> Chart:
    return next(chart for chart in report.charts if chart.name == name)


def map_chart() -> PointMap:
    series = [Series(f"concept {n}", (n / 2, n + 1.0), (0.5, float(n)), style=n) for n in range(9)]
    return PointMap("map", "A map of concepts", "18 documents in the plane.", "", tuple(series))


@pytest.mark.parametrize("name", KINDS)
def test_the_figure_is_drawn(name: str, report: Report, written: Path) -> None:
    png = (written / "figures" / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert width == 1140
    assert 200 < height < 2500
    root = ElementTree.parse(written / "figures" / f"{name}.svg").getroot()
    text = "\n".join("".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text"))
    chart = chart_of(report, name)
    assert chart.title.split()[0] in text
    words = chart.order if isinstance(chart, BarChart) else [row[0] for row in chart.table().rows]
    assert {str(word) for word in words if word} <= set(text.splitlines())
    assert {series.label for panel in getattr(chart, "panels", ()) for series in getattr(panel, "series", ())} <= {
        *text.splitlines(),
        "",
    }


@pytest.mark.parametrize("name", ["beir-scores", "longdoc-length", "study-backbone-pooling"])
def test_the_bytes_are_the_same_each_time(name: str, report: Report, written: Path) -> None:
    for kind in ("svg", "png"):
        drawn, missing = render(chart_of(report, name), kind)  # type: ignore[arg-type]
        assert drawn == (written / "figures" / f"{name}.{kind}").read_bytes()
        assert missing == ""
    svg = (written / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    assert not re.search(r"<dc:date>|Matplotlib v", svg)


def overlaps(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts of a drawn figure whose boxes share a place, and texts that leave the figure."""
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    unused = _unused(figure)
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if id(t) not in unused]
    page = figure.bbox
    found = [(name, "the border") for name, box in boxes if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1]
    for i, (name, box) in enumerate(boxes):
        for other, its in boxes[i + 1 :]:
            wide, high = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
            if wide > 1 and high > 2:
                found.append((name, other))
    return found


def _unused(figure: Any) -> set[int]:
    """Texts that are not drawn: labels of ticks outside the limits of their axis, and all of a hidden panel."""
    unused: set[int] = set()
    for axes in figure.axes:
        if not axes.get_visible():
            unused |= {id(text) for text in axes.findobj(matplotlib.text.Text)}
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(tick) for tick in axis._update_ticks()}
            ticks = [tick for tick in axis.get_major_ticks() if id(tick) not in drawn]
            unused |= {id(text) for tick in ticks for text in (tick.label1, tick.label2)}
    return unused


def drawn(chart: Chart) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(settings(chart.name)):
        figure = figures._drawn(chart, matplotlib_module())
        FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("name", KINDS)
def test_no_text_lies_over_another(name: str, report: Report) -> None:
    assert overlaps(drawn(chart_of(report, name))) == []


def test_the_test_of_overlaps_sees_one() -> None:
    figure = drawn(map_chart())
    figure.axes[0].text(1, 1, "one")
    figure.axes[0].text(1, 1.01, "another")
    figure.canvas.draw()
    assert overlaps(figure) == [("one", "another")]


@pytest.mark.parametrize(("tasks", "models"), [(14, 3), (3, 11)])
def test_long_names_and_many_systems_leave_the_text_readable(tasks: int, models: int) -> None:
    name = "a-model-with-a-name-that-is-longer-than-a-line-of-the-legend-takes"
    results = [
        result("b", f"a-set-with-a-rather-long-name-{task}", f"{name}-{model}", skill=0.9, queries=9)
        for task in range(tasks)
        for model in range(models)
    ]
    for chart in charts_of(collect([(one, "") for one in results]), "b"):
        assert overlaps(drawn(chart)) == []


def test_the_lowest_panel_of_each_column_has_the_figures_of_its_axis() -> None:
    results = [result("b", f"t{task}", f"m{model}", skill=0.5, queries=2) for task in range(5) for model in range(9)]
    (chart,) = charts_of(collect([(one, "") for one in results]), "b")
    panels = [axes for axes in drawn(chart).axes if axes.get_visible()]
    told = [any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks()) for axes in panels]
    assert told == [False, False, True, True, True]


def test_a_map_has_a_mark_and_a_colour_for_each_label() -> None:
    figure = drawn(map_chart())
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 9
    assert len({colour for colour, _ in looks}) == len(PALETTE) == COLOURS
    assert overlaps(figure) == []


def test_colours_can_be_told_apart_by_readers_of_any_colour_vision() -> None:
    """By CIE76 differences of the colours as Viénot, Brettel and Mollon (1999) simulate dichromacy."""
    simulations = {
        "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "protan": ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1)),
        "deutan": ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1)),
    }
    for matrix in simulations.values():
        labs = [
            _lab([sum(m * v for m, v in zip(row, _linear(colour), strict=True)) for row in matrix])
            for colour in PALETTE
        ]
        for i, one in enumerate(labs):
            for other in labs[i + 1 :]:
                assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 10


def _linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _product(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]


def _lab(linear: list[float]) -> list[float]:
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    xyz = [
        sum(m * max(v, 0) for m, v in zip(row, linear, strict=True)) / w for row, w in zip(matrix, white, strict=True)
    ]
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_signs_of_formulas_and_characters_without_a_glyph_are_drawn_as_they_are(tmp_path: Path) -> None:
    series = (Series("costs $5 and $6", ("日本語", "a_b^{c}"), (0.5, 0.25)),)
    chart = BarChart("odd", "odd $names$", "Odd names.", "", (Panel("", series),), ("日本語", "a_b^{c}"), "score")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notes = figures.draw(chart, tmp_path)
    svg = (tmp_path / "odd.svg").read_text(encoding="utf-8")
    for text in ("costs $5 and $6", "日本語", "a_b^{c}", "odd $names$"):
        assert text in svg
    assert notes in ([], ["odd.png: no font on this machine has 日本語; the SVG has them as text"])


def test_scores_of_few_queries_have_hollow_marks() -> None:
    def texts(counts: tuple[int, ...]) -> list[str]:
        series = (Series("m", (256.0, 512.0), (0.5, 0.6), counts=counts),)
        chart = LineChart("few", "Few", "Few.", "", (Panel("", series),), "length", "score", "log2")
        figure = drawn(chart)
        hollow = [line for line in figure.axes[0].lines if line.get_color() == PAPER and len(line.get_xdata())]
        assert [len(line.get_xdata()) for line in hollow] == [sum(count < 10 for count in counts)] * bool(hollow)
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert texts((9, 10)) == ["m", "fewer than 10 queries"]
    assert texts((10, 11)) == ["m"]


def test_negative_scores_are_bars_to_the_left() -> None:
    series = (Series("m", ("t", "u"), (-0.2, 0.1)),)
    chart = BarChart("pmrr", "p-MRR", "p-MRR.", "", (Panel("", series),), ("t", "u"), "p-MRR")
    low, high = drawn(chart).axes[0].get_xlim()
    assert low < -0.2 < 0.1 < high


def test_settings_of_the_caller_are_left_alone(report: Report) -> None:
    before = dict(matplotlib.rcParams)
    render(replace(chart_of(report, "beir-scores"), name="other"), "svg")
    assert dict(matplotlib.rcParams) == before
    assert before["text.color"] != INK


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffembed\[report\]'"):
        render(report.charts[0], "svg")
