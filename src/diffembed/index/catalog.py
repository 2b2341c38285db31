"""The catalog of an index: one SQLite file with settings, documents, chunks, segments and the ids of deleted chunks.

Journal in WAL mode with ``synchronous=FULL``: a commit is on disk when it returns. Every change of the index is one
transaction that also raises ``generation``, by which readers notice that their snapshot is old.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from diffembed.errors import IndexStoreError
from diffembed.text.chunking import Chunk, Strategy
from diffembed.text.readers import TextKind
from diffembed.text.walk import INDEX_MARKER

CATALOG_NAME = INDEX_MARKER
FORMAT = 1
APPLICATION_ID = 0x44464D42  # "DFMB"
_BUSY_SECONDS = 30.0
_IDS_AT_ONCE = 10_000

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    content_hash TEXT NOT NULL, kind TEXT NOT NULL);
CREATE TABLE segments (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents (id),
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, line_start INTEGER NOT NULL, line_end INTEGER NOT NULL,
    text TEXT NOT NULL);
CREATE INDEX chunks_document ON chunks (document);
CREATE TABLE deleted (chunk INTEGER PRIMARY KEY);
CREATE TABLE unreadable (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index was made with; it is searched and added to only with the same."""

    model: str
    fingerprint: str
    dims: int
    contextual: bool
    chunk_tokens: int
    dtype: str = "int8"
    chunking: Strategy = "structure"  # what an index without this key was made with


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What is known of a file: enough to tell whether it changed."""

    id: int
    path: str
    size: int
    mtime_ns: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A file about to be stored, with its chunks."""

    path: str
    size: int
    mtime_ns: int
    content_hash: str
    kind: TextKind
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk with the path and kind of its document."""

    id: int
    path: str
    kind: TextKind
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment file in the catalog."""

    id: int
    name: str
    rows: int


def _sqlite_errors_named(function: Callable[P, T]) -> Callable[P, T]:
    """SQLite's errors as ``IndexStoreError`` with the folder and what to do."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except sqlite3.Error as error:
            raise _explained(cast(Catalog, args[0]).folder, error) from None

    return wrapper


def _explained(folder: Path, error: sqlite3.Error) -> IndexStoreError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return IndexStoreError(f"{folder} is being written by another process; wait until it has ended")
    if "full" in text:
        return IndexStoreError(f"{folder}: the disk is full; make room and index again, the index is as it was before")
    if "readonly" in text or "unable to open" in text:
        return IndexStoreError(f"{folder} cannot be written ({text}); check its rights")
    return IndexStoreError(f"the catalog of {folder} is damaged ({text}); delete that folder and index the files again")


class Catalog:
    """An open catalog, for one thread at a time."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection

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
            db = sqlite3.connect(temporary, isolation_level=None)
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN; {_SCHEMA}")
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT}")
            values = {"settings": json.dumps(asdict(settings)), "generation": "0"}
            db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
            db.execute("COMMIT")
            db.close()
            os.rename(temporary, folder / CATALOG_NAME)
            fsync_folder(folder)
        except sqlite3.Error as error:
            raise _explained(folder, error) from None

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """Open the catalog of an index.

        Raises:
            IndexStoreError: there is none, it is damaged, or it is of another version.
        """
        path = folder / CATALOG_NAME
        if not path.is_file():
            raise IndexStoreError(f"{folder} is not an index; make one with: diffembed index PATH --into {folder}")
        db: sqlite3.Connection | None = None
        try:
            db = cls._connect(path)
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
        except (sqlite3.Error, IndexStoreError) as error:
            if db is not None:
                db.close()
            raise (_explained(folder, error) if isinstance(error, sqlite3.Error) else error) from None
        return catalog

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA foreign_keys=ON")
            except sqlite3.Error:
                db.close()
                raise
            return db
        # On a read-only disk nobody writes, and WAL's shared memory could not be made. Without it SQLite would not see
        # what a killed writer has left in the journal.
        journal = path.with_name(path.name + "-wal")
        if journal.exists() and journal.stat().st_size:
            raise IndexStoreError(
                f"{path.parent} cannot be written and holds an unfinished write; open it once where it can be written"
            )
        from urllib.parse import quote

        uri = f"file:{quote(str(path))}?immutable=1"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the file; the catalog cannot be used afterwards."""
        self._db.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Several reads that see one state of the index."""
        try:
            self._db.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            raise _explained(self.folder, error) from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction; raises ``generation`` by one. Undone as a whole when the block raises."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _explained(self.folder, error) from None
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # Reading

    @_sqlite_errors_named
    def settings(self) -> Settings:
        """What the index was made with."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()
        try:
            return Settings(**json.loads(row[0]))
        except (TypeError, ValueError):
            raise sqlite3.DatabaseError("its settings are unreadable") from None

    @_sqlite_errors_named
    def generation(self) -> int:
        """Grows with every change of the index."""
        return int(self._db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0])

    @_sqlite_errors_named
    def documents(self) -> list[StoredDocument]:
        """All files of the index."""
        rows = self._db.execute("SELECT id, path, size, mtime_ns, content_hash FROM documents ORDER BY path")
        return [StoredDocument(*row) for row in rows]

    @_sqlite_errors_named
    def counts(self) -> tuple[int, int]:
        """How many documents and chunks there are."""
        documents, chunks = self._db.execute(
            "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)"
        ).fetchone()
        return int(documents), int(chunks)

    @_sqlite_errors_named
    def segments(self) -> list[StoredSegment]:
        """All segments, oldest first."""
        return [StoredSegment(*row) for row in self._db.execute("SELECT id, name, rows FROM segments ORDER BY id")]

    @_sqlite_errors_named
    def deleted(self) -> list[int]:
        """Ids of chunks that are gone but whose vectors still stand in a segment, ascending."""
        return [row[0] for row in self._db.execute("SELECT chunk FROM deleted ORDER BY chunk")]

    @_sqlite_errors_named
    def unreadable(self) -> dict[str, tuple[int, int, str]]:
        """``(size, mtime_ns, reason)`` of files that gave no text when they were last read."""
        return {row[0]: row[1:] for row in self._db.execute("SELECT path, size, mtime_ns, reason FROM unreadable")}

    @_sqlite_errors_named
    def chunks(self, ids: Sequence[int]) -> list[StoredChunk]:
        """Chunks by id, in the order asked for.

        Raises:
            IndexStoreError: one of them is not there, so vectors and catalog do not belong together.
        """
        found: dict[int, StoredChunk] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            asked = ids[start : start + _IDS_AT_ONCE]
            rows = self._db.execute(
                'SELECT c.id, d.path, d.kind, c.text, c.start, c."end", c.line_start, c.line_end FROM chunks c '
                f"JOIN documents d ON d.id = c.document WHERE c.id IN ({','.join('?' * len(asked))})",
                list(asked),
            )
            found.update((row[0], StoredChunk(row[0], row[1], row[2], Chunk(*row[3:]))) for row in rows)
        if not found.keys() >= set(ids):
            raise sqlite3.DatabaseError("chunks of a segment are missing")
        return [found[i] for i in ids]

    @_sqlite_errors_named
    def next_chunk_id(self) -> int:
        """The id that the next stored chunk gets; ids are never used twice."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchone()
        return int(row[0]) + 1 if row else 1

    # Writing; to be called inside ``writing()``

    def add_segment(self, name: str, rows: int) -> int:
        """Enter a segment file; returns its id."""
        return int(self._db.execute("INSERT INTO segments (name, rows) VALUES (?, ?)", (name, rows)).lastrowid or 0)

    def remove_segments(self, ids: Iterable[int]) -> None:
        """Strike out segments whose vectors have moved to another one or gone."""
        self._db.executemany("DELETE FROM segments WHERE id = ?", [(i,) for i in ids])

    def forget_deleted(self, chunks: Iterable[int]) -> None:
        """These deleted chunks stand in no segment any more."""
        self._db.executemany("DELETE FROM deleted WHERE chunk = ?", [(i,) for i in chunks])

    def add_documents(self, documents: Iterable[NewDocument], first_chunk_id: int) -> None:
        """Enter documents, their chunks numbered from ``first_chunk_id``; an older document of a path goes first."""
        chunk_id = first_chunk_id
        for new in documents:
            self.remove_documents([new.path])
            document = self._db.execute(
                "INSERT INTO documents (path, size, mtime_ns, content_hash, kind) VALUES (?, ?, ?, ?, ?)",
                (new.path, new.size, new.mtime_ns, new.content_hash, new.kind),
            ).lastrowid
            self._db.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (chunk_id + n, document, c.start, c.end, c.line_start, c.line_end, c.text)
                    for n, c in enumerate(new.chunks)
                ],
            )
            chunk_id += len(new.chunks)

    def remove_documents(self, paths: Iterable[str]) -> None:
        """Strike out documents and their chunks, and what is known of unreadable files of these paths."""
        for path in paths:
            self._db.execute("DELETE FROM unreadable WHERE path = ?", (path,))
            row = self._db.execute("SELECT id FROM documents WHERE path = ?", (path,)).fetchone()
            if row is None:
                continue
            self._db.execute("INSERT INTO deleted SELECT id FROM chunks WHERE document = ?", row)
            self._db.execute("DELETE FROM chunks WHERE document = ?", row)
            self._db.execute("DELETE FROM documents WHERE id = ?", row)

    def touch_document(self, path: str, size: int, mtime_ns: int, *, was: str | None = None) -> None:
        """A document has the content it had, but another time stamp, or another path than it ``was`` at."""
        self._db.execute("DELETE FROM unreadable WHERE path = ?", (path,))
        self._db.execute(
            "UPDATE documents SET path = ?, size = ?, mtime_ns = ? WHERE path = ?", (path, size, mtime_ns, was or path)
        )

    def add_unreadable(self, path: str, size: int, mtime_ns: int, reason: str) -> None:
        """A file gave no text, so that it need not be read again until it changes; its old document goes."""
        self.remove_documents([path])
        self._db.execute("INSERT INTO unreadable VALUES (?, ?, ?, ?)", (path, size, mtime_ns, reason))
