"""``QdrantIndex``: the same index as a collection of a Qdrant server or cluster, for what one machine cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from diffembed.errors import InputError
from diffembed.index.asking import TextSearch
from diffembed.index.documents import Document, check_limit, deletable, document_keys, list_documents, one_of
from diffembed.index.encoding import Progress, TextEncoder
from diffembed.index.filters import Where, parse_filter
from diffembed.index.incoming import integer_id, record_keys, row_ids, vector_ids, vector_rows
from diffembed.index.qdrant_calls import ATTEMPTS
from diffembed.index.qdrant_collection import (
    Collection,
    add_shard,
    complete,
    connect,
    make_collection,
    open_collection,
)
from diffembed.index.qdrant_documents import count_where, delete_where, page_of_keys, read_documents, read_vectors
from diffembed.index.qdrant_forms import CollectionSettings
from diffembed.index.qdrant_points import qdrant_filter
from diffembed.index.qdrant_search import Searcher
from diffembed.index.qdrant_writing import (
    CollectionSink,
    count_documents,
    delete_documents,
    delete_vectors,
    write_vectors,
)
from diffembed.index.records import WriteReport, write_to
from diffembed.index.refresh import settings_for
from diffembed.index.schema import Settings
from diffembed.index.searching import Answer, Request
from diffembed.index.segments import FloatArray, IdArray, Int8Rows
from diffembed.text.chunking import Strategy

TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What a collection holds.

    Attributes:
        settings: what its vectors were made with.
        form: how they are kept.
        documents, rows: how many it holds, in the named shard if there is one; rows are chunks, or vectors.
        status: ``green`` when all is done, ``yellow`` while graphs are being built, ``grey`` while that waits, ``red``
            after a failure.
        indexed: vectors in graphs, about, in all shards; the others are scanned.
        segments: how many the server has made, in all shards.
    """

    settings: Settings
    form: CollectionSettings
    documents: int
    rows: int
    status: str
    indexed: int
    segments: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = asdict(self)
        return {**told.pop("settings"), **told.pop("form"), **told}


class QdrantIndex(TextSearch):
    """A collection that was opened. Make one with :meth:`create`, open one with :meth:`open`.

    It does what ``Index`` does, with these differences. A batch is not one transaction: a write that fails names what
    it left undone, and writing the same again puts it right. The number of a chunk (``Hit.chunk_id``, the ids of
    :meth:`search_vectors`) is made from its key, so it is the same on every server. Filters cannot put strings in
    order.

    Attributes:
        settings: what its vectors were made with.
        form: how they are kept.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.settings: Settings = collection.settings
        self.form: CollectionSettings = collection.form

    @property
    def place(self) -> str:
        """Address of the collection, for messages."""
        return self._collection.place

    @classmethod
    def create(
        cls,
        url: str,
        collection: str,
        *,
        form: CollectionSettings | None = None,
        settings: Settings | None = None,
        model: TextEncoder | str | None = None,
        dims: int | None = None,
        vectors_only: bool = False,
        fingerprint: str = "",
        chunk_tokens: int | None = None,
        chunking: Strategy | None = None,
        shard_key: str | None = None,
        api_key: str | None = None,
        timeout: int = TIMEOUT,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] | None = None,
    ) -> QdrantIndex:
        """Make an empty collection.

        Args:
            url: of the server, ``http://localhost:6333``.
            collection: its name; new.
            form: how vectors are kept, and the layout of the cluster; ``None`` for what ``CollectionSettings()`` says.
            settings: those of another index, whose vectors it is to take; in place of the following.
            model, dims, vectors_only, fingerprint, chunk_tokens, chunking: see ``Index.create``.
            shard_key, api_key, timeout, attempts, sleep: see :meth:`open`.

        Raises:
            InputError: settings that do not go together, a name that is taken.
            ClusterError: the server is away, too old, or refuses.
            MissingExtraError: qdrant-client is not installed.
        """
        encoder = None
        if settings is None:
            settings, encoder = settings_for(
                model,
                dims,
                vectors_only=vectors_only,
                fingerprint=fingerprint,
                chunk_tokens=chunk_tokens,
                chunking=chunking,
            )
        client, call = connect(url, collection, api_key=api_key, timeout=timeout, attempts=attempts, sleep=sleep)
        if call("look for the collection", client.collection_exists, collection):
            raise InputError(f"{call.url} has a collection {collection!r} already; open it, or choose another name")
        index = cls(make_collection(client, call, collection, settings, form or CollectionSettings(), shard_key))
        index._encoder = encoder
        return index

    @classmethod
    def open(
        cls,
        url: str,
        collection: str,
        *,
        shard_key: str | None = None,
        api_key: str | None = None,
        timeout: int = TIMEOUT,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] | None = None,
    ) -> QdrantIndex:
        """Open a collection that diffembed made.

        Args:
            url: of the server.
            collection: its name.
            shard_key: of a collection with named shards, the one to write to and to search; ``None`` searches all.
            api_key: of the server; ``None`` for what the environment has as QDRANT_API_KEY.
            timeout: seconds that one request may take.
            attempts: how often a request is tried when the server is busy or away, with growing pauses.
            sleep: waits so many seconds between attempts; for tests.

        Raises:
            IndexStoreError: it is not there, or was not made by diffembed.
            ClusterError: the server is away or refuses.
            MissingExtraError: qdrant-client is not installed.
        """
        client, call = connect(url, collection, api_key=api_key, timeout=timeout, attempts=attempts, sleep=sleep)
        return cls(open_collection(client, call, collection, shard_key))

    @classmethod
    def open_for(
        cls,
        settings: Settings,
        url: str,
        collection: str,
        *,
        form: Mapping[str, Any],
        shard_key: str | None = None,
        timeout: int = TIMEOUT,
    ) -> QdrantIndex:
        """The collection that is to take the vectors of another index: made if it is not there, or opened.

        Args:
            settings: of the other index.
            url, collection, shard_key, timeout: see :meth:`open`.
            form: values of ``CollectionSettings``; a collection that is there must have been made with them.

        Raises:
            InputError: it was made with other values.
        """
        wanted = CollectionSettings(**form)
        client, call = connect(url, collection, api_key=None, timeout=timeout, attempts=ATTEMPTS, sleep=None)
        if not call("look for the collection", client.collection_exists, collection):
            return cls(make_collection(client, call, collection, settings, wanted, shard_key))
        found = open_collection(client, call, collection, shard_key)
        other = [name for name in form if getattr(wanted, name) != getattr(found.form, name)]
        if other:
            told = ", ".join(f"{name}={getattr(found.form, name)!r}" for name in other)
            raise InputError(f"{found.place} was made with {told}; leave that out, or name a new collection")
        complete(found)  # whoever made it may have been cut off
        return cls(found)

    def close(self) -> None:
        """Close the connections; also done at the end of a ``with`` block."""
        self._collection.client.close()

    def __enter__(self) -> QdrantIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many chunks (or vectors) it holds, in the named shard if there is one."""
        return self._collection.count()

    @property
    def collection(self) -> Collection:
        """The collection itself, for what is built on top."""
        return self._collection

    def add_shard(self) -> None:
        """Make the named shard that this index writes to, if it is not there."""
        add_shard(self._collection)

    # Writing

    def add(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = None) -> WriteReport:
        """Store records, whose ids must be new; see ``Index.upsert``."""
        return self._write(records, replace=False, progress=progress)

    def upsert(self, records: Iterable[Mapping[str, Any]], *, progress: Progress | None = None) -> WriteReport:
        """Store records, in the place of those that have the same ids; see ``Index.upsert``.

        Raises:
            InputError: a record that is none.
            ClusterError: the server is away or refuses; ``failed`` names the records that are not there as a whole.
                Those before them are written, later ones were not looked at: the same call again puts all of it right.
        """
        return self._write(records, replace=True, progress=progress)

    def _write(self, records: Iterable[Mapping[str, Any]], *, replace: bool, progress: Progress | None) -> WriteReport:
        self._collection.check_shard()
        sink = CollectionSink(self._collection)
        name = self.place
        return write_to(sink, name, sink.ahead(records), self._model, replace=replace, progress=progress)

    def add_vectors(self, vectors_ND: npt.ArrayLike, ids_N: npt.ArrayLike) -> int:
        """Store rows of a collection that was made with ``vectors_only``; see ``Index.add_vectors``."""
        if not self.settings.vectors_only:
            raise InputError(f"{self.place} holds documents; give records (add, upsert) instead of vectors")
        self._collection.check_shard()
        rows_ND = vector_rows(vectors_ND, self.settings.dims, "the vectors")
        ids = vector_ids(ids_N, len(rows_ND))
        write_vectors(self._collection, rows_ND, ids)
        return len(ids)

    def delete(self, ids: Iterable[str | int | Path] | None = None, *, where: Where | None = None) -> int:
        """Take records, files or vectors away by their ids, or by a filter; see ``Index.delete``."""
        one_of(ids, where)
        self._collection.check_shard()
        if where is not None:
            self._require_documents()
            return delete_where(self._collection, qdrant_filter(deletable(where)))
        given = record_keys(ids or [])
        if self.settings.vectors_only:
            return delete_vectors(self._collection, [integer_id(id_) for id_ in given])
        return delete_documents(self._collection, map(str, given))

    # Reading

    def get(self, ids: Iterable[str | int | Path], *, vectors: bool = False) -> list[Document]:
        """Records and files as the collection holds them; see ``Index.get``.

        Vectors have the direction that was stored, not the length (see ``qdrant_forms.py``).
        """
        keys = document_keys(ids)
        self._require_documents()
        return read_documents(self._collection, keys, vectors=vectors)

    def scroll(
        self,
        where: Where | None = None,
        *,
        after: str | int | None = None,
        limit: int | None = None,
        vectors: bool = False,
    ) -> Iterator[Document]:
        """All documents, or those that a filter lets through; see ``Index.scroll``.

        In an order that stays as it is, which is not that of their keys.
        """
        check_limit(limit)
        self._require_documents()
        wanted = self._filter(where)
        return list_documents(
            lambda last, many: page_of_keys(self._collection, wanted, last, many),
            lambda keys: read_documents(self._collection, keys, vectors=vectors),
            None if after is None else str(after),
            limit,
        )

    def count(self, where: Where | None = None) -> int:
        """How many documents there are, or pass a filter; of a collection of vectors only, how many vectors."""
        if self.settings.vectors_only and where is None:
            return len(self)
        self._require_documents()
        return count_where(self._collection, self._filter(where))

    def vectors(self, ids_N: npt.ArrayLike) -> Int8Rows:
        """``[N, D]`` int8 rows of a collection of vectors only, in the order asked for.

        Their directions are those that were stored; their lengths are not (see ``qdrant_forms.py``).

        Raises:
            InputError: an id that is not there, or a collection of documents (see :meth:`get`).
        """
        return read_vectors(self._collection, row_ids(ids_N))

    def _require_documents(self) -> None:
        if self.settings.vectors_only:
            raise InputError(f"{self.place} holds vectors only, no documents; ask for vectors(ids)")

    def _find(
        self, texts: Sequence[str], vectors_QD: Int8Rows, request: Request, where: Where | None
    ) -> list[list[Answer]]:
        if request.fusion is not None and not self.form.hybrid:
            raise InputError(f"{self.place} has no index of words; make the collection with hybrid=True")
        return Searcher(self._collection, request, self._filter(where)).answers(texts, vectors_QD)

    def search_vectors(
        self, vectors_QD: npt.ArrayLike, top: int, *, where: Where | None = None, exact: bool = False
    ) -> tuple[IdArray, FloatArray]:
        """The chunks closest to vectors made elsewhere by the same model; see ``Index.search_vectors``.

        Returns:
            ``[Q, top]`` numbers of chunks (-1 where there are fewer) and ``[Q, top]`` cosines (``-inf`` there); of a
            collection of vectors only, the ids that they were stored under.
        """
        queries_QD = vector_rows(vectors_QD, self.settings.dims, "the queries")
        request = Request(top, exact=exact)
        request.check()
        if where is not None and self.settings.vectors_only:
            raise InputError(f"{self.place} holds vectors only: there is no metadata for a filter to look at")
        return Searcher(self._collection, request, self._filter(where)).vectors(queries_QD)

    def stats(self) -> CollectionStats:
        """How much it holds, and how far the server is with its graphs."""
        told = self._collection.info()
        return CollectionStats(
            settings=self.settings,
            form=self.form,
            documents=0 if self.settings.vectors_only else count_documents(self._collection),
            rows=len(self),
            status=told.status.value,
            indexed=told.indexed_vectors_count or 0,
            segments=told.segments_count,
        )

    def _filter(self, where: Where | None) -> Any:
        return None if where is None else qdrant_filter(parse_filter(where))
