"""Which charts a collection of results is worth: bars for every benchmark, and a line or a matrix wherever results
differ in something that grows (length, depth, corpus, training, bytes) or in two settings at once.

Where there is too much for one figure it goes on in the next one; nothing is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from diffembed.report.charts import (
    COLOURS,
    DOTTED,
    GREY,
    GROUPED,
    PANELS,
    BarChart,
    Chart,
    Form,
    Panel,
    Series,
    count,
    pages,
    slug,
)
from diffembed.report.collection import Collection, Scored
from diffembed.report.growth import GROWING, lines, parts
from diffembed.report.settings import forms, matrices


def charts_of(collection: Collection, benchmark: str) -> list[Chart]:
    """The charts of a benchmark."""
    styles = _styles(collection, benchmark)
    charts: list[Chart] = [*bars(collection, benchmark, styles)]
    kinds = dict.fromkeys(group.by for one in collection.of(benchmark) for run in one.runs for group in run.groups)
    for by in kinds:
        charts += (lines if by in GROWING else parts)(collection, benchmark, by, styles)
    return [*charts, *matrices(collection, benchmark), *forms(collection, benchmark)]


def named_apart(charts: Sequence[Chart]) -> list[Chart]:
    """Charts with a name of their own each: two names that are one as a file's name get a number."""
    seen: dict[str, int] = {}
    named = []
    for chart in charts:
        seen[chart.name] = seen.get(chart.name, 0) + 1
        named.append(chart if seen[chart.name] == 1 else replace(chart, name=f"{chart.name}.{seen[chart.name]}"))
    return named


def bars(collection: Collection, benchmark: str, styles: Mapping[str, int]) -> list[BarChart]:
    """The main score of every system on every task."""
    systems, tasks = collection.systems(benchmark), collection.tasks(benchmark)
    measures = dict.fromkeys(one.measure for one in collection.of(benchmark))
    label = next(iter(measures)) if len(measures) == 1 else "the task's own measure"
    many = len(systems) > COLOURS + 1
    form: Form = "panels" if many or len(tasks) == 1 else "dots" if len(tasks) > GROUPED else "groups"
    size = PANELS if form == "panels" else DOTTED if form == "dots" else GROUPED
    caption = _interval_caption(collection.of(benchmark))
    charts = []
    for name, title, part in pages(tasks, size, slug(benchmark, "scores"), f"{benchmark}: {label}"):
        found = {(s, t): one for s in systems for t in part if (one := collection.at(benchmark, t, s)) is not None}
        if form == "panels":
            here = {t: [s for s in systems if (s, t) in found] for t in part}
            panels = [
                Panel(t, tuple(_bar(s, [(s, found[s, t])], GREY if many else styles[s]) for s in here[t])) for t in part
            ]
        else:
            rows = {s: [(t, found[s, t]) for t in part if (s, t) in found] for s in systems}
            panels = [Panel("", tuple(_bar(s, row, styles[s]) for s, row in rows.items() if row))]
        order = tuple(systems if form == "panels" else part)
        alt = f"{label} of {count(systems, 'system')} on {count(part, 'task')} of {benchmark}. {_leaders(found, part)}"
        charts.append(BarChart(name, title, alt, caption, tuple(panels), order, label, form))
    return charts


def _bar(label: str, row: Sequence[tuple[str, Scored]], style: int) -> Series:
    ends = [one.interval or (None, None) for _, one in row]
    return Series(
        label,
        tuple(name for name, _ in row),
        tuple(one.score for _, one in row),
        tuple(low for low, _ in ends),
        tuple(high for _, high in ends),
        tuple(one.by_seed if len(one.runs) > 1 else () for _, one in row),
        style,
    )


def _styles(collection: Collection, benchmark: str) -> dict[str, int]:
    """A model keeps its colour through the report where there are colours enough, else through the benchmark."""
    everyone = collection.systems()
    order = everyone if len(everyone) <= COLOURS else collection.systems(benchmark)
    return {system: number for number, system in enumerate(order)}


def _interval_caption(scored: Sequence[Scored]) -> str:
    said = ["Whiskers: 95% bootstrap interval over the queries."] * any(one.interval for one in scored)
    said += ["Small marks: the seeds."] * any(len(one.runs) > 1 for one in scored)
    return " ".join(said)


def _leaders(found: Mapping[tuple[str, str], Scored], tasks: Sequence[str]) -> str:
    """Who is first on how many tasks, for who cannot see the bars."""
    if len(tasks) == 1:
        ranked = sorted(((one.score, system) for (system, _), one in found.items()), reverse=True)
        return "From the best: " + ", ".join(f"{system} {score:.3f}" for score, system in ranked) + "."
    wins: dict[str, int] = {}
    for task in tasks:
        here = {system: one.score for (system, at), one in found.items() if at == task}
        best = max(here, key=lambda system: here[system])
        wins[best] = wins.get(best, 0) + 1
    ranked_wins = sorted(wins.items(), key=lambda item: -item[1])
    return "Highest score: " + ", ".join(f"{system} on {count}" for system, count in ranked_wins) + "."
