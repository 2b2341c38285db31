"""The tables of a report: scores, their parts, and what they rest on; as Markdown and as plain values.

The terminal's form is ``console.table``'s, the page's is ``page.py``'s: both read ``Table.texts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffembed.report.collection import Collection, Scored
from diffembed.report.labels import natural

# How the kinds of groups are called in words; another kind is called by its own name.
PARTS = {
    "language": "language",
    "length": "length of the document in tokens",
    "characters": "length of the document in characters",
    "depth": "depth in the document",
    "limit": "length against the model's limit",
    "domain": "domain",
    "chunk": "place of the chunk in its document",
    "documents": "documents in the corpus",
    "samples": "samples of training",
    "tokens": "tokens of training",
}
_COUNTS = ("queries", "documents", "truncated")
_SIDE_BY_SIDE = 6  # systems that have room in a line of a terminal


@dataclass(frozen=True, slots=True)
class Score:
    """A score in a cell, with its 95% interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False

    def __str__(self) -> str:
        """``0.6956 ±0.0213``: after the sign stands half the width of the interval.

        >>> str(Score(0.69557)), str(Score(0.5, 0.42, 0.56)), str(Score(5.1))
        ('0.6956', '0.5000 ±0.0700', '5.1000')
        """
        if self.low is None or self.high is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} ±{(self.high - self.low) / 2:.4f}"

    def to_json(self) -> dict[str, float]:
        """``value``, and ``low`` and ``high`` where they are known."""
        known = {"value": self.value, "low": self.low, "high": self.high}
        return {name: value for name, value in known.items() if value is not None}


Cell = str | int | float | Score | None


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns and rows.

    Attributes:
        name: short, for a file's name or a link.
        title: over the table.
        head: ``[columns]``.
        rows: ``[rows][columns]``; ``None`` is a cell that nothing is known of.
        note: under the table.
        foot: so many of the last rows sum up the others.
        names: so many of the first columns name a row, where the others are systems side by side.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    foot: int = 0
    names: int = 0

    def shown(self) -> Table:
        """As a reader gets it: a row for each system, where they are many and more than the rows.

        >>> systems, scores = tuple(f"m{n}" for n in range(7)), tuple(Score(n / 10) for n in range(7))
        >>> rows = (("a", "ndcg@10", *scores), ("b", "ndcg@10", *scores), ("mean of 2", "", *scores))
        >>> shown = Table("t", "Scores", ("task", "measure", *systems), rows, names=2).shown()
        >>> shown.title, shown.head, [str(cell) for cell in shown.rows[6]]
        ('Scores (ndcg@10)', ('system', 'a', 'b', 'mean of 2'), ['m6', '0.6000', '0.6000', '0.6000'])
        """
        systems = self.head[self.names :]
        if not self.names or len(systems) <= max(_SIDE_BY_SIDE, len(self.rows)):
            return self
        named = [
            [
                cell if isinstance(cell, str) else f"{cell_text(cell)} {name}"
                for cell, name in zip(row, self.head, strict=False)
            ]
            for row in (row[: self.names] for row in self.rows)
        ]
        shared = [at for at in range(1, self.names) if len({row[at] for row in named} - {""}) == 1]
        labels = [", ".join(text for at, text in enumerate(row) if text and at not in shared) for row in named]
        title = " ".join([self.title, *(f"({named[0][at]})" for at in shared)])
        columns = zip(*(row[self.names :] for row in self.rows), strict=True)
        rows = tuple((system, *cells) for system, cells in zip(systems, columns, strict=True))
        return replace(self, title=title, head=("system", *labels), rows=rows, foot=0, names=0)

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone."""
        columns = [[cell for cell in column if cell is not None] for column in zip(*self.rows, strict=True)]
        return [bool(column) and not any(isinstance(cell, str) for cell in column) for column in columns]

    def texts(self) -> list[list[str]]:
        """The rows as text."""
        return [[cell_text(cell) for cell in row] for row in self.rows]

    def to_markdown(self) -> str:
        """Title, table and note; the best scores are bold.

        >>> rows = (("a|b", Score(0.5, best=True), None), ("c", Score(0.25), Score(0.75, best=True)))
        >>> print(Table("t", "Scores", ("task", "x", "y"), rows).to_markdown())
        ### Scores
        <BLANKLINE>
        | task | x | y |
        | --- | ---: | ---: |
        | a\\|b | **0.5000** | - |
        | c | 0.2500 | **0.7500** |
        """
        rule = ["---:" if number else "---" for number in self.numeric or [False] * len(self.head)]
        lines = [[_escaped(name) for name in self.head], rule]
        for row, texts in zip(self.rows, self.texts(), strict=True):
            cells = zip(row, texts, strict=True)
            lines.append([f"**{t}**" if isinstance(c, Score) and c.best else _escaped(t) for c, t in cells])
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {_escaped(self.title)}\n\n{body}" + (f"\n\n{_escaped(self.note)}" if self.note else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values: a row is an object of the columns' names."""
        rows = [{n: _plain(cell) for n, cell in zip(self.head, row, strict=True)} for row in self.rows]
        return {"name": self.name, "title": self.title, "rows": rows, "note": self.note}


def cell_text(cell: Cell) -> str:
    """A cell as text.

    >>> [cell_text(cell) for cell in (None, 12000, 0.25, 12.5, 4321.9, "x")]
    ['-', '12,000', '0.2500', '12.50', '4,321.90', 'x']
    """
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 1 else f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def tables_of(collection: Collection, benchmark: str) -> list[Table]:
    """The tables of a benchmark: its scores, and its scores by parts of every kind."""
    kinds = dict.fromkeys(group.by for one in collection.of(benchmark) for run in one.runs for group in run.groups)
    return [score_table(collection, benchmark), *(part_table(collection, benchmark, by) for by in kinds)]


def score_table(collection: Collection, benchmark: str) -> Table:
    """Tasks by systems, and the mean over the tasks that all systems were scored on."""
    systems, common = collection.systems(benchmark), collection.common(benchmark)
    rows: list[tuple[Cell, ...]] = []
    for task in collection.tasks(benchmark):
        found = [collection.at(benchmark, task, system) for system in systems]
        measure = next(one.measure for one in found if one is not None)
        rows.append((task, measure, *_marked([_score(one) for one in found])))
    summed = len(common) > 1
    if summed:
        rows.append(
            (f"mean of {len(common)}", "", *_marked([_mean(collection, benchmark, s, common) for s in systems]))
        )
    notes = []
    if any(isinstance(cell, Score) and cell.low is not None for row in rows for cell in row):
        notes.append("After ±: half the width of the 95% bootstrap interval over the queries.")
    if seeds := max(len(one.runs) for one in collection.of(benchmark)) - 1:
        notes.append(f"Scores are means over up to {seeds + 1} seeds.")
    title = f"{benchmark}: scores"
    head = ("task", "measure", *systems)
    return Table(f"{benchmark}-scores", title, head, tuple(rows), " ".join(notes), int(summed), names=2)


def part_table(collection: Collection, benchmark: str, by: str) -> Table:
    """The scores of the groups of one kind: task and part by systems."""
    scored = [one for one in collection.of(benchmark) if one.parts(by)]
    systems = [name for name in collection.systems(benchmark) if any(one.system == name for one in scored)]
    rows: list[tuple[Cell, ...]] = []
    for task in sorted({one.task for one in scored}, key=natural):
        found = {one.system: one.parts(by) for one in scored if one.task == task}
        measure = next(one.measure for one in scored if one.task == task)
        for part in sorted({part for parts in found.values() for part in parts}, key=natural):
            there = [found.get(system, {}).get(part) for system in systems]
            cells = [Score(one.scores[measure]) if one and measure in one.scores else None for one in there]
            queries = max(one.queries for one in there if one)
            rows.append((task, part, queries, *_marked(cells)))
    title = f"{benchmark}: scores by {PARTS.get(by, by)}"
    head = ("task", by, "queries", *systems)
    return Table(f"{benchmark}-{by}", title, head, tuple(rows), collection.part_notes(benchmark, by), names=3)


def cost_table(collection: Collection) -> Table:
    """What was asked, what was cut, and what it cost."""
    rows: list[tuple[Cell, ...]] = []
    costs = [name for name in ("seconds", "tokens", "bytes_per_document") if _any_cost(collection, name)]
    for one in collection.scored:
        counts = [one.first.counts.get(name) for name in _COUNTS]
        cost = [one.first.cost.get(name) for name in costs]
        rows.append((one.benchmark, one.task, one.system, *counts, *(_whole(value) for value in cost)))
    head = ("benchmark", "task", "system", *_COUNTS, *(name.replace("_", " ") for name in costs))
    return Table("cost", "What was asked and what it cost", head, tuple(rows))


def origin_table(collection: Collection) -> Table:
    """Which weights read which data: revision, data's hash or seed, settings, date."""
    rows: list[tuple[Cell, ...]] = []
    for one in collection.scored:
        for run in one.runs:
            settings = ", ".join(f"{name} {value}" for name, value in run.settings.items() if value is not None)
            data = ", ".join(f"{name} {value}" for name, value in run.data.items())
            date = run.environment.get("date", "")
            rows.append((one.benchmark, one.task, run.model, run.revision, settings, data, date))
    head = ("benchmark", "task", "model", "revision", "settings", "data", "date")
    return Table("origin", "Weights, settings and data", head, tuple(rows))


def environments(collection: Collection) -> Table:
    """The different machines' software and the commands; the dates are in ``origin_table``."""
    rows: dict[tuple[str, str], int] = {}
    for run in collection.results:
        versions = ", ".join(f"{n} {v}" for n, v in run.environment.items() if n not in ("date", "command"))
        place = versions, run.environment.get("command", "")
        rows[place] = rows.get(place, 0) + 1
    return Table(
        "environment", "Environment", ("versions", "command", "results"), tuple((*p, n) for p, n in rows.items())
    )


def _score(one: Scored | None) -> Score | None:
    if one is None:
        return None
    low, high = one.interval or (None, None)
    return Score(one.score, low, high)


def _mean(collection: Collection, benchmark: str, system: str, tasks: Sequence[str]) -> Score:
    found = [one for task in tasks if (one := collection.at(benchmark, task, system)) is not None]
    return Score(sum(one.score for one in found) / len(found))


def _marked(scores: Sequence[Score | None]) -> list[Score | None]:
    """The best of several is marked; all that are equal to it are."""
    values = [score.value for score in scores if score is not None]
    if len(values) < 2:
        return list(scores)
    return [s and Score(s.value, s.low, s.high, best=s.value == max(values)) for s in scores]


def _any_cost(collection: Collection, name: str) -> bool:
    return any(name in one.first.cost for one in collection.scored)


def _whole(value: float | None) -> Cell:
    return value if value is None or value < 10 else round(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _plain(cell: Cell) -> Any:
    return cell.to_json() if isinstance(cell, Score) else cell
