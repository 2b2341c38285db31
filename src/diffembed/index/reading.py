"""The reading side of an index: opening a folder, and searches over one state of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy.typing as npt

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.asking import TextSearch
from diffembed.index.catalog import Catalog, IdArray
from diffembed.index.documents import (
    Document,
    check_limit,
    count_where,
    document_keys,
    keys_where,
    list_documents,
    read_documents,
)
from diffembed.index.filters import Where, allowed_rows, parse_filter, sql
from diffembed.index.incoming import record_keys, row_ids, vector_rows
from diffembed.index.parts import open_snapshot
from diffembed.index.scan import Snapshot
from diffembed.index.schema import Settings, StoredChunk
from diffembed.index.seal import check_seal, read_seal
from diffembed.index.searching import Answer, Request, answers
from diffembed.index.segments import FloatArray, Int8Rows
from diffembed.index.store import remove_orphans_if_idle

_ATTEMPTS = 3
T = TypeVar("T")


class IndexReader(TextSearch):
    """An open index that is searched; ``Index`` adds what writes.

    Attributes:
        path: the folder.
        settings: what it was made with: model, width, chunking and chunk length.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        self.path = path
        self.settings: Settings = catalog.settings()
        self._catalog = catalog
        weakref.finalize(self, catalog.close)
        self._snapshot: Snapshot | None = None
        self._generation = -1
        # what the last filter let through: generation, condition and its values, ids
        self._allowed: tuple[tuple[int, str, list[Any]], IdArray] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an index and check it.

        Raises:
            InputError: not an index.
            IndexStoreError: damaged, or of another version.
        """
        folder = Path(path).resolve()
        catalog = Catalog.open(folder)
        try:
            index = cls(folder, catalog)
            sealed = read_seal(folder)
            index._reading(lambda snapshot: check_seal(catalog, sealed))
            remove_orphans_if_idle(folder, catalog)
        except BaseException:
            catalog.close()
            raise
        return index

    def close(self) -> None:
        """Close the files; also done at the end of a ``with`` block."""
        self._snapshot = None
        self._generation = -1
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many chunks (or vectors) it holds."""
        return self._catalog.counts()[1]

    @property
    def documents(self) -> list[Path]:
        """The files it holds."""
        return [Path(document.key) for document in self._catalog.documents(files_only=True)]

    @property
    def place(self) -> Path:
        """The folder, for messages."""
        return self.path

    def _find(
        self, texts: Sequence[str], vectors_QD: Int8Rows, request: Request, where: Where | None
    ) -> list[list[Answer]]:
        def find(snapshot: Snapshot) -> list[list[Answer]]:
            asked = request.within(self._rows_where(where))
            pairs = zip(texts, vectors_QD, strict=True)
            return [answers(self._catalog, snapshot, text, vector, asked) for text, vector in pairs]

        return self._reading(find)

    def search_vectors(
        self, vectors_QD: npt.ArrayLike, top: int, *, where: Where | None = None, exact: bool = False
    ) -> tuple[IdArray, FloatArray]:
        """The chunks closest to vectors made elsewhere by the same model.

        Args:
            vectors_QD: ``[Q, D]`` int8, or floating point (see ``vector_rows``).
            top: how many chunks for each.
            where: only chunks of documents that this filter lets through.
            exact: compare with every vector, however many there are.

        Returns:
            ``[Q, top]`` ids of chunks (-1 where there are fewer) and ``[Q, top]`` cosines (``-inf`` there); of an index
            of vectors only, the ids that they were stored under.
        """
        queries_QD = vector_rows(vectors_QD, None, "the queries")
        return self._reading(
            lambda snapshot: snapshot.search(queries_QD, top, allowed=self._rows_where(where), exact=exact)
        )

    def get(self, ids: Iterable[str | int | Path], *, vectors: bool = False) -> list[Document]:
        """Records (by id) and files (by path) as the index holds them, all in one state of it.

        Args:
            ids: which; one that is not there is left out.
            vectors: the vectors of their chunks, too.

        Returns:
            Those that are there, in the order asked for, each once.

        Raises:
            InputError: no list of ids; an index of vectors only (see :meth:`vectors`).
        """
        keys = document_keys(ids)
        self._require_documents()
        return self._reading(lambda snapshot: read_documents(self._catalog, snapshot, keys, vectors=vectors))

    def named(self, names: Iterable[str]) -> list[str]:
        """Ids by what a person types, one for each: a name that no document has is a path, also a relative one.

        Paths are made absolute as those of ``refresh`` are, whether or not the file is still there.
        """
        given = list(map(str, record_keys(names)))
        if self.settings.vectors_only:
            return given
        return [name if self._catalog.document(name) else str(Path(name).resolve()) for name in given]

    def scroll(
        self,
        where: Where | None = None,
        *,
        after: str | int | None = None,
        limit: int | None = None,
        vectors: bool = False,
    ) -> Iterator[Document]:
        """All documents, or those that a filter lets through, one after the other by their keys.

        They are read some at a time: each comes as it is when it is read. To go on later, or page by page, give the
        last key seen.

        Args:
            where: only documents that this filter lets through.
            after: the key after which to begin; it need not be there any more.
            limit: how many at most; ``None`` for all.
            vectors: the vectors of their chunks, too.

        Raises:
            InputError: a filter or a limit that is none; an index of vectors only (:meth:`export` has its ids).
        """
        check_limit(limit)
        self._require_documents()
        if where is not None:
            parse_filter(where)

        def page(last: str, many: int) -> list[str]:
            with self._catalog.reading():
                return keys_where(self._catalog, where, last, many)

        def read(keys: list[str]) -> list[Document]:
            return self._reading(lambda snapshot: read_documents(self._catalog, snapshot, keys, vectors=vectors))

        return list_documents(page, read, None if after is None else str(after), limit)

    def count(self, where: Where | None = None) -> int:
        """How many documents there are, or pass a filter; of an index of vectors only, how many vectors.

        ``len(index)`` counts chunks.
        """
        if self.settings.vectors_only and where is None:
            return len(self)
        self._require_documents()
        with self._catalog.reading():
            return count_where(self._catalog, where)

    def vectors(self, ids_N: npt.ArrayLike) -> Int8Rows:
        """``[N, D]`` int8 rows as they are stored, in the order asked for.

        Args:
            ids_N: ``[N]`` numbers of chunks (``Hit.chunk_id``); of an index of vectors only, the ids that they were
                stored under.

        Raises:
            InputError: an id that is not there.
        """
        ids = row_ids(ids_N)
        return self._reading(lambda snapshot: snapshot.rows_of(ids))

    def _require_documents(self) -> None:
        if self.settings.vectors_only:
            raise InputError(f"{self.path} holds vectors only, no documents; ask for vectors(ids)")

    def chunks(self, ids: Sequence[int]) -> list[StoredChunk]:
        """Text and place of chunks by id.

        Raises:
            InputError: an id that is not there: a replaced document has chunks of new ids.
        """
        wanted = [int(i) for i in ids]
        with self._catalog.reading():
            missing = set(wanted) - self._catalog.owners(wanted).keys()
            if missing:
                raise InputError(f"{self.path} has no chunk {min(missing)}; search again, replaced texts have new ids")
            return self._catalog.chunks(wanted)

    def _rows_where(self, where: Where | None) -> IdArray | None:
        if where is None:
            return None
        if self.settings.vectors_only:
            raise InputError(f"{self.path} holds vectors only: there is no metadata for a filter to look at")
        text, values = sql(parse_filter(where))
        asked = (self._catalog.generation(), text, values)
        if self._allowed is None or self._allowed[0] != asked:
            self._allowed = (asked, allowed_rows(self._catalog, text, values))
        return self._allowed[1]

    def _reading(self, work: Callable[[Snapshot], T]) -> T:
        """Something done with one state of the index."""
        for attempt in range(_ATTEMPTS):
            with self._catalog.reading():
                try:
                    snapshot = self._current_snapshot()
                except IndexStoreError:
                    # A writer may have merged segments away between our look at the list and at the files.
                    if attempt < _ATTEMPTS - 1 and self._files_missing():
                        continue
                    raise
                return work(snapshot)
        raise AssertionError("unreachable")

    def _files_missing(self) -> bool:
        return any(not (self.path / "segments" / listed.name).exists() for listed in self._catalog.segments())

    def _current_snapshot(self) -> Snapshot:
        generation = self._catalog.generation()
        if self._snapshot is None or generation != self._generation:
            snapshot = open_snapshot(self.path, self._catalog, self.settings, self._snapshot)
            if snapshot.rows != len(self):
                raise IndexStoreError(
                    f"{self.path} holds {snapshot.rows} vectors for {len(self)} chunks; "
                    "delete that folder and index the files again"
                )
            self._snapshot, self._generation = snapshot, generation
        return self._snapshot
