"""What every index of diffembed can do, be it a folder on this machine (``Index``) or a collection of a cluster.

Code that is written against ``SearchIndex`` works with either. ``Index`` and ``QdrantIndex`` need not inherit from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from diffembed.index.documents import Document
from diffembed.index.encoding import Hit, Progress, TextEncoder
from diffembed.index.filters import Where
from diffembed.index.fusion import Fusion
from diffembed.index.records import WriteReport
from diffembed.index.schema import Settings
from diffembed.index.segments import FloatArray, IdArray, Int8Rows

if TYPE_CHECKING:
    from diffembed.index.index import Index
    from diffembed.index.qdrant import QdrantIndex


class SearchStats(Protocol):
    """What every index can say of itself; each says more."""

    @property
    def documents(self) -> int: ...
    @property
    def rows(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...


class SearchIndex(Protocol):
    """An index of chunks, or of vectors only; see ``Index`` for what the methods mean."""

    settings: Settings

    @property
    def encoder(self) -> TextEncoder: ...

    def __len__(self) -> int: ...
    def close(self) -> None: ...
    def stats(self) -> SearchStats: ...

    def add(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = ...) -> WriteReport: ...
    def upsert(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = ...) -> WriteReport: ...
    def add_vectors(self, vectors_ND: npt.ArrayLike, ids_N: npt.ArrayLike) -> int: ...
    def delete(self, ids: Iterable[str | int | Path] | None = ..., *, where: Where | None = ...) -> int: ...

    def get(self, ids: Iterable[str | int | Path], *, vectors: bool = ...) -> list[Document]: ...
    def scroll(
        self, where: Where | None = ..., *, after: str | int | None = ..., limit: int | None = ..., vectors: bool = ...
    ) -> Iterator[Document]: ...
    def count(self, where: Where | None = ...) -> int: ...
    def vectors(self, ids_N: npt.ArrayLike) -> Int8Rows: ...
    def search(
        self,
        query: str,
        *,
        top: int = ...,
        offset: int = ...,
        min_score: float | None = ...,
        where: Where | None = ...,
        hybrid: bool | Fusion = ...,
        weight: float = ...,
        group: bool = ...,
        exact: bool = ...,
        neighbours: int = ...,
        sentences: bool = ...,
        encoder: TextEncoder | str | None = ...,
    ) -> list[Hit]: ...
    def search_all(
        self,
        queries: Sequence[str],
        *,
        top: int = ...,
        offset: int = ...,
        min_score: float | None = ...,
        where: Where | None = ...,
        hybrid: bool | Fusion = ...,
        weight: float = ...,
        group: bool = ...,
        exact: bool = ...,
        neighbours: int = ...,
        sentences: bool = ...,
        encoder: TextEncoder | str | None = ...,
    ) -> list[list[Hit]]: ...
    def search_by_vectors(
        self,
        vectors_QD: npt.ArrayLike,
        *,
        top: int = ...,
        offset: int = ...,
        min_score: float | None = ...,
        where: Where | None = ...,
        group: bool = ...,
        exact: bool = ...,
        neighbours: int = ...,
    ) -> list[list[Hit]]: ...
    def search_vectors(
        self, vectors_QD: npt.ArrayLike, top: int, *, where: Where | None = ..., exact: bool = ...
    ) -> tuple[IdArray, FloatArray]: ...


if TYPE_CHECKING:  # the type checker proves it

    def _both(here: Index, there: QdrantIndex) -> tuple[SearchIndex, SearchIndex]:
        return here, there
