"""Search over open segments: exact int8 cosine, or Hamming distance on the sign bits first and int8 cosine on the best.

Small collections are scanned exactly: at a few hundred thousand rows that takes milliseconds and needs no faiss. For
larger ones faiss's binary flat index names ``candidates(top, rows)`` rows, which the memory-mapped int8 rows rescore.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.segments import FloatArray, IdArray, Int8Rows, Segment, row_norms, sign_bits

EXACT_VALUES = 64_000_000
"""Up to this many int8 values (rows x dims; 250,000 rows of 256) the exact scan answers: about 20 ms on one core."""

_BLOCK_VALUES = 128 * 1024  # a block of float32 copies stays in the second-level cache, and BLAS starts no threads


def candidates(top: int, rows: int) -> int:
    """How many rows the Hamming stage hands on for rescoring.

    Ranking by sign bits blurs more the more rows compete. The needed oversampling doubles for each ten times more rows
    (measured on sentence vectors: 20x at 1M and 40x at 10M for recall@10 of 0.9); this takes twice that, and never
    fewer than 400 rows, which costs under a millisecond.

    >>> candidates(10, 100_000), candidates(10, 1_000_000), candidates(10, 10_000_000), candidates(10, 50)
    (400, 400, 800, 50)
    """
    factor = 40 * 2 ** (math.log10(max(rows, 100_000)) - 6)
    return min(rows, max(400, math.ceil(top * factor)))


@dataclass(slots=True)
class Snapshot:
    """The live rows of an index as one reader sees them.

    Attributes:
        segments: open segments.
        live: for each segment a ``[rows]`` boolean mask, or ``None`` when all its rows are live.
    """

    segments: Sequence[Segment]
    live: Sequence[npt.NDArray[np.bool_] | None]
    _coarse: Any = field(default=None, repr=False)
    _coarse_rows: npt.NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """How many live rows there are."""
        return sum(
            len(s) if mask is None else int(np.count_nonzero(mask))
            for s, mask in zip(self.segments, self.live, strict=True)
        )

    def search(
        self, queries_QD: Int8Rows, top: int, *, exact_values: int = EXACT_VALUES
    ) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """The ``top`` live rows of highest cosine for each query, equal scores in the order of their ids.

        Args:
            queries_QD: int8.
            top: how many.
            exact_values: up to this many values (rows x dims) the scan is exact.

        Returns:
            ``[Q, top]`` chunk ids (-1 where there are fewer rows) and ``[Q, top]`` cosines (``-inf`` there).
        """
        if queries_QD.dtype != np.int8 or queries_QD.ndim != 2:
            raise InputError(f"queries must be [Q, D] int8, not {queries_QD.ndim}-d {queries_QD.dtype}")
        if top < 1:
            raise InputError(f"top is {top}; ask for at least 1 result")
        ids = np.full((queries_QD.shape[0], top), -1, np.int64)
        scores = np.full((queries_QD.shape[0], top), -np.inf, np.float32)
        if not self.segments:
            return ids, scores
        dims = self.segments[0].dims
        if queries_QD.shape[1] != dims:
            raise InputError(f"queries are {queries_QD.shape[1]} wide, the index {dims}; encode them with its model")
        rows = self.rows
        exact = rows * dims <= exact_values or candidates(top, rows) * 4 >= rows
        for number, query in enumerate(queries_QD):
            found, cosines = self._scan(query) if exact else self._rescore(query, candidates(top, rows))
            best = _best(found, cosines, top)
            ids[number, : len(best)] = found[best]
            scores[number, : len(best)] = cosines[best]
        return ids, scores

    def _scan(self, query: Int8Rows) -> tuple[IdArray, FloatArray]:
        pieces_ids, pieces_scores = [], []
        for segment, mask in zip(self.segments, self.live, strict=True):
            cosines = cosines_with(query, segment.rows, segment.norms)
            pieces_ids.append(segment.ids if mask is None else segment.ids[mask])
            pieces_scores.append(cosines if mask is None else cosines[mask])
        return np.concatenate(pieces_ids), np.concatenate(pieces_scores)

    def _rescore(self, query: Int8Rows, count: int) -> tuple[IdArray, FloatArray]:
        index, places = self._coarse_index()
        near = np.sort(
            places[index.search(sign_bits(query[None, :]), count)[1][0]]
        )  # in file order: kinder to a cold disk
        starts = np.cumsum([0, *map(len, self.segments)])
        pieces_ids, pieces_scores = [], []
        for segment, start, end in zip(self.segments, starts, starts[1:], strict=False):
            local = near[(near >= start) & (near < end)] - start
            pieces_ids.append(segment.ids[local])
            pieces_scores.append(cosines_with(query, segment.rows[local], segment.norms[local]))
        return np.concatenate(pieces_ids), np.concatenate(pieces_scores)

    def _coarse_index(self) -> tuple[Any, npt.NDArray[np.int64]]:
        """faiss's binary flat index of the live rows, and the place of each of its rows among all rows."""
        if self._coarse is None or self._coarse_rows is None:
            import faiss  # only large collections pay for it

            width = self.segments[0].bits.shape[1]
            index = faiss.IndexBinaryFlat(8 * width)
            places, start = [], 0
            for segment, mask in zip(self.segments, self.live, strict=True):
                local = np.arange(len(segment)) if mask is None else np.flatnonzero(mask)
                index.add(np.ascontiguousarray(segment.bits if mask is None else segment.bits[local]))
                places.append(local + start)
                start += len(segment)
            self._coarse, self._coarse_rows = index, np.concatenate(places).astype(np.int64)
        return self._coarse, self._coarse_rows


def cosines_with(query_D: Int8Rows, rows_ND: Int8Rows, norms_N: FloatArray) -> FloatArray:
    """``[N]`` cosines of one int8 query with int8 rows; a zero vector has cosine 0 with everything.

    Sums of products of int8 values are exact in float32 up to 1,040 dims (127 * 127 * 1040 < 2**24), in whatever order
    they are added; wider vectors are summed in float64.

    >>> rows = np.array([[3, 4], [-6, -8], [0, 0]], np.int8)
    >>> cosines_with(np.array([6, 8], np.int8), rows, row_norms(rows)).tolist()
    [1.0, -1.0, 0.0]
    """
    count, dims = rows_ND.shape
    kind: Any = np.float32 if dims <= 1040 else np.float64
    query = query_D.astype(kind)
    dots = np.empty(count, kind)
    step = max(1, _BLOCK_VALUES // dims)
    for start in range(0, count, step):
        dots[start : start + step] = rows_ND[start : start + step].astype(kind) @ query
    lengths = norms_N.astype(kind) * kind(row_norms(query_D[None, :])[0])
    cosines: FloatArray = np.divide(dots, lengths, out=np.zeros(count, kind), where=lengths > 0).astype(np.float32)
    return cosines


def _best(ids: IdArray, scores: FloatArray, top: int) -> npt.NDArray[np.int64]:
    """Positions of the ``top`` best scores; among equal scores the smaller id wins."""
    if len(scores) > top:
        threshold = np.partition(scores, len(scores) - top)[len(scores) - top]
        kept = np.flatnonzero(scores >= threshold)
    else:
        kept = np.arange(len(scores))
    order = np.lexsort((ids[kept], -scores[kept]))
    return kept[order[:top]].astype(np.int64)
