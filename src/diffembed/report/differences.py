"""Which differences between systems are more than luck: every pair of a benchmark, by ``evaluation/compare.py``."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from diffembed.evaluation.compare import compare_many, holm
from diffembed.evaluation.results import Result
from diffembed.report.collection import DRAWS, Collection, Scored
from diffembed.report.tables import Cell, Score, Table

MOST = 6  # systems; fifteen pairs


def difference_table(collection: Collection, benchmark: str) -> Table | None:
    """Pairs of systems on the tasks that all were scored on: difference, its interval, p.

    ``None`` where there is nothing to test: one system or more than ``MOST``, no common task, tasks of different
    measures, or results without scores by query.
    """
    systems = collection.systems(benchmark)
    found = [[collection.at(benchmark, task, s) for s in systems] for task in collection.common(benchmark)]
    tasks = [[one for one in row if one is not None] for row in found]
    measures = {one.measure for row in tasks for one in row}
    told = all(one.by_query for row in tasks for one in row)
    if not 1 < len(systems) <= MOST or not tasks or len(measures) > 1 or not told:
        return None
    pairs = list(combinations(range(len(systems)), 2))
    compared = [
        compare_many([(_as_result(row[a]), _as_result(row[b])) for row in tasks], draws=DRAWS)[-1] for a, b in pairs
    ]
    rows: list[tuple[Cell, ...]] = []
    for (a, b), one, p_holm in zip(pairs, compared, holm([one.p for one in compared]), strict=True):
        difference = one.difference
        score = Score(difference.mean, difference.low, difference.high)
        rows.append((systems[b], systems[a], score, one.wins, one.losses, one.ties, one.p, p_holm))
    head = ("system", "against", "difference", "better", "worse", "equal", "p", "p (Holm)")
    over = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
    note = (
        f"Mean difference of {measures.pop()} over {over}, with half the width of its 95% paired bootstrap interval; "
        "queries that the first system answers better, worse and equally; p of the paired randomisation test, and "
        "corrected for the number of pairs."
    )
    return Table(f"{benchmark}-differences", f"{benchmark}: differences", head, tuple(rows), note)


def _as_result(one: Scored) -> Result:
    """The runs of a system as one: scores by query are means over the seeds."""
    by_query = {query: {one.measure: value} for query, value in one.by_query.items()}
    return replace(one.first, main=one.measure, by_query=by_query)
