"""A whole report: read results, choose tables and charts, and write them as Markdown, JSON, figures and one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed import __version__
from diffembed.errors import InputError
from diffembed.models.files import atomic_file
from diffembed.report.charts import Chart
from diffembed.report.choosing import charts_of, named_apart
from diffembed.report.collection import Collection, read_collection
from diffembed.report.differences import difference_table
from diffembed.report.figures import draw
from diffembed.report.page import Shown, page
from diffembed.report.points import read_map
from diffembed.report.tables import Table, cost_table, environments, origin_table, tables_of

PAGE, MARKDOWN, JSON, FIGURES, MAPS = "index.html", "report.md", "report.json", "figures", "maps"
_FORMAT, _VERSION = "diffembed-report", 1


@dataclass(frozen=True, slots=True)
class Section:
    """What is told of one benchmark."""

    title: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Attributes:
    title: of the whole.
    summary: how much was read, in a sentence.
    sections: one for each benchmark, and one for maps of documents where there are some.
    appendix: cost, origin and environment of all results.
    notes: what a reader must know: what is missing, given twice or not comparable.
    """

    title: str
    summary: str
    sections: tuple[Section, ...]
    appendix: tuple[Table, ...]
    notes: tuple[str, ...]

    @property
    def charts(self) -> list[Chart]:
        """Of all sections."""
        return [chart for section in self.sections for chart in section.charts]

    def to_markdown(self, figures: str = "") -> str:
        """All tables; with ``figures``, the folder that they are in, the figures as well."""
        parts = [f"# {self.title}", self.summary]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        for section in self.sections:
            parts += [f"## {section.title}", *(table.shown().to_markdown() for table in section.tables)]
            for chart in section.charts if figures else ():
                alt = chart.alt.replace("[", "(").replace("]", ")")
                parts += [f"![{alt}]({figures}/{chart.name}.svg)", *([chart.caption] if chart.caption else [])]
        parts += ["## What the scores rest on", *(table.to_markdown() for table in self.appendix)]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """All tables, and what the figures show, as plain values."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "title": self.title,
            "notes": list(self.notes),
            "sections": [
                {
                    "title": section.title,
                    "tables": [table.to_json() for table in section.tables],
                    "figures": [
                        {"name": c.name, "alt": c.alt, "caption": c.caption, **c.table().to_json()}
                        for c in section.charts
                    ],
                }
                for section in self.sections
            ],
            "appendix": [table.to_json() for table in self.appendix],
        }


def make_report(places: Sequence[Path], *, title: str = "", maps: Sequence[Path] = ()) -> Report:
    """Read results and choose what to tell of them; nothing is drawn or written.

    Args:
        places: result files, and folders that are searched for them.
        title: of the report.
        maps: files of ``DocumentMap.write``.

    Raises:
        InputError: no results, one that cannot be read, or two that contradict each other (see ``read_collection``).
    """
    return report_on(read_collection(places), title=title, maps=maps)


def report_on(collection: Collection, *, title: str = "", maps: Sequence[Path] = ()) -> Report:
    """The report of results that were read."""
    sections = []
    for benchmark in collection.benchmarks:
        scores, *parts = tables_of(collection, benchmark)
        differences = difference_table(collection, benchmark)
        tables = [scores, *([differences] if differences else []), *parts]
        sections.append(Section(benchmark, tuple(tables), tuple(charts_of(collection, benchmark))))
    if maps:
        charts = tuple(read_map(file).to_chart() for file in sorted(maps))
        sections.append(Section("Maps of documents", (), charts))
    named = iter(named_apart([chart for section in sections for chart in section.charts]))
    sections = [Section(s.title, s.tables, tuple(next(named) for _ in s.charts)) for s in sections]
    return Report(
        title or f"Scores on {', '.join(collection.benchmarks)}",
        _summary(collection),
        tuple(sections),
        (cost_table(collection), origin_table(collection), environments(collection)),
        (*collection.notes, *collection.run_notes()),
    )


def write_report(
    report: Report, into: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, list[str]]:
    """Write page, Markdown, JSON and figures into a folder; those of an earlier report in it are replaced.

    Returns the page, and what a reader must know of the figures.

    Raises ``MissingExtraError`` where matplotlib is missing.
    """
    figures = into / FIGURES
    notes: list[str] = []
    shown: dict[str, str] = {}
    earlier = _figures_of(into / JSON)
    for number, chart in enumerate(report.charts):
        notes += draw(chart, figures)
        shown[chart.name] = (figures / f"{chart.name}.svg").read_text(encoding="utf-8")
        if progress is not None:
            progress(number + 1, len(report.charts))
    for name in earlier - set(shown):
        for kind in ("svg", "png"):
            (figures / f"{name}.{kind}").unlink(missing_ok=True)
    sections = [
        Shown(s.title, s.tables, tuple((chart, shown[chart.name]) for chart in s.charts)) for s in report.sections
    ]
    html = page(report.title, report.summary, report.notes, sections, report.appendix, figures=FIGURES)
    plain = json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n"
    for name, text in ((MARKDOWN, report.to_markdown(FIGURES)), (JSON, plain), (PAGE, html)):
        with atomic_file(into / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return into / PAGE, notes


def check_target(into: Path, places: Sequence[Path]) -> None:
    """Raises ``InputError`` for a folder of results: a report in it would be read as a result next time."""
    for place in places:
        if place.is_dir() and into.resolve().is_relative_to(place.resolve()):
            raise InputError(f"--into {into} lies in the results {place}; give a folder outside it")


def maps_of(into: Path) -> list[Path]:
    """The maps that ``diffembed report map`` left in a report's folder."""
    return sorted((into / MAPS).glob("*.json"))


def _figures_of(file: Path) -> set[str]:
    """The names of the figures of an earlier report, by its JSON; none where there is no such file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("format") != _FORMAT:
            return set()
        return {figure["name"] for section in values["sections"] for figure in section["figures"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _summary(collection: Collection) -> str:
    counts = {
        "result": len(collection.results),
        "system": len(collection.systems()),
        "benchmark": len(collection.benchmarks),
        "task": len({(one.benchmark, one.task) for one in collection.scored}),
    }
    told = [f"{number:,} {name}{'s' * (number != 1)}" for name, number in counts.items()]
    return f"{told[0]} of {told[1]} on {told[3]} of {told[2]}, read by diffembed {__version__}."
