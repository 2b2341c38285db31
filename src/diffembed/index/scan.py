"""Search of one state of an index: exact where rows are few, coarse search and rescoring in sealed segments.

Every answer carries true int8 cosines; only which rows are looked at may be approximate. Deleted rows and filters take
part in the coarse search itself, so that they never cost answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.coarse import Coarse, selector
from diffembed.index.rescoring import Best, cores, rescored, scan
from diffembed.index.segments import FloatArray, IdArray, Int8Rows, Segment
from diffembed.index.tuning import Tuning

EXACT_VALUES = 64_000_000
"""Up to this many int8 values (rows x dims; 250,000 rows of 256) the exact scan answers in about 20 ms on one core."""

_LARGE_FILTER = 10_000
"""What a filter of so many ids or more comes to is kept for the next search: it takes longer than the search."""

_SURVIVOR_VALUES = 2_000_000
"""Rows that a filter leaves are looked at one by one up to this many values, which takes some milliseconds ..."""

_ROW_READ, _ROW_SCORED = 100, 2
"""... or where that takes no longer: reading a row and scoring it for a query, in codes that would be scanned."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealed segment has besides its rows: a coarse index, and what it is searched with."""

    coarse: Coarse
    tuning: Tuning


@dataclass(frozen=True)
class Part:
    """A segment as one reader sees it.

    Attributes:
        segment: its rows.
        live: ``[rows]`` which of them are live, or ``None`` when all are.
        sealed: how it is searched coarsely; ``None`` if it is scanned.
    """

    segment: Segment
    live: npt.NDArray[np.bool_] | None = None
    sealed: Sealed | None = None

    @cached_property
    def rows(self) -> int:
        """How many live rows there are."""
        return len(self.segment) if self.live is None else int(np.count_nonzero(self.live))

    @cached_property
    def live_selector(self) -> Any:
        """faiss's form of ``live``; ``None`` when all are."""
        return None if self.live is None else selector(self.live)


class _Left:
    """What a filter leaves of a part: ``places`` of live rows, and faiss's form of them, made when first used."""

    def __init__(self, part: Part, allowed: IdArray) -> None:
        places = part.segment.places_of(allowed)
        self._part = part
        self.places = places if part.live is None else places[part.live[places]]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """A value for each row of the segment."""
        mask = np.zeros(len(self._part.segment), np.bool_)
        mask[self.places] = True
        return mask

    @cached_property
    def selector(self) -> Any:
        """For ``Coarse.search``."""
        return selector(self.mask)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sealed part with what one call asks of it.

    Attributes:
        rows: how many of its rows may be found.
        chosen: faiss's form of these rows; ``None`` for all.
    """

    part: Part
    sealed: Sealed
    probes: int
    candidates: int
    rows: int
    chosen: Any


class Snapshot:
    """The live rows of an index as one reader sees them; may be searched from several threads at once."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._filtered: tuple[IdArray, list[_Left]] | None = None  # the last large filter

    @classmethod
    def in_memory(cls, rows_ND: Int8Rows) -> Snapshot:
        """One segment of rows numbered from 0, that is no file."""
        return cls([Part(Segment.in_memory(rows_ND))])

    @property
    def rows(self) -> int:
        """How many live rows there are."""
        return sum(part.rows for part in self.parts)

    def search(
        self,
        queries_QD: Int8Rows,
        top: int,
        *,
        allowed: IdArray | None = None,
        exact: bool = False,
        threads: int | None = None,
    ) -> tuple[IdArray, FloatArray]:
        """The ``top`` live rows of highest cosine for each query, equal scores in the order of their ids.

        Args:
            queries_QD: int8.
            top: how many.
            allowed: ascending ids of the rows that may be found; ``None`` for all. Not to be changed afterwards: what
                was worked out about a large filter is used again when the same array comes with the next search.
            exact: look at every row, also in sealed segments.
            threads: for several queries; ``None`` for one on each core. A single query takes one.

        Returns:
            ``[Q, top]`` ids (-1 where there are fewer rows) and ``[Q, top]`` cosines (``-inf`` there).

        Raises:
            InputError: queries of another type or width, ``top`` below 1, ``allowed`` out of order.
            IndexStoreError: a file is damaged where the search touched it.
        """
        if queries_QD.dtype != np.int8 or queries_QD.ndim != 2:
            raise InputError(f"queries must be [Q, D] int8, not {queries_QD.ndim}-d {queries_QD.dtype}")
        if top < 1:
            raise InputError(f"top is {top}; ask for at least 1 result")
        dims = self.parts[0].segment.dims if self.parts else queries_QD.shape[1]
        if queries_QD.shape[1] != dims:
            raise InputError(f"queries are {queries_QD.shape[1]} wide, the index {dims}; encode them with its model")
        best = Best(len(queries_QD), top)
        left = [None] * len(self.parts) if allowed is None else self._left(allowed)
        sealed = []
        for part, rest in zip(self.parts, left, strict=True):
            asked = None if exact else _ask(part, top, rest, len(queries_QD))
            if asked is not None:
                sealed.append(asked)
            elif rest is None:
                scan(part.segment, queries_QD, best, live=part.live)
            elif 2 * len(rest.places) > len(part.segment):  # in order is faster than one by one
                scan(part.segment, queries_QD, best, live=rest.mask)
            elif len(rest.places):
                scan(part.segment, queries_QD, best, places=rest.places)
        if sealed:
            _each(queries_QD, sealed, best, threads)
        return best.ids, best.scores

    def rows_of(self, ids_N: IdArray) -> Int8Rows:
        """``[N, D]`` copies of the rows of some ids, in their order.

        Raises:
            InputError: an id that no live row has.
        """
        wanted, order = np.unique(ids_N, return_inverse=True)
        there = np.zeros(len(wanted), np.bool_)
        rows_ND = np.empty((len(wanted), self.parts[0].segment.dims if self.parts else 0), np.int8)
        for part in self.parts:
            places = part.segment.places_of(wanted)
            places = places if part.live is None else places[part.live[places]]
            if len(places):
                at = np.searchsorted(wanted, part.segment.ids_at(places))
                rows_ND[at] = part.segment.rows_at(places)
                there[at] = True
        if not there.all():
            raise InputError(f"there is no row {wanted[~there][0]} in the index; it may have been replaced or deleted")
        found: Int8Rows = rows_ND[order]
        return found

    def _left(self, allowed: IdArray) -> list[_Left]:
        """What a filter leaves of every part."""
        known = self._filtered
        if known is not None and known[0] is allowed:
            return known[1]
        if (np.diff(allowed) <= 0).any():
            raise InputError("allowed must be ascending ids, each once; sort them with numpy.unique")
        left = [_Left(part, allowed) for part in self.parts]
        if len(allowed) >= _LARGE_FILTER:
            self._filtered = allowed, left
        return left


def _ask(part: Part, top: int, left: _Left | None, queries: int) -> _Asked | None:
    """How to search a part coarsely; ``None`` if it is to be scanned."""
    if part.sealed is None:
        return None
    sealed, (probes, candidates) = part.sealed, part.sealed.tuning.at(top)
    rows = part.rows if left is None else len(left.places)
    if rows <= candidates:
        return None
    if left is None:
        return _Asked(part, sealed, probes, candidates, rows, part.live_selector)
    # among fewer rows the nearest lie farther away: scan as many survivors as there would be rows without a filter;
    # of a filter that goes by what texts are about, fewer lists would miss up to a third
    probes = min(sealed.coarse.lists, math.ceil(probes * len(part.segment) / rows))
    codes = len(part.segment) * probes // sealed.coarse.lists
    one_by_one = rows * (_ROW_READ + _ROW_SCORED * queries)
    if rows * part.segment.dims <= _SURVIVOR_VALUES or one_by_one <= codes * queries:
        return None
    return _Asked(part, sealed, probes, candidates, rows, left.selector)


def _each(queries_QD: Int8Rows, sealed: Sequence[_Asked], best: Best, threads: int | None) -> None:
    """Search sealed parts, one thread for each query: two threads on one query are slower than one."""

    def one(number: int) -> None:
        _coarse(queries_QD[number], number, sealed, best)

    workers = min(len(queries_QD), threads or cores())
    if workers == 1:
        for number in range(len(queries_QD)):
            one(number)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, range(len(queries_QD))):
            pass  # an exception of a thread is raised here


def _coarse(query_D: Int8Rows, number: int, sealed: Sequence[_Asked], best: Best) -> None:
    """One query: candidates of all sealed parts, of which the most promising are rescored."""
    named = [
        asked.sealed.coarse.search(query_D, probes=asked.probes, candidates=asked.candidates, chosen=asked.chosen)
        for asked in sealed
    ]
    total = _pooled(sealed, best.top)
    scores = np.concatenate([distances for _, distances in named])
    limit = np.partition(scores, total - 1)[total - 1] if len(scores) > total else np.inf
    near = [np.sort(places[distances <= limit]) for places, distances in named]  # in file order: kinder to a cold disk
    for asked, places in zip(sealed, near, strict=True):
        asked.part.segment.want(places)  # of all segments before the first is read
    for asked, places in zip(sealed, near, strict=True):
        segment = asked.part.segment
        cosines = rescored(segment, query_D, places)
        top = np.argsort(-cosines, kind="stable")[: best.top]  # places ascend, so equal cosines stay in order of ids
        segment.want_ids(places[top])
        best.show(number, segment.ids_at(places[top]), cosines[top])


def _pooled(sealed: Sequence[_Asked], top: int) -> int:
    """How many of the candidates of several segments are rescored.

    A segment with a share of all rows holds about that share of the answers. What it takes to find so many of its
    nearest rows was found out when it was tuned; each segment is granted that, and the estimated distances decide who
    uses it. So the answers may as well all stand in one segment, and the sum is far from what all name together.
    """
    rows = sum(asked.rows for asked in sealed)
    granted = sum(asked.sealed.tuning.granted(top, asked.rows / rows) for asked in sealed)
    return max(math.ceil(granted), max(asked.candidates for asked in sealed))
