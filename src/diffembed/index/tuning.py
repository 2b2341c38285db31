"""How many lists to scan and how many rows to rescore, found out on a segment's own rows and kept in the catalog.

No constant fits: the more rows compete, the more candidates it takes, and how many more depends on the texts. So some
rows of the segment ask, exact search answers, and the cheapest setting that finds the wanted share of the answers wins.

A row alone is too easy a question: it lies among its neighbours, and real questions lie apart from all rows. Each row
that asks is therefore moved off at random, by half to one and a half times its length, in directions in which the rows
themselves differ: noise in all directions would weigh less the more dims there are. That can make them easier or harder
than what users ask, so questions of theirs may be given instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from diffembed.index.coarse import Coarse
from diffembed.index.coarse_build import Codes, Progress
from diffembed.index.rescoring import Best, cores, scan
from diffembed.index.segments import IdArray, Int8Rows, Segment, unit_rows
from diffembed.vectors.quantize import scaled_int8

RECALL = 0.95
FEWEST_QUESTIONS = 50  # that may be given: with 10 answers each, the share they find is known to a few percent
_QUESTIONS = {10: 512, 100: 256, 1000: 128}  # the more answers each has, the fewer tell the share to half a percent
_FEWEST = 256  # the first number of lists that is tried is one in so many
_MARGIN = 0.005  # asked for on top: about the standard error of a sample of this size
_MOVED = (0.5, 1.5)  # how far rows that ask are moved, in lengths
_AROUND = 1024  # rows whose differences say in which directions
_SEED = 20261123
_FACTORS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_STEP = 1.25  # from one number of lists to the next
_MOST_CANDIDATES = 20_000
_CODE_NANOSECONDS_PER_DIM = 0.035
_ROW_NANOSECONDS = 4000  # between a row in memory (500) and one on the disk (40,000, read with others at a time)


@dataclass(frozen=True, slots=True)
class Setting:
    """For up to ``top`` results: how many lists and candidates, and the share of exact answers they found.

    Attributes:
        fewer: candidates that find the same share of the nearest ``top / 2``, ``top / 4`` ... 1 rows (``_halves``).

    >>> Setting(10, 32, 100, 0.96).top
    10
    """

    top: int
    probes: int
    candidates: int
    recall: float
    fewer: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a sealed segment is searched with.

    Attributes:
        codes: the kind of its codes.
        wanted: the recall that was asked for.
        settings: by ascending ``top``.
        given: how many questions were given to tune with; 0: rows of the segment asked.
    """

    codes: Codes
    wanted: float
    settings: tuple[Setting, ...]
    given: int = 0

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
        settings = (Setting(**{**given, "fewer": tuple(given["fewer"])}) for given in read["settings"])
        return cls(read["codes"], read["wanted"], tuple(settings), read.get("given", 0))

    def at(self, top: int) -> tuple[int, int]:
        """``(probes, candidates)`` for ``top`` results; beyond the largest tier candidates grow with ``top``.

        >>> tuned = Tuning("rabitq", 0.95, (Setting(10, 32, 100, 0.96), Setting(100, 64, 400, 0.96)))
        >>> tuned.at(1), tuned.at(11), tuned.at(200)
        ((32, 100), (64, 400), (64, 800))
        """
        setting = self._setting(top)
        return setting.probes, math.ceil(setting.candidates * max(1, top / setting.top))

    def granted(self, top: int, share: float) -> float:
        """Candidates that find what part of the best ``top`` of a whole stands here, in ``share`` of its rows.

        >>> tuned = Tuning("rabitq", 0.95, (Setting(10, 32, 100, 0.96, (60, 40, 30)),))
        >>> [round(tuned.granted(10, share)) for share in (1, 0.5, 0.2, 0.01)]
        [100, 60, 40, 30]
        """
        setting = self._setting(top)
        beyond = max(1, top / setting.top)
        nearest, needed = _halves(setting.top), (setting.candidates, *setting.fewer)
        known = slice(len(needed))  # without ``fewer`` as many as for all of them
        logs = np.log(nearest[known])[::-1], np.log(needed)[::-1]
        return beyond * math.exp(np.interp(math.log(max(1.0, top / beyond * share)), *logs))

    def _setting(self, top: int) -> Setting:
        return next((setting for setting in self.settings if top <= setting.top), self.settings[-1])


def _halves(top: int) -> list[int]:
    """``top`` halved again and again, down to 1.

    >>> _halves(10)
    [10, 5, 2, 1]
    """
    return [top >> times for times in range(top.bit_length())]


def tune(
    segment: Segment,
    coarse: Coarse,
    codes: Codes,
    *,
    wanted: float = RECALL,
    questions: Int8Rows | None = None,
    progress: Progress = lambda *_: None,
) -> Tuning:
    """Find the cheapest settings that reach a recall, on given questions or some rows of the segment.

    The exact answers rank by true cosine, so of the candidates exactly the true answers among them end up on top: the
    recall of a setting is the share of the true answers among its candidates. Nothing needs to be rescored for it.

    Args:
        segment: its rows.
        coarse: its coarse index.
        codes: the kind of its codes, to be kept with the result.
        wanted: share of the exact answers, in 0 to 1.
        questions: ``[Q, D]`` that are asked like those to come; the first 512 are used.
        progress: called with (step, done, in all).
    """
    tops = sorted({min(top, len(segment) - 1) for top in _QUESTIONS} - {0}) or [1]
    if questions is None:
        places, queries = _questions(segment, min(max(_QUESTIONS.values()), len(segment)))
    else:
        queries = questions[: max(_QUESTIONS.values())]
        places = np.full(len(queries), -1, np.int64)  # no row asks, and none is left out
    progress("tune", 0, len(places))
    best = Best(len(queries), tops[-1] + 1)
    scan(segment, queries, best, ids=False)
    exact = [found[found != own][: tops[-1]] for found, own in zip(best.ids, places.tolist(), strict=True)]
    segment.forget()

    def search(asked: int, probes: int, count: int) -> list[IdArray]:
        def one(number: int) -> IdArray:
            named = coarse.search(queries[number], probes=probes, candidates=count + 1)[0]
            others: IdArray = named[named != places[number]]
            return others[:count]

        with ThreadPoolExecutor(cores()) as pool:
            return list(pool.map(one, range(asked)))

    settings: list[Setting] = []
    for top in tops:
        asked = min(len(queries), next(count for tier, count in _QUESTIONS.items() if top <= tier))
        goal = _Goal(top, wanted, len(segment), coarse.lists, segment.dims, [found[:top] for found in exact[:asked]])
        # more answers lie in no fewer lists
        first = settings[-1].probes if settings else max(1, coarse.lists // _FEWEST)
        some = partial(search, asked)
        settings.append(goal.with_fewer(goal.cheapest(some, first), some))
        progress("tune", len(settings), len(tops))
    return Tuning(codes, wanted, tuple(settings), 0 if questions is None else len(queries))


def _questions(segment: Segment, count: int) -> tuple[IdArray, Int8Rows]:
    """Places of some rows in random order, and these rows moved off."""
    chance = np.random.default_rng(_SEED)
    order = chance.permutation(len(segment)).astype(np.int64)
    places, around = order[:count], order[-_AROUND:]
    segment.want(np.concatenate([places, around]))
    others = unit_rows(segment.rows_at(around))
    away = chance.standard_normal((count, len(others))).astype(np.float32) @ (others - others.mean(axis=0))
    lengths = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    away *= chance.uniform(*_MOVED, (count, 1)).astype(np.float32) / lengths
    return places, scaled_int8(unit_rows(segment.rows_at(places)) + away)


Search = Callable[[int, int], list[IdArray]]
"""Lists and candidates to the candidates of every question, best first, without the row that asks."""


@dataclass(frozen=True, slots=True)
class _Goal:
    """One tier to be tuned."""

    top: int
    wanted: float
    rows: int
    lists: int
    dims: int
    exact: list[IdArray]

    def cheapest(self, search: Search, probes: int) -> Setting:
        """The setting of least cost that reaches the goal, or the one of highest recall where none does."""
        counts = sorted({min(math.ceil(self.top * f), self.rows, _MOST_CANDIDATES) for f in _FACTORS} - {0})
        found: Setting | None = None
        most = Setting(self.top, self.lists, counts[-1], -1.0)
        while True:
            # what costs more than the best setting so far cannot win, whatever it finds
            if found is not None:
                counts = [n for n in counts if self._cost(probes, n) < self._cost(found.probes, found.candidates)]
            if not counts:
                return found or most
            recalls = self._recalls(search(probes, counts[-1]), counts)
            for count, recall in zip(counts, recalls, strict=True):
                tried = Setting(self.top, probes, count, round(recall, 4))
                most = max(most, tried, key=lambda setting: setting.recall)
                if recall >= self._least:
                    found = tried  # all counts are cheaper than what was found before, and the first is the cheapest
                    break
            if probes == self.lists:
                return found or most
            probes = min(self.lists, math.ceil(probes * _STEP))

    def with_fewer(self, setting: Setting, search: Search) -> Setting:
        """With what the nearest half, quarter ... of the answers take at the same lists."""
        named = search(setting.probes, setting.candidates)
        fewer = [setting.candidates]
        for nearest in _halves(self.top)[1:]:
            hits = [np.flatnonzero(np.isin(n, e[:nearest])) for n, e in zip(named, self.exact, strict=True)]
            ranks = np.sort(np.concatenate(hits))
            needed = math.ceil(min(self._least, setting.recall) * sum(len(e[:nearest]) for e in self.exact))
            fewer.append(min(fewer[-1], int(ranks[needed - 1]) + 1 if 0 < needed <= len(ranks) else fewer[-1]))
        return replace(setting, fewer=tuple(fewer[1:]))

    @property
    def _least(self) -> float:
        return min(1.0, self.wanted + _MARGIN)

    def _cost(self, probes: int, candidates: int) -> float:
        codes = probes * self.rows / self.lists
        return codes * self.dims * _CODE_NANOSECONDS_PER_DIM + candidates * _ROW_NANOSECONDS

    def _recalls(self, found: list[IdArray], counts: list[int]) -> list[float]:
        """The share of exact answers among the first so many candidates, for each of ``counts``."""
        hits = np.zeros(len(counts))
        for named, exact in zip(found, self.exact, strict=True):
            hits += np.searchsorted(np.flatnonzero(np.isin(named, exact, assume_unique=True)), counts)
        return [float(hit) for hit in hits / max(1, sum(map(len, self.exact)))]
