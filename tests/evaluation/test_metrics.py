"""The five measures: by hand, against trec_eval on random runs with ties and grades, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.evaluation import MEASURES, score_queries, score_run

GAINS = st.dictionaries(st.sampled_from("abcdefghijklmnop"), st.integers(0, 3), min_size=1)
# Few distinct scores, so that ties are common; whole numbers are the same in float32.
SCORES = st.dictionaries(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(-3, 3).map(float))
QUERIES = st.sampled_from(["q1", "q2", "q3", "q4", "q5"])


def test_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 1}}
    run = {"q": {"x": 0.9, "b": 0.8, "a": 0.7}}
    discounts = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    gained = 1 * discounts[1] + 2 * discounts[2]
    ideal = 2 * discounts[0] + 1 * discounts[1] + 1 * discounts[2]
    assert score_run(qrels, run) == pytest.approx(
        {"ndcg@10": gained / ideal, "mrr@10": 1 / 2, "recall@1": 0, "recall@10": 2 / 3, "recall@100": 2 / 3}
    )


def naive(gains: dict[str, int], scores: dict[str, float]) -> dict[str, float]:
    """The measures from their definitions, with trec_eval's order of ties: larger id first."""
    ranking = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
    relevant = {document for document, gain in gains.items() if gain > 0}

    def dcg(values: list[int]) -> float:
        return sum(value / math.log2(rank + 2) for rank, value in enumerate(values[:10]))

    found = [rank for rank, document in enumerate(ranking[:10]) if document in relevant]
    recalls = {f"recall@{k}": len(relevant & set(ranking[:k])) / len(relevant) for k in (1, 10, 100)}
    ideal = dcg(sorted(gains.values(), reverse=True))
    ndcg = dcg([gains.get(document, 0) for document in ranking]) / ideal
    return {"ndcg@10": ndcg, "mrr@10": 1 / (found[0] + 1) if found else 0.0, **recalls}


@settings(deadline=None, max_examples=60)
@given(qrels=st.dictionaries(QUERIES, GAINS, min_size=1), run=st.dictionaries(QUERIES, SCORES))
def test_against_the_definitions_and_trec_eval(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    import pytrec_eval

    asked = {query: gains for query, gains in qrels.items() if any(gains.values())}
    if not asked:
        with pytest.raises(InputError, match="no query"):
            score_run(qrels, run)
        return
    ours = score_queries(qrels, run)
    assert list(ours) == list(asked)
    trec = pytrec_eval.RelevanceEvaluator(asked, {"ndcg_cut.10", "recall.1,10,100"}).evaluate(run)
    for query, gains in asked.items():
        assert ours[query] == pytest.approx(naive(gains, run.get(query, {})))
        theirs = trec.get(query, {})
        for name, trec_name in (("ndcg@10", "ndcg_cut_10"), ("recall@1", "recall_1"), ("recall@100", "recall_100")):
            assert ours[query][name] == pytest.approx(theirs.get(trec_name, 0.0))
    means = score_run(qrels, run)
    assert means == pytest.approx({name: np.mean([ours[query][name] for query in ours]) for name in MEASURES})


@settings(deadline=None, max_examples=40)
@given(qrels=st.dictionaries(QUERIES, GAINS, min_size=1), run=st.dictionaries(QUERIES, SCORES, min_size=1))
def test_against_mteb(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> None:
    metrics = pytest.importorskip("mteb._evaluators.retrieval_metrics")

    asked = {query: gains for query, gains in qrels.items() if any(gains.values())}
    found = {query: run[query] for query in asked if run.get(query)}
    if not found:
        return
    theirs = metrics.calculate_retrieval_scores(found, asked, [1, 10, 100])
    ours = score_run(asked, run)
    # mteb's means are over the queries with a ranking, ours over those that were asked.
    share = len(found) / len(asked)
    for name, value in (
        ("ndcg@10", theirs.ndcg["NDCG@10"]),
        ("mrr@10", theirs.mrr["MRR@10"]),
        ("recall@1", theirs.recall["Recall@1"]),
        ("recall@10", theirs.recall["Recall@10"]),
        ("recall@100", theirs.recall["Recall@100"]),
    ):
        assert ours[name] == pytest.approx(value * share, abs=1e-5), name  # mteb rounds to five digits


def test_mrr_is_cut_after_ten() -> None:
    eleventh = {f"x{i:02}": 20.0 - i for i in range(10)} | {"a": 1.0}
    assert score_run({"q": {"a": 1}}, {"q": eleventh})["mrr@10"] == 0
    del eleventh["x00"]
    assert score_run({"q": {"a": 1}}, {"q": eleventh})["mrr@10"] == pytest.approx(1 / 10)


def test_ties_do_not_depend_on_the_order_of_the_run() -> None:
    tied = dict.fromkeys("abcdefghijkl", 1.0)
    backwards = dict(reversed(tied.items()))
    qrels = {"q": {"b": 1, "l": 1}}
    assert score_run(qrels, {"q": tied}) == score_run(qrels, {"q": backwards})
    assert score_run(qrels, {"q": tied})["recall@1"] == 0.5  # l is the largest id, so it stands first
    # Scores that differ below float32's resolution are equal to trec_eval, and to our own cut after ten.
    almost = {document: 1.0 + i * 1e-12 for i, document in enumerate("lkjihgfedcba")}
    assert score_run(qrels, {"q": almost}) == score_run(qrels, {"q": tied})


def test_missing_unjudged_and_ungraded_queries() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 0}}
    run = {"q1": {"a": 1.0}, "q9": {"a": 1.0}}
    assert score_run(qrels, run)["ndcg@10"] == 0.5  # q2 was asked and missed; q3 has nothing to find; q9 is not judged
    assert score_run(qrels, {})["recall@100"] == 0
    assert score_run({"q": {"a": -1, "b": 1}}, {"q": {"b": 1.0, "a": 2.0}})["mrr@10"] == 0.5


def test_a_score_that_is_no_number() -> None:
    with pytest.raises(InputError, match=r"document 'b' for query 'q1' is not a finite number"):
        score_run({"q1": {"a": 1}}, {"q1": {"a": 1.0, "b": float("nan")}})
