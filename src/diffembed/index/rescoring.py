"""True int8 cosines: of rows at known places, and of all rows in a scan that keeps only the best."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.index.segments import FloatArray, IdArray, Int8Rows, Segment, row_norms

# One query: a block of float32 copies stays in the second-level cache, and BLAS starts no threads.
# Many queries: blocks large enough for full matrix products, of which the scores are a few megabytes.
_BLOCK_VALUES, _BATCH_VALUES, _BATCH_QUERIES, _BATCH_SCORES = 128 * 1024, 2 << 20, 256, 1 << 20


def cosines_with(query_D: Int8Rows, rows_ND: Int8Rows, norms_N: FloatArray) -> FloatArray:
    """``[N]`` cosines of one int8 query with int8 rows; a zero vector has cosine 0 with everything.

    Sums of products of int8 values are exact in float32 up to 1,040 dims (127 * 127 * 1040 < 2**24), in whatever order
    they are added; wider vectors are summed in float64.

    >>> rows = np.array([[3, 4], [-6, -8], [0, 0]], np.int8)
    >>> cosines_with(np.array([6, 8], np.int8), rows, row_norms(rows)).tolist()
    [1.0, -1.0, 0.0]
    """
    count, dims = rows_ND.shape
    kind = _exact_kind(dims)
    query = query_D.astype(kind)
    dots = np.empty(count, kind)
    step = max(1, _BLOCK_VALUES // dims)
    for start in range(0, count, step):
        dots[start : start + step] = rows_ND[start : start + step].astype(kind) @ query
    cosines: FloatArray = _divided(dots[None, :], row_norms(query_D[None, :]).astype(kind), norms_N.astype(kind))[0]
    return cosines


def rescored(segment: Segment, query_D: Int8Rows, places: IdArray) -> FloatArray:
    """``[N]`` cosines of a query with the rows at some places of a segment.

    ``Segment.want`` them first: then a cold disk reads them all at once, not one after another.
    """
    rows = segment.rows_at(places)
    return cosines_with(query_D, rows, row_norms(rows))  # lengths are cheaper to count than to read from elsewhere


class Best:
    """The best ``top`` of what it is shown, for each of some queries; among equal scores the smaller id wins."""

    def __init__(self, queries: int, top: int) -> None:
        self.top = top
        self.ids = np.full((queries, top), -1, np.int64)
        self.scores = np.full((queries, top), -np.inf, np.float32)

    def show(self, query: int, ids_N: IdArray, scores_N: FloatArray) -> None:
        """Rows and their scores for one query; an id comes once."""
        good = scores_N >= self.scores[query, -1]
        held = self.ids[query] >= 0
        ids = np.concatenate([self.ids[query][held], ids_N[good]])
        scores = np.concatenate([self.scores[query][held], scores_N[good]])
        if len(scores) > self.top:
            threshold = np.partition(scores, len(scores) - self.top)[len(scores) - self.top]
            kept = np.flatnonzero(scores >= threshold)
            ids, scores = ids[kept], scores[kept]
        order = np.lexsort((ids, -scores))[: self.top]
        self.ids[query, : len(order)], self.scores[query, : len(order)] = ids[order], scores[order]


def scan(
    segment: Segment,
    queries_QD: Int8Rows,
    best: Best,
    *,
    live: npt.NDArray[np.bool_] | None = None,
    places: IdArray | None = None,
    ids: bool = True,
) -> None:
    """Show ``best`` the cosines of all queries with rows of a segment.

    Memory stays the same however many rows and queries there are: rows go by in blocks, queries in groups.

    Args:
        segment: whose rows.
        queries_QD: int8.
        best: what keeps the best of them.
        live: which rows count; ``None`` for all.
        places: of the rows to look at, ascending; ``None`` for all.
        ids: whether ``best`` gets ids; else places in the segment.
    """
    kind = _exact_kind(segment.dims)
    for first in range(0, len(queries_QD), _BATCH_QUERIES):
        group = queries_QD[first : first + _BATCH_QUERIES]
        queries, lengths = group.astype(kind), row_norms(group).astype(kind)
        values = _BLOCK_VALUES if len(group) == 1 else _BATCH_VALUES
        step = max(1, min(values // segment.dims, _BATCH_SCORES // len(group)))
        for at, rows, norms in _pieces(segment, step, places):
            scores = _divided(queries @ rows.astype(kind).T, lengths, norms.astype(kind))
            here = at if live is None else at[live[at]]
            scores = scores if live is None else scores[:, live[at]]
            worth = scores >= best.scores[first : first + len(group), -1:]
            for number in np.flatnonzero(worth.any(axis=1)).tolist():
                found = np.flatnonzero(worth[number])
                shown = segment.ids_at(here[found]) if ids else here[found]
                best.show(first + number, shown, scores[number, found])


def _pieces(segment: Segment, step: int, places: IdArray | None) -> Iterator[tuple[IdArray, Int8Rows, FloatArray]]:
    """``(places, rows, norms)``, a block at a time."""
    if places is None:
        for start, rows, norms in segment.blocks(step):
            yield np.arange(start, start + len(rows), dtype=np.int64), rows, norms
        return
    for first in range(0, len(places), step):
        here = places[first : first + step]
        segment.want(here)
        rows = segment.rows_at(here)
        yield here, rows, row_norms(rows)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _exact_kind(dims: int) -> Any:
    return np.float32 if dims <= 1040 else np.float64


def _divided(dots_QN: npt.NDArray[Any], query_lengths: npt.NDArray[Any], row_lengths: npt.NDArray[Any]) -> FloatArray:
    """Cosines from dot products."""
    lengths = query_lengths[:, None] * row_lengths[None, :]
    cosines: FloatArray = np.divide(dots_QN, lengths, out=np.zeros_like(dots_QN), where=lengths > 0).astype(np.float32)
    return cosines
