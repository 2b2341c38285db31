"""Searches in a Qdrant collection: by vectors, by words too, by document, with the chunks around a hit.

What a search means is what it means in an index on disk (``searching.py``): the same fusion, the same order of equal
scores. Only the candidates come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np

from diffembed.index.fusion import depth, ranked, reciprocal_ranks, weighted_sums
from diffembed.index.qdrant_calls import load_client
from diffembed.index.qdrant_collection import Collection
from diffembed.index.qdrant_forms import cosine_of, stored
from diffembed.index.qdrant_points import chunk_of, number_of, point_id
from diffembed.index.searching import Answer, Request
from diffembed.index.segments import FloatArray, IdArray, Int8Rows

_MORE = 4  # a grouped search that found too few documents looks so many times deeper


@dataclass(slots=True)
class Searcher:
    """One kind of search in a collection: what is asked of every query, and which points may be found.

    Attributes:
        collection: to search.
        request: what is asked.
        where: a filter of Qdrant; ``None`` for all points.
    """

    collection: Collection
    request: Request
    where: Any = None
    _places: dict[int, int] = field(default_factory=dict)  # of each point that was seen, its number in the document

    def vectors(self, queries_QD: Int8Rows) -> tuple[IdArray, FloatArray]:
        """``[Q, top]`` numbers of points (-1 where there are fewer) and ``[Q, top]`` cosines (``-inf`` there)."""
        top = self.request.top
        ids = np.full((len(queries_QD), top), -1, np.int64)
        cosines = np.full((len(queries_QD), top), -np.inf, np.float32)
        if top:
            for row, found in enumerate(self._nearest(queries_QD, top, payload=False)):
                for place, (id_, (_, cosine)) in enumerate(_in_order(found)):
                    ids[row, place], cosines[row, place] = id_, cosine
        return ids, cosines

    def answers(self, texts: Sequence[str], queries_QD: Int8Rows) -> list[list[Answer]]:
        """What each query finds, best first."""
        many = [self.request.top] * len(texts)
        done: list[list[Answer]] = [[] for _ in texts]
        open_ = list(range(len(texts)))
        while open_:
            found = self._ranked([texts[n] for n in open_], queries_QD[open_], many[open_[0]])
            still = []
            for number, answers in zip(open_, found, strict=True):
                kept = _best_of_each(answers)[: self.request.top] if self.request.group else answers
                done[number] = kept
                if self.request.group and len(kept) < self.request.top and len(answers) == many[number]:
                    many[number] *= _MORE
                    still.append(number)
            open_ = still
        return self._with_neighbours(done) if self.request.neighbours else done

    def _ranked(self, texts: Sequence[str], queries_QD: Int8Rows, many: int) -> list[list[Answer]]:
        if self.request.fusion is None:
            return [
                [self._answer(point, cosine, cosine, None) for _, (point, cosine) in _in_order(dense)]
                for dense in self._nearest(queries_QD, many)
            ]
        deep = depth(many)
        dense = self._nearest(queries_QD, deep)
        words = self.collection.query([self._words(text, deep, self.where) for text in texts])
        both = [
            {number: point for number, (point, _) in near.items()} | {number_of(point.id): point for point in named}
            for near, named in zip(dense, words, strict=True)
        ]
        # Each ranking's candidates get the other's score too, which it did not reach with them.
        ids = [[point.id for point in points.values()] for points in both]
        cosines, bm25 = self._scores(texts, queries_QD, ids)
        return [
            self._fused(*each, many)
            for each in zip(both, dense, [_numbers(named) for named in words], cosines, bm25, strict=True)
        ]

    def _fused(
        self,
        points: dict[int, Any],
        dense: dict[int, tuple[Any, float]],
        words: list[int],
        cosines: dict[int, float],
        bm25: dict[int, float],
        many: int,
    ) -> list[Answer]:
        cosines = cosines | {number: cosine for number, (_, cosine) in dense.items()}
        if self.request.fusion == "rrf":
            scores = reciprocal_ranks([[number for number, _ in _in_order(dense)], words])
        else:
            scores = weighted_sums(cosines, bm25, self.request.weight)
        # A point that was deleted between the requests has no cosine.
        scores = {number: score for number, score in scores.items() if number in cosines}
        return [self._answer(points[n], scores[n], cosines[n], bm25.get(n, 0.0)) for n in ranked(scores, many)]

    def _answer(self, point: Any, score: float, cosine: float, bm25: float | None) -> Answer:
        self._places[number_of(point.id)] = point.payload["chunk"]
        return Answer(chunk_of(point.id, point.payload), score, cosine, bm25)

    def _scores(
        self, texts: Sequence[str], queries_QD: Int8Rows, ids: Sequence[Sequence[Any]]
    ) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
        """Cosine and BM25 of given points, for each query."""
        models = load_client().models
        only = [models.Filter(must=[models.HasIdCondition(has_id=list(some))]) for some in ids]
        sizes = [max(1, len(some)) for some in ids]
        vectors = stored(queries_QD, self.collection.form.vectors)
        exact = models.SearchParams(exact=True)
        near = [
            self._request(vector.tolist(), size, within, exact, payload=False)
            for vector, size, within in zip(vectors, sizes, only, strict=True)
        ]
        named = [self._words(*each, payload=False) for each in zip(texts, sizes, only, strict=True)]
        found = self.collection.query([*near, *named])
        cosines = [{number_of(p.id): self._cosine(p.score) for p in points} for points in found[: len(near)]]
        return cosines, [{number_of(p.id): float(p.score) for p in points} for points in found[len(near) :]]

    def _nearest(self, queries_QD: Int8Rows, many: int, *, payload: bool = True) -> list[dict[int, tuple[Any, float]]]:
        """For each query points and their cosines, by number."""
        form, models = self.collection.form, load_client().models
        quantization = None
        if form.quantization != "none" and not self.request.exact:
            quantization = models.QuantizationSearchParams(rescore=True, oversampling=form.factor)
        params = models.SearchParams(
            hnsw_ef=max(form.search_width, ceil(form.factor * many)),
            exact=self.request.exact,
            quantization=quantization,
            # Where a filter leaves few points, the ways between them in the graph break; this looks one step further.
            acorn=None if self.where is None or self.request.exact else models.AcornSearchParams(enable=True),
        )
        vectors = stored(queries_QD, form.vectors)
        asked = [self._request(vector.tolist(), many, self.where, params, payload=payload) for vector in vectors]
        return [
            {number_of(point.id): (point, self._cosine(point.score)) for point in points}
            for points in self.collection.query(asked)
        ]

    def _request(self, query: Any, limit: int, where: Any, params: Any, *, payload: bool) -> Any:
        models = load_client().models
        return models.QueryRequest(
            query=query,
            limit=limit,
            filter=where,
            params=params,
            with_payload=payload,
            shard_key=self.collection.shard_key,
        )

    def _words(self, text: str, limit: int, where: Any, *, payload: bool = True) -> Any:
        models = load_client().models
        return models.QueryRequest(
            query=models.TextQuery(text=text),
            using="text",
            limit=limit,
            filter=where,
            with_payload=payload,
            shard_key=self.collection.shard_key,
        )

    def _cosine(self, score: float) -> float:
        return cosine_of(float(score), self.collection.form.vectors, self.collection.settings.dims)

    def _with_neighbours(self, found: list[list[Answer]]) -> list[list[Answer]]:
        """The same answers with the chunks around them, all fetched together."""
        wanted = {
            point_id(answer.stored.document.key, number): (answer.stored.document.key, number)
            for answers in found
            for answer in answers
            for number in self._around(answer)
        }
        records = self.collection.retrieve(list(wanted), ["text"])
        texts = {wanted[id_]: record.payload["text"] for id_, record in records.items()}

        def told(answer: Answer) -> Answer:
            key, own = answer.stored.document.key, self._places[answer.stored.id]
            around = [(number, texts[key, number]) for number in self._around(answer) if (key, number) in texts]
            return replace(
                answer,
                before=tuple(text for number, text in around if number < own),
                after=tuple(text for number, text in around if number > own),
            )

        return [[told(answer) for answer in answers] for answers in found]

    def _around(self, answer: Answer) -> list[int]:
        """The numbers of the chunks around a hit."""
        own, reach = self._places[answer.stored.id], self.request.neighbours
        return [n for n in range(own - reach, own + reach + 1) if n != own and 0 <= n < answer.stored.document.chunks]


def _in_order(found: dict[int, tuple[Any, float]]) -> list[tuple[int, tuple[Any, float]]]:
    """Best first, equal cosines by number."""
    return sorted(found.items(), key=lambda item: (-item[1][1], item[0]))


def _numbers(points: Sequence[Any]) -> list[int]:
    """Points of a ranking by words, best first, equal scores by number."""
    scores = {number_of(point.id): float(point.score) for point in points}
    return ranked(scores, len(scores))


def _best_of_each(answers: Sequence[Answer]) -> list[Answer]:
    """The best chunk of each document."""
    best: dict[str, Answer] = {}
    for answer in answers:
        best.setdefault(answer.stored.document.key, answer)
    return list(best.values())
