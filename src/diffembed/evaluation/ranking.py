"""What a model ranks highest for every query of a task: exact search over all of its documents, or BM25.

Every evaluation of retrieval starts here, so that all of them treat ties, empty and over-long texts alike. A text
longer than the model's limit is cut to it (there is no other way to score a model on long documents), and the ranking
says how many were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Unpack

import numpy as np
import numpy.typing as npt

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.baselines import Bm25

if TYPE_CHECKING:
    from diffembed.vectors.embeddings import Embeddings, EncodeOptions, VectorDtype

Progress = Callable[[int, int], None] | None
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

TOP = 100  # the deepest cut that is reported (recall@100)
_DOCUMENT_BLOCK = 16384
_QUERY_BLOCK = 256


class TextEncoder(Protocol):
    """What can be evaluated: ``Encoder``, a model in training, a wrapped sentence-transformers model.

    An object whose ``contextual`` attribute is true gets the chunks of a document together, through ``encode_chunks``;
    any other one gets them singly, through ``encode_documents``.
    """

    def encode_queries(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings: ...

    def encode_documents(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings: ...

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Unpack[EncodeOptions]) -> Embeddings: ...


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best documents of every query, and what finding them took.

    Attributes:
        run: query id -> document id -> score, the larger the better; a query that was not asked (no text) has none.
        model: as the encoder calls itself, or ``bm25``.
        dtype, query_dtype, dims: the vectors (``"none"`` and 0 for bm25).
        contextual: chunks of a document were encoded together.
        seconds: encoding and searching; ``encode_seconds`` of it encoding (for bm25: indexing).
        tokens: tokens read (for bm25: terms indexed).
        truncated_queries, truncated_documents: inputs cut to the model's limit; a contextual document counts once.
        empty_queries, empty_documents: those without text; they are not encoded.
    """

    run: dict[str, dict[str, float]] = field(repr=False)
    model: str
    dtype: str
    query_dtype: str
    dims: int
    contextual: bool
    seconds: float
    encode_seconds: float
    tokens: int
    truncated_queries: int
    truncated_documents: int
    empty_queries: int
    empty_documents: int


def rank_encoder(
    task: RetrievalTask,
    encoder: TextEncoder,
    *,
    dtype: VectorDtype = "int8",
    query_dtype: VectorDtype | None = None,
    dims: int | None = None,
    contextual: bool | None = None,
    top: int = TOP,
    progress: Progress = None,
) -> Ranking:
    """Rank with anything that encodes.

    Raises ``InputError`` for ``contextual=True`` on a task whose rows are no chunks of documents.
    """
    query_dtype = query_dtype or dtype
    if dtype not in (query_dtype, "binary"):
        raise InputError(f"{query_dtype} queries cannot search {dtype} documents; use one dtype, or binary documents")
    start = time.perf_counter()
    asked = {query: text for query, text in task.queries.items() if text.strip()}
    if not asked:
        raise InputError(f"every query of {task.name} is empty; nothing can be asked")
    queries = encoder.encode_queries(list(asked.values()), dtype=query_dtype, dims=dims, truncate=True)
    together = bool(getattr(encoder, "contextual", False)) if contextual is None else contextual
    if contextual and task.doc_ids is None:
        raise InputError(f"{task.name} has no doc_id: its documents are no chunks that could be read together")
    together = together and task.doc_ids is not None
    documents, rows = _encode_documents(task, encoder, dtype, dims, progress, together=together)
    encoded = time.perf_counter()
    run = search(replace(task, queries=asked), queries, documents, rows, top)
    return Ranking(
        run=run,
        model=str(getattr(encoder, "model_id", type(encoder).__name__)),
        dtype=dtype,
        query_dtype=query_dtype,
        dims=documents.dims,
        contextual=together,
        seconds=time.perf_counter() - start,
        encode_seconds=encoded - start,
        tokens=queries.tokens + documents.tokens,
        truncated_queries=len(queries.truncated),
        truncated_documents=len(documents.truncated),
        empty_queries=len(task.queries) - len(asked),
        empty_documents=len(task.texts) - len(rows),
    )


def rank_bm25(task: RetrievalTask, *, top: int = TOP, progress: Progress = None) -> Ranking:
    """Rank with BM25. A document that shares no term with the query is not in its ranking."""
    start = time.perf_counter()
    index = Bm25(task.texts)
    indexed = time.perf_counter()
    order = _tie_order(task.document_ids)
    ids = [task.document_ids[row] for row in order]
    columns = _columns_to_exclude(task, order)
    run: dict[str, dict[str, float]] = {}
    for number, (query, text) in enumerate(task.queries.items()):
        scores = index.scores(text)[order][None, :]
        scores[scores <= 0] = -np.inf
        scores[0, columns[number]] = -np.inf
        run[query] = _named(*_best(scores, np.arange(len(ids)), top), ids)[0]
        if progress is not None:
            progress(number + 1, len(task.queries))
    return Ranking(
        run=run,
        model="bm25",
        dtype="none",
        query_dtype="none",
        dims=0,
        contextual=False,
        seconds=time.perf_counter() - start,
        encode_seconds=indexed - start,
        tokens=index.tokens,
        truncated_queries=0,
        truncated_documents=0,
        empty_queries=sum(not text.strip() for text in task.queries.values()),
        empty_documents=sum(not text.strip() for text in task.texts),
    )


def search(
    task: RetrievalTask, queries: Embeddings, documents: Embeddings, rows: Sequence[int] | None = None, top: int = TOP
) -> dict[str, dict[str, float]]:
    """The ``top`` documents of every query by cosine of the values, excluded pairs left out.

    ``documents`` holds the vectors of the corpus rows ``rows`` (all, in order, unless given). Cosine of packed bits is
    ``1 - 2 hamming / dims``, so it ranks as the Hamming distance does. Of int8 values the dot product is exact in
    float32 up to 1040 dimensions (below 2^24), so equal vectors are exactly equal in score. Ties are ordered as in
    ``diffembed.evaluation.metrics``, at the cut too.
    """
    rows = range(len(task.texts)) if rows is None else rows
    by_tie = _tie_order([task.document_ids[row] for row in rows])
    ids = [task.document_ids[rows[i]] for i in by_tie]
    columns = _columns_to_exclude(task, [rows[i] for i in by_tie])
    found = len(task.queries)
    best_scores = np.full((found, 0), -np.inf, np.float32)
    best_columns = np.zeros((found, 0), np.int64)
    for start in range(0, len(ids), _DOCUMENT_BLOCK):
        block = by_tie[start : start + _DOCUMENT_BLOCK]
        width = np.arange(start, start + len(block))
        kept: list[tuple[FloatArray, IntArray]] = []
        for low in range(0, found, _QUERY_BLOCK):
            rows_here = slice(low, low + _QUERY_BLOCK)
            scores = cosines(queries, rows_here, documents, block)
            for number in range(*rows_here.indices(found)):
                here = [column - start for column in columns[number] if start <= column < start + len(block)]
                scores[number - low, here] = -np.inf
            scores = np.concatenate([best_scores[rows_here], scores], axis=1)
            # Earlier blocks stand first: column numbers rise from left to right within a row's ties.
            numbers = np.concatenate(
                [best_columns[rows_here], np.broadcast_to(width, (len(scores), len(width)))], axis=1
            )
            kept.append(_best(scores, numbers, top))
        best_scores = np.concatenate([scores for scores, _ in kept])
        best_columns = np.concatenate([numbers for _, numbers in kept])
    return dict(zip(task.queries, _named(best_scores, best_columns, ids), strict=True))


def _encode_documents(
    task: RetrievalTask,
    encoder: TextEncoder,
    dtype: VectorDtype,
    dims: int | None,
    progress: Progress,
    *,
    together: bool,
) -> tuple[Embeddings, list[int]]:
    """The vectors, and the corpus row of each; ``together``: the chunks of a document are one sequence."""
    filled = [bool(text.strip()) for text in task.texts]
    if not any(filled):
        raise InputError(f"every document of {task.name} is empty; nothing can be found in it")
    if together:
        groups = [kept for group in task.documents() if (kept := [row for row in group if filled[row]])]
        texts = [[task.texts[row] for row in group] for group in groups]
        vectors = encoder.encode_chunks(texts, dtype=dtype, dims=dims, truncate=True, progress=progress)
        return vectors, [row for group in groups for row in group]
    rows = [row for row, full in enumerate(filled) if full]
    texts_alone = [task.texts[row] for row in rows]
    return encoder.encode_documents(texts_alone, dtype=dtype, dims=dims, truncate=True, progress=progress), rows


def _tie_order(document_ids: Sequence[str]) -> IntArray:
    """Positions with the larger id first: the leftmost of equal scores is the one that trec_eval ranks first."""
    keys = [identifier.encode("utf-8") for identifier in document_ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__, reverse=True), dtype=np.int64)


def _columns_to_exclude(task: RetrievalTask, rows: Sequence[int] | IntArray) -> list[list[int]]:
    if not task.excluded:
        return [[] for _ in task.queries]
    column = {task.document_ids[row]: number for number, row in enumerate(rows)}
    return [[column[i] for i in task.excluded.get(query, ()) if i in column] for query in task.queries]


def cosines(queries: Embeddings, query_rows: slice, documents: Embeddings, document_rows: IntArray) -> FloatArray:
    """``[queries, documents]`` cosines of the values; integers are multiplied as they are and divided afterwards."""
    left, right = _floats(queries, query_rows), _floats(documents, document_rows)
    norms = [np.linalg.norm(side, axis=1) for side in (left, right)]
    left_norm, right_norm = (np.where(norm > 0, norm, 1).astype(np.float32) for norm in norms)
    return np.asarray((left @ right.T) / left_norm[:, None] / right_norm[None, :], np.float32)


def _floats(embeddings: Embeddings, rows: slice | IntArray) -> FloatArray:
    """``[rows, dims]`` float32; packed bits become -1 and 1, so that their dot product is dims - 2 hamming."""
    values = embeddings.values[rows]
    if embeddings.dtype == "binary":
        bits = np.unpackbits(values, axis=1, count=embeddings.dims, bitorder="little")
        return np.asarray(bits.astype(np.float32) * 2 - 1, np.float32)
    return np.asarray(values, np.float32)


def _best(scores: FloatArray, numbers: IntArray, top: int) -> tuple[FloatArray, IntArray]:
    """The ``top`` columns of each row, best first, the leftmost first (and kept) among equals.

    ``scores`` is ``[rows, columns]``; ``numbers`` the same shape, or ``[columns]`` for all rows alike.
    """
    numbers = np.broadcast_to(numbers, scores.shape)
    if scores.shape[1] > top:
        worst = np.partition(scores, scores.shape[1] - top, axis=1)[:, scores.shape[1] - top, None]
        above, equal = scores > worst, scores == worst
        room = top - above.sum(axis=1, keepdims=True)
        keep = above | (equal & (np.cumsum(equal, axis=1) <= room))
        scores, numbers = scores[keep].reshape(-1, top), numbers[keep].reshape(-1, top)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def _named(scores: FloatArray, numbers: IntArray, ids: Sequence[str]) -> list[dict[str, float]]:
    """Rankings with document ids; what was excluded (-inf) is not in them."""

    def rows() -> Iterator[dict[str, float]]:
        for row_scores, row_numbers in zip(scores.tolist(), numbers.tolist(), strict=True):
            pairs = zip(row_scores, row_numbers, strict=True)
            yield {ids[number]: score for score, number in pairs if score != -np.inf}

    return list(rows())
