"""The catalog of an index: one SQLite file with settings, documents, chunks, segments and what of them is deleted.

Journal in WAL mode with ``synchronous=FULL``: a commit is on disk when it returns. Every change of the index is one
transaction that also raises ``generation``, by which readers notice that their snapshot is old. ``schema.py`` has the
tables, ``lexical.py`` the full-text index beside them.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import lexical
from diffembed.index.connection import SQLITE_ERRORS, can_write, connect, errors_named, explained, transaction
from diffembed.index.schema import (
    APPLICATION_ID,
    CHUNK_COLUMNS,
    DOCUMENT_COLUMNS,
    FORMAT,
    SCHEMA,
    NewDocument,
    Settings,
    State,
    StoredChunk,
    StoredDocument,
    StoredSegment,
    checked,
    chunk_row,
    facts_of,
    metadata_text,
    row_crc,
    stored_chunk,
)
from diffembed.text.walk import INDEX_MARKER

CATALOG_NAME = INDEX_MARKER
_IDS_AT_ONCE = 10_000
_TOMBSTONES = 64  # rows of ``deleted`` of one segment before they are written as one

IdArray = npt.NDArray[np.int64]


class Catalog:
    """An open catalog. Threads that share it take turns: SQLite knows one transaction of a connection at a time."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection
        self._turn = RLock()
        self._next: State | None = None  # what the transaction under way will leave

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether ``folder`` holds an index."""
        return (folder / CATALOG_NAME).is_file()

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> None:
        """Make the catalog of a new index: complete under a temporary name, then renamed."""
        from diffembed.index.storage import TEMPORARY_SUFFIX, fsync_folder

        temporary = folder / (CATALOG_NAME + TEMPORARY_SUFFIX)
        temporary.unlink(missing_ok=True)
        try:
            db = connect(temporary, wal=False)
            db.executescript(f"BEGIN; {SCHEMA} {'' if settings.vectors_only else lexical.SCHEMA}")
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            state = State(json.dumps(asdict(settings)), generation=0, documents=0, rows=0, next_row=1)
            db.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?, ?, ?)", state.row())
            db.execute("COMMIT")
            db.close()
            os.rename(temporary, folder / CATALOG_NAME)
            fsync_folder(folder)
        except SQLITE_ERRORS as error:
            raise explained(folder, error) from None

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """Open the catalog of an index.

        Raises:
            InputError: there is none.
            IndexStoreError: it is damaged, or of another version.
        """
        path = folder / CATALOG_NAME
        if not path.is_file():
            what = "is a file, not the folder of an index" if folder.is_file() else "is not an index"
            raise InputError(f"{folder} {what}; name one that was made with: diffembed index PATH --into FOLDER")
        db: sqlite3.Connection | None = None
        try:
            db = connect(path)
            if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise sqlite3.DatabaseError("not a catalog of diffembed")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != FORMAT:
                raise IndexStoreError(
                    f"{folder} has index format {version}, this diffembed reads {FORMAT}; "
                    "delete that folder and index the files again"
                )
            catalog = cls(folder, db)
            catalog.settings()
        except (*SQLITE_ERRORS, IndexStoreError) as error:
            if db is not None:
                db.close()
            raise (explained(folder, error) if isinstance(error, SQLITE_ERRORS) else error) from None
        return catalog

    def close(self) -> None:
        """Close the file; the catalog cannot be used afterwards."""
        self._db.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Several reads that see one state of the index."""
        with self._turn, transaction(self.folder, self._db, "BEGIN"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction; raises ``generation`` by one. Undone as a whole when the block raises."""
        with self._turn, transaction(self.folder, self._db, "BEGIN IMMEDIATE"):
            state = self.state()
            self._next = replace(state, generation=state.generation + 1)
            try:
                yield
                self._db.execute(
                    "UPDATE state SET id = ?, settings = ?, generation = ?, documents = ?, rows = ?, next_row = ?, "
                    "crc = ?",
                    self._next.row(),
                )
                self._db.execute("COMMIT")
            finally:
                self._next = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / CATALOG_NAME

    @property
    def writable(self) -> bool:
        """Whether it lies where this process can write."""
        return can_write(self.path)

    @property
    def connection(self) -> sqlite3.Connection:
        """For checks that read more than fits in a list."""
        return self._db

    @errors_named
    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query of another module of this package."""
        return self._db.execute(sql, values).fetchall()

    @errors_named
    def lexical(self, query: str, top: int, within: IdArray | None = None) -> list[tuple[int, float]]:
        """Chunks that share words with a query, with their BM25 (``lexical.search``)."""
        return lexical.search(self._db, query, top, within)

    # Reading

    @errors_named
    def state(self) -> State:
        """Settings, generation and counts; inside ``writing()`` what they will be."""
        if self._next is not None:
            return self._next
        rows = self._db.execute("SELECT * FROM state").fetchall()
        if len(rows) != 1:
            raise sqlite3.DatabaseError("its state is missing")
        checked(rows[0])
        return State(*rows[0][1:-1])

    def settings(self) -> Settings:
        """What the index was made with."""
        try:
            return Settings(**json.loads(self.state().settings))
        except (TypeError, ValueError):
            raise explained(self.folder, sqlite3.DatabaseError("its settings are unreadable")) from None

    def generation(self) -> int:
        """Grows with every change of the index."""
        return self.state().generation

    def counts(self) -> tuple[int, int]:
        """How many documents and live rows (chunks, or vectors) there are."""
        state = self.state()
        return state.documents, state.rows

    def documents(self, *, files_only: bool = False) -> Iterator[StoredDocument]:
        """All documents by key."""
        where = "WHERE is_file" if files_only else ""
        try:
            for row in self._db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents {where} ORDER BY key"):
                yield StoredDocument.of(row)
        except SQLITE_ERRORS as error:
            raise explained(self.folder, error) from None

    @errors_named
    def document(self, key: str) -> StoredDocument | None:
        """The document of a key."""
        row = self._db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE key = ?", (key,)).fetchone()
        return None if row is None else StoredDocument.of(row)

    @errors_named
    def segments(self) -> list[StoredSegment]:
        """All segments, oldest first."""
        rows = self._db.execute("SELECT id, name, rows, tuning, crc FROM segments ORDER BY id").fetchall()
        for row in rows:
            checked(row)
        return [StoredSegment(*row[:-1]) for row in rows]

    @errors_named
    def deleted(self, segment: int) -> IdArray:
        """Ids of the rows of a segment that are gone though their vectors still stand in it, ascending."""
        pieces = [np.empty(0, np.int64)]
        for id_, blob, crc in self._db.execute("SELECT id, rows, crc FROM deleted WHERE segment = ?", (segment,)):
            checked((id_, segment, blob, crc))
            pieces.append(np.frombuffer(blob, "<i8"))
        return np.sort(np.concatenate(pieces)).astype(np.int64)

    @errors_named
    def unreadable(self) -> dict[str, tuple[int, int, str]]:
        """``(size, mtime_ns, reason)`` of files that gave no text when they were last read."""
        return {row[0]: row[1:] for row in self._db.execute("SELECT path, size, mtime_ns, reason FROM unreadable")}

    @errors_named
    def chunks(self, ids: Sequence[int]) -> list[StoredChunk]:
        """Chunks by id, in the order asked for.

        Raises:
            IndexStoreError: one of them is not there, so vectors and catalog do not belong together.
        """
        rows = self._by_id("chunks", CHUNK_COLUMNS, ids)
        for row in rows.values():
            checked(row)
        owners = self._by_id("documents", DOCUMENT_COLUMNS, sorted({row[1] for row in rows.values()}))
        documents = {id_: StoredDocument.of(row) for id_, row in owners.items()}
        if not rows.keys() >= set(ids) or not documents.keys() >= {row[1] for row in rows.values()}:
            raise sqlite3.DatabaseError("chunks of a segment are missing")
        return [stored_chunk(rows[i], documents[rows[i][1]]) for i in ids]

    def owners(self, ids: Sequence[int]) -> dict[int, int]:
        """The document of each chunk; chunks that are not there are left out."""
        sql = "SELECT id, document FROM chunks WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.query(sql, [json.dumps(ids)]))

    def _by_id(self, table: str, columns: str, ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        found: dict[int, tuple[Any, ...]] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            asked = ids[start : start + _IDS_AT_ONCE]
            marks = ",".join("?" * len(asked))
            rows = self._db.execute(f"SELECT {columns} FROM {table} WHERE id IN ({marks})", list(asked))
            found.update((row[0], row) for row in rows)
        return found

    def next_row(self) -> int:
        """The id that the next stored chunk gets; ids are never used twice."""
        return self.state().next_row

    # Writing; to be called inside ``writing()``

    def add_segment(self, name: str, rows: int, tuning: str = "{}") -> int:
        """Enter a segment file; returns its id, which is above those of all segments before it."""
        id_ = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM segments").fetchone()[0])
        values = (id_, name, rows, tuning)
        self._db.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", (*values, row_crc(values)))
        return id_

    def retune_segment(self, listed: StoredSegment, tuning: str) -> None:
        """Another tuning of a segment's coarse index."""
        values = (listed.id, listed.name, listed.rows, tuning)
        self._db.execute("UPDATE segments SET tuning = ?, crc = ? WHERE id = ?", (tuning, row_crc(values), listed.id))

    def remove_segments(self, ids: Iterable[int]) -> None:
        """Strike out segments whose live vectors have moved to another one, and what was deleted of them."""
        for id_ in ids:
            self._db.execute("DELETE FROM segments WHERE id = ?", (id_,))
            self._db.execute("DELETE FROM deleted WHERE segment = ?", (id_,))

    def bury(self, segment: int, rows: IdArray) -> None:
        """These rows of a segment are gone (see ``Store.bury``)."""
        stones = self._db.execute("SELECT count(*) FROM deleted WHERE segment = ?", (segment,)).fetchone()[0]
        if stones >= _TOMBSTONES:
            rows = np.concatenate([self.deleted(segment), rows])
            self._db.execute("DELETE FROM deleted WHERE segment = ?", (segment,))
        id_ = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM deleted").fetchone()[0])
        blob = np.sort(rows).astype("<i8").tobytes()
        values = (id_, segment, blob)
        self._db.execute("INSERT INTO deleted VALUES (?, ?, ?, ?)", (*values, row_crc(values)))

    def count(self, *, documents: int = 0, rows: int = 0, next_row: int | None = None) -> None:
        """Change the counts by so many; ``next_row`` is set."""
        state = self.state()
        self._next = replace(
            state,
            documents=state.documents + documents,
            rows=state.rows + rows,
            next_row=state.next_row if next_row is None else next_row,
        )

    def add_documents(self, documents: Iterable[NewDocument]) -> IdArray:
        """Enter documents, their chunks numbered from ``next_row()``; older documents of their keys go.

        Returns:
            The ids of the chunks that went, to be buried.
        """
        gone = [np.empty(0, np.int64)]
        for new in documents:
            gone.append(self.remove_documents([new.key]))
            self._add_document(new)
        return np.concatenate(gone)

    def _add_document(self, new: NewDocument) -> None:
        first, metadata = self.next_row(), metadata_text(new.metadata)
        id_ = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM documents").fetchone()[0])
        document = StoredDocument(
            *(id_, new.key, new.is_file, new.size, new.mtime_ns, new.content_hash, new.kind, metadata, first),
            len(new.chunks),
        )
        self._db.execute(f"INSERT INTO documents VALUES ({','.join('?' * 11)})", document.row())
        rows = [chunk_row(first + n, id_, chunk) for n, chunk in enumerate(new.chunks)]
        self._db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        lexical.add(self._db, first, len(rows))
        self._add_facts(id_, new.metadata)
        self.count(documents=1, rows=len(rows), next_row=first + len(rows))

    def _add_facts(self, document: int, metadata: Mapping[str, Any]) -> None:
        self._db.executemany("INSERT INTO facts VALUES (?, ?, ?, ?)", [(*f, document) for f in set(facts_of(metadata))])

    def _remove_facts(self, document: StoredDocument) -> None:
        self._db.executemany(
            "DELETE FROM facts WHERE field = ? AND type = ? AND value = ? AND document = ?",
            [(*fact, document.id) for fact in set(facts_of(json.loads(document.metadata)))],
        )

    def remove_documents(self, keys: Iterable[str]) -> IdArray:
        """Strike out documents and their chunks, and what is known of unreadable files of these paths.

        Returns:
            The ids of the chunks that went, to be buried.
        """
        gone = [np.empty(0, np.int64)]
        for key in keys:
            self._db.execute("DELETE FROM unreadable WHERE path = ?", (key,))
            document = self.document(key)
            if document is None:
                continue
            first, end = document.first_chunk, document.first_chunk + document.chunks
            lexical.remove(self._db, first, document.chunks)
            self._remove_facts(document)
            self._db.execute("DELETE FROM chunks WHERE id >= ? AND id < ?", (first, end))
            self._db.execute("DELETE FROM documents WHERE id = ?", (document.id,))
            self.count(documents=-1, rows=-document.chunks)
            gone.append(np.arange(first, end, dtype=np.int64))
        return np.concatenate(gone)

    def touch_document(self, path: str, size: int, mtime_ns: int, *, was: str | None = None) -> None:
        """A file has the content it had, but another time stamp, or another path than it ``was`` at."""
        self._db.execute("DELETE FROM unreadable WHERE path = ?", (path,))
        document = self.document(was or path)
        if document is not None:
            self._change(replace(document, key=path, size=size, mtime_ns=mtime_ns))

    def set_metadata(self, document: StoredDocument, metadata: Mapping[str, Any]) -> None:
        """Give a document other metadata."""
        self._remove_facts(document)
        self._add_facts(document.id, metadata)
        self._change(replace(document, metadata=metadata_text(metadata)))

    def _change(self, document: StoredDocument) -> None:
        columns = ", ".join(f"{name} = ?" for name in DOCUMENT_COLUMNS.split(", "))
        self._db.execute(f"UPDATE documents SET {columns} WHERE id = ?", (*document.row(), document.id))

    def add_unreadable(self, path: str, size: int, mtime_ns: int, reason: str) -> IdArray:
        """A file gave no text, so that it need not be read again until it changes; its old document goes.

        Returns:
            The ids of the chunks that went, to be buried.
        """
        gone = self.remove_documents([path])
        self._db.execute("INSERT INTO unreadable VALUES (?, ?, ?, ?)", (path, size, mtime_ns, reason))
        return gone
