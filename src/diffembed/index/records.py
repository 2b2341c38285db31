"""Writing records and rows of vectors: add, upsert, delete. Every batch of some thousand chunks is a commit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diffembed.chunker import Chunker
from diffembed.errors import InputError
from diffembed.index.documents import deletable, one_of
from diffembed.index.encoding import Progress, TextEncoder, encode_chunks
from diffembed.index.filters import Where, sql
from diffembed.index.incoming import Record, integer_id, read_record, record_keys, vector_ids, vector_rows
from diffembed.index.refresh import BATCH_CHUNKS
from diffembed.index.schema import NewDocument, Settings, StoredDocument
from diffembed.index.segments import Int8Rows
from diffembed.index.store import Store, open_existing
from diffembed.text.chunking import Chunk
from diffembed.text.readers import SourceText


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What storing records came to.

    Attributes:
        added: how many were new.
        replaced: how many took the place of one with the same id.
        described: how many got other metadata only, their text being as it was.
        unchanged: how many were as the index had them.
        chunks: how many chunks were stored.
        truncated: ids of records with a chunk of which the model could not read all.
        seconds: how long it took.
    """

    added: int = 0
    replaced: int = 0
    described: int = 0
    unchanged: int = 0
    chunks: int = 0
    truncated: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class RecordSink(Protocol):
    """What records are written to: an index on disk that is open for writing, or a collection of a cluster."""

    @property
    def settings(self) -> Settings: ...
    def document(self, key: str) -> StoredDocument | None: ...
    def add(
        self,
        documents: Sequence[NewDocument],
        rows_ND: Int8Rows,
        *,
        described: Iterable[tuple[StoredDocument, Mapping[str, Any]]] = ...,
    ) -> None: ...


def write_records(
    folder: Path,
    records: Iterable[Mapping[str, Any]],
    model: Callable[[], TextEncoder],
    *,
    replace: bool,
    progress: Progress | None = None,
) -> WriteReport:
    """Store records (see ``Index.upsert``).

    Args:
        folder: of the index.
        records: as callers give them.
        model: gives the encoder; called when the first text without a vector comes.
        replace: whether a record may take the place of one with the same id.
        progress: called with (records stored, 0).
    """
    with open_existing(folder) as store:
        report = write_to(store, str(folder), records, model, replace=replace, progress=progress)
        store.merge_small()
        return report


def write_to(
    sink: RecordSink,
    name: str,
    records: Iterable[Mapping[str, Any]],
    model: Callable[[], TextEncoder],
    *,
    replace: bool,
    progress: Progress | None = None,
) -> WriteReport:
    """Store records in an open index, whichever kind it is of; ``name`` is its own, for messages."""
    if sink.settings.vectors_only:
        raise InputError(f"{name} holds vectors only, no texts; use add_vectors, or make an index for records")
    work = _Writing(sink, model, replace, progress)
    try:
        for given in records:
            work.take(read_record(given, sink.settings))
    except InputError as error:
        done = work.stored
        raise InputError(f"{error} (of the records before it {done:,} are stored)" if done else str(error)) from None
    work.commit()
    return work.report()


class _Writing:
    """The batch that is being filled, and what came of those before it."""

    def __init__(
        self, store: RecordSink, model: Callable[[], TextEncoder], replace: bool, progress: Progress | None
    ) -> None:
        self.store, self.model, self.replace, self.progress = store, model, replace, progress
        self.batch: dict[str, tuple[Record, list[Chunk]]] = {}
        self.described: dict[str, tuple[StoredDocument, Mapping[str, Any]]] = {}
        self.waiting = 0  # chunks in the batch
        self.replacing = 0  # records in the batch that take the place of another
        self.counts = {"added": 0, "replaced": 0, "described": 0, "unchanged": 0, "chunks": 0}
        self.truncated: list[str] = []
        self.chunker: Chunker | None = None
        self.began = time.perf_counter()

    @property
    def stored(self) -> int:
        """Records dealt with, those that wait in the batch not counted."""
        return sum(count for name, count in self.counts.items() if name != "chunks")

    def report(self) -> WriteReport:
        return WriteReport(**self.counts, truncated=tuple(self.truncated), seconds=time.perf_counter() - self.began)

    def take(self, record: Record) -> None:
        """Put a record into the batch; commits first if its id is waiting, and afterwards if the batch is full."""
        if record.key in self.batch or record.key in self.described:
            if not self.replace:
                raise InputError(f"id {record.key!r} is there twice; give every id once, or use upsert")
            self.commit()
        known = self.store.document(record.key)
        if known is not None and not self.replace:
            raise InputError(f"id {record.key!r} is in the index already; use upsert to replace it")
        if known is not None and not known.is_file and known.content_hash == record.content_hash:
            if json.loads(known.metadata) == record.metadata:
                self.counts["unchanged"] += 1
                return
            self.described[record.key] = known, record.metadata
        else:
            chunks = self._chunks(record)
            self.batch[record.key] = record, chunks
            self.waiting += len(chunks)
            self.replacing += known is not None
        if self.waiting + len(self.described) >= BATCH_CHUNKS:
            self.commit()

    def _chunks(self, record: Record) -> list[Chunk]:
        if record.text is None or record.rows is not None:
            return record.ready_chunks()
        if self.chunker is None:
            settings = self.store.settings
            self.chunker = Chunker(settings.chunking, max_tokens=settings.chunk_tokens, encoder=self.model())
        return self.chunker.chunk(SourceText.plain(record.text, record.kind))

    def commit(self) -> None:
        """One transaction for everything that waits."""
        if not self.batch and not self.described:
            return
        documents = [
            NewDocument(r.key, 0, 0, r.content_hash, r.kind, chunks, r.metadata, is_file=False)
            for r, chunks in self.batch.values()
        ]
        self.store.add(documents, self._rows(), described=self.described.values())
        self.counts["replaced"] += self.replacing
        self.counts["added"] += len(self.batch) - self.replacing
        self.counts["described"] += len(self.described)
        self.counts["chunks"] += self.waiting
        self.batch, self.described, self.waiting, self.replacing = {}, {}, 0, 0
        if self.progress is not None:
            self.progress(self.stored, 0)

    def _rows(self) -> Int8Rows:
        """Vectors of the whole batch, in order; those that the records do not bring are made."""
        bare = [(key, chunks) for key, (record, chunks) in self.batch.items() if record.rows is None]
        made = np.empty((0, self.store.settings.dims), np.int8)
        if bare:
            made, cut = encode_chunks(self.model(), [[chunk.text for chunk in chunks] for _, chunks in bare])
            self.truncated += [bare[number][0] for number in cut]
        pieces, at = [made[:0]], 0
        for record, chunks in self.batch.values():
            if record.rows is None:
                pieces.append(made[at : at + len(chunks)])
                at += len(chunks)
            else:
                pieces.append(record.rows)
        return np.concatenate(pieces)


def write_vectors(folder: Path, vectors_ND: npt.ArrayLike, ids_N: npt.ArrayLike) -> int:
    """Store rows of vectors (see ``Index.add_vectors``)."""
    with open_existing(folder) as store:
        _require_vectors_only(store)
        rows_ND = vector_rows(vectors_ND, store.settings.dims, "the vectors")
        ids = vector_ids(ids_N, len(rows_ND))
        if len(ids):
            store.add_rows(ids, rows_ND)
            store.merge_small()
        return len(ids)


def _require_vectors_only(store: Store) -> None:
    if not store.settings.vectors_only:
        raise InputError(f"{store.folder} holds documents; give records (add, upsert) instead of rows of vectors")


def delete_records(folder: Path, ids: Iterable[str | int | Path] | None = None, *, where: Where | None = None) -> int:
    """Take records, files or vectors away (see ``Index.delete``)."""
    one_of(ids, where)
    given = [] if ids is None else record_keys(ids)
    condition = None if where is None else sql(deletable(where))
    with open_existing(folder) as store:
        if condition is not None:
            _require_documents(store)
            text, values = condition
            keys = store.catalog.query(f"SELECT d.key FROM documents d WHERE {text}", values)
            removed = store.remove_documents(row[0] for row in keys) if keys else 0
        elif store.settings.vectors_only:
            removed = store.remove_rows(np.array([integer_id(id_) for id_ in given], np.int64)) if given else 0
        else:
            removed = store.remove_documents(dict.fromkeys(map(str, given)))
        if removed:
            store.merge_small()
        return removed


def _require_documents(store: Store) -> None:
    if store.settings.vectors_only:
        raise InputError(f"{store.folder} holds vectors only: there is no metadata for a filter to look at")
