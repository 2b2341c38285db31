"""Charts of settings that results differ in: matrices of two of them, and the form of the vectors against its bytes."""

from __future__ import annotations

from collections.abc import Sequence

from diffembed.report.charts import PANELS, Heat, HeatMap, LineChart, Panel, Series, count, pages, slug, trend
from diffembed.report.collection import Collection, Scored
from diffembed.report.labels import natural, studied_place

BY_POOLING = ("backbone", "pooling")
_BY_MASK = ("model", "tested")  # the name of a model of a study says which mask it was tuned under
_SIDES = {"tested": "mask of the test"}
_BYTES = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}  # of one dimension


def matrices(collection: Collection, benchmark: str) -> list[HeatMap]:
    """Backbone by pooling, and model by the mask of the test: a matrix for each task."""
    return [chart for keys in (BY_POOLING, _BY_MASK) for chart in _matrices(collection, benchmark, *keys)]


def _matrices(collection: Collection, benchmark: str, row_key: str, column_key: str) -> list[HeatMap]:
    scored = [one for one in collection.of(benchmark) if {row_key, column_key} <= set(_told(one))]
    order = collection.systems(benchmark)
    scored.sort(key=lambda one: order.index(one.system))
    rows = list(dict.fromkeys(_told(one)[row_key] for one in scored))
    columns = sorted(
        {_told(one)[column_key] for one in scored}, key=lambda name: (studied_place({column_key: name}), natural(name))
    )
    panels = []
    measures: dict[str, None] = {}
    for task in sorted({one.task for one in scored}, key=natural):
        own = {(_told(one)[row_key], _told(one)[column_key]): one for one in scored if one.task == task}
        if len(own) < sum(one.task == task for one in scored):
            continue  # systems that differ in something else as well
        if any(len({place[side] for place in own}) == len(own) for side in (0, 1)):
            continue  # nothing beside or nothing below anything: the bars say it better
        values = [[own[r, c].score if (r, c) in own else None for c in columns] for r in rows]
        spread = [[_spread(own.get((r, c))) for c in columns] for r in rows]
        panels.append(Heat(task, tuple(map(tuple, values)), tuple(map(tuple, spread))))
        measures |= dict.fromkeys(one.measure for one in own.values())
    measure = next(iter(measures)) if len(measures) == 1 else "score"
    sides = _SIDES.get(row_key, row_key), _SIDES.get(column_key, column_key)
    title = f"{benchmark}: {measure}, {sides[0]} by {sides[1]}"
    caption = "Under a score: half the range over the seeds." if any(len(one.runs) > 1 for one in scored) else ""
    charts = []
    for name, headed, page in pages(panels, PANELS, slug(benchmark, row_key, column_key), title):
        told = f"{sides[0]} ({', '.join(rows)}) by {sides[1]} ({', '.join(columns)})"
        alt = f"Matrices of {told}: {count(page, 'panel')}. {_best_fields(page, rows, columns)}"
        charts.append(HeatMap(name, headed, alt, caption, tuple(page), sides, tuple(rows), tuple(columns)))
    return charts


def _told(one: Scored) -> dict[str, str]:
    """The settings, and the model as its systems call it."""
    return {key: str(value) for key, value in one.first.settings.items()} | {"model": one.system.partition(" (")[0]}


def forms(collection: Collection, benchmark: str) -> list[LineChart]:
    """What narrower and coarser vectors cost: the mean score against bytes per document, a panel for each model."""
    sized: dict[tuple[str, str], list[Scored]] = {}
    for one in collection.of(benchmark):
        if _bytes_per_document(one) is not None:
            sized.setdefault((one.first.model, one.first.revision), []).append(one)
    panels = []
    for found in sized.values():
        if len({_bytes_per_document(one) for one in found}) > 1:
            panels += _form_panel(collection, benchmark, found)
    measures = dict.fromkeys(one.measure for one in collection.of(benchmark))
    measure = next(iter(measures)) if len(measures) == 1 else "score"
    caption = "Means over the tasks that all forms of a model were scored on."
    charts = []
    title = f"{benchmark}: {measure} against bytes per document"
    for name, headed, page in pages(panels, PANELS, slug(benchmark, "bytes"), title):
        alt = f"Mean {measure} against bytes per document for every dtype and width. {trend(page)}"
        label = f"mean {measure}"
        charts.append(LineChart(name, headed, alt, caption, tuple(page), "bytes per document", label, "log2"))
    return charts


def _form_panel(collection: Collection, benchmark: str, found: Sequence[Scored]) -> list[Panel]:
    """The forms of one model: a line for each dtype, and for each of any other settings that its systems differ in."""
    systems = list(dict.fromkeys(one.system for one in found))
    tasks = [t for t in collection.tasks(benchmark) if all(collection.at(benchmark, t, s) for s in systems)]
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for system in systems if tasks else ():
        here = [one for t in tasks if (one := collection.at(benchmark, t, system)) is not None]
        mean = sum(one.score for one in here) / len(here)
        dims = f"{here[0].first.settings.get('dims')} dims"
        lines.setdefault(_line_of(system, here[0]), []).append((_bytes_per_document(here[0]) or 0.0, mean, dims))
    series = []
    for number, (label, points) in enumerate(lines.items()):
        x, y, marks = zip(*sorted(points), strict=True)
        series.append(Series(label, x, y, style=number, marks=marks))
    return [Panel(found[0].system.partition(" (")[0], tuple(series))] if series else []


def _line_of(system: str, one: Scored) -> str:
    """The parts of a system's label, without its width: ``binary, int8 queries``."""
    settings = one.first.settings
    dtype, query = str(settings.get("dtype", "unknown")), settings.get("query_dtype")
    forms = [dtype, *([] if query in (None, dtype) else [f"{query} queries"])]
    told = system.partition(" (")[2].removesuffix(")").split(", ")
    return ", ".join([*forms, *(part for part in told if part and part not in forms and not part.endswith(" dims"))])


def _bytes_per_document(one: Scored) -> float | None:
    """As measured, or else what dims and dtype make."""
    known = one.first.cost.get("bytes_per_document")
    if known:
        return float(known)
    dims, dtype = one.first.settings.get("dims"), one.first.settings.get("dtype")
    return dims * _BYTES[dtype] if dims and dtype in _BYTES else None


def _spread(one: Scored | None) -> float | None:
    return None if one is None or len(one.runs) < 2 else (max(one.by_seed) - min(one.by_seed)) / 2


def _best_fields(panels: Sequence[Heat], rows: Sequence[str], columns: Sequence[str]) -> str:
    told = []
    for panel in panels:
        fields = [
            (value, f"{row}, {column}")
            for row, values in zip(rows, panel.values, strict=True)
            for column, value in zip(columns, values, strict=True)
            if value is not None
        ]
        told.append(f"{panel.title}: {max(fields)[1]} ({max(fields)[0]:.3f})" if fields else "")
    return "Highest: " + "; ".join(part for part in told if part) + "."
