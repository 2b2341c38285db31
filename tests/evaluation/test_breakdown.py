"""Scores by language and by length: who belongs where, and that the parts add up to the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation import RetrievalTask, evaluate_encoder
from diffembed.evaluation.breakdown import breakdown, languages, sought_documents, sought_lengths, upper_edge

TASK = RetrievalTask(
    name="zoo",
    document_ids=("a", "b", "c", "d"),
    texts=("owl", "a long text on owls", "Eule", "x" * 40),
    document_langs=("en", "en", "de", "en"),
    queries={"q1": "owl?", "q2": "Eule?", "q3": "hibou ?", "q4": "both?"},
    query_langs=("en", "de", "fr", "en"),
    qrels={"q1": {"a": 1}, "q2": {"c": 1}, "q3": {"a": 2, "d": 1}, "q4": {"a": 1, "b": 1}},
)
BY_QUERY = {query: {"ndcg@10": value} for query, value in (("q1", 1.0), ("q2", 0.5), ("q3", 0.0), ("q4", 0.2))}


def test_the_sought_document_is_the_best_judged_and_then_the_longest() -> None:
    assert sought_documents(TASK) == {"q1": "a", "q2": "c", "q3": "a", "q4": "b"}
    assert sought_lengths(TASK) == {"q1": 3, "q2": 4, "q3": 3, "q4": 19}
    assert sought_lengths(TASK, lambda texts: [len(text.split()) for text in texts])["q4"] == 5


def test_by_language() -> None:
    assert languages(TASK) == {"q1": "en", "q2": "de", "q3": "fr-en", "q4": "en"}
    groups = breakdown(TASK, BY_QUERY, by=["language"])
    assert [(group.value, group.queries, group.scores["ndcg@10"]) for group in groups] == [
        ("de", 1, 0.5),
        ("en", 2, pytest.approx(0.6)),
        ("fr-en", 1, 0.0),
    ]
    assert breakdown(replace(TASK, document_langs=(), query_langs=()), BY_QUERY, by=["language"]) == ()
    assert languages(replace(TASK, document_langs=()))["q3"] == "fr"


def test_by_length_with_the_model_s_limit() -> None:
    count = {"owl": 30, "a long text on owls": 33, "Eule": 65}
    groups = breakdown(
        TASK, BY_QUERY, by=["length"], count_tokens=lambda texts: [count[text] for text in texts], limit=40
    )
    assert [(group.by, group.value, group.queries, group.note) for group in groups] == [
        ("length", "32", 2, "17 to 32 tokens"),
        ("length", "64", 1, "33 to 64 tokens, some over the limit of 40 tokens"),
        ("length", "128", 1, "65 to 128 tokens, all over the limit of 40 tokens"),
    ]
    assert breakdown(TASK, BY_QUERY, by=["length"]) == ()  # nobody to count tokens


def test_chunks_have_the_length_of_their_document() -> None:
    chunked = replace(TASK, doc_ids=("A", "A", "C", None), chunk_idx=(0, 1, 0, 0))
    assert sought_lengths(chunked) == {"q1": 22, "q2": 4, "q3": 22, "q4": 22}


@given(st.integers(1, 1 << 20))
def test_edges_are_powers_of_two_at_or_above(length: int) -> None:
    edge = upper_edge(length)
    assert edge // 2 < length <= edge
    assert edge & (edge - 1) == 0


def test_parts_add_up_to_the_report(tiny_encoder: Encoder) -> None:
    report = evaluate_encoder(TASK, tiny_encoder)
    groups = breakdown(TASK, report.by_query, count_tokens=tiny_encoder.count_tokens, limit=tiny_encoder.max_tokens)
    assert {group.by for group in groups} == {"language", "length", "characters"}
    for by in ("language", "length", "characters"):
        parts = [group for group in groups if group.by == by]
        assert sum(group.queries for group in parts) == report.queries
        for measure, score in report.scores.items():
            assert sum(group.queries * group.scores[measure] for group in parts) == pytest.approx(4 * score)


def test_another_word() -> None:
    with pytest.raises(InputError, match="'mood'; give one of: language, length, characters"):
        breakdown(TASK, BY_QUERY, by=["mood"])  # type: ignore[list-item]
