"""Mining by brute force in float64, a fake encoder, and files of pairs."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from diffembed.data import negatives
from diffembed.data.examples import Pair, Triplet, parse_example
from diffembed.data.jsonl import read_objects
from diffembed.data.mining import MiningSettings
from diffembed.vectors.embeddings import Embeddings

DIMS = 16


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


def pairs_of(count: int, topics: int = 5) -> list[Pair]:
    return [Pair(f"(t{i % topics}) query {i}", f"(t{i % topics}) document {i}", id=f"q{i}") for i in range(count)]


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
