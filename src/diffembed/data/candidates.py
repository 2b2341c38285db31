"""What hard negatives are chosen from: numbered documents, who asks for which, their int8 vectors, exact search.

Documents and pairs are numbers here, texts are fetched when they are needed: a million pairs take about 80 MB of keys
(measured), and their vectors stand in a memory-mapped file. No file format is known here (that is
``data/mining.py``), and nothing is chosen (that is ``data/negatives.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import Embeddings, VectorDtype

IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]
Int8Rows = npt.NDArray[np.int8]
TakeTexts = Callable[[Sequence[int]], list[str]]  # the texts of documents by number
Progress = Callable[[int, int], None]

NO_KEY = 0
_ENCODED_AT_ONCE = 2048
_DOCUMENT_BLOCK = 8192  # with a block of queries: a score matrix of some 16 MB


class Embedder(Protocol):
    """The part of ``Encoder`` that mining uses; it must give int8 vectors."""

    def encode_queries(
        self, texts: Sequence[str], *, dtype: VectorDtype = ..., dims: int | None = ..., truncate: bool = ...
    ) -> Embeddings: ...

    def encode_documents(
        self, texts: Sequence[str], *, dtype: VectorDtype = ..., dims: int | None = ..., truncate: bool = ...
    ) -> Embeddings: ...


def text_key(text: str) -> int:
    r"""64 bits that are equal for texts that differ in white space alone, and never ``NO_KEY``.

    >>> text_key("one  text\n") == text_key("one text"), text_key("one text") == text_key("One text")
    (True, False)
    """
    return int.from_bytes(blake2b(" ".join(text.split()).encode("utf-8"), digest_size=8).digest(), "little") or 1


class Lookup:
    """Numbers by key, in three flat arrays: for a million keys 16 MB.

    >>> rows, numbers = Lookup(np.array([7, 5, 7], np.uint64), np.array([0, 1, 2])).of(np.array([7, 6, 5], np.uint64))
    >>> rows.tolist(), numbers.tolist()
    ([0, 0, 2], [0, 2, 1])
    """

    def __init__(self, keys: KeyArray, numbers: IntArray) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], numbers[order]

    def of(self, keys: KeyArray) -> tuple[IntArray, IntArray]:
        """``(rows, numbers)``: which of the asked keys has which number, all of them one after the other."""
        low = np.searchsorted(self._keys, keys, side="left")
        many = np.searchsorted(self._keys, keys, side="right") - low
        rows = np.repeat(np.arange(len(keys)), many)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(many) - many, many)
        return rows, self._numbers[np.repeat(low, many) + within]


@dataclass(frozen=True, slots=True)
class Entries:
    """Keys of the documents of a corpus, or of the positives of pairs; one row each.

    Attributes:
        texts: ``[N]`` ``text_key`` of the documents.
        ids: ``[N]`` key of what they are part of (rows with the same one are the same document), or ``NO_KEY``.
    """

    texts: KeyArray
    ids: KeyArray


class Table:
    """Which distinct documents there are, which of them answers a pair, and which must never be its negatives.

    Args:
        corpus: what is searched; ``None`` where that is the positives of the pairs themselves.
        positives: one a pair.
        queries: ``[P]`` key of each pair's query; pairs with the same one ask the same.
        barred: ``(query keys, rows of the corpus)`` to leave out beyond the positives.

    Attributes:
        first: ``[D]`` the entry (corpus first, then positives) in which each distinct text stands first. Documents are
            numbered in this order.
        document: ``[P]`` the number of each pair's positive.
        queries: as given.
        searchable: documents below this number may become negatives.
        entries: how many entries there are.
    """

    def __init__(
        self,
        corpus: Entries | None,
        positives: Entries,
        queries: KeyArray,
        barred: tuple[KeyArray, IntArray] | None = None,
    ) -> None:
        own = len(corpus.texts) if corpus else 0
        texts = np.concatenate([corpus.texts, positives.texts]) if corpus else positives.texts
        _, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(first), np.int64)
        number[order] = np.arange(len(first))
        numbers = number[inverse]
        self.first: IntArray = first[order]
        self.entries = len(texts)
        self.searchable = int(np.count_nonzero(self.first < own)) if corpus else len(self.first)
        self.document: IntArray = numbers[own:]
        self.queries = queries
        extra_keys, extra_rows = barred or (np.empty(0, np.uint64), np.empty(0, np.int64))
        self._answers = Lookup(
            np.concatenate([queries, extra_keys]), np.concatenate([self.document, numbers[extra_rows]])
        )
        named = positives.ids != NO_KEY
        self._ids: tuple[Lookup, Lookup] | None = None
        if named.any():
            ids = np.concatenate([corpus.ids, positives.ids]) if corpus else positives.ids
            asked = Lookup(queries[named], positives.ids[named].view(np.int64))
            self._ids = asked, Lookup(ids[ids != NO_KEY], numbers[ids != NO_KEY])

    def __len__(self) -> int:
        return len(self.first)

    def barred(self, queries: KeyArray) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
        """``(rows, documents, judged)``: for each asked query what must not be a negative of it.

        ``judged`` is true where a pair (or an exclusion) says so itself, false for other documents with the id of one
        of the positives.
        """
        rows, documents = self._answers.of(queries)
        known = len(rows)
        if self._ids is not None:
            asked, members = self._ids
            id_rows, ids = asked.of(queries)
            places, same = members.of(ids.view(np.uint64))
            rows, documents = np.concatenate([rows, id_rows[places]]), np.concatenate([documents, same])
        _, at = np.unique(rows * np.int64(len(self)) + documents, return_index=True)
        return rows[at], documents[at], at < known


class Vectors:
    """int8 vectors of numbered texts, made when they are first asked for and kept in memory or in a file.

    Attributes:
        truncated: how many texts were cut to the model's limit.
    """

    def __init__(self, take: TakeTexts, encoder: Embedder, *, dims: int | None = None, file: Path | None = None):
        self._take, self._encoder, self._dims, self._file = take, encoder, dims, file
        self._rows: Int8Rows | None = None
        self._made = np.zeros(0, bool)
        self.truncated = 0

    def fill(self, count: int, progress: Progress | None = None) -> None:
        """Make the vectors of all numbers below ``count``."""
        self._reserve(count)
        for start in range(0, count, _ENCODED_AT_ONCE):
            part = np.arange(start, min(start + _ENCODED_AT_ONCE, count))
            self._make(part[~self._made[part]])
            if progress is not None:
                progress(int(part[-1]) + 1, count)

    def take(self, numbers: IntArray) -> Int8Rows:
        """``[N, D]`` rows of these numbers."""
        wanted = np.unique(numbers)
        if len(wanted) and wanted[-1] >= len(self._made):
            self._reserve(max(int(wanted[-1]) + 1, 2 * len(self._made)))
        missing = wanted[~self._made[wanted]]
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            self._make(missing[start : start + _ENCODED_AT_ONCE])
        return self._all()[numbers]

    def between(self, start: int, stop: int) -> Int8Rows:
        """``[stop - start, D]`` rows that were made before."""
        return self._all()[start:stop]

    def _all(self) -> Int8Rows:
        return np.empty((0, 0), np.int8) if self._rows is None else self._rows

    def _reserve(self, count: int) -> None:
        self._made = np.concatenate([self._made, np.zeros(count - len(self._made), bool)])
        if self._rows is not None:
            self._rows = self._grown(self._rows.shape[1])

    def _grown(self, width: int) -> Int8Rows:
        shape = (len(self._made), width)
        if self._file is not None:  # a file of that length; what is not written takes no room on disk
            return np.memmap(self._file, np.int8, "r+" if self._file.exists() else "w+", shape=shape)
        rows = np.zeros(shape, np.int8)
        rows[: len(self._all())] = self._all().reshape(-1, width)
        return rows

    def _make(self, numbers: IntArray) -> None:
        if not len(numbers):
            return
        texts = self._take(numbers.tolist())
        vectors = self._encoder.encode_documents(texts, dtype="int8", dims=self._dims, truncate=True)
        if self._rows is None:
            self._rows = self._grown(vectors.values.shape[1])
        self._rows[numbers] = vectors.values
        self._made[numbers] = True
        self.truncated += len(vectors.truncated)


def cosines(left_ND: Int8Rows, right_ND: Int8Rows) -> FloatArray:
    """``[N]`` cosines of rows with rows, the same numbers to the last bit as :func:`nearest` gives.

    >>> cosines(np.array([[3, 4]], np.int8), np.array([[4, 3]], np.int8)).astype(float).round(4).tolist()
    [0.96]
    """
    dots = np.einsum("ij,ij->i", left_ND.astype(np.int32), right_ND.astype(np.int32)).astype(np.float32)
    found: FloatArray = dots * _inverse_norms(right_ND.astype(np.float32)) * _inverse_norms(left_ND.astype(np.float32))
    return found


def nearest(
    vectors: Vectors, count: int, queries_QD: Int8Rows, top: int, rows: IntArray, documents: IntArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """The ``top`` documents below ``count`` of highest cosine for every query, the smaller number first among equals.

    Exact: every query is multiplied with every document, block by block, and only the best are kept. Dot products of
    int8 values are exact in float32 up to 1040 dims (127 * 127 * 1040 < 2**24), whatever the order of summation.

    Args:
        rows, documents: what is left out: document ``documents[i]`` for query ``rows[i]``.

    Returns:
        ``[Q, top]`` numbers (-1 where there are fewer), ``[Q, top]`` cosines (``-inf`` there), and the cosines of what
        was left out (``-inf`` where it is not below ``count``).
    """
    queries = queries_QD.astype(np.float32)
    own = _inverse_norms(queries)
    best = _Best(len(queries), top)
    order = np.argsort(documents, kind="stable")
    by_document = documents[order]
    left_out = np.full(len(documents), -np.inf, np.float32)
    for start in range(0, count, _DOCUMENT_BLOCK):
        block = vectors.between(start, min(start + _DOCUMENT_BLOCK, count)).astype(np.float32)
        scores = queries @ block.T
        scores *= _inverse_norms(block)
        here = order[slice(*np.searchsorted(by_document, [start, start + len(block)]))]
        left_out[here] = scores[rows[here], documents[here] - start] * own[rows[here]]
        scores[rows[here], documents[here] - start] = -np.inf
        best.offer(scores, start)
    best.settle()
    return best.numbers, best.scores * own[:, None], left_out


class _Best:
    """The best of every row so far. What is above a row's worst is held back and sorted in once it is much."""

    def __init__(self, rows: int, top: int) -> None:
        self.scores = np.full((rows, top), -np.inf, np.float32)
        self.numbers = np.full((rows, top), -1, np.int64)
        self._held: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._count = 0

    def offer(self, scores_QB: FloatArray, start: int) -> None:
        """Scores of documents ``start ...``, in order."""
        top, width = self.scores.shape[1], scores_QB.shape[1]
        hits = scores_QB > self.scores[:, -1:]
        if width > top and np.count_nonzero(hits) > 4 * self.scores.size:  # the first block: its own best will do
            hits &= scores_QB >= np.partition(scores_QB, width - top, axis=1)[:, width - top, None]
        at, columns = np.divmod(np.flatnonzero(hits), width)  # many times faster than np.nonzero
        self._held.append((at, columns + start, scores_QB[at, columns]))
        self._count += len(at)
        if self._count > self.scores.size // 2:
            self.settle()

    def settle(self) -> None:
        """Sort in what is held back."""
        count, top = self.scores.shape
        held = [(np.repeat(np.arange(count), top), self.numbers.ravel(), self.scores.ravel()), *self._held]
        rows, numbers, scores = (np.concatenate(parts) for parts in zip(*held, strict=True))
        order = np.lexsort((numbers, -scores, rows))
        rows = rows[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(count))[rows]
        kept = place < top
        self.numbers[rows[kept], place[kept]] = numbers[order][kept]
        self.scores[rows[kept], place[kept]] = scores[order][kept]
        self._held, self._count = [], 0


def _inverse_norms(rows_ND: FloatArray) -> FloatArray:
    """``[N]``; 1 for a row of zeros, whose cosine is 0 with everything in any case."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows_ND, rows_ND))
    inverse: FloatArray = np.divide(1, norms, out=np.ones_like(norms), where=norms > 0)
    return inverse
