"""Rows to batches: who belongs to whom, what stands once, what is cut and what is left out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.training.contrastive_checks import assert_whole, chunk_texts, documents_of, queries_of, source
from tests.training.contrastive_rows import END, SOURCE, batch_of, drawn, stage_of, tokenize, words

from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet
from diffembed.errors import InputError
from diffembed.training.contrastive_batch import from_rows, from_tokens

PAIR, CONTEXTUAL = stage_of("pair"), stage_of("contextual")
FREE, TRIPLET = stage_of("contextual", gold=False), stage_of("triplet", negatives=2)


# Kinds of rows


def test_pairs() -> None:
    batch = batch_of([Pair("dog", "the dog"), Pair("cat", "a cat reads", id="7"), Pair("fox", "quick fox")], PAIR)
    assert_whole(batch)
    assert queries_of(batch) == ["dog", "cat", "fox"]
    assert documents_of(batch) == [["the dog"], ["a cat reads"], ["quick fox"]]
    assert batch.positives.tolist() == batch.gold.tolist() == [0, 1, 2]
    assert batch.negatives.shape == (3, 0) and batch.scores == ((), (), ())
    assert batch.origins == tuple(f"rows.jsonl, line {i}" for i in (1, 2, 3))
    assert (batch.cut, batch.left_out) == (0, 0)


def test_what_is_equal_has_one_number_and_stands_once() -> None:
    rows = [
        Pair("dog", "the dog"),
        Pair("dog", "brown dog", id="9"),  # the same question
        Pair("hound", "the dog", document_id="d"),  # the same document
        Pair("wolf", "the grey dog", id="9", document_id="d"),  # both by id, though the texts differ
        Pair("fox", "a fox"),
    ]
    batch = batch_of(rows, PAIR)
    assert_whole(batch)
    assert documents_of(batch) == [["the dog"], ["brown dog"], ["the grey dog"], ["a fox"]]
    assert batch.positives.tolist() == [0, 1, 0, 2, 3]
    assert batch.query_ids.tolist() == [0, 0, 2, 0, 4]
    assert batch.document_ids.tolist() == [0, 1, 0, 3]
    assert batch.chunk_ids.tolist() == [0, 1, 2, 3]


def test_equality_reaches_through_a_third() -> None:
    rows = [Pair("a", "x", document_id="1"), Pair("b", "y", document_id="2"), Pair("c", "y", document_id="1")]
    assert batch_of(rows, PAIR).document_ids.tolist() == [0, 0]
    rows = [Pair("a", "x", id="1"), Pair("b", "y", id="2"), Pair("c", "z"), Pair("a", "w", id="2")]
    assert batch_of(rows, PAIR).query_ids.tolist() == [0, 0, 2, 0]


def test_triplets_share_documents_and_negatives() -> None:
    rows: list[Example] = [
        Triplet("dog", "the dog", ("a cat", "a fox", "a cat")),
        Triplet("cat", "a cat", ("the dog",)),  # each other's negatives
        Triplet("fox", "a fox", ()),
        Pair("token", "a token"),
    ]
    batch = batch_of(rows, stage_of("triplet", negatives=3))
    assert_whole(batch)
    assert documents_of(batch) == [["the dog"], ["a cat"], ["a fox"], ["a token"]]
    assert batch.negatives.tolist() == [[1, 2, 1], [0, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    plain = batch_of(rows, PAIR)
    assert plain.negatives.shape == (4, 0), "a pair stage reads no negatives"


def test_as_many_negatives_as_the_stage_asks_for_are_drawn() -> None:
    row = Triplet("dog", "the dog", tuple(words(i, 2) for i in range(6)))
    found = set()
    for seed in range(60):
        batch = batch_of([row, Pair("cat", "a cat")], TRIPLET, seed=seed)
        assert_whole(batch)
        texts = documents_of(batch)
        chosen = tuple(texts[n][0] for n in batch.negatives[0].tolist())
        assert len(texts) == 4, "those that are not chosen are not read"
        assert list(chosen) == sorted(chosen, key=row.negatives.index), "in their order: the hardest first"
        found.add(chosen)
    assert len(found) == math.comb(6, 2)


def test_grouped_rows() -> None:
    rows: list[Example] = [
        Grouped(("first part", "second part", "third"), (Question("q2", 2), Question("q0", 0, id="x"))),
        Grouped(("second part",), (Question("q", 0),)),
        Pair("dog", "the dog"),
    ]
    batch = batch_of(rows, CONTEXTUAL)
    assert_whole(batch)
    assert documents_of(batch) == [["first part", "second part", "third"], ["second part"], ["the dog"]]
    assert queries_of(batch) == ["q2", "q0", "q", "dog"]
    assert batch.positives.tolist() == [0, 0, 1, 2]
    assert batch.gold.tolist() == [2, 0, 3, 4]
    assert batch.chunk_ids.tolist() == [0, 1, 2, 1, 4], "a chunk that stands twice is one"
    assert batch.document_ids.tolist() == [0, 1, 2], "but the document around it is another"
    assert batch.chunk_tokens.tolist() == [end - start for s in batch.documents for start, end in s.spans]


def test_a_document_of_one_chunk_may_come_grouped_to_any_stage() -> None:
    row = Grouped(("the dog",), (Question("dog", 0), Question("hound")), instruction="find")
    for stage in (PAIR, TRIPLET, FREE):
        batch = batch_of([row, Pair("cat", "a cat")], stage)
        assert queries_of(batch) == ["find dog", "find hound", "cat"] and batch.positives.tolist() == [0, 0, 1]


def test_up_to_so_many_questions_of_a_document() -> None:
    row = Grouped(("a", "b", "c"), tuple(Question(f"q{i}", i % 3) for i in range(5)))
    found = set()
    for seed in range(40):
        asked = queries_of(batch_of([row], CONTEXTUAL, source(questions=2), seed=seed))
        assert len(asked) == 2 and asked == sorted(asked)
        found.add(tuple(asked))
    assert len(found) == math.comb(5, 2)


def test_scores_follow_their_chunks() -> None:
    chunks = tuple(words(i, 8) for i in range(6))
    row = Grouped(chunks, (Question("q", 3, tuple(float(i) for i in range(6))), Question("p")))
    batch = batch_of([row, Pair("dog", "the dog")], FREE)
    kept = documents_of(batch)[0]
    first = chunks.index(kept[0])
    assert 0 < len(kept) < 6
    assert batch.scores == (tuple(float(i) for i in range(first, first + len(kept))), (), ())
    assert batch_of([row], FREE, source(chunk_tokens=(3, 3))).scores == ((), ()), "of chunks that are gone"


# Instructions


def test_an_instruction_stands_before_the_query() -> None:
    rows = [Pair("dog", "the dog"), Pair("cat", "a cat", instruction="Find the animal")]
    assert queries_of(batch_of(rows, PAIR)) == ["dog", "Find the animal cat"]
    default = source(instruction="Look", instruction_format="{instruction}: {query}!")
    assert queries_of(batch_of(rows, PAIR, default)) == ["Look: dog!", "Find the animal: cat!"]
    odd = source(instruction="{query} {instruction}")
    assert queries_of(batch_of(rows, PAIR, odd))[0] == "dog {instruction} dog", "braces of a text are a text"
    apart = batch_of([rows[0], Pair("dog", "a wolf", instruction="Find")], PAIR)
    assert apart.query_ids.tolist() == [0, 1], "asked otherwise it is another query"


# What is cut


def test_long_texts_are_cut_and_counted() -> None:
    rows = [
        Triplet(words(1, 30), words(2, 60), (words(3, 60), "short")),
        Triplet("dog", "the dog", ()),
    ]
    batch = batch_of(rows, TRIPLET, source(query_tokens=5, document_tokens=11))
    assert_whole(batch, limit=11, query_limit=5)
    assert [len(s) for s in batch.sequences[:1]] == [5]
    assert sorted(map(len, batch.documents)) == sorted(
        [11, 11, *(len(tokenize([t], 64)[0][0]) for t in ("short", "the dog"))]
    )
    assert batch.cut == 3, "the query, its document and a negative"


def test_the_model_reads_no_more_than_it_can() -> None:
    batch = batch_of([Pair(words(1, 60), words(2, 60)), Pair("dog", "the dog")], PAIR, max_tokens=9)
    assert_whole(batch, limit=9, query_limit=9)
    assert batch.cut == 2


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    gold=st.integers(0, 11),
    limit=st.integers(4, 64),
    seed=st.integers(0, 99),
    known=st.booleans(),
)
def test_a_stretch_holds_the_answer(sizes: list[int], gold: int, limit: int, seed: int, known: bool) -> None:
    """Consecutive whole chunks, as many as fit: one more on either side would be too long."""
    gold %= len(sizes)
    chunks = tuple(words(100 + i, size) for i, size in enumerate(sizes))
    ids = [tokenize([chunk], limit)[0][0] for chunk in chunks]
    row = Grouped(chunks, (Question("q", gold if known else None),))
    batch = batch_of([row], CONTEXTUAL if known else FREE, source(document_tokens=limit), seed=seed)
    assert_whole(batch, limit=limit)
    (document,) = batch.documents
    kept = [list(document.token_ids[a:b]) for a, b in document.spans]
    first = next(i for i in range(len(ids)) if ids[i : i + len(kept)] == kept)
    last = first + len(kept)
    if known:
        assert first <= gold < last and batch.gold.tolist() == [gold - first]
        assert kept[batch.gold[0]] == ids[gold]
    for neighbour in (first - 1, last):
        if 0 <= neighbour < len(ids):
            assert len(document) + 1 + len(ids[neighbour]) > limit
    over = len(tokenize([chunks[gold]], 999)[0][0])
    assert (batch.cut > 0) == (len(kept) < len(ids) or any(len(tokenize([c], 999)[0][0]) > limit for c in chunks)), over


def test_two_stretches_of_one_document_are_not_mistaken_for_each_other() -> None:
    """Rows of one document with a question each, and a limit that leaves one chunk of it."""
    chunks = tuple(words(10 + i, 9) for i in range(3))
    rows = [Grouped(chunks, (Question(f"q{i}", i),), document_id="d") for i in (0, 2, 0)]
    limit = max(len(tokenize([chunk], 99)[0][0]) for chunk in chunks)
    batch = batch_of(rows, CONTEXTUAL, source(document_tokens=limit))
    assert_whole(batch, limit=limit)
    assert documents_of(batch) == [[chunks[0]], [chunks[2]]]
    assert batch.positives.tolist() == batch.gold.tolist() == [0, 1, 0]
    assert batch.document_ids.tolist() == [0, 0], "no negatives of each other"


def test_an_answer_outside_of_the_stretch_is_left_out() -> None:
    chunks = tuple(words(10 + i, 9) for i in range(9))
    row = Grouped(chunks, (Question("first", 0), Question("last", 8)))
    batch = batch_of([row], CONTEXTUAL)
    assert_whole(batch)
    assert queries_of(batch) == ["first"] and batch.left_out == 1 and batch.gold.tolist() == [0]


# Chunks cut anew


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    length=st.integers(1, 70),
    limit=st.integers(2, 64),
    seed=st.integers(0, 9),
)
def test_chunks_are_cut_anew(sizes: list[int], length: int, limit: int, seed: int) -> None:
    chunks = tuple(words(100 + i, size) for i, size in enumerate(sizes))
    row = Grouped(chunks, (Question("q", len(chunks) // 2),))
    batch = batch_of([row], FREE, source(document_tokens=limit, chunk_tokens=(length, length)), seed=seed)
    assert_whole(batch, limit=limit)
    assert batch.gold.tolist() == [-1] and batch.positives.tolist() == [0]
    (document,) = batch.documents
    pieces = [list(document.token_ids[a:b]) for a, b in document.spans]
    assert all(len(piece) == min(length, limit) for piece in pieces[:-1]) and len(pieces[-1]) <= length
    kept = [token for piece in pieces for token in piece]
    ids = tokenize(list(chunks), limit)[0]
    stretches = [[token for chunk in ids[first:] for token in chunk][: len(kept)] for first in range(len(ids))]
    assert kept in stretches, "consecutive, from the beginning of a chunk"
    assert (batch.cut > 0) == (len(kept) < sum(len(tokenize([c], 999)[0][0]) for c in chunks))
    if len(chunks) == 1:
        assert kept == ids[0][: len(kept)]
        assert len(kept) == len(ids[0]) or len(document) >= limit - 1, (
            "as many as fit: a separator needs something after"
        )


def test_one_length_a_step_on_a_logarithmic_scale() -> None:
    row = Grouped((words(1, 60),), (Question("q"),))
    found = source(chunk_tokens=(2, 32))
    lengths = []
    for seed in range(300):
        batch = batch_of([row, dataclasses.replace(row, chunks=(words(2, 60),))], FREE, found, seed=seed)
        firsts = {s.spans[0][1] for s in batch.documents}
        assert len(firsts) == 1
        lengths += list(firsts)
    assert min(lengths) == 2 and max(lengths) == 32
    for low, high in ((2, 4), (4, 8), (8, 16), (16, 32)):
        assert 0.15 < np.mean([low <= n < high for n in lengths]) < 0.36


# Without tokens


def no_blanks(texts: list[str], limit: int) -> tuple[list[list[int]], int]:
    """A tokenizer that makes nothing of full stops."""
    return tokenize([text.replace(".", "") for text in texts], limit)


def test_what_has_no_token() -> None:
    rows: list[Example] = [
        Pair(".", "a dog"),
        Pair("dog", "."),
        Pair("cat", "a cat"),
        Triplet("fox", "a fox", (".", "a cat")),
        Pair("owl", "an owl"),
    ]
    batch = batch_of(rows, TRIPLET, tokenize=no_blanks)
    assert_whole(batch)
    assert queries_of(batch) == ["cat", "fox", "owl"] and batch.left_out == 2
    assert documents_of(batch) == [["a dog"], ["a cat"], ["a fox"], ["an owl"]]
    assert batch.positives.tolist() == [1, 2, 3]
    assert batch.negatives.tolist() == [[-1, -1], [1, -1], [-1, -1]]
    empty = batch_of([Pair(".", "."), Pair(".", "a dog")], PAIR, tokenize=no_blanks)
    assert empty.queries == 0 and empty.left_out == 2


def test_a_chunk_without_tokens_keeps_its_number() -> None:
    row = Grouped(("first", ".", "third"), (Question("q", 2), Question("p", 1)))
    batch = batch_of([row], CONTEXTUAL, tokenize=no_blanks)
    assert_whole(batch)
    assert documents_of(batch) == [["first", "<|endoftext|>", "third"]]
    assert batch.gold.tolist() == [2, 1] and batch.chunk_tokens.tolist()[1] == 1
    blank = Grouped((*["."] * 40, "third"), (Question("q", 40),))
    batch = batch_of([blank], CONTEXTUAL, source(document_tokens=20), tokenize=no_blanks)
    assert_whole(batch, limit=20)
    assert chunk_texts(batch.documents[0])[batch.gold[0]] == "third"


# Rows that a stage cannot use


@pytest.mark.parametrize(
    ("row", "stage", "changes", "message"),
    [
        (Grouped(("a", "b"), (Question("q", 0),)), PAIR, {}, "is a document of 2 chunks; a pair stage reads pairs"),
        (Grouped(("a", "b"), (Question("q", 0),)), TRIPLET, {}, "a triplet stage reads pairs and triplets"),
        (
            Pair("q", "d"),
            TRIPLET,
            {"in_batch": False},
            "has no negatives, and source 'rows' compares with nothing else",
        ),
        (Triplet("q", "d", ()), TRIPLET, {"in_batch": False}, r"has no negatives.*\(in_batch = false\)"),
        (
            Grouped(("a", "b"), (Question("p", 1), Question("q"))),
            CONTEXTUAL,
            {},
            "has a query without a chunk.*gold = false",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row: Example, stage: Any, changes: dict[str, Any], message: str) -> None:
    fine = Triplet("x", "y", ("z",)) if stage is TRIPLET else Pair("x", "y")
    with pytest.raises(InputError, match=message) as caught:
        batch_of([fine, row], stage, source(**changes))
    assert str(caught.value).startswith("rows.jsonl, line 2 ") and "\n" not in str(caught.value)


def test_tokens_as_pairs() -> None:
    batch = from_tokens([[5], [], [6, 7]], [[8, 9], [8], [8, 9]], SOURCE, origins=["a", "b", "c"], cut=4)
    assert_whole(batch)
    assert [list(s.token_ids) for s in batch.sequences] == [[5], [6, 7], [8, 9], [8], [8, 9]]
    assert batch.positives.tolist() == batch.gold.tolist() == [0, 2]
    assert batch.document_ids.tolist() == [0, 1, 2] and batch.query_ids.tolist() == [0, 1]
    assert (batch.cut, batch.left_out, batch.origins) == (4, 1, ("a", "b", "c"))


def test_drawn_rows_keep_their_origins() -> None:
    rows = drawn([Pair("dog", "the dog"), Pair("cat", "a cat")])
    rng = np.random.default_rng(0)
    batch = from_rows(rows, PAIR, SOURCE, tokenize, end_token_id=END, max_tokens=64, rng=rng)
    assert batch.origins == ("rows.jsonl, line 1", "rows.jsonl, line 2") and batch.source is SOURCE
