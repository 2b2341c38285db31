"""Hard negatives against a brute force in float64, and what mining does with files, memory and mistakes."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffembed.data import mining, negatives
from diffembed.data.beir import Split
from diffembed.data.examples import Pair, Triplet, parse_example
from diffembed.data.jsonl import read_objects
from diffembed.data.mining import MiningReport, MiningSettings, mine_for_pairs, mine_negatives
from diffembed.doctor import BUNDLED
from diffembed.encoder import Encoder
from diffembed.errors import DiffembedError, IndexStoreError, InputError, ModelError
from diffembed.index import Index
from diffembed.vectors.embeddings import Embeddings

DIMS = 16
needs_bundled = pytest.mark.skipif(not (BUNDLED / "diffembed.json").exists(), reason="the embedded model is missing")


class Fake:
    """A vector for every text: random, drawn from a hash of the text; a topic ``(t7)`` in it brings texts together."""

    model_id, fingerprint, dims, max_tokens, contextual = "fake", "f" * 64, (DIMS,), 64, False

    def __init__(self, salt: str = "", limit: int = 10**6) -> None:
        self.salt, self.limit = salt, limit
        self.documents: Counter[str] = Counter()

    def vector(self, text: str) -> np.ndarray[Any, Any]:
        return hashed(self.salt, " ".join(text.split()))

    def encode_queries(self, texts: Sequence[str], **options: Any) -> Embeddings:
        assert options["dtype"] == "int8"
        cut = tuple(i for i, text in enumerate(texts) if len(text) > self.limit)
        return Embeddings(np.array([self.vector(text) for text in texts]), "int8", DIMS, truncated=cut)

    def encode_documents(self, texts: Sequence[str], **options: Any) -> Embeddings:
        assert all(text.strip() for text in texts)
        self.documents.update(texts)
        return self.encode_queries(texts, **options)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Any) -> Embeddings:
        raise AssertionError("mining reads every text alone")


@cache
def hashed(salt: str, text: str) -> np.ndarray[Any, Any]:
    topic, found, _ = text.partition(")")
    own, shared = (
        np.frombuffer(hashlib.blake2b((salt + part).encode(), digest_size=DIMS).digest(), np.int8)
        for part in (text, topic)
    )
    return own // 3 + shared // 2 if found else own


def cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def reranked(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """A reranker: any number that depends on both texts alone."""
    return [cosine(Fake("q").vector(query), Fake("d").vector(document)) * 7 for query, document in pairs]


def flat(text: str) -> str:
    return " ".join(text.split())


def brute_force(
    pairs: Sequence[Pair],
    corpus: Sequence[str] | None,
    chosen: MiningSettings,
    encoder: Fake,
    teacher: Fake | None,
    reranker: Callable[..., list[float]] | None,
) -> tuple[list[tuple[Pair, tuple[str, ...]]], Counter[str]]:
    """The rules, one pair and one document at a time."""
    documents: dict[str, str] = {}
    for text in corpus if corpus is not None else [pair.document for pair in pairs]:
        if text.strip():
            documents.setdefault(flat(text), text)
    ids = {(flat(pair.document), pair.document_id) for pair in pairs if pair.document_id}
    counts: Counter[str] = Counter()
    rows = []
    for number, pair in enumerate(pairs):
        asked = [p for p in pairs if flat(negatives.asked_text(p)) == flat(negatives.asked_text(pair))]
        answers = {flat(p.document) for p in asked}
        same = {text for text, part in ids if part in {p.document_id for p in asked}} - answers
        query = encoder.vector(negatives.asked_text(pair))
        scored = [(cosine(query, encoder.vector(text)), text) for text in documents]
        ranked = sorted(
            (item for item in scored if item[1] not in answers | same),
            key=lambda item: (-item[0], order(documents, item)),
        )[: chosen.last]
        floor = ranked[-1][0] if len(ranked) == chosen.last else -2.0
        counts["judged"] += sum(text in answers and score >= floor for score, text in scored)
        counts["same_document"] += sum(text in same and score >= floor for score, text in scored)
        positive = cosine(query, encoder.vector(pair.document))
        passed = []
        for rank, (score, text) in enumerate(ranked, 1):
            if rank < chosen.first:
                counts["before_first"] += 1
            elif score > positive - chosen.margin or score > positive - chosen.relative_margin * abs(positive):
                counts["margin"] += 1
            elif score > chosen.max_score:
                counts["max_score"] += 1
            elif score < chosen.min_score:
                counts["min_score"] += 1
            else:
                passed.append((rank, text))
        if chosen.sampling == "random":
            shuffled = np.random.default_rng((chosen.seed, number)).permutation(len(passed))
            passed = [passed[i] for i in shuffled]
        kept: list[tuple[int, str]] = []
        for at, (rank, text) in enumerate(passed):
            if len(kept) == chosen.negatives:
                counts["unused"] += len(passed) - at
                break
            counts[verdict := rejected(pair, text, chosen, teacher, reranker)] += 1
            if verdict == "negatives":
                kept.append((rank, text))
        counts["short"] += 0 < len(kept) < chosen.negatives
        counts["left_out"] += not kept
        if kept:
            rows.append((pair, tuple(documents[text] for _, text in sorted(kept))))
    return rows, counts


def order(documents: dict[str, str], item: tuple[float, str]) -> int:
    return list(documents).index(item[1])


def rejected(
    pair: Pair, text: str, chosen: MiningSettings, teacher: Fake | None, reranker: Callable[..., list[float]] | None
) -> str:
    """By whom; ``negatives`` by nobody."""
    query = negatives.asked_text(pair)
    if teacher is not None:
        of = [cosine(teacher.vector(query), teacher.vector(t)) for t in (pair.document, text)]
        if of[1] > of[0] - chosen.teacher_margin:
            return "teacher"
    if reranker is not None:
        of = reranker([(query, pair.document), (query, text)])
        if of[1] > of[0] - chosen.reranker_margin:
            return "reranker"
    return "negatives"


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[Pair], list[str] | None]:
    """Few topics, repeated queries and documents (in other white space), documents in parts, maybe a corpus."""
    count = draw(st.integers(3, 25))
    documents = [f"(t{i % 4}) document {i}" for i in range(count)]
    spelled = st.sampled_from(documents + [f"{text} \n" for text in documents[:3]])
    topic_and_document = st.tuples(st.sampled_from([0, 0, 0, 1]), spelled)  # most queries are near their document
    pair = st.builds(
        lambda asked, found, **rest: Pair(f"(t{(int(found[1][2]) + found[0]) % 4}) query {asked}", found[1], **rest),
        st.integers(0, 5),
        topic_and_document,
        document_id=st.sampled_from(["", "", "A", "B"]),
        instruction=st.sampled_from(["", "", "Find it:"]),
    )
    pairs = draw(st.lists(pair, min_size=1, max_size=20))
    return pairs, draw(st.none() | st.lists(spelled | st.just(" "), min_size=1, max_size=25))


@st.composite
def rules(draw: st.DrawFn) -> MiningSettings:
    first = draw(st.integers(1, 6))
    count = draw(st.integers(1, 5))
    low, high = sorted(draw(st.tuples(st.floats(-1, 1), st.floats(-1, 1)))) if draw(st.booleans()) else (-1.0, 1.0)
    return MiningSettings(
        negatives=count,
        first=first,
        last=draw(st.integers(first + count - 1, 30)),
        margin=draw(st.sampled_from([0.0, 0.0, 0.137, 0.6])),
        relative_margin=draw(st.sampled_from([0.0, 0.05, 0.331])),
        min_score=low,
        max_score=high,
        sampling=draw(st.sampled_from(["top", "random"])),
        seed=draw(st.integers(0, 3)),
        teacher_margin=draw(st.sampled_from([0.0, 0.21])),
        reranker_margin=draw(st.sampled_from([0.0, 1.3])),
    )


@settings(max_examples=100, deadline=None)
@given(tasks(), rules(), st.booleans(), st.booleans(), st.sampled_from([1, 3, 512]), st.sampled_from([2, 7, 8192]))
def test_every_rule_agrees_with_the_brute_force(
    task: tuple[list[Pair], list[str] | None],
    chosen: MiningSettings,
    with_teacher: bool,
    with_reranker: bool,
    queries: int,
    documents: int,
) -> None:
    pairs, corpus = task
    assume(corpus is None or any(map(str.strip, corpus)))
    teacher, reranker = Fake("teacher") if with_teacher else None, reranked if with_reranker else None
    with pytest.MonkeyPatch.context() as patch:  # block borders must not be seen
        patch.setattr("diffembed.data.negatives.QUERY_BLOCK", queries)
        patch.setattr("diffembed.data.candidates._DOCUMENT_BLOCK", documents)
        patch.setattr("diffembed.data.candidates._ENCODED_AT_ONCE", documents)
        triplets, report = mine_for_pairs(pairs, Fake(), chosen, corpus=corpus, teacher=teacher, reranker=reranker)
    expected, counts = brute_force(pairs, corpus, chosen, Fake(), teacher, reranker)
    assert [(t.query, t.document, t.document_id, t.instruction) for t in triplets] == [
        (p.query, p.document, p.document_id, p.instruction) for p, _ in expected
    ]
    assert [tuple(map(flat, t.negatives)) for t in triplets] == [tuple(map(flat, found)) for _, found in expected]
    tally = report.tally
    for reason, count in counts.items():
        assert tally.dropped.get(reason, getattr(tally, reason, 0)) == count, reason
    assert tally.candidates == sum(tally.dropped.values()) + tally.unused + tally.negatives
    assert (tally.pairs, tally.triplets) == (len(pairs), len(triplets))
    assert (sum(tally.positive_scores), sum(tally.negative_scores)) == (tally.pairs, tally.negatives)
    if corpus is not None:
        filled = [text for text in corpus if text.strip()]
        assert report.documents == len(set(map(flat, filled)))
        assert (report.blank_documents, report.duplicate_documents) == (
            len(corpus) - len(filled),
            len(filled) - report.documents,
        )


def test_a_negative_cosine_of_the_positive_lowers_the_bound() -> None:
    bound = MiningSettings(relative_margin=0.5).limit(np.array([0.8, -0.4]))
    assert bound.tolist() == pytest.approx([0.4, -0.6])


def pairs_of(count: int, topics: int = 5) -> list[Pair]:
    return [Pair(f"(t{i % topics}) query {i}", f"(t{i % topics}) document {i}", id=f"q{i}") for i in range(count)]


def test_draws_depend_on_the_seed_and_the_pair_alone() -> None:
    pairs, chosen = pairs_of(60), MiningSettings(sampling="random", seed=1, relative_margin=0.0)
    first, report = mine_for_pairs(pairs, Fake(), chosen)
    again, other = mine_for_pairs(pairs, Fake(), chosen)
    assert first == again
    assert report.to_dict() | {"seconds": 0} == other.to_dict() | {"seconds": 0}
    assert mine_for_pairs(pairs, Fake(), replace(chosen, seed=2))[0] != first
    top, _ = mine_for_pairs(pairs, Fake(), replace(chosen, sampling="top"))
    assert top == mine_for_pairs(pairs, Fake(), replace(chosen, sampling="top", seed=2))[0]
    assert top != first


def test_a_document_is_encoded_once_and_a_teacher_reads_what_it_judges(tmp_path: Path) -> None:
    pairs, encoder, teacher = pairs_of(60), Fake(), Fake("teacher")
    chosen = MiningSettings(negatives=1)
    in_memory, _ = mine_for_pairs(pairs, encoder, chosen, teacher=teacher)
    assert set(encoder.documents.values()) == set(teacher.documents.values()) == {1}
    mapped, _ = mine_for_pairs(pairs, Fake(), chosen, teacher=Fake("teacher"), folder=tmp_path)
    assert mapped == in_memory
    assert not any(tmp_path.iterdir())


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_pairs(path: Path, pairs: Sequence[Pair]) -> Path:
    keep = ("id", "query", "document", "document_id", "instruction")
    return write_rows(path, [{k: v for k, v in asdict(pair).items() if k in keep and v} for pair in pairs])


def read_triplets(path: Path) -> list[Triplet]:
    rows = [parse_example(record, where) for where, record in read_objects(path)]
    assert all(isinstance(row, Triplet) for row in rows)
    return rows  # type: ignore[return-value]


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


def test_long_texts_are_cut_and_counted() -> None:
    pairs = [*pairs_of(10), Pair("(t1) " + "long " * 50, "(t1) " + "longer " * 50)]
    _, report = mine_for_pairs(pairs, Fake(limit=100), MiningSettings(relative_margin=0.0))
    assert (report.tally.truncated_queries, report.truncated_documents) == (1, 1)


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
    ("wrong", "words"),
    [
        ({"negatives": 0}, "negatives is 0; it must be a whole number from 1"),
        ({"negatives": 2.0}, "negatives is 2.0"),
        ({"negatives": True}, "negatives is True"),
        ({"first": 5, "last": 3}, "first is 5 and last is 3"),
        ({"first": 98}, "ranks 98 to 100 hold 3 documents, fewer than the 4"),
        ({"last": 10_001}, "last is 10001"),
        ({"margin": -0.1}, "margin is -0.1; it must be from 0 to 2"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"relative_margin": 1.5}, "relative_margin is 1.5; it must be from 0 to 1"),
        ({"relative_margin": "0.1"}, "relative_margin is '0.1'"),
        ({"teacher_margin": 3}, "teacher_margin is 3"),
        ({"reranker_margin": float("inf")}, "reranker_margin is inf"),
        ({"min_score": 2}, "min_score is 2; it must be a cosine"),
        ({"min_score": 0.5, "max_score": 0.4}, "min_score 0.5 is above max_score 0.4"),
        ({"sampling": "bottom"}, "sampling is 'bottom'"),
        ({"seed": -1}, "seed is -1"),
        ({"dims": 0}, "dims is 0"),
    ],
)
def test_every_setting_has_its_range(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        MiningSettings(**wrong)
    assert words in str(raised.value)


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
    fails(IndexStoreError, "is not an index", pairs, index=folder)
    fails(ModelError, "nowhere", pairs, model=tmp_path / "nowhere")
    fails(ModelError, "nowhere", pairs, settings=MiningSettings(teacher=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="no pairs to mine"):
        mine_for_pairs([], Fake())
    with pytest.raises(InputError, match="the corpus has no text"):
        mine_for_pairs(pairs_of(3), Fake(), corpus=[" "])
    with pytest.raises(ModelError, match="one finite number each"):
        mine_for_pairs(pairs_of(9), Fake(), reranker=lambda texts: [float("nan")] * len(texts))
    assert not into.exists()


def test_models_that_settings_name_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(mining, "load_embedder", lambda name: asked.append(name) or Fake(name))
    monkeypatch.setattr(mining, "load_reranker", lambda name: asked.append(name) or reranked)
    data = write_pairs(tmp_path / "pairs.jsonl", pairs_of(30))
    named = MiningSettings(teacher="teacher", reranker="reranker", negatives=1)
    report = mine_negatives(data, tmp_path / "out.jsonl", model="ranker", split="all", settings=named)
    assert asked == ["ranker", "teacher", "reranker"]
    given, _ = mine_for_pairs(pairs_of(30), Fake("ranker"), named, teacher=Fake("teacher"), reranker=reranked)
    assert read_triplets(tmp_path / "out.jsonl") == given
    assert isinstance(report, MiningReport)
    assert {"teacher", "reranker"} <= report.tally.dropped.keys()


@pytest.mark.slow
def test_sentence_transformers_models_rank_and_rerank(minilm_source: Path, tmp_path: Path) -> None:
    from tests.conftest import make_tokenizer
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), pad_token="[pad]", sep_token="<|endoftext|>", model_max_length=64
    )
    for name, labels in (("one", 1), ("three", 3)):
        config = BertConfig(vocab_size=400, num_labels=labels, pad_token_id=0, **shape)
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokens.save_pretrained(tmp_path / name)
    pairs = [
        Pair(f"What do {name} eat?", f"{name} eat {food}.")
        for name, food in zip("abc", ("hay", "rice", "ice"), strict=True)
    ]
    chosen = MiningSettings(negatives=1, relative_margin=0.0, teacher=f"st:{minilm_source}")
    triplets, report = mine_for_pairs(pairs, mining.load_embedder(f"st:{minilm_source}"), chosen)
    assert report.model == f"st:{minilm_source}"
    assert report.tally.pairs == 3 >= len(triplets)
    scores = mining.load_reranker(str(tmp_path / "one"))([("a", "b"), ("a", "c")])
    assert np.shape(scores) == (2,)
    with pytest.raises(ModelError, match="one finite number each"):
        mine_for_pairs(pairs, Fake(), replace(chosen, teacher="", reranker=str(tmp_path / "three")))
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        mining.load_reranker(str(tmp_path / "nowhere"))
