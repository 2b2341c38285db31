"""Hard negatives: which of a query's nearest documents become its negatives. The core of mining, free of files.

For every pair the nearest documents that do not answer its query are ranked (``data/candidates.py``); of ranks
``first ... last`` those pass that are not closer to the query than the pair's own document allows. The nearest
documents of a query are often answers that nobody judged, so the bound is relative to the positive, not a fixed score:
95% of its cosine is the strongest rule in NV-Retriever (arXiv 2407.15831, "TopK-PercPos"). A teacher (another embedder)
and a reranker may reject more by the same rule, each with its own score of the positive.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from diffembed.data.candidates import (
    Embedder,
    FloatArray,
    Int8Rows,
    IntArray,
    Table,
    TakeTexts,
    Vectors,
    cosines,
    nearest,
)
from diffembed.data.examples import Pair, Triplet
from diffembed.errors import InputError

QUERY_BLOCK = 512  # pairs searched together
BINS = 40  # of the score histogram, from -1 to 1
_NAMED = 20  # pairs named that got no negative
_MOST = 10_000  # deepest rank, most negatives

_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("negatives", "first", "last"), (f"a whole number from 1 to {_MOST:,}", lambda x: 1 <= x <= _MOST)),
    **dict.fromkeys(("margin", "teacher_margin"), ("from 0 to 2, a difference of cosines", lambda x: 0 <= x <= 2)),
    "relative_margin": ("from 0 to 1, a share of the positive's cosine", lambda x: 0 <= x <= 1),
    "reranker_margin": ("a finite number from 0", lambda x: 0 <= x < math.inf),
    **dict.fromkeys(("min_score", "max_score"), ("a cosine from -1 to 1", lambda x: -1 <= x <= 1)),
    "seed": ("a whole number from 0", lambda x: x >= 0),
    "dims": ("a width from 1, or None for the full one", lambda x: x is None or x >= 1),
}
_WHOLE = {"negatives", "first", "last", "seed", "dims"}


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """What counts as a hard negative. Every value is checked when it is made.

    Attributes:
        negatives: how many a pair gets at most.
        first, last: ranks, from 1, among the documents that do not answer the query; ``first = 10`` passes over the
            nine nearest.
        margin: a negative's cosine is at most the positive's less this.
        relative_margin: and at most the positive's less this share of it (``p - share * |p|``: a negative cosine of
            the positive lowers the bound too).
        min_score, max_score: bounds on a negative's cosine that do not look at the positive.
        sampling: ``top`` takes the hardest that pass, ``random`` draws from them by ``seed``; a pair's draw depends on
            its number and the seed alone.
        teacher, teacher_margin: another embedder; a candidate nearer than the positive less the margin is dropped.
        reranker, reranker_margin: a sentence-transformers cross-encoder; the same, in units of its scores.
        dims: width of the vectors that are compared; ``None`` for the full one. They are int8.

    >>> MiningSettings(first=20, last=10)
    Traceback (most recent call last):
    diffembed.errors.InputError: first is 20 and last is 10; last must not be smaller
    """

    negatives: int = 4
    first: int = 1
    last: int = 100
    margin: float = 0.0
    relative_margin: float = 0.05
    min_score: float = -1.0
    max_score: float = 1.0
    sampling: Literal["top", "random"] = "top"
    seed: int = 0
    teacher: str = ""
    teacher_margin: float = 0.0
    reranker: str = ""
    reranker_margin: float = 0.0
    dims: int | None = None

    def __post_init__(self) -> None:
        for name, (words, holds) in _RANGES.items():
            value = getattr(self, name)
            kinds: tuple[type, ...] = (int, np.integer) if name in _WHOLE else (int, float, np.integer, np.floating)
            number = isinstance(value, kinds) and not isinstance(value, bool)
            if not ((number or (name == "dims" and value is None)) and holds(value)):
                raise InputError(f"{name} is {value!r}; it must be {words}")
        if self.last < self.first:
            raise InputError(f"first is {self.first} and last is {self.last}; last must not be smaller")
        if self.last - self.first + 1 < self.negatives:
            window = f"ranks {self.first} to {self.last} hold {self.last - self.first + 1} documents"
            raise InputError(f"{window}, fewer than the {self.negatives} negatives asked for; raise last")
        if self.min_score > self.max_score:
            raise InputError(f"min_score {self.min_score} is above max_score {self.max_score}; nothing lies between")
        if self.sampling not in ("top", "random"):
            raise InputError(f"sampling is {self.sampling!r}; it must be 'top' or 'random'")

    def limit(self, positive: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The highest cosine that a negative may have, given the positive's.

        >>> MiningSettings(margin=0.01, relative_margin=0.05).limit(np.array([0.8, 0.1, -0.4])).round(4).tolist()
        [0.76, 0.09, -0.42]
        """
        bound: npt.NDArray[np.float64] = positive - np.maximum(self.margin, self.relative_margin * np.abs(positive))
        return bound


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair to find negatives for: its number, the key of its query and the number of its document."""

    number: int
    pair: Pair
    query: int
    document: int


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest documents of a block of queries, best first.

    Attributes:
        documents, scores: ``[Q, top]``; -1 and ``-inf`` where there are fewer.
        dropped: by reason ``[Q]`` how many would have stood among them and were left out.
    """

    documents: IntArray
    scores: FloatArray
    dropped: dict[str, IntArray]


class Pool(Protocol):
    """What is searched. ``asked`` are pairs with queries that differ, ``queries_QD`` their vectors."""

    def nearest(self, asked: Sequence[Asked], queries_QD: Int8Rows, top: int) -> Found: ...
    def vectors(self, documents: IntArray) -> Int8Rows: ...
    def texts(self, documents: Sequence[int]) -> list[str]: ...


class CorpusPool:
    """All documents of a table below ``searchable``, exactly."""

    def __init__(self, table: Table, take: TakeTexts, vectors: Vectors) -> None:
        self._table, self._vectors, self.texts = table, vectors, take

    def vectors(self, documents: IntArray) -> Int8Rows:
        """``[N, D]``."""
        return self._vectors.take(documents)

    def nearest(self, asked: Sequence[Asked], queries_QD: Int8Rows, top: int) -> Found:
        """See ``Found``; what answers a query or has the id of an answer is not in its ranking."""
        rows, barred, judged = self._table.barred(np.array([a.query for a in asked], np.uint64))
        documents, scores, left_out = nearest(self._vectors, self._table.searchable, queries_QD, top, rows, barred)
        # Left out above the last that was ranked: it would have stood among them.
        counted = (left_out > -np.inf) & (left_out >= scores[rows, -1])
        dropped = {
            reason: np.bincount(rows[counted & which], minlength=len(asked))
            for reason, which in (("judged", judged), ("same_document", ~judged))
        }
        return Found(documents, scores, dropped)


class Judge(Protocol):
    """A second opinion on pairs of query and document: a candidate above the positive less the margin is dropped."""

    name: str
    margin: float

    def ask(self, queries: Sequence[str]) -> None:
        """The queries of the block that is judged next."""

    def scores(self, queries: IntArray, documents: IntArray) -> npt.NDArray[np.float64]:
        """``[N]``, any scale: query numbers in the block, document numbers of the pool."""


@dataclass
class Tally:
    """What mining came to so far.

    Attributes:
        candidates: documents of ranks 1 to ``last`` that were looked at, with those dropped before ranking.
        dropped: of them by reason: ``judged`` (answers the query, or is excluded by the data), ``same_document`` (has
            the id of an answer), ``same_text`` (as an answer or an earlier candidate; only an index holds such),
            ``before_first``, ``margin``, ``max_score``, ``min_score``, ``teacher``, ``reranker``.
        unused: passed, or were not judged any more, as the pair had enough.
        negatives: chosen.
        short: pairs with some negatives, fewer than asked for.
        left_out: pairs without any; ``left_out_named`` the first of them by id, or by query.
        positive_scores, negative_scores: ``[40]`` cosines from -1 to 1 in steps of 0.05.
    """

    pairs: int = 0
    triplets: int = 0
    candidates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unused: int = 0
    negatives: int = 0
    short: int = 0
    left_out: int = 0
    left_out_named: list[str] = field(default_factory=list)
    truncated_queries: int = 0
    positive_scores: IntArray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    negative_scores: IntArray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rows = {f.name: getattr(self, f.name) for f in fields(self)}
        rows["dropped"] = {name: count for name, count in self.dropped.items() if count}
        return rows | {k: v.tolist() for k, v in rows.items() if isinstance(v, np.ndarray)}


def asked_text(pair: Pair) -> str:
    """What is encoded as the query of a pair: its instruction goes before it.

    >>> asked_text(Pair("2 + 2", "4", instruction="Find a solved problem:"))
    'Find a solved problem: 2 + 2'
    """
    return f"{pair.instruction} {pair.query}" if pair.instruction else pair.query


class Miner:
    """Chooses negatives, block by block; ``tally`` counts."""

    def __init__(self, pool: Pool, encoder: Embedder, settings: MiningSettings, judges: Sequence[Judge] = ()) -> None:
        self._pool, self._encoder, self._settings, self._judges = pool, encoder, settings, judges
        self.tally = Tally()

    def mine(self, asked: Iterable[Asked]) -> Iterator[Triplet | None]:
        """For each pair in turn its triplet, or ``None`` where no negative was left."""
        rest = iter(asked)
        while block := list(islice(rest, QUERY_BLOCK)):
            yield from self._block(block)

    def _block(self, block: Sequence[Asked]) -> Iterator[Triplet | None]:
        keys = np.array([a.query for a in block], np.uint64)
        _, first, query = np.unique(keys, return_index=True, return_inverse=True)
        unique = [block[i] for i in first]
        texts = [asked_text(a.pair) for a in unique]
        encoded = self._encoder.encode_queries(texts, dtype="int8", dims=self._settings.dims, truncate=True)
        found = self._pool.nearest(unique, encoded.values, self._settings.last)
        positives = np.array([a.document for a in block])
        positive_scores = cosines(encoded.values[query], self._pool.vectors(positives)).astype(np.float64)
        documents, scores = found.documents[query], found.scores[query].astype(np.float64)
        for reason, dropped in found.dropped.items():
            self.tally.dropped[reason] += int(dropped[query].sum())
            self.tally.candidates += int(dropped[query].sum())
        passed = self._within(documents >= 0, scores, positive_scores)
        queues = [self._order(a.number, np.flatnonzero(row)) for a, row in zip(block, passed, strict=True)]
        for judge in self._judges:
            judge.ask(texts)
        chosen = self._choose(queues, query, documents, positives)
        self._count(encoded.truncated, positive_scores, [scores[i, c] for i, c in enumerate(chosen)])
        wanted = np.unique(np.concatenate([documents[i, c] for i, c in enumerate(chosen)])).tolist()
        texts_of = dict(zip(wanted, self._pool.texts(wanted), strict=True))
        for i, a in enumerate(block):
            yield self._triplet(a.pair, [texts_of[document] for document in documents[i, chosen[i]].tolist()])

    def _within(
        self, there: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], positives: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Which candidates ``[B, last]`` pass window, margins and bounds; counts the others by the first reason."""
        settings, passed = self._settings, there
        self.tally.candidates += int(there.sum())
        for reason, bad in (
            ("before_first", np.arange(1, scores.shape[1] + 1)[None, :] < settings.first),
            ("margin", scores > settings.limit(positives)[:, None]),
            ("max_score", scores > settings.max_score),
            ("min_score", scores < settings.min_score),
        ):
            self.tally.dropped[reason] += int((passed & bad).sum())
            passed = passed & ~bad
        return passed

    def _order(self, number: int, places: IntArray) -> IntArray:
        if self._settings.sampling == "top":
            return places
        return np.random.default_rng((self._settings.seed, number)).permutation(places)

    def _choose(
        self, queues: Sequence[IntArray], query: IntArray, documents: IntArray, positives: IntArray
    ) -> list[IntArray]:
        """The places of each pair's negatives, hardest first; judges see no more candidates than are needed."""
        limits = [judge.scores(query, positives) - judge.margin for judge in self._judges]
        chosen: list[list[int]] = [[] for _ in queues]
        at = [0] * len(queues)
        while True:
            rows: list[int] = []
            places: list[int] = []
            for i, queue in enumerate(queues):
                part = queue[at[i] : at[i] + self._settings.negatives - len(chosen[i])].tolist()
                at[i] += len(part)
                rows += [i] * len(part)
                places += part
            if not rows:
                break
            row, place = np.array(rows), np.array(places)
            for judge, limit in zip(self._judges, limits, strict=True):
                bad = judge.scores(query[row], documents[row, place]) > limit[row] if len(row) else np.zeros(0, bool)
                self.tally.dropped[judge.name] += int(bad.sum())
                row, place = row[~bad], place[~bad]
            for i, which in zip(row.tolist(), place.tolist(), strict=True):
                chosen[i].append(which)
        self.tally.unused += sum(len(queue) - done for queue, done in zip(queues, at, strict=True))
        return [np.array(sorted(places), np.int64) for places in chosen]

    def _count(
        self, truncated: Sequence[int], positives: npt.NDArray[np.float64], negatives: Sequence[npt.NDArray[np.float64]]
    ) -> None:
        tally = self.tally
        tally.truncated_queries += len(truncated)
        tally.positive_scores += histogram(positives)
        tally.negative_scores += histogram(np.concatenate(negatives))

    def _triplet(self, pair: Pair, negatives: Sequence[str]) -> Triplet | None:
        tally = self.tally
        tally.pairs += 1
        if not negatives:
            tally.left_out += 1
            if len(tally.left_out_named) < _NAMED:
                tally.left_out_named.append(pair.id or pair.query[:80])
            return None
        tally.triplets += 1
        tally.negatives += len(negatives)
        tally.short += len(negatives) < self._settings.negatives
        return Triplet(negatives=tuple(negatives), **asdict(pair))


def histogram(cosine: npt.NDArray[np.float64]) -> IntArray:
    """``[40]`` how many lie in each twentieth of -1 ... 1.

    >>> np.flatnonzero(histogram(np.array([-1.0, 0.0, 0.76, 1.0000001]))).tolist()
    [0, 20, 35, 39]
    """
    return np.histogram(np.clip(cosine, -1, 1), bins=BINS, range=(-1, 1))[0].astype(np.int64)
