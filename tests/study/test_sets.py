"""Samples of sets: what answers a query stays, whole documents stay whole, and the seed decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.studies import write_study

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.study.recipe import SetConfig
from diffembed.study.sets import load_set, sampled


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def tasks(draw: st.DrawFn) -> RetrievalTask:
    size = draw(st.integers(2, 12))
    ids = tuple(f"d{i}" for i in range(size))
    answers = st.dictionaries(st.sampled_from(ids), st.integers(1, 2), min_size=1, max_size=4)
    qrels = {f"q{i}": draw(answers) for i in range(draw(st.integers(1, 8)))}
    owners = draw(st.none() | st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
    places = None if owners is None else tuple(range(size))
    excluded = {"q0": frozenset(draw(st.sets(st.sampled_from(ids), max_size=3)))}
    queries = {query: f"text of {query}" for query in qrels}
    texts = tuple(f"text of {i}" for i in ids)
    doc_ids = None if owners is None else tuple(owners)
    return RetrievalTask("t", ids, texts, queries, qrels, doc_ids, places, excluded, 0, ids, tuple(qrels))


@settings(max_examples=150, deadline=None)
@given(task=tasks(), queries=st.integers(0, 9), documents=st.integers(0, 14), seed=st.integers(0, 3))
def test_samples_are_whole(task: RetrievalTask, queries: int, documents: int, seed: int) -> None:
    try:
        found = sampled(task, queries, documents, rng(seed))
    except InputError:
        found = None
    if found is None:
        with pytest.raises(InputError, match=f"fit into {documents} documents; allow more of them"):
            sampled(task, queries, documents, rng(seed))
        assert documents
        return
    assert found == sampled(task, queries, documents, rng(seed))
    rows = [task.document_ids.index(i) for i in found.document_ids]
    assert rows == sorted(rows) and [task.texts[row] for row in rows] == list(found.texts)
    assert found.document_langs == found.document_ids and found.query_langs == tuple(found.queries)  # rows of their own
    assert 1 <= len(found.queries) <= (queries or len(task.queries))
    assert len(found.texts) <= (documents or len(task.texts))
    assert found.qrels == {query: task.qrels[query] for query in found.queries}
    assert all(set(gains) <= set(found.document_ids) for gains in found.qrels.values())
    assert all(kept <= set(found.document_ids) for kept in found.excluded.values())
    if task.doc_ids is None:
        assert len(found.texts) == min(documents or len(task.texts), len(task.texts)), "others fill up"
    else:
        whole = {frozenset(task.document_ids[row] for row in group) for group in task.documents()}
        assert {frozenset(found.document_ids[row] for row in group) for group in found.documents()} <= whole
    if not queries and not documents:
        assert found.document_ids == task.document_ids and found.queries == task.queries


def test_sets_are_read_and_named(tmp_path: Path) -> None:
    write_study(tmp_path)
    data = tmp_path / "data"
    chunked = load_set(SetConfig("chunked", "contextual", "all", queries=4, documents=7), data, 0)
    assert (chunked.name, len(chunked.texts), len(chunked.queries)) == (
        "chunked",
        6,
        4,
    )  # two documents of three chunks
    drawn = {tuple(load_set(SetConfig("short", "short", "all", queries=5), data, s).queries) for s in range(4)}
    assert len(drawn) > 1 and all(len(queries) == 5 for queries in drawn)
    with pytest.raises(InputError, match="no chunks that could be read together"):
        load_set(SetConfig("short", "contextual", "all"), data, 0)
