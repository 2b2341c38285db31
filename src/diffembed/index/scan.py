"""Search of one state of an index: exact where rows are few, coarse search and rescoring in sealed segments.

Every answer carries true int8 cosines; only which rows are looked at may be approximate. Deleted rows and filters take
part in the coarse search itself, so that they never cost answers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.coarse import Coarse, selector
from diffembed.index.rescoring import Best, rescored, scan
from diffembed.index.segments import FloatArray, IdArray, Int8Rows, Segment
from diffembed.index.tuning import Tuning

EXACT_VALUES = 64_000_000
"""Up to this many int8 values (rows x dims; 250,000 rows of 256) the exact scan answers in about 20 ms on one core."""

_SURVIVOR_VALUES = 16_000_000
"""Rows that a filter leaves are looked at one by one up to this many values; they lie apart and are slower to read."""


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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sealed part with what one call asks of it."""

    part: Part
    coarse: Coarse
    probes: int
    candidates: int
    chosen: Any


class Snapshot:
    """The live rows of an index as one reader sees them; may be searched from several threads at once."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)

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
            allowed: ascending ids of the rows that may be found; ``None`` for all.
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
        if allowed is not None and (np.diff(allowed) <= 0).any():
            raise InputError("allowed must be ascending ids, each once; sort them with numpy.unique")
        dims = self.parts[0].segment.dims if self.parts else queries_QD.shape[1]
        if queries_QD.shape[1] != dims:
            raise InputError(f"queries are {queries_QD.shape[1]} wide, the index {dims}; encode them with its model")
        best = Best(len(queries_QD), top)
        sealed = []
        for part in self.parts:
            places = None if allowed is None else _places(part, allowed)
            asked = None if exact else _ask(part, top, places)
            if asked is not None:
                sealed.append(asked)
            elif places is None:
                scan(part.segment, queries_QD, best, live=part.live)
            elif 2 * len(places) > len(part.segment):  # in order is faster than one by one
                scan(part.segment, queries_QD, best, live=_mask(part, places))
            elif len(places):
                scan(part.segment, queries_QD, best, places=places)
        if sealed:
            _each(queries_QD, sealed, best, threads)
        return best.ids, best.scores


def _places(part: Part, allowed: IdArray) -> IdArray:
    places = part.segment.places_of(allowed)
    return places if part.live is None else places[part.live[places]]


def _ask(part: Part, top: int, places: IdArray | None) -> _Asked | None:
    """How to search a part coarsely; ``None`` if it is to be scanned."""
    if part.sealed is None:
        return None
    coarse, (probes, candidates) = part.sealed.coarse, part.sealed.tuning.at(top)
    count = part.rows if places is None else len(places)
    if count <= candidates:
        return None
    if places is None:
        return _Asked(part, coarse, probes, candidates, part.live_selector)
    if len(places) * part.segment.dims <= _SURVIVOR_VALUES:
        return None
    # among fewer rows the nearest lie farther away: scan as many survivors as there would be rows without a filter
    probes = min(coarse.lists, math.ceil(probes * len(part.segment) / len(places)))
    return _Asked(part, coarse, probes, candidates, selector(_mask(part, places)))


def _mask(part: Part, places: IdArray) -> npt.NDArray[np.bool_]:
    mask = np.zeros(len(part.segment), np.bool_)
    mask[places] = True
    return mask


def _each(queries_QD: Int8Rows, sealed: Sequence[_Asked], best: Best, threads: int | None) -> None:
    """Search sealed parts, one thread for each query: two threads on one query are slower than one."""

    def one(number: int) -> None:
        _coarse(queries_QD[number], number, sealed, best)

    workers = min(len(queries_QD), threads or _cores())
    if workers == 1:
        for number in range(len(queries_QD)):
            one(number)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, range(len(queries_QD))):
            pass  # an exception of a thread is raised here


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _coarse(query_D: Int8Rows, number: int, sealed: Sequence[_Asked], best: Best) -> None:
    """One query: candidates of all sealed parts, of which the most promising are rescored."""
    named = [
        asked.coarse.search(query_D, probes=asked.probes, candidates=asked.candidates, chosen=asked.chosen)
        for asked in sealed
    ]
    # Segments compete: together they need more candidates than one of them, but far from as many as all of them.
    most = max(asked.candidates for asked in sealed)
    total = math.ceil(most * (1 + math.log2(len(sealed)) / 4))
    scores = np.concatenate([distances for _, distances in named])
    limit = np.partition(scores, total - 1)[total - 1] if len(scores) > total else np.inf
    for asked, (places, distances) in zip(sealed, named, strict=True):
        near = np.sort(places[distances <= limit])  # in file order: kinder to a cold disk
        if len(near):
            segment = asked.part.segment
            best.show(number, segment.ids_at(near), rescored(segment, query_D, near))
