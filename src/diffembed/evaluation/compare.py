"""Is one model better than another, or did it have luck with these queries?

Both models answered the same queries, so the differences of each query are looked at:

- a **confidence interval** by the paired bootstrap (Efron; Sakai, SIGIR 2006): queries are drawn with replacement, many
  times, and the middle 95% of the mean differences is the interval,
- a **p-value** by the paired randomisation test (Fisher; Smucker, Allan, Carterette, CIKM 2007): if the models were
  equals, each query's difference could as well have the other sign; p is the share of random signs that give a mean
  difference at least as large. With up to 16 queries that differ all signs are tried, so p is exact; else the observed
  signs count as one of the draws, so that p is never 0.

Over several sets every set counts the same: queries are drawn, and signs turned, within each set. Where several sets
are looked at one by one, some differ by luck alone; Holm's correction of their p-values stands beside each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.evaluation.results import Result

Values = npt.NDArray[np.float64]

DRAWS = 10_000
_EXACT = 16  # so many signs are tried in all their combinations
_BLOCK = 4_000_000  # numbers drawn at once
_ROUNDING = 1e-12  # sums of the same differences in another order


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it could have been with other queries of the same kind."""

    mean: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model ``b`` minus model ``a`` on one task, or over several.

    Attributes:
        task: ``benchmark/task``, or ``mean of N``.
        measure: what is compared.
        queries: those that both models answered; ``left_out``: those of one model alone.
        a, b: the mean of each model over ``queries``.
        difference: ``b - a`` with its interval.
        p: that so large a difference comes of chance alone.
        p_holm: the same, corrected for the number of tasks looked at.
        wins, losses, ties: queries on which ``b`` is better, worse, equal.
    """

    task: str
    measure: str
    queries: int
    left_out: int
    a: float
    b: float
    difference: Interval
    p: float
    p_holm: float
    wins: int
    losses: int
    ties: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def interval(values: Sequence[float], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of one model's scores by query, with its bootstrap interval.

    >>> found = interval([0.0] * 50 + [1.0] * 50)
    >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
    (0.5, 0.4, 0.6)
    """
    return _interval([np.asarray(values, np.float64)], level, draws, seed)


def compare(
    a: Result, b: Result, *, measure: str | None = None, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Two results of one task (see :func:`compare_many`)."""
    return compare_many([(a, b)], measure=measure, level=level, draws=draws, seed=seed)[0]


def compare_many(
    pairs: Sequence[tuple[Result, Result]],
    *,
    measure: str | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Comparison]:
    """Pairs of results, each of one task; where there are several, their mean comes last.

    Args:
        pairs: the results of model ``a`` and of model ``b``.
        measure: compared; the task's own figure unless given.
        level: of the intervals.
        draws: resamples, and random signs.
        seed: of both.

    Raises:
        InputError: results of different tasks, data or splits; scores by query that are not there; no query in common.
    """
    if not pairs:
        raise InputError("there is nothing to compare: no task has a result of both models")
    if not 0 < level < 1 or draws < 1:
        raise InputError(f"level is {level} and draws is {draws}; give a level between 0 and 1 and at least one draw")
    both = [_paired(a, b, measure) for a, b in pairs]
    names = [f"{a.benchmark}/{a.task}" for a, _ in pairs]
    found = [_compared([task], name, level, draws, seed) for task, name in zip(both, names, strict=True)]
    corrected = holm([one.p for one in found])
    found = [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
    if len(pairs) > 1 and len({task.measure for task in both}) == 1:  # the mean of figures of two kinds says nothing
        found.append(_compared(both, f"mean of {len(pairs)}", level, draws, seed))
    return found


def has_queries(a: Result, b: Result, measure: str | None = None) -> bool:
    """Whether both results have the scores of single queries that a comparison needs (p-MRR and similarity have none).

    >>> one = Result("mteb", "STS12", "a", "1", "cosine_spearman", {"cosine_spearman": 0.5})
    >>> has_queries(one, one)
    False
    """
    name = measure or a.main
    return all(any(name in scores for scores in result.by_query.values()) for result in (a, b))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p-values that were looked at together.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, worst = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = worst
    return corrected


def randomisation_p(differences: Sequence[Sequence[float] | Values], *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of the paired randomisation test; one list of differences a task, all tasks counting the same.

    Five queries, all better by the same: of the 32 ways to give signs, two are as extreme.

    >>> randomisation_p([[0.1] * 5])
    0.0625
    """
    arrays = [np.asarray(task, np.float64) for task in differences]
    # A query without a difference has no sign to turn; the weight makes every task count the same.
    moving = np.concatenate([task[task != 0] / (len(task) * len(arrays)) for task in arrays])
    observed = abs(moving.sum()) - _ROUNDING
    if len(moving) <= _EXACT:
        signs = 1 - 2 * ((np.arange(1 << len(moving))[:, None] >> np.arange(len(moving))) & 1)
        return float(np.mean(np.abs(signs @ moving) >= observed))
    generator = np.random.default_rng(seed)
    extreme, left = 1, draws
    while left:
        count = min(left, max(1, _BLOCK // len(moving)))
        signs = generator.integers(0, 2, (count, len(moving)), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ moving) >= observed))
        left -= count
    return extreme / (draws + 1)


@dataclass(frozen=True, slots=True)
class _Paired:
    measure: str
    a: Values
    b: Values
    left_out: int


def _paired(a: Result, b: Result, measure: str | None) -> _Paired:
    if (a.benchmark, a.task) != (b.benchmark, b.task):
        raise InputError(f"{a.label} and {b.label} are results of different tasks; compare results of the same one")
    name = measure or a.main
    for key in ("sha256", "revision"):
        mine, theirs = a.data.get(key), b.data.get(key)
        if mine and theirs and mine != theirs:
            raise InputError(
                f"{a.label} and {b.label} were measured on different data ({key}); measure one of them again"
            )
    for key in ("split", "sections"):
        if a.settings.get(key) != b.settings.get(key):
            raise InputError(
                f"{a.label} has {key} {a.settings.get(key)} and {b.label} has {b.settings.get(key)}; compare like "
                "with like"
            )
    values: list[Mapping[str, float]] = []
    for result in (a, b):
        found = {query: scores[name] for query, scores in result.by_query.items() if name in scores}
        if not found:
            known = sorted({measure for scores in result.by_query.values() for measure in scores})
            said = f"there are {', '.join(known)}" if known else "it was written without scores by query"
            raise InputError(f"{result.label} has no {name} of each query, which a test needs ({said})")
        if broken := [query for query, value in found.items() if not np.isfinite(value)]:
            raise InputError(
                f"{result.label} has {name} {found[broken[0]]} for query {broken[0]!r}, which is no number to compare; "
                "measure it again"
            )
        values.append(found)
    shared = [query for query in values[0] if query in values[1]]
    if not shared:
        raise InputError(f"{a.label} and {b.label} have no query in common; they were measured on different data")
    left, right = (np.array([found[query] for query in shared]) for found in values)
    return _Paired(name, left, right, len(set(values[0]) ^ set(values[1])))


def _compared(tasks: Sequence[_Paired], name: str, level: float, draws: int, seed: int) -> Comparison:
    differences = [task.b - task.a for task in tasks]
    together = np.concatenate(differences)
    p = randomisation_p(differences, draws=draws, seed=seed)
    wins, losses = int((together > 0).sum()), int((together < 0).sum())
    return Comparison(
        task=name,
        measure=tasks[0].measure,
        queries=len(together),
        left_out=sum(task.left_out for task in tasks),
        a=float(np.mean([task.a.mean() for task in tasks])),
        b=float(np.mean([task.b.mean() for task in tasks])),
        difference=_interval(differences, level, draws, seed),
        p=p,
        p_holm=p,
        wins=wins,
        losses=losses,
        ties=len(together) - wins - losses,
    )


def _interval(tasks: Sequence[Values], level: float, draws: int, seed: int) -> Interval:
    """Of the mean over tasks of the mean over their queries; queries are drawn within each task."""
    generator = np.random.default_rng(seed)
    means = np.zeros(draws)
    for values in tasks:
        count = max(1, _BLOCK // len(values))
        for start in range(0, draws, count):
            rows = generator.integers(0, len(values), (min(count, draws - start), len(values)))
            means[start : start + len(rows)] += values[rows].mean(axis=1) / len(tasks)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([values.mean() for values in tasks])), float(low), float(high), level)
