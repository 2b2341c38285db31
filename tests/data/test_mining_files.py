"""What mining does with files, folders, an index, memory and mistakes."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.data.mining_oracle import (
    DIMS,
    Fake,
    cosine,
    pairs_of,
    read_triplets,
    write_pairs,
    write_rows,
)

from diffembed.data import mining
from diffembed.data.beir import Split
from diffembed.data.examples import Pair
from diffembed.data.mining import MiningSettings, mine_for_pairs, mine_negatives
from diffembed.doctor import BUNDLED
from diffembed.encoder import Encoder
from diffembed.errors import DiffembedError, IndexStoreError, InputError, ModelError
from diffembed.index import Index
from diffembed.vectors.embeddings import Embeddings

needs_bundled = pytest.mark.skipif(not (BUNDLED / "diffembed.json").exists(), reason="the embedded model is missing")


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_a_file_of_pairs_gives_what_the_same_pairs_in_memory_give(name: str, tmp_path: Path) -> None:
    pairs = [*pairs_of(50), Pair("(t1) query 1", "(t1) another answer", id="x", document_id="A", instruction="Für:")]
    pairs.append(Pair("(t2) same document", "(t1)  document\n1", id="y", document_id="A"))
    data, into = write_pairs(tmp_path / name, pairs), tmp_path / "triplets.jsonl"
    report = mine_negatives(data, into, model=Fake(), split="all", settings=MiningSettings(negatives=3))
    expected, in_memory = mine_for_pairs(pairs, Fake(), MiningSettings(negatives=3))
    assert read_triplets(into) == expected
    assert report.tally.to_dict() == in_memory.tally.to_dict()
    written = json.loads((tmp_path / "triplets.jsonl.report.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["fingerprint"] == {"pairs": hashlib.sha256(data.read_bytes()).hexdigest()}
    assert (written["model"], written["settings"]["negatives"]) == ("fake", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, into.name, f"{into.name}.report.json"])


def test_a_corpus_beside_the_pairs_is_what_is_searched(tmp_path: Path) -> None:
    pairs = [replace(pair, document_id=f"c{i}") for i, pair in enumerate(pairs_of(20))]
    corpus = [
        {"_id": f"c{i}", "title": "(t1) title" if i % 7 == 0 else "", "text": f"({'t1'}) text {i}"} for i in range(40)
    ]
    corpus += [{"_id": "blank", "text": " "}, {"_id": 99, "text": "(t1) text 8"}]
    texts = ["\n".join(filter(None, (row.get("title"), row["text"]))) for row in corpus[:40]]
    data, file = write_pairs(tmp_path / "pairs.jsonl", pairs), write_rows(tmp_path / "corpus.jsonl.gz", corpus)
    into = tmp_path / "out.jsonl"
    report = mine_negatives(
        data, into, model=Fake(), corpus=file, split="all", settings=MiningSettings(relative_margin=0)
    )
    triplets = read_triplets(into)
    assert {text for row in triplets for text in row.negatives} <= set(texts)
    for row in triplets:
        assert texts[int(row.document_id[1:])] not in row.negatives
    assert (report.documents, report.blank_documents, report.duplicate_documents) == (40, 1, 1)
    assert report.tally.dropped["same_document"] > 0
    assert set(report.fingerprint) == {"pairs", "corpus"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six queries, one with two answers; a blank document, one given twice, one in two chunks, an excluded pair."""
    path = tmp_path / "set"
    path.mkdir()
    corpus = [{"_id": f"d{i}", "text": f"(t{i % 2}) document {i}"} for i in range(12)]
    corpus += [{"_id": "blank", "text": ""}, {"_id": "twice", "text": "(t0) document 2"}]
    corpus += [{"_id": f"c{i}", "text": f"(t1) chunk {i}", "doc_id": "C", "chunk_idx": i} for i in range(2)]
    write_rows(path / "corpus.jsonl", corpus)
    asked = (0, 1, 2, 3, 8, 5, 6)  # q8 is of the dev side
    write_rows(path / "queries.jsonl", [{"_id": f"q{i}", "text": f"(t{i % 2}) query {i}"} for i in asked])
    judged = [(f"q{i}", f"d{i}", 1) for i in asked[:5]]
    judged += [("q0", "d4", 2), ("q5", "c0", 1), ("q6", "blank", 1)]
    (path / "qrels.tsv").write_text("".join(f"{q}\t{d}\t{s}\n" for q, d, s in judged), encoding="utf-8")
    (path / "exclude.tsv").write_text("q1\td3\n", encoding="utf-8")
    return path


def test_a_beir_folder(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "out.jsonl"
    chosen = MiningSettings(negatives=20, last=30, relative_margin=0.0)
    report = mine_negatives(folder, into, model=Fake(), split="all", settings=chosen)
    rows = read_triplets(into)
    pairs = [("q0", "d0"), ("q0", "d4"), ("q1", "d1"), ("q2", "d2"), ("q3", "d3"), ("q8", "d8"), ("q5", "c0")]
    named = [(f"set/{query}", f"set/{document}") for query, document in pairs]
    found = [(row.id, row.document_id) for row in rows]
    assert found == [pair for pair in named if pair in found]
    assert len(found) + len(report.tally.left_out_named) == 7
    never = {
        "set/q0": {"(t0) document 0", "(t0) document 4"},
        "set/q1": {"(t1) document 1", "(t1) document 3"},
        "set/q5": {"(t1) chunk 0", "(t1) chunk 1"},
    }
    for row in rows:
        assert len(row.negatives) == len(set(row.negatives))
        assert not {row.document, *never.get(row.id, ())} & set(row.negatives)
    tally = report.tally
    assert (tally.pairs, report.blank_positives, report.blank_documents, report.duplicate_documents) == (7, 1, 1, 1)
    assert (tally.dropped["judged"], tally.dropped["same_document"]) == (7 + 2 + 1, 1)
    assert report.documents == 14
    assert set(report.fingerprint) == {"corpus.jsonl", "queries.jsonl", "qrels.tsv", "exclude.tsv"}


def test_splits_are_told_apart_by_query_and_share_the_corpus(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "out.jsonl"
    everything = MiningSettings(relative_margin=0)
    asked = {
        split: mine_negatives(folder, into, model=Fake(), split=split, settings=everything) for split in get_args(Split)
    }
    assert {report.tally.pairs + report.outside_split for report in asked.values()} == {7}
    assert asked["all"].tally.pairs == 7 == asked["train"].tally.pairs + asked["dev"].tally.pairs
    pairs = pairs_of(40)
    data = write_pairs(tmp_path / "pairs.jsonl", pairs)
    train = mine_negatives(data, into, model=Fake())
    ids = {row.id for row in read_triplets(into)}
    dev = mine_negatives(data, into, model=Fake(), split="dev")
    assert not ids & {row.id for row in read_triplets(into)}
    assert train.tally.pairs == dev.outside_split > 0 < dev.tally.pairs == train.outside_split
    assert train.documents == dev.documents == 40


@needs_bundled
def test_the_embedded_model_finds_what_is_near_and_not_an_answer(tmp_path: Path) -> None:
    folder = tmp_path / "animals"
    folder.mkdir()
    texts = [
        "The cat sleeps on the sofa all afternoon.",
        "The dog sleeps in front of the fireplace.",
        "A cat needs fresh water and food every day.",
        "Compile the kernel with the new configuration.",
        "Interest rates rose again in the last quarter.",
        "The train to the coast leaves at noon.",
    ]
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    write_rows(folder / "queries.jsonl", [{"_id": "q1", "text": "Where does the cat sleep?"}])
    (folder / "qrels.tsv").write_text("q1\td0\t1\n", encoding="utf-8")
    into, said, ticks = tmp_path / "out.jsonl", [], []
    report = mine_negatives(
        folder,
        into,
        split="all",
        settings=MiningSettings(negatives=2),
        report=said.append,
        progress=lambda done, total: ticks.append((done, total)),
    )
    encoder = Encoder.load()
    query = encoder.encode_queries(["Where does the cat sleep?"], dtype="int8").values[0]
    scores = [cosine(query, row) for row in encoder.encode_documents(texts, dtype="int8").values]
    hardest = sorted((i for i in range(1, 6) if scores[i] <= 0.95 * scores[0]), key=lambda i: -scores[i])[:2]
    (row,) = read_triplets(into)
    assert row.negatives == tuple(texts[i] for i in hardest)
    assert texts[2] in row.negatives
    assert (report.model, len(report.model_fingerprint)) == ("default", 64)
    assert ticks[-1] == (7, 7)
    assert len(said) == 2
    narrow = mine_negatives(folder, into, split="all", settings=MiningSettings(negatives=2, dims=64))
    assert narrow.settings.dims == 64


def test_an_index_is_searched_without_the_documents_of_the_query(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    files = [f"(t{i % 3}) document {i}." for i in range(30)]
    for i, text in enumerate(files):
        (notes / f"{i}.txt").write_text(text, encoding="utf-8")
    for i in range(40):  # more than are asked for beyond the window
        (notes / f"copy{i}.txt").write_text(files[9], encoding="utf-8")
    encoder, into = Fake(), tmp_path / "out.jsonl"
    Index.build([notes], tmp_path / "index", encoder=encoder).close()
    pairs = [Pair(f"(t{i % 3}) query {i}", files[i], id=str(i)) for i in range(6)]
    pairs.append(Pair("(t0) query 6", f"{files[6]} And more of it.", id="6"))
    pairs.append(Pair("(t1) query 7", "document 7.", id="7"))
    data = write_pairs(tmp_path / "pairs.jsonl", pairs)
    chosen = MiningSettings(negatives=3, last=7, relative_margin=0.0)
    report = mine_negatives(
        data, into, model=encoder, index=tmp_path / "index", split="all", settings=chosen, teacher=Fake("teacher")
    )
    expected = []
    for i, pair in enumerate(pairs):
        others = [text for text in files if text != files[i]]
        expected += mine_for_pairs([pair], Fake(), chosen, corpus=others, teacher=Fake("teacher"))[0]
    assert read_triplets(into) == expected
    assert len(expected) >= 4
    assert report.documents == 70
    assert report.tally.dropped["same_text"] >= 40
    texts = {1: "an answer", 2: "other", 3: "before it, the whole of an answer, after it", 4: "other", 5: "third"}
    assert mining._places([1, 2, 3, 4, 5], {"the whole of an answer"}, texts, 9) == ([1, 4], 3)
    assert mining._places([1, 2, 3, 4, 5], {"the whole of an answer"}, texts, 1) == ([1], 1)
    other = Fake()
    other.fingerprint = "0" * 64
    with pytest.raises(IndexStoreError, match="was made by model fake"):
        mine_negatives(data, into, model=other, index=tmp_path / "index", split="all")
    with pytest.raises(InputError, match="leave dims out"):
        mine_negatives(data, into, model=encoder, index=tmp_path / "index", settings=MiningSettings(dims=8))


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """6,000 more queries of a kilobyte each may take some tens of bytes of keys each."""
    filler = "word" * 125

    class Quick(Fake):
        def vector(self, text: str) -> np.ndarray[Any, Any]:
            return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=DIMS).digest(), np.int8)

    peaks = []
    for count in (2_000, 8_000):
        rows = ({"query": f"query {i} {filler}", "document": f"document {i % 300} {filler}"} for i in range(count))
        with (data := tmp_path / "pairs.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        chosen = MiningSettings(last=8, relative_margin=0)
        tracemalloc.start()
        report = mine_negatives(data, tmp_path / "out.jsonl", model=Quick(), split="all", settings=chosen)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.tally.pairs == count
    assert (peaks[1] - peaks[0]) / 6_000 < 150, peaks


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, into = write_pairs(tmp_path / "pairs.jsonl.gz", pairs_of(30)), tmp_path / "out.jsonl"
    mine_negatives(data, into, model=Fake(), split="all")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Failing(Fake):
        def encode_queries(self, texts: Sequence[str], **options: Any) -> Embeddings:
            if ") query" in texts[0]:
                raise KeyboardInterrupt
            return super().encode_queries(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        mine_negatives(data, into, model=Failing(), split="all")
    with pytest.raises(InputError, match=r"no pair of .* got a negative .*min_score"):
        mine_negatives(data, into, model=Fake(), split="all", settings=MiningSettings(min_score=1.0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", pairs_of(30))

    class Meddling(Fake):
        def encode_queries(self, texts: Sequence[str], **options: Any) -> Embeddings:
            with data.open("a", encoding="utf-8") as stream:
                stream.write('{"query": "one", "document": "more"}\n')
            return super().encode_queries(texts, **options)

    with pytest.raises(InputError, match="was changed while it was read"):
        mine_negatives(data, tmp_path / "out.jsonl", model=Meddling(), split="all")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"query": "q"', "line 2 is not JSON"),
        ('{"query": "q"}', "line 2 has no positive"),
        ('{"query": "q", "document": " "}', "line 2: 'document' is empty"),
        ('{"query": "q", "document": "d", "negatives": ["n"]}', "line 2 has negatives already"),
        ('{"chunks": ["a"], "queries": [{"query": "q", "chunk": 0}]}', "line 2 is a document in chunks"),
        ('{"query": "q \\ud83d", "document": "d"}', "line 2 holds half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_named(row: str, words: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"query": "a", "document": "b"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(InputError) as raised:
        mine_negatives(data, tmp_path / "out.jsonl", model=Fake(), split="all")
    assert words in str(raised.value)


def test_unusable_files_are_named(folder: Path, tmp_path: Path) -> None:
    into, pairs = tmp_path / "out.jsonl", write_pairs(tmp_path / "pairs.jsonl", pairs_of(3))
    corpus = write_rows(tmp_path / "corpus.jsonl", [{"_id": "a", "text": "b"}])
    nameless = write_rows(tmp_path / "nameless.jsonl", [{"text": "b"}])
    blank = write_rows(tmp_path / "blank.jsonl", [{"_id": "a", "text": " "}])
    empty = write_rows(tmp_path / "empty.jsonl", [])
    (tmp_path / "pairs.csv").write_text("x", encoding="utf-8")

    def fails(kind: type[DiffembedError], words: str, data: Path, out: Path = into, **options: Any) -> None:
        with pytest.raises(kind) as raised:
            mine_negatives(data, out, **({"model": Fake()} | options))
        assert words in str(raised.value), raised.value

    fails(InputError, "nowhere does not exist", tmp_path / "nowhere")
    fails(InputError, "does not end in .jsonl", tmp_path / "pairs.csv")
    fails(InputError, "empty.jsonl has no rows", empty)
    fails(InputError, "unknown split 'test'", pairs, split="test")
    fails(InputError, "must end in .jsonl", pairs, tmp_path / "out.json")
    fails(InputError, "make it first", pairs, tmp_path / "no" / "out.jsonl")
    fails(InputError, "is what is read", pairs, pairs)
    fails(InputError, "a BEIR folder has its own", folder, corpus=corpus)
    fails(InputError, "is not a file", pairs, corpus=tmp_path / "nowhere.jsonl")
    fails(InputError, 'line 1 needs an "_id"', pairs, corpus=nameless)
    fails(InputError, "has no document with text", pairs, corpus=blank)
    fails(InputError, "the index is what is searched", pairs, corpus=corpus, index=folder)
    fails(InputError, "is not an index", pairs, index=folder)
    fails(ModelError, "nowhere", pairs, model=tmp_path / "nowhere")
    fails(ModelError, "nowhere", pairs, settings=MiningSettings(teacher=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="no pairs to mine"):
        mine_for_pairs([], Fake())
    with pytest.raises(InputError, match="the corpus has no text"):
        mine_for_pairs(pairs_of(3), Fake(), corpus=[" "])
    with pytest.raises(ModelError, match="one finite number each"):
        mine_for_pairs(pairs_of(9), Fake(), reranker=lambda texts: [float("nan")] * len(texts))
    assert not into.exists()
