"""Which results belong together: runs that differ in their seed alone are one system, and systems that were asked the
same stand side by side.

A *system* is a model with the settings that tell it from the model's other results (``minilm (binary, 128 dims)``). A
*task* is one with the queries that were asked: other splits, or other rows under the same name, are another task, since
their scores must not be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffembed.errors import InputError
from diffembed.evaluation.compare import interval
from diffembed.evaluation.results import Group, Result, Scores, read_result, result_files
from diffembed.report.labels import natural, rows_of, studied_place, system_labels, task_labels

DRAWS = 2000  # of a bootstrap: the ends of an interval move by some percent of its width
_NAMED = 6  # of what is missing, so many are named in one note


@dataclass(frozen=True, slots=True)
class Part:
    """A group of the queries over the runs.

    Attributes:
        scores: measure -> mean over the runs.
        queries: how many there are in it, in all runs together.
        by_seed: the scores of each run.
        notes: of the groups.
    """

    scores: Scores
    queries: int
    by_seed: tuple[Scores, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """One system on one task: a run for each seed.

    Attributes:
        benchmark, task: of the results; the task with what tells it from others of its name.
        system: the label of model and settings.
        measure: which score is compared.
        runs: the results, one a seed; at least one.
    """

    benchmark: str
    task: str
    system: str
    measure: str
    runs: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The first run: model and settings are the same in all, the seed apart."""
        return self.runs[0]

    @cached_property
    def by_seed(self) -> tuple[float, ...]:
        """The score of each run."""
        return tuple(run.scores[self.measure] for run in self.runs)

    @property
    def score(self) -> float:
        """The mean over the runs."""
        return sum(self.by_seed) / len(self.by_seed)

    @cached_property
    def by_query(self) -> dict[str, float]:
        """The score of each query, the mean over the runs that asked it; empty where a run does not tell."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            if not run.by_query or any(self.measure not in scores for scores in run.by_query.values()):
                return {}
            for query, scores in run.by_query.items():
                found.setdefault(query, []).append(scores[self.measure])
        return {query: sum(values) / len(values) for query, values in found.items()}

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95% bootstrap interval of the score over the queries; ``None`` where they are not told."""
        if len(self.by_query) < 2:
            return None
        found = interval(list(self.by_query.values()), draws=DRAWS)
        return found.low, found.high

    def parts(self, by: str) -> dict[str, Part]:
        """The groups of a kind, over the runs."""
        found: dict[str, list[Group]] = {}
        for run in self.runs:
            for group in run.groups:
                if group.by == by:
                    found.setdefault(group.value, []).append(group)
        return {value: _part(groups) for value, groups in found.items()}


def _part(groups: Sequence[Group]) -> Part:
    names = [name for name in groups[0].scores if all(name in group.scores for group in groups)]
    means = {name: sum(group.scores[name] for group in groups) / len(groups) for name in names}
    notes = tuple(dict.fromkeys(group.note for group in groups if group.note))
    return Part(means, sum(group.queries for group in groups), tuple(group.scores for group in groups), notes)


@dataclass(frozen=True)
class Collection:
    """All results of a report.

    Attributes:
        scored: in the order of the files.
        notes: what a reader must know of them: what is missing, given twice or not comparable.
        files: what was read.
    """

    scored: tuple[Scored, ...]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks."""
        return list(dict.fromkeys(one.benchmark for one in self.scored))

    @property
    def results(self) -> list[Result]:
        """Every run."""
        return [run for one in self.scored for run in one.runs]

    def of(self, benchmark: str) -> list[Scored]:
        """What was scored on a benchmark."""
        return [one for one in self.scored if one.benchmark == benchmark]

    def tasks(self, benchmark: str) -> list[str]:
        """Names of its tasks, in natural order."""
        return sorted({one.task for one in self.of(benchmark)}, key=natural)

    def systems(self, benchmark: str | None = None) -> list[str]:
        """Labels of the systems, those of one model next to each other, cells of a study in its own order."""
        order: dict[str, list[str]] = {}
        for one in sorted(self.scored, key=lambda one: studied_place(one.first.settings)):
            if benchmark in (None, one.benchmark):
                order.setdefault(one.first.model, []).append(one.system)
        return list(dict.fromkeys(name for names in order.values() for name in sorted(set(names), key=natural)))

    def at(self, benchmark: str, task: str, system: str) -> Scored | None:
        """One of them."""
        return self._by_place.get((benchmark, task, system))

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], Scored]:
        return {(one.benchmark, one.task, one.system): one for one in self.scored}

    def part_notes(self, benchmark: str, by: str) -> str:
        """What is said of the groups of a kind: each note once, with the groups and systems that it is of, unless all.

        First what is said of all groups, then the rest in their order.
        """
        values, systems = dict[str, None](), dict[str, None]()
        noted: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for one in self.of(benchmark):
            for value, part in one.parts(by).items():
                values[value] = systems[one.system] = None
                for note in part.notes:
                    places, names = noted.setdefault(note, ({}, {}))
                    places[value] = names[one.system] = None
        told = []
        for note, (places, names) in noted.items():
            order = sorted(places, key=natural) if len(places) < len(values) else []
            whose = f" ({_list(list(names))})" if len(names) < len(systems) else ""
            told.append(([natural(place) for place in order], f"{', '.join(order)}{': ' * bool(order)}{note}{whose}"))
        text = "; ".join(said for _, said in sorted(told))
        return f"{text[0].upper()}{text[1:]}." if text else ""

    def run_notes(self) -> list[str]:
        """What the results say of themselves: each note of a task once, with the systems whose results say it."""
        noted: dict[tuple[str, str, str], dict[str, None]] = {}
        for one in self.scored:
            for note in (note for run in one.runs for note in run.notes):
                noted.setdefault((one.benchmark, one.task, note), {})[one.system] = None
        return [f"{name}: {_list(list(systems))} on {task}: {note}" for (name, task, note), systems in noted.items()]

    def common(self, benchmark: str) -> list[str]:
        """The tasks on which every system of the benchmark was scored."""
        systems = self.systems(benchmark)
        return [t for t in self.tasks(benchmark) if all(self.at(benchmark, t, s) is not None for s in systems)]


def read_collection(places: Sequence[Path]) -> Collection:
    """Read result files and folders of them.

    Raises ``InputError`` for what is no result, or of another version (see ``read_result``), and for two results of one
    model, task and settings whose scores differ.
    """
    files = result_files(places)
    return collect([(read_result(file), str(file)) for file in files], files)


def collect(results: Sequence[tuple[Result, str]], files: Sequence[Path] = ()) -> Collection:
    """Put results together; each comes with where it is from, for messages."""
    kept, notes = _once(results)
    grouped: dict[tuple[str, str, str], list[Result]] = {}
    for result, task, system in zip(kept, task_labels(kept), system_labels(kept), strict=True):
        grouped.setdefault((result.benchmark, task, system), []).append(result)
    scored = []
    measures = _measures(grouped)
    for (benchmark, task, system), runs in grouped.items():
        measure = measures[benchmark, task]
        if any(measure not in run.scores for run in runs):
            others = ", ".join(runs[0].scores)
            notes.append(f"{benchmark}: {system} has no {measure} on {task}, only {others}; it is left out there")
            continue
        scored.append(Scored(benchmark, task, system, measure, tuple(runs)))
    notes += _same_weights(kept)
    collection = Collection(tuple(scored), files=tuple(files))
    return Collection(collection.scored, (*notes, *_missing(collection)), collection.files)


def _once(results: Sequence[tuple[Result, str]]) -> tuple[list[Result], list[str]]:
    """Each result once, and a note for one that was given twice."""
    seen: dict[str, tuple[Result, str]] = {}
    notes = []
    for result, source in results:
        settings = sorted((name, repr(value)) for name, value in result.settings.items() if value is not None)
        key = repr((result.benchmark, result.task, result.model, result.revision, settings, rows_of(result)))
        if key not in seen:
            seen[key] = result, source
            continue
        before, where = seen[key]
        if before.scores != result.scores:
            raise InputError(
                f"{where} and {source} both hold {result.label} with the same settings, and their scores differ "
                f"({before.main} {before.score:.4f}, {result.main} {result.score:.4f}); leave one of them out"
            )
        notes.append(f"{where} and {source} hold the same result, {result.label}; it counts once")
    return [result for result, _ in seen.values()], notes


def _measures(grouped: Mapping[tuple[str, str, str], Sequence[Result]]) -> dict[tuple[str, str], str]:
    """The main score of each task: what most of its results call so."""
    votes: dict[tuple[str, str], Counter[str]] = {}
    for (benchmark, task, _), runs in grouped.items():
        votes.setdefault((benchmark, task), Counter()).update(run.main for run in runs)
    return {place: counter.most_common(1)[0][0] for place, counter in votes.items()}


def _same_weights(results: Sequence[Result]) -> list[str]:
    named: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        named.setdefault((result.benchmark, result.revision), {})[result.model] = None
    return [
        f"{benchmark}: {' and '.join(models)} have the same revision, {revision}: one model under {len(models)} names"
        for (benchmark, revision), models in named.items()
        if revision and len(models) > 1
    ]


def _missing(collection: Collection) -> list[str]:
    """What cannot be compared, because somebody was not asked it."""
    notes = []
    for benchmark in collection.benchmarks:
        tasks, systems = collection.tasks(benchmark), collection.systems(benchmark)
        lacking: dict[str, list[str]] = {}
        for system in systems:
            if missing := [task for task in tasks if collection.at(benchmark, task, system) is None]:
                lacking.setdefault(_list(missing), []).append(system)
        for missed, names in lacking.items():
            notes.append(f"{benchmark}: {_list(names)} {'was' if len(names) == 1 else 'were'} not scored on {missed}")
        if len(systems) > 1 and not collection.common(benchmark):
            notes.append(
                f"{benchmark}: no task was given to all of {_list(systems)}, so there is no mean; "
                "score what is missing with diffembed evaluate, into the same folder"
            )
    # ``study attention`` is a part of ``study``, and has models of its own.
    whole = [b for b in collection.benchmarks if not any(b.startswith(f"{o} ") for o in collection.benchmarks)]
    models = {b: list(dict.fromkeys(one.first.model for one in collection.of(b))) for b in whole}
    if len(models) > 1 and not set.intersection(*map(set, models.values())):
        told = "; ".join(f"{benchmark} has {_list(names)}" for benchmark, names in models.items())
        notes.append(f"no model was scored on all benchmarks, so they cannot be read side by side: {told}")
    return notes


def _list(names: Sequence[str]) -> str:
    """
    >>> _list(["a", "b"]), _list([f"t{i}" for i in range(9)])
    ('a, b', 't0, t1, t2, t3, t4, t5 and 3 more')
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
