"""How many lists to scan and how many rows to rescore, found out on a segment's own rows and kept in the catalog.

No constant fits: the more rows compete, the more candidates it takes, and how many more depends on the texts. So some
rows of the segment ask, exact search answers, and the cheapest setting that finds the wanted share of the answers wins.

A row alone is too easy a question: it lies among its neighbours, and real questions lie apart from all rows. Each row
that asks is therefore moved off at random, by up to one and a half times its length. At that end it is as hard as real
questions, at the other as passages looking for passages (measured on questions and passages of 126 sets with the
embedded model: to find 0.95 takes four times the lists for questions).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from diffembed.index.coarse import Coarse, unit_rows
from diffembed.index.coarse_build import Codes, Progress
from diffembed.index.rescoring import Best, scan
from diffembed.index.segments import IdArray, Int8Rows, Segment
from diffembed.vectors.quantize import scaled_int8

RECALL = 0.95
TIERS = (10, 100, 1000)
_QUERIES = 256
_FEWEST = 256  # the first number of lists that is tried is one in so many
_MARGIN = 0.01  # asked for on top, since the figure comes from a sample
_FARTHEST = 1.5  # how far rows that ask are moved, in lengths
_SEED = 20261123
_FACTORS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MOST_CANDIDATES = 20_000
_CODE_NANOSECONDS_PER_DIM = 0.035
_ROW_NANOSECONDS = 4000  # between a row in memory (500) and one on the disk (40,000, read with others at a time)


@dataclass(frozen=True, slots=True)
class Setting:
    """For up to ``top`` results: how many lists and candidates, and the share of exact answers they found.

    >>> Setting(10, 32, 100, 0.96).top
    10
    """

    top: int
    probes: int
    candidates: int
    recall: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a sealed segment is searched with.

    Attributes:
        codes: the kind of its codes.
        wanted: the recall that was asked for.
        settings: by ascending ``top``.
    """

    codes: Codes
    wanted: float
    settings: tuple[Setting, ...]

    def to_json(self) -> str:
        """For ``segments.tuning`` of the catalog."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Tuning | None:
        """``None`` for a segment that is not sealed.

        >>> made = Tuning("rabitq", 0.95, (Setting(10, 32, 100, 0.96),))
        >>> Tuning.from_json(made.to_json()) == made, Tuning.from_json("{}")
        (True, None)
        """
        read = json.loads(text)
        if not read:
            return None
        return cls(read["codes"], read["wanted"], tuple(Setting(**setting) for setting in read["settings"]))

    def at(self, top: int) -> tuple[int, int]:
        """``(probes, candidates)`` for ``top`` results; beyond the largest tier candidates grow with ``top``.

        >>> tuned = Tuning("rabitq", 0.95, (Setting(10, 32, 100, 0.96), Setting(100, 64, 400, 0.96)))
        >>> tuned.at(1), tuned.at(11), tuned.at(200)
        ((32, 100), (64, 400), (64, 800))
        """
        for setting in self.settings:
            if top <= setting.top:
                return setting.probes, setting.candidates
        last = self.settings[-1]
        return last.probes, math.ceil(last.candidates * top / last.top)


def tune(
    segment: Segment, coarse: Coarse, codes: Codes, *, wanted: float = RECALL, progress: Progress = lambda *_: None
) -> Tuning:
    """Find the cheapest settings that reach a recall, on some rows of the segment.

    The exact answers rank by true cosine, so of the candidates exactly the true answers among them end up on top: the
    recall of a setting is the share of the true answers among its candidates. Nothing needs to be rescored for it.

    Args:
        segment: its rows.
        coarse: its coarse index.
        codes: the kind of its codes, to be kept with the result.
        wanted: share of the exact answers, in 0 to 1.
        progress: called with (step, done, in all).
    """
    tops = sorted({min(top, len(segment) - 1) for top in TIERS} - {0}) or [1]
    places, queries = _questions(segment, min(_QUERIES, len(segment)))
    progress("tune", 0, len(places))
    best = Best(len(queries), tops[-1] + 1)
    scan(segment, queries, best, ids=False)
    exact = [found[found != own][: tops[-1]] for found, own in zip(best.ids, places.tolist(), strict=True)]
    segment.forget()
    settings = []
    for top in tops:
        goal = _Goal(top, wanted, len(segment), coarse.lists, segment.dims, [found[:top] for found in exact])
        settings.append(
            goal.cheapest(
                lambda probes, count: [
                    coarse.search(query, probes=probes, candidates=count + 1)[0] for query in queries
                ],
                places,
            )
        )
        progress("tune", len(settings), len(tops))
    return Tuning(codes, wanted, tuple(settings))


def _questions(segment: Segment, count: int) -> tuple[IdArray, Int8Rows]:
    """Places of some rows, and these rows moved off."""
    chance = np.random.default_rng(_SEED)
    places = np.sort(chance.permutation(len(segment))[:count]).astype(np.int64)
    segment.want(places)
    rows = unit_rows(segment.rows_at(places))
    away = chance.standard_normal(rows.shape).astype(np.float32)
    away *= chance.uniform(0, _FARTHEST, (count, 1)).astype(np.float32) / np.linalg.norm(away, axis=1, keepdims=True)
    return places, scaled_int8(rows + away)


@dataclass(frozen=True, slots=True)
class _Goal:
    """One tier to be tuned."""

    top: int
    wanted: float
    rows: int
    lists: int
    dims: int
    exact: list[IdArray]

    def cheapest(self, search: Callable[[int, int], list[IdArray]], own: IdArray) -> Setting:
        """The setting of least cost that reaches the goal, or the one of highest recall where none does."""
        counts = sorted({min(math.ceil(self.top * f), self.rows, _MOST_CANDIDATES) for f in _FACTORS} - {0})
        found: Setting | None = None
        most = Setting(self.top, self.lists, counts[-1], -1.0)
        probes = max(1, self.lists // _FEWEST)
        while True:
            # a scan that costs more than the best setting so far cannot win, whatever it finds
            if found is not None and self._cost(probes, counts[0]) >= self._cost(found.probes, found.candidates):
                return found
            recalls = self._recalls(search(probes, counts[-1]), own, counts)
            for count, recall in zip(counts, recalls, strict=True):
                tried = Setting(self.top, probes, count, round(recall, 4))
                most = max(most, tried, key=lambda setting: setting.recall)
                good = recall >= min(1.0, self.wanted + _MARGIN)
                if good and (found is None or self._cost(probes, count) < self._cost(found.probes, found.candidates)):
                    found = tried
            if probes == self.lists:
                return found or most
            probes = min(self.lists, math.ceil(probes * 1.4))

    def _cost(self, probes: int, candidates: int) -> float:
        codes = probes * self.rows / self.lists
        return codes * self.dims * _CODE_NANOSECONDS_PER_DIM + candidates * _ROW_NANOSECONDS

    def _recalls(self, found: list[IdArray], own: IdArray, counts: list[int]) -> list[float]:
        """The share of exact answers among the first so many candidates, for each of ``counts``."""
        hits = np.zeros(len(counts))
        for named, exact, self_place in zip(found, self.exact, own.tolist(), strict=True):
            ranks = np.flatnonzero(np.isin(named[named != self_place], exact, assume_unique=True))
            hits += np.searchsorted(ranks, counts)
        return list(hits / max(1, sum(map(len, self.exact))))
