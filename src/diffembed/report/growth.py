"""Charts of the groups of a result: lines where the groups grow (length, depth, corpus, training), else bars."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from diffembed.report.charts import (
    COLOURS,
    DOTTED,
    GROUPED,
    PANELS,
    BarChart,
    Form,
    Guide,
    LineChart,
    Panel,
    Scale,
    Series,
    count,
    pages,
    slug,
    trend,
)
from diffembed.report.collection import Collection, Part, Scored
from diffembed.report.labels import natural, studied_place
from diffembed.report.settings import BY_POOLING
from diffembed.report.tables import PARTS

# Groups that grow: their axis, and the axis' scale where the values are numbers.
GROWING: dict[str, tuple[str, Scale]] = {
    "length": ("length of the document (tokens)", "log2"),
    "characters": ("length of the document (characters)", "log2"),
    "depth": ("depth in the document (0 = beginning)", "linear"),
    "depth beyond the limit": ("depth in documents over the model's limit", "linear"),
    "documents": ("documents in the corpus", "log10"),
    "samples": ("samples of training", "linear"),
    "tokens": ("tokens of training", "log10"),
}
Lines = dict[str, tuple[str, int]]  # system -> label and style
Broken = tuple[str, str, dict[str, dict[str, Part]]]  # task, measure, system -> value -> part


def parts(collection: Collection, benchmark: str, by: str, styles: Mapping[str, int]) -> list[BarChart]:
    """Scores by language, domain or another kind of part: a chart for each task that has several."""
    charts = []
    told = PARTS.get(by, by)
    broken, caption = _broken_down(collection, benchmark, by)
    for task, measure, found in broken:
        names = sorted({name for values in found.values() for name in values}, key=natural)
        where = task if task.startswith(benchmark) else f"{benchmark}, {task or 'all tasks'}"
        for name, title, page in pages(names, DOTTED, slug(where, by), f"{where}: {measure} by {told}"):
            series = []
            for system, values in found.items():
                row = [(value, values[value].scores[measure]) for value in page if value in values]
                if row:
                    x, y = zip(*row, strict=True)
                    series.append(Series(system, x, y, style=styles[system]))
            alt = f"{where}: {measure} of {count(series, 'system')} for each {told}: {', '.join(page[:8])}."
            form: Form = "dots" if len(page) > GROUPED or len(series) > COLOURS + 1 else "groups"
            charts.append(BarChart(name, title, alt, caption, (Panel("", tuple(series)),), tuple(page), measure, form))
    return charts


def lines(collection: Collection, benchmark: str, by: str, styles: Mapping[str, int]) -> list[LineChart]:
    """Scores against what grows from group to group; a panel for each task that has several groups."""
    label, scale = GROWING[by]
    broken, caption = _broken_down(collection, benchmark, by)
    panels = []
    for task, measure, found in broken:
        guided = {s: one for s in found if by == "length" and (one := collection.at(benchmark, task, s)) is not None}
        for title, lined in _facets(collection, benchmark, task, found, styles):
            panels.append(_panel(title, lined, measure, found, guided))
    measures = dict.fromkeys(measure for _, measure, _ in broken)
    measure = next(iter(measures)) if len(measures) == 1 else "score"
    if any(series.low and series.low[0] is not None for panel in panels for series in panel.series):
        several = any(len(one.runs) > 1 for one in collection.of(benchmark))
        band = "from the lowest to the highest seed" if several else "95% Wilson interval of a share"
        caption = f"Band: {band}. {caption}".strip()
    charts = []
    title = f"{benchmark}: {measure} against {label}"
    for name, headed, page in pages(panels, PANELS, slug(benchmark, by), title):
        systems = dict.fromkeys(series.label for panel in page for series in panel.series)
        alt = f"{measure} against {label} for {count(systems, 'system')} on {count(page, 'task')}. {trend(page)}"
        charts.append(LineChart(name, headed, alt, caption, tuple(page), label, measure, _scale(scale, page)))
    return charts


def _panel(
    title: str, lined: Lines, measure: str, found: Mapping[str, Mapping[str, Part]], guided: Mapping[str, Scored]
) -> Panel:
    names = sorted({name for system in lined for name in found[system]}, key=natural)
    ordered = any(_number(name) is None for name in names)
    series, guides = [], list[Guide]()
    for system, (shown, style) in lined.items():
        points = [(name, found[system][name]) for name in names if name in found[system]]
        series.append(_line(shown, points, measure, ordered, style))
        if system in guided and not ordered:
            guides += _guides(guided[system], found[system], max(_number(name) or 0.0 for name in names), style)
    return Panel(title, tuple(series), tuple(guides))


def _facets(
    collection: Collection, benchmark: str, task: str, found: Mapping[str, object], styles: Mapping[str, int]
) -> list[tuple[str, Lines]]:
    """The lines of each panel of a task: all in one, or of many systems of a study a panel for each pooling."""
    row_key, column_key = BY_POOLING
    settings = {one.system: one.first.settings for one in collection.of(benchmark)}
    places = {
        s: (str(settings[s][row_key]), str(settings[s][column_key]))
        for s in found
        if {row_key, column_key} <= set(settings[s])
    }
    if len(found) <= COLOURS + 1 or len(places) < len(found) or len(set(places.values())) < len(places):
        return [(task, {system: (system, styles[system]) for system in found})]
    rows = list(dict.fromkeys(row for row, _ in places.values()))
    columns = sorted({column for _, column in places.values()}, key=lambda name: studied_place({column_key: name}))
    return [
        (f"{task}, {column}", {s: (row, rows.index(row)) for s, (row, c) in places.items() if c == column})
        for column in columns
    ]


def _broken_down(collection: Collection, benchmark: str, by: str) -> tuple[list[Broken], str]:
    """The tasks that have several parts of a kind; where there are too many tasks, all of them pooled, and who says so.

    A pooled part is the mean over its queries in the tasks that every system has it in.
    """
    tasks: list[Broken] = []
    for task in collection.tasks(benchmark):
        found: dict[str, dict[str, Part]] = {}
        for system in collection.systems(benchmark):
            one = collection.at(benchmark, task, system)
            if one is not None:
                measure = one.measure
                parts = {value: part for value, part in one.parts(by).items() if measure in part.scores}
                found |= {system: parts} if parts else {}
        if len({value for values in found.values() for value in values}) > 1:
            tasks.append((task, measure, found))
    notes = collection.part_notes(benchmark, by)
    if len(tasks) <= PANELS:
        return tasks, notes
    systems = [s for s in collection.systems(benchmark) if any(s in found for _, _, found in tasks)]
    shared = [(task, measure, found) for task, measure, found in tasks if all(s in found for s in systems)]
    if not shared:
        return [], ""
    pooled = {system: _pooled([(found[system], measure) for _, measure, found in shared]) for system in systems}
    caption = f"All queries of the {len(shared)} tasks that every system was scored on; the table has the tasks."
    return [("", "score", pooled)], f"{caption} {notes}".strip()


def _pooled(tasks: Sequence[tuple[dict[str, Part], str]]) -> dict[str, Part]:
    sums: dict[str, list[float]] = {}
    for parts, measure in tasks:
        for value, part in parts.items():
            before = sums.setdefault(value, [0.0, 0.0])
            before[0] += part.scores[measure] * part.queries
            before[1] += part.queries
    return {
        value: Part({"score": total / count}, int(count), ({"score": total / count},))
        for value, (total, count) in sums.items()
        if count
    }


def _line(system: str, points: Sequence[tuple[str, Part]], measure: str, ordered: bool, style: int) -> Series:
    ends: list[tuple[float | None, float | None]] = []
    for _, part in points:
        seeds = [scores[measure] for scores in part.by_seed]
        if len(seeds) > 1:
            ends.append((min(seeds), max(seeds)))
        elif _is_share(measure):
            ends.append(wilson_interval(part.scores[measure], part.queries))
        else:
            ends.append((None, None))
    x = tuple(value if ordered else _number(value) or 0.0 for value, _ in points)
    y = tuple(part.scores[measure] for _, part in points)
    counts = tuple(part.queries for _, part in points)
    low, high = tuple(end[0] for end in ends), tuple(end[1] for end in ends)
    return Series(system, x, y, low, high, style=style, counts=counts)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of ``count`` questions (Wilson 1927), which is never outside 0..1.

    >>> [round(end, 3) for end in wilson_interval(1.0, 50)], [round(end, 3) for end in wilson_interval(0.5, 50)]
    ([0.929, 1.0], [0.366, 0.634])
    """
    z = 1.959964
    if count < 1:
        return 0.0, 1.0
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _is_share(measure: str) -> bool:
    """Measures that count right answers: a question is worth 0 or 1."""
    return measure.startswith(("accuracy", "acc@", "match"))


def _guides(one: Scored, values: Mapping[str, Part], longest: float, style: int) -> list[Guide]:
    """The limit of a model, and what it leaves to be found; nothing where it reads everything."""
    limit = one.first.settings.get("max_tokens")
    ceiling = sorted((_number(v) or 0.0, p.scores["ceiling"]) for v, p in values.items() if "ceiling" in p.scores)
    if all(share >= 1 for _, share in ceiling):
        ceiling = []
    at = float(limit) if limit and limit <= longest else None
    return [Guide(style, at, tuple(ceiling))] if ceiling or at is not None else []


def _scale(scale: Scale, panels: Sequence[Panel]) -> Scale:
    """The scale that the values can be drawn on."""
    values = [x for panel in panels for series in panel.series for x in series.x]
    numbers = [x for x in values if not isinstance(x, str)]
    if len(numbers) < len(values):
        return "order"
    if scale == "linear" and numbers and min(numbers) > 0 and max(numbers) / min(numbers) > 20:
        return "log10"
    return "linear" if scale != "linear" and numbers and min(numbers) <= 0 else scale


def _number(value: str) -> float | None:
    """
    >>> _number("4096"), _number("0.25"), _number("256-512")
    (4096.0, 0.25, None)
    """
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else None
