"""Pairs and grouped rows made from folders in BEIR layout: the train side, whole documents, texts held once."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.corpora import write_beir, write_folder

from diffembed.data.beir import split_of
from diffembed.data.example_sources import FolderSource, read_examples
from diffembed.data.examples import Grouped, Pair, Question
from diffembed.errors import InputError

TRAIN, DEV = (
    [name for name in (f"{letter}{i}" for letter in "ab" for i in range(200)) if split_of(name) == side][:12]
    for side in ("train", "dev")
)


def read_pairs(root: Path, *patterns: str, **options: Any) -> FolderSource:
    source = read_examples("s", root, patterns, 0, kind="pairs", **options)
    assert isinstance(source, FolderSource)
    return source


def test_pairs_are_of_the_train_side_only(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set")
    told: list[str] = []
    source = read_pairs(tmp_path, "set", report=told.append)
    train = [i for i in range(60) if zlib.crc32(f"q{i}".encode()) % 10]
    assert source.examples == tuple(
        Pair(
            f"what about number {i}",
            f"title {i}\ndocument number {i} tells about topic {i % 7}",
            id=f"set/q{i}",
            document_id=f"set/d{i}",
            language="en",
            source="set",
        )
        for i in train
    )
    assert len(train) < 60 and told == []
    orders = [np.random.default_rng((0, number)).permutation(len(train)) for number in range(2)]
    drawn = source.draws(0, 2 * len(train))
    assert [d.example for d in drawn] == [source.examples[i] for order in orders for i in order]
    assert source.draws(50, 20) == drawn[50:70]
    number = train[orders[0][0]]
    assert drawn[0].origin == f"{folder}: query q{number}, document d{number}"
    # As before there were other sources than pairs: runs that were begun then go on.
    assert source.contents() == [54, 3076646443]


def test_texts_are_held_once(tmp_path: Path) -> None:
    corpus = [{"_id": i, "text": f"text {i}"} for i in "ab"]
    judged = [(query, document) for query in TRAIN[:3] for document in "ab"]
    write_folder(tmp_path / "set", corpus, {query: f"query {query}" for query in TRAIN[:3]}, judged)
    made = read_pairs(tmp_path, "set").examples
    assert len(made) == 6
    for name, different in (("query", 3), ("document", 2), ("id", 3), ("document_id", 2)):
        assert len({id(getattr(pair, name)) for pair in made}) == different


def test_ids_tell_folders_apart(tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "c"):
        write_beir(tmp_path / name)
    told: list[str] = []
    source = read_pairs(tmp_path, "a/x", "b/x", "c", report=told.append)
    assert len({pair.document_id for pair in source.examples}) == len({pair.id for pair in source.examples}) == 162
    assert {pair.source for pair in source.examples} == {str(tmp_path / "a/x"), str(tmp_path / "b/x"), "c"}
    first = [source.origin(i) for i in (0, 54, 108)]
    assert first == [f"{tmp_path / name}: query q0, document d0" for name in ("a/x", "b/x", "c")]
    assert told == [
        "source 's': of 162 rows 108 repeat the query and document of another "
        f"({source.origin(54)} as {source.origin(0)}; {source.origin(55)} as {source.origin(1)}; "
        f"{source.origin(56)} as {source.origin(2)}; ...)"
    ]


def test_pairs_that_are_left_out_are_told(tmp_path: Path) -> None:
    write_beir(tmp_path / "set", blank=(1, 3))
    told: list[str] = []
    source = read_pairs(tmp_path, "set", report=told.append)
    train = [i for i in range(60) if split_of(f"q{i}") == "train"]
    assert len(source) == len(train) - 2
    assert told == [f"source 's': of {len(train)} pairs 2 have a blank document: left out"]
    write_beir(tmp_path / "blank", size=4, blank=(0, 1, 2, 3))
    with pytest.raises(InputError, match="source 's' has no row to train on"):
        read_pairs(tmp_path, "blank")


def articles(folder: Path) -> Path:
    """A train article of four chunks (the second blank), one of the dev side, one that nobody asks for, a chunk alone.

    Query 0 is answered by two chunks of the train article and one of the dev article, query 3 by a blank chunk.
    """
    train, unasked = TRAIN[:2]
    chunks = [(train, 2), (DEV[0], 0), (train, 0), (train, 1), (unasked, 0), (train, 3), (DEV[0], 1)]
    corpus: list[dict[str, Any]] = [
        {"_id": f"{doc}-{n}", "text": f"text {doc} {n}" if (doc, n) != (train, 1) else " ", "doc_id": doc,
         "chunk_idx": n} for doc, n in chunks
    ]  # fmt: skip
    corpus.append({"_id": TRAIN[2], "text": "alone"})
    queries = {query: f"query {query}" for query in (*TRAIN[3:7], DEV[1])}
    q0, q1, q2, q3 = TRAIN[3:7]
    judged = [(q0, f"{train}-3"), (q0, f"{train}-0"), (q1, f"{train}-2"), (q0, f"{DEV[0]}-1"), (q2, TRAIN[2])]
    judged += [(q3, f"{train}-1"), (q3, f"{train}-2"), (DEV[1], f"{train}-2"), (DEV[1], f"{DEV[0]}-0")]
    return write_folder(folder, corpus, queries, judged)


def test_groups_are_documents_with_their_questions(tmp_path: Path) -> None:
    folder = articles(tmp_path / "set")
    train, _, alone, q0, q1, q2, q3 = TRAIN[:7]
    told: list[str] = []

    def read(**options: Any) -> FolderSource:
        source = read_examples("s", tmp_path, ["set"], 0, kind="groups", report=told.append, **options)
        assert isinstance(source, FolderSource)
        return source

    def asked(query: str, chunk: int) -> Question:
        return Question(f"query {query}", chunk, id=f"set/{query}")

    def group(doc: str, chunks: tuple[str, ...], *questions: Question) -> Grouped:
        return Grouped(chunks, questions, document_id=f"set/{doc}", language="en", source="set")

    whole = group(train, tuple(f"text {train} {n}" for n in (0, 2, 3)),
                  asked(q0, 0), asked(q1, 1), asked(q3, 1), asked(q0, 2))  # fmt: skip
    single = group(alone, ("alone",), asked(q2, 0))
    other = group(DEV[0], (f"text {DEV[0]} 0", f"text {DEV[0]} 1"), asked(q0, 1))
    by_query = read()
    assert by_query.examples == (whole, other, single)
    assert told == [
        "source 's': of 4 documents 1 have no query of the train side: left out",
        "source 's': of 7 chunks 1 are blank: left out",
        "source 's': of 7 judged chunks 1 are blank: left out",
    ]
    assert {by_query.origin(i) for i in range(3)} == {f"{folder}: document {d}" for d in (train, DEV[0], alone)}
    assert by_query.draws(0, 6)[2:5] == by_query.draws(2, 3)
    told.clear()
    by_document = read(split_by="doc_id")
    # The query of the dev side is best answered by the train article here, so it is a query of the train side.
    seen = group(train, whole.chunks, *whole.questions[:3], asked(DEV[1], 1), whole.questions[3])
    assert by_document.examples == (seen, single) and by_document.contents() != by_query.contents()
    assert told == [
        "source 's': of 4 documents 1 are of the dev side and 1 have no query of the train side: left out",
        "source 's': of 5 chunks 1 are blank: left out",
        "source 's': of 9 judged chunks 1 are blank and 2 are of documents of the dev side: left out",
    ]


def test_pairs_leave_the_articles_of_the_dev_side_out(tmp_path: Path) -> None:
    articles(tmp_path / "set")
    told: list[str] = []
    source = read_pairs(tmp_path, "set", split_by="doc_id", report=told.append)
    assert len(source) == 6 and not any(f"text {DEV[0]}" in pair.document for pair in source.examples)  # type: ignore[union-attr]
    assert told == [
        "source 's': of 9 pairs 2 have a document of the dev side and 1 have a blank document: left out"
    ]  # fmt: skip


def test_folders_without_articles_have_documents_of_one_chunk(tmp_path: Path) -> None:
    write_beir(tmp_path / "set", blank=(5,))
    found = {}
    for split_by in ("query", "doc_id"):
        source = read_examples("s", tmp_path, ["set"], 0, kind="groups", split_by=split_by)
        found[split_by] = [drawn.example for drawn in source.draws(0, len(source))]
    train = {i for i in range(60) if split_of(f"q{i}") == "train" and i != 5}
    assert found["query"] == found["doc_id"] and len(found["query"]) == len(train)
    for row in found["query"]:
        assert isinstance(row, Grouped) and len(row.chunks) == 1
        (question,) = row.questions
        number = int(row.document_id.removeprefix("set/d"))
        assert question == Question(f"what about number {number}", 0, id=f"set/q{number}") and number in train
