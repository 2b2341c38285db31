"""Scores of a ranking against judgements, computed by trec_eval (package ``pytrec-eval-terrier``).

The rules, the same for every model that is scored here:

- A judgement above 0 is relevant; its value is the gain of nDCG (linear, as in trec_eval: a 2 is worth twice a 1).
- A query that was judged but has no ranking scores 0 in everything and counts in the mean. A query without any
  relevant document is left out of the mean: no ranking could score on it. A ranked query without judgements is ignored.
- Equal scores are ordered by document id, the *larger* id (by its UTF-8 bytes) first: trec_eval's rule. It has
  nothing to do with relevance, and makes the figure independent of the order in which a search lists equal documents.
- trec_eval reads scores as float32, so scores that agree to seven digits are equal.
- MRR@10 is the reciprocal rank in the ranking cut after its first ten documents (trec_eval has no cut of its own).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from diffembed.errors import InputError, MissingExtraError

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]

MEASURES = ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100")
_TREC_NAMES = {"ndcg@10": "ndcg_cut_10", "recall@1": "recall_1", "recall@10": "recall_10", "recall@100": "recall_100"}
_TREC_MEASURES = {"ndcg_cut.10", "recall.1,10,100"}


def score_run(qrels: Qrels, run: Run) -> dict[str, float]:
    """Mean scores of ``run`` (query id -> document id -> score, larger is better) against ``qrels``.

    Returns the five ``MEASURES``, each in 0..1. Raises ``InputError`` when no query has a relevant document, or a
    score is not a finite number.

    The relevant document of q1 stands second; of the two of q2 the less relevant one is not found at all:

    >>> scores = score_run({"q1": {"a": 1}, "q2": {"b": 2, "c": 1}}, {"q1": {"x": 0.9, "a": 0.5}, "q2": {"b": 0.7}})
    >>> {name: round(value, 4) for name, value in scores.items()}
    {'ndcg@10': 0.6956, 'mrr@10': 0.75, 'recall@1': 0.25, 'recall@10': 0.75, 'recall@100': 0.75}
    """
    return mean_scores(score_queries(qrels, run))


def mean_scores(by_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of every measure over the queries."""
    return {name: float(np.mean([scores[name] for scores in by_query.values()])) for name in MEASURES}


def score_queries(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """The scores of every query with a relevant document (see ``score_run``), for tests of significance and plots."""
    whole = trec_scores(qrels, run, _TREC_MEASURES)
    cut = {query: _first(_as_floats(query, run[query]), 10) for query in whole if run.get(query)}
    first_ten = trec_scores(qrels, cut, {"recip_rank"})
    scored: dict[str, dict[str, float]] = {}
    for query, found in whole.items():
        values = {name: found[trec] for name, trec in _TREC_NAMES.items()}
        values["mrr@10"] = first_ten[query]["recip_rank"]
        scored[query] = {name: values[name] for name in MEASURES}
    return scored


def trec_scores(qrels: Qrels, run: Run, measures: Collection[str]) -> dict[str, dict[str, float]]:
    """trec_eval's own figures of every query with a relevant document; 0 where it has no ranking.

    Args:
        measures: as trec_eval writes them, with their cuts: ``{"ndcg_cut.5,10", "P.5", "recip_rank"}``.

    Returns:
        query id -> name (``ndcg_cut_5``, ``P_5``, ``recip_rank``) -> value. Raises as ``score_run``.

    >>> trec_scores({"q": {"a": 1, "b": 1}}, {"q": {"a": 2.0, "x": 1.0}}, {"P.1,2", "recall.2"})
    {'q': {'P_1': 1.0, 'P_2': 0.5, 'recall_2': 0.5}}
    """
    judged = {
        query: {document: max(int(gain), 0) for document, gain in gains.items()}
        for query, gains in qrels.items()
        if any(gain > 0 for gain in gains.values())
    }
    if not judged:
        raise InputError(
            f"no query of the {len(qrels)} given has a relevant document; give judgements with a score above 0"
        )
    ranked = {query: _as_floats(query, run[query]) for query in judged if run.get(query)}
    found = _trec_eval(judged, set(measures), ranked)
    names = sorted(
        f"{base}_{cut}" if cut else base
        for base, _, cuts in (measure.partition(".") for measure in measures)
        for cut in cuts.split(",")
    )
    return {query: {name: float(found[query][name]) if query in found else 0.0 for name in names} for query in judged}


def _as_floats(query: str, scores: Mapping[str, float]) -> dict[str, float]:
    """float32 values: rounded here once, so that our cut after ten documents sees the ties that trec_eval sees."""
    values = np.fromiter(scores.values(), dtype=np.float32, count=len(scores))
    if not np.isfinite(values).all():
        worst = list(scores)[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise InputError(f"the score of document {worst!r} for query {query!r} is not a finite number; mend the run")
    return dict(zip(scores, values.tolist(), strict=True))


def _first(scores: Mapping[str, float], count: int) -> dict[str, float]:
    best = sorted(scores, key=lambda document: (scores[document], document.encode("utf-8")), reverse=True)
    return {document: scores[document] for document in best[:count]}


def _trec_eval(qrels: dict[str, dict[str, int]], measures: set[str], run: dict[str, dict[str, float]]) -> Any:
    try:
        import pytrec_eval
    except ImportError as error:
        message = "scoring needs pytrec-eval-terrier, which is not installed; run: pip install 'diffembed[eval]'"
        raise MissingExtraError(message) from error
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
