"""Searches in words, the same wherever the vectors are: what is asked is checked, encoded, and the hits are marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.encoding import Hit, TextEncoder, best_sentences, check_model, load_encoder
from diffembed.index.filters import Where
from diffembed.index.fusion import DENSE_WEIGHT, Fusion, check_fusion
from diffembed.index.incoming import vector_rows
from diffembed.index.schema import Settings
from diffembed.index.searching import Answer, Request
from diffembed.index.segments import Int8Rows


class TextSearch:
    """What ``Index`` and ``QdrantIndex`` share: they say where they are (``place``) and how to ``_find``.

    Attributes:
        settings: what the vectors were made with.
    """

    settings: Settings
    _encoder: TextEncoder | None = None

    @property
    def place(self) -> Path | str:
        """Where it is, for messages."""
        raise NotImplementedError

    def _find(
        self, texts: Sequence[str], vectors_QD: Int8Rows, request: Request, where: Where | None
    ) -> list[list[Answer]]:
        """What each query finds, best first."""
        raise NotImplementedError

    def search(
        self,
        query: str,
        *,
        top: int = 10,
        offset: int = 0,
        min_score: float | None = None,
        where: Where | None = None,
        hybrid: bool | Fusion = False,
        weight: float = DENSE_WEIGHT,
        group: bool = False,
        exact: bool = False,
        neighbours: int = 0,
        sentences: bool = True,
        encoder: TextEncoder | str | None = None,
    ) -> list[Hit]:
        """The chunks closest to a query, best first, each with its best sentence.

        Args:
            query: what to look for.
            top: how many chunks at most.
            offset: leave out so many of the best: the second page of ten has ``offset=10``.
            min_score: leave out what scores less (``Hit.score``: the cosine, or with ``hybrid`` the fused score).
            where: only documents that this filter lets through (see ``filters.py``).
            hybrid: take the words of the query into account too: ``"weighted"`` (or ``True``) by the sum of both
                scores, ``"rrf"`` by reciprocal ranks.
            weight: of the cosine, 0 to 1, for ``"weighted"``.
            group: only the best chunk of each document.
            exact: compare with every vector, however many there are.
            neighbours: so many chunks before and after each hit come with it.
            sentences: ``False`` leaves the best sentences out, which saves the model's time.
            encoder: the model that made the index; ``None`` loads the one that the index names.

        Raises:
            InputError: an empty query, a filter that is none, numbers that make no sense.
            IndexStoreError: a damaged index, or another model.
        """
        return self.search_all(
            [query],
            top=top,
            offset=offset,
            min_score=min_score,
            where=where,
            hybrid=hybrid,
            weight=weight,
            group=group,
            exact=exact,
            neighbours=neighbours,
            sentences=sentences,
            encoder=encoder,
        )[0]

    def search_all(
        self,
        queries: Sequence[str],
        *,
        top: int = 10,
        offset: int = 0,
        min_score: float | None = None,
        where: Where | None = None,
        hybrid: bool | Fusion = False,
        weight: float = DENSE_WEIGHT,
        group: bool = False,
        exact: bool = False,
        neighbours: int = 0,
        sentences: bool = True,
        encoder: TextEncoder | str | None = None,
    ) -> list[list[Hit]]:
        """As :meth:`search`, for many queries in one state of the index, encoded together."""
        if isinstance(queries, str):
            raise InputError(f"queries is the string {queries[:40]!r}; give a list of them, or use search")
        if wrong := [query for query in queries if not isinstance(query, str)]:
            raise InputError(f"a query is {type(wrong[0]).__name__}; give strings")
        if not all(query.strip() for query in queries):
            raise InputError("the query is empty; say what to look for")
        request = Request(top, None, check_fusion(hybrid, weight), weight, group, exact, neighbours)
        request.check()
        request = request.below(offset)
        least = _least(min_score)
        self._require_texts()
        model = self._model(encoder)
        if not queries:
            return []
        vectors_QD = model.encode_queries(list(queries), dtype="int8").values
        hits = []
        for vector_D, all_ in zip(vectors_QD, self._find(queries, vectors_QD, request, where), strict=True):
            found = [answer for answer in all_[offset:] if answer.score >= least]
            best = best_sentences(model, vector_D, [answer.stored for answer in found]) if sentences else None
            hits.append([answer.hit(best[n] if best else None) for n, answer in enumerate(found)])
        return hits

    def search_by_vectors(
        self,
        vectors_QD: npt.ArrayLike,
        *,
        top: int = 10,
        offset: int = 0,
        min_score: float | None = None,
        where: Where | None = None,
        group: bool = False,
        exact: bool = False,
        neighbours: int = 0,
    ) -> list[list[Hit]]:
        """As :meth:`search_all`, asked with vectors made elsewhere by the same model; no sentence is told apart.

        Args:
            vectors_QD: ``[Q, D]`` int8, or floating point (see ``vector_rows``).
            top, offset, min_score, where, group, exact, neighbours: as of :meth:`search`.

        Raises:
            InputError: vectors of another width; an index of vectors only (see ``search_vectors``).
        """
        request = Request(top, group=group, exact=exact, neighbours=neighbours)
        request.check()
        request = request.below(offset)
        least = _least(min_score)
        self._require_texts()
        queries_QD = vector_rows(vectors_QD, self.settings.dims, "the queries")
        found = self._find([""] * len(queries_QD), queries_QD, request, where)
        return [[answer.hit(None) for answer in all_[offset:] if answer.score >= least] for all_ in found]

    def _require_texts(self) -> None:
        if self.settings.vectors_only:
            raise InputError(f"{self.place} holds vectors only, no texts; search it with search_vectors")

    def _model(self, encoder: TextEncoder | str | None = None) -> TextEncoder:
        if encoder is None:
            if not self.settings.model and self._encoder is None:
                raise InputError(f"{self.place} names no model; give the encoder that made its vectors")
            self._encoder = self._encoder or load_encoder(self.settings.model)
            model = self._encoder
        else:
            model = load_encoder(encoder) if isinstance(encoder, str) else encoder
        check_model(self.place, self.settings, model)
        return model

    @property
    def encoder(self) -> TextEncoder:
        """The model that made the vectors, loaded when it is first needed.

        Raises:
            InputError: the index names none.
            IndexStoreError: the model of that name is another one now.
        """
        return self._model()


def _least(min_score: float | None) -> float:
    """The lowest score that is wanted."""
    if min_score is None:
        return -math.inf
    if isinstance(min_score, bool) or not isinstance(min_score, int | float | np.number) or math.isnan(min_score):
        raise InputError(f"min_score is {min_score!r}; give a number, of a cosine from -1 to 1")
    return float(min_score)
