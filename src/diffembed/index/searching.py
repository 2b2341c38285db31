"""One query against one state of the index: vectors, words, filters, groups, and the chunks around a hit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import Catalog, IdArray
from diffembed.index.encoding import Hit
from diffembed.index.fusion import DENSE_WEIGHT, Fusion, depth, ranked, reciprocal_ranks, weighted_sums
from diffembed.index.scan import Snapshot
from diffembed.index.schema import StoredChunk
from diffembed.index.segments import Int8Rows
from diffembed.text.sentences import Span

_MORE = 4  # a grouped search that found too few documents looks so many times deeper


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of every query of a search.

    Attributes:
        top: how many chunks, or documents if ``group``.
        allowed: ascending ids of the chunks that may be found; ``None`` for all.
        fusion: how words are taken into account; ``None`` for not at all.
        weight: of the cosine, for ``weighted``.
        group: only the best chunk of each document.
        exact: score every vector instead of those that a coarse search names.
        neighbours: how many chunks before and after each hit are fetched with it.
    """

    top: int
    allowed: IdArray | None = None
    fusion: Fusion | None = None
    weight: float = DENSE_WEIGHT
    group: bool = False
    exact: bool = False
    neighbours: int = 0

    def within(self, allowed: IdArray | None) -> Request:
        """The same, of fewer chunks."""
        return replace(self, allowed=allowed)

    def below(self, offset: int) -> Request:
        """The same, with so many more results: those that stand before the ones that are wanted.

        Raises:
            InputError: not a whole number from 0.
        """
        if isinstance(offset, bool) or not isinstance(offset, int | np.integer) or offset < 0:
            raise InputError(f"offset is {offset!r}; give a whole number from 0")
        return replace(self, top=self.top + int(offset))

    def check(self) -> None:
        """Raise ``InputError`` for numbers that make no sense."""
        for name, number in (("top", self.top), ("neighbours", self.neighbours)):
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise InputError(f"{name} is {number!r}; give a whole number")
        if self.top < 1:
            raise InputError(f"top is {self.top}; ask for at least 1 result")
        if self.neighbours < 0:
            raise InputError(f"neighbours is {self.neighbours}; ask for 0 or more chunks before and after each hit")


@dataclass(frozen=True, slots=True)
class Answer:
    """A chunk that was found, with its scores and the texts around it."""

    stored: StoredChunk
    score: float
    cosine: float
    bm25: float | None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def hit(self, best: Span | None) -> Hit:
        """As the user gets it; without a best sentence the whole chunk stands for it."""
        document, chunk = self.stored.document, self.stored.chunk
        start, end = best or (0, len(chunk.text))
        return Hit(
            path=Path(document.key) if document.is_file else None,
            line_start=chunk.line_start,
            line_end=chunk.line_end,
            score=self.score,
            text=chunk.text,
            best_sentence=chunk.text[start:end],
            best_sentence_span=(start, end),
            chunk_id=self.stored.id,
            key=document.key,
            metadata=json.loads(document.metadata),
            cosine=self.cosine,
            bm25=self.bm25,
            before=self.before,
            after=self.after,
        )


@dataclass(frozen=True, slots=True)
class _Scored:
    id: int
    score: float
    cosine: float
    bm25: float | None


def answers(catalog: Catalog, snapshot: Snapshot, text: str, query_D: Int8Rows, request: Request) -> list[Answer]:
    """What one query finds, best first; in one transaction of the catalog."""
    many = request.top
    while True:
        found = _ranking(catalog, snapshot, text, query_D, request, many)
        if not request.group:
            break
        owners = _owners(catalog, [scored.id for scored in found])
        best = {owners[scored.id]: scored for scored in reversed(found)}  # the first of a document is written last
        exhausted = len(found) < many
        found = [scored for scored in found if best[owners[scored.id]] is scored][: request.top]
        if len(found) == request.top or exhausted:
            break
        many *= _MORE
    return _with_texts(catalog, found, request.neighbours)


def _ranking(
    catalog: Catalog, snapshot: Snapshot, text: str, query_D: Int8Rows, request: Request, many: int
) -> list[_Scored]:
    if request.fusion is None:
        return [_Scored(i, cosine, cosine, None) for i, cosine in _dense(snapshot, query_D, many, request).items()]
    deep = min(depth(many), max(1, snapshot.rows))
    dense = _dense(snapshot, query_D, deep, request)
    words = dict(catalog.lexical(text, deep, request.allowed))
    together = np.array(sorted(dense.keys() | words.keys()), np.int64)
    # Each ranking's candidates get the other's score too, which it did not reach with them.
    cosines = dense | _dense(snapshot, query_D, len(together), Request(1, together, exact=True)) if words else dense
    bm25 = dict(catalog.lexical(text, len(together), together)) if words else {}
    if not cosines.keys() >= words.keys():
        raise IndexStoreError(
            f"{catalog.folder} has chunks without a vector; run: diffembed index verify {catalog.folder}"
        )
    if request.fusion == "rrf":
        scores = reciprocal_ranks([list(dense), list(words)])
    else:
        scores = weighted_sums(cosines, bm25, request.weight)
    return [_Scored(i, scores[i], cosines[i], bm25.get(i, 0.0)) for i in ranked(scores, many)]


def _dense(snapshot: Snapshot, query_D: Int8Rows, top: int, request: Request) -> dict[int, float]:
    """Ids and cosines, best first."""
    if not top or not snapshot.rows or (request.allowed is not None and not len(request.allowed)):
        return {}
    top = min(top, snapshot.rows)
    ids, cosines = snapshot.search(query_D[None, :], top, allowed=request.allowed, exact=request.exact)
    return {i: score for i, score in zip(ids[0].tolist(), cosines[0].tolist(), strict=True) if i >= 0}


def _owners(catalog: Catalog, ids: Sequence[int]) -> dict[int, int]:
    """The document of each chunk."""
    owners = catalog.owners(ids)
    if len(owners) != len(ids):
        raise IndexStoreError(
            f"{catalog.folder} has vectors without a chunk; run: diffembed index verify {catalog.folder}"
        )
    return owners


def _with_texts(catalog: Catalog, found: Sequence[_Scored], neighbours: int) -> list[Answer]:
    stored = catalog.chunks([scored.id for scored in found])
    around: dict[int, list[int]] = {}
    for chunk in stored:
        first = chunk.document.first_chunk
        around[chunk.id] = list(
            range(max(first, chunk.id - neighbours), min(first + chunk.document.chunks, chunk.id + neighbours + 1))
        )
    wanted = sorted({id_ for ids in around.values() for id_ in ids})
    texts = {chunk.id: chunk.chunk.text for chunk in catalog.chunks(wanted)} if neighbours else {}
    return [
        Answer(
            *(chunk, scored.score, scored.cosine, scored.bm25),
            before=tuple(texts[i] for i in around[chunk.id] if i < chunk.id) if neighbours else (),
            after=tuple(texts[i] for i in around[chunk.id] if i > chunk.id) if neighbours else (),
        )
        for scored, chunk in zip(found, stored, strict=True)
    ]
