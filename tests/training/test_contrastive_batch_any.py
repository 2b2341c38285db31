"""Rows to batches: what holds for any rows, whatever they are (hypothesis)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.contrastive_checks import assert_whole, documents_of, queries_of, source
from tests.training.contrastive_rows import TOKENIZER, batch_of, stage_of, tokenize, words

from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet
from diffembed.training.contrastive_batch import ContrastiveBatch

CONTEXTUAL, FREE = stage_of("contextual"), stage_of("contextual", gold=False)

_texts = st.integers(0, 9).map(lambda i: words(i, i))
_identifiers = st.sampled_from(["", "", "1", "2"])


@st.composite
def _rows(draw: st.DrawFn) -> list[Example]:
    rows: list[Example] = []
    for number in range(draw(st.integers(1, 6))):
        common = {"id": draw(_identifiers), "document_id": draw(_identifiers)}
        query = f"{number} asks"
        form = draw(st.integers(0, 2))
        if form == 0:
            rows.append(Pair(query, draw(_texts), **common))
        elif form == 1:
            rows.append(Triplet(query, draw(_texts), tuple(draw(st.lists(_texts, max_size=4))), **common))
        else:
            chunks = tuple(draw(st.lists(_texts, min_size=1, max_size=5)))
            questions = tuple(
                Question(f"{query} {i}", draw(st.integers(0, len(chunks) - 1)), id=draw(_identifiers))
                for i in range(draw(st.integers(1, 3)))
            )
            rows.append(Grouped(chunks, questions, **common))
    return rows


def asked_of(rows: Sequence[Example]) -> dict[str, tuple[Example, int]]:
    """Text of a query -> its row, and the chunk that answers."""
    found: dict[str, tuple[Example, int]] = {}
    for row in rows:
        if isinstance(row, Grouped):
            found |= {question.query: (row, question.chunk or 0) for question in row.questions}
        else:
            found[row.query] = (row, 0)
    return found


def keys_of(row: Example) -> set[Any]:
    text = row.chunks if isinstance(row, Grouped) else (row.document,)
    return {("text", text)} | ({("id", row.document_id)} if row.document_id else set())


def closed(things: Sequence[set[Any]]) -> list[int]:
    """The first of all that are equal through shared keys, by looking again and again."""
    groups = list(range(len(things)))
    for _ in things:
        for i, one in enumerate(things):
            for j, other in enumerate(things):
                if one & other:
                    groups[i] = groups[j] = min(groups[i], groups[j])
    return groups


@settings(max_examples=80, deadline=None)
@given(rows=_rows(), limit=st.integers(6, 64), questions=st.integers(1, 3), gold=st.booleans(), seed=st.integers(0, 9))
def test_any_rows(rows: list[Example], limit: int, questions: int, gold: bool, seed: int) -> None:
    stage, found = (CONTEXTUAL if gold else FREE), source(document_tokens=limit, questions=questions)
    batch = batch_of(rows, stage, found, seed=seed)
    assert_whole(batch, limit=limit)
    again = batch_of(rows, stage, found, seed=seed)
    for field in dataclasses.fields(ContrastiveBatch):
        assert np.array_equal(getattr(batch, field.name), getattr(again, field.name)), field.name
    known = asked_of(rows)
    wanted = sum(min(questions, len(r.questions)) if isinstance(r, Grouped) else 1 for r in rows)
    assert batch.queries + batch.left_out == wanted
    documents, texts = documents_of(batch), queries_of(batch)
    for text, positive, answer in zip(texts, batch.positives.tolist(), batch.gold.tolist(), strict=True):
        row, chunk = known[text]
        own = [
            TOKENIZER.decode(ids)
            for ids in tokenize(list(next(iter(t for k, t in keys_of(row) if k == "text"))), limit)[0]
        ]
        assert (
            TOKENIZER.decode(list(batch.documents[positive].token_ids)[slice(*batch.documents[positive].spans[0])])
            in own
        )
        start = answer - int(np.flatnonzero(batch.chunk_documents == positive)[0])
        assert documents[positive][start] == own[chunk]
        assert documents[positive] == own[chunk - start : chunk - start + len(documents[positive])]
    things = closed([keys_of(row) for row in rows])
    numbers = {text: things[rows.index(known[text][0])] for text in texts}
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            same = batch.document_ids[batch.positives[i]] == batch.document_ids[batch.positives[j]]
            assert same == (numbers[a] == numbers[b])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.builds(Triplet, _texts, _texts, st.lists(_texts, max_size=4).map(tuple)), min_size=1, max_size=6),
    most=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_any_triplets(rows: list[Triplet], most: int, seed: int) -> None:
    batch = batch_of(rows, stage_of("triplet", negatives=most), seed=seed)
    assert_whole(batch)
    texts = [chunks[0] for chunks in documents_of(batch)]
    assert len(set(texts)) == len(texts), "each text once"
    assert set(texts[: len({row.document for row in rows})]) == {row.document for row in rows}, "positives first"
    assert queries_of(batch) == [row.query for row in rows]
    for row, positive, negatives in zip(rows, batch.positives.tolist(), batch.negatives, strict=True):
        assert texts[positive] == row.document
        chosen = [texts[n] for n in negatives.tolist() if n >= 0]
        assert len(chosen) == min(most, len(row.negatives))
        at = iter(row.negatives)
        assert all(text in at for text in chosen), "a subsequence of the row's"


def test_a_batch_follows_from_its_generator_alone() -> None:
    rows = [Grouped(tuple(words(i, 9) for i in range(9)), tuple(Question(f"q{i}", i) for i in range(9)))]
    found = {
        tuple(queries_of(batch_of(rows, CONTEXTUAL, seed=seed)))
        + tuple(documents_of(batch_of(rows, CONTEXTUAL, seed=seed))[0])
        for seed in range(8)
    }
    assert len(found) == 8
