"""What the catalog's tables hold, row by row, and the checksum that every row carries.

SQLite notices damage to its own structure, but not a changed byte inside a value. So each row has a CRC-32 over its
values, which is compared whenever the row is read.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffembed.errors import InputError
from diffembed.text.chunking import Chunk, Strategy
from diffembed.text.readers import TextKind

FORMAT = 2
APPLICATION_ID = 0x44464D42  # "DFMB"

SCHEMA = """
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1), settings TEXT NOT NULL, generation INTEGER NOT NULL,
    documents INTEGER NOT NULL, rows INTEGER NOT NULL, next_row INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, is_file INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, content_hash TEXT NOT NULL, kind TEXT NOT NULL, metadata TEXT NOT NULL,
    first_chunk INTEGER NOT NULL, chunks INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX documents_kind ON documents (kind);
CREATE INDEX documents_span ON documents (first_chunk, chunks);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    line_start INTEGER NOT NULL, line_end INTEGER NOT NULL, text TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE facts (
    field TEXT NOT NULL, type TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL,
    PRIMARY KEY (field, type, value, document)) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL, tuning TEXT NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE deleted (
    id INTEGER PRIMARY KEY, segment INTEGER NOT NULL, rows BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX deleted_segment ON deleted (segment);
CREATE TABLE unreadable (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
"""

DOCUMENT_COLUMNS = "id, key, is_file, size, mtime_ns, content_hash, kind, metadata, first_chunk, chunks, crc"
CHUNK_COLUMNS = 'id, document, start, "end", line_start, line_end, text, crc'


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index was made with; it is searched and added to only with the same.

    Attributes:
        model: name or directory of the model; empty when vectors came from elsewhere and nobody said from which.
        fingerprint: of the model; empty likewise.
        dims: width of every vector.
        contextual: whether the model reads the chunks of a document together.
        chunk_tokens: longest chunk; 0 where there are no texts.
        dtype: of the vectors.
        chunking: how documents are cut.
        vectors_only: no texts and no documents: rows of vectors under the caller's int64 ids.
    """

    model: str
    fingerprint: str
    dims: int
    contextual: bool
    chunk_tokens: int
    dtype: str = "int8"
    chunking: Strategy = "structure"
    vectors_only: bool = False


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document: a file by its path, or a record by the id that it was given.

    ``first_chunk`` and ``chunks``: its chunks have the ids ``range(first_chunk, first_chunk + chunks)``.
    """

    id: int
    key: str
    is_file: bool
    size: int
    mtime_ns: int
    content_hash: str
    kind: TextKind
    metadata: str
    first_chunk: int
    chunks: int

    @classmethod
    def of(cls, row: Sequence[Any]) -> StoredDocument:
        """From ``DOCUMENT_COLUMNS``, checked."""
        checked(row)
        return cls(row[0], row[1], bool(row[2]), *row[3:-1])

    def row(self) -> tuple[Any, ...]:
        """As ``DOCUMENT_COLUMNS``."""
        values = (
            *(self.id, self.key, int(self.is_file), self.size, self.mtime_ns, self.content_hash, self.kind),
            *(self.metadata, self.first_chunk, self.chunks),
        )
        return (*values, row_crc(values))


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document about to be stored, with its chunks."""

    key: str
    size: int
    mtime_ns: int
    content_hash: str
    kind: TextKind
    chunks: Sequence[Chunk]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_file: bool = True


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk with its document."""

    id: int
    document: StoredDocument
    chunk: Chunk

    @property
    def kind(self) -> TextKind:
        """Of the document."""
        return self.document.kind

    @property
    def path(self) -> str:
        """The document's key: of a file its path."""
        return self.document.key


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment file in the catalog; ``tuning`` is what compaction found out about it, as JSON."""

    id: int
    name: str
    rows: int
    tuning: str = "{}"


@dataclass(frozen=True, slots=True)
class State:
    """The one row that changes with every commit."""

    settings: str
    generation: int
    documents: int
    rows: int
    next_row: int

    def row(self) -> tuple[Any, ...]:
        """As the table has it."""
        values = (1, self.settings, self.generation, self.documents, self.rows, self.next_row)
        return (*values, row_crc(values))


def row_crc(values: Sequence[Any]) -> int:
    """Checksum of a row's values: integers, strings and bytes, each with its kind and length.

    >>> row_crc((1, "ab")) == row_crc((1, "a", "b")), row_crc((1,)) == row_crc(("1",))
    (False, False)
    """
    parts: list[bytes] = []
    for value in values:
        if isinstance(value, str):
            raw = value.encode("utf-8", "surrogateescape")
            parts += b"s%d:" % len(raw), raw
        elif isinstance(value, bytes):
            parts += b"b%d:" % len(value), value
        else:
            raw = str(value).encode()
            parts += b"i%d:" % len(raw), raw
    return zlib.crc32(b"".join(parts))


def checked(row: Sequence[Any]) -> None:
    """Raise ``sqlite3.DatabaseError`` if the last value of a row is not the checksum of the others."""
    if row_crc(row[:-1]) != row[-1]:
        raise sqlite3.DatabaseError("a row fails its checksum")


def chunk_row(id_: int, document: int, chunk: Chunk) -> tuple[Any, ...]:
    """A chunk as ``CHUNK_COLUMNS``."""
    values = (id_, document, chunk.start, chunk.end, chunk.line_start, chunk.line_end, chunk.text)
    return (*values, row_crc(values))


def stored_chunk(row: Sequence[Any], document: StoredDocument) -> StoredChunk:
    """From ``CHUNK_COLUMNS``, whose checksum the caller has compared."""
    id_, owner, start, end, line_start, line_end, text, _ = row
    if owner != document.id or not document.first_chunk <= id_ < document.first_chunk + document.chunks:
        raise sqlite3.DatabaseError("a chunk stands in another document than its own")
    return StoredChunk(id_, document, Chunk(text, start, end, line_start, line_end))


Fact = tuple[str, str, Any]
"""Field (dotted), type (``n`` number, ``s`` string, ``b`` boolean, ``z`` null) and value: what a filter can ask for."""


def facts_of(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[Fact]:
    """The scalars of metadata, once for each; lists give one for each element, objects dotted names.

    >>> sorted(facts_of({"lang": "en", "tags": ["a", "b"], "by": {"year": 2020}}))
    [('by.year', 'n', 2020), ('lang', 's', 'en'), ('tags', 's', 'a'), ('tags', 's', 'b')]
    """
    for key, value in metadata.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                yield from facts_of(item, f"{prefix}{key}.")
            elif isinstance(item, list | tuple):
                yield from facts_of({key: item}, prefix)
            else:
                yield (prefix + key, *typed(item))


def typed(value: Any) -> tuple[str, Any]:
    """Type and stored form of a scalar.

    >>> typed(True), typed(1.5), typed(None)
    (('b', 1), ('n', 1.5), ('z', ''))
    """
    if value is None:
        return "z", ""
    if isinstance(value, bool):
        return "b", int(value)
    return ("s", value) if isinstance(value, str) else ("n", value)


def require_unicode(what: str, text: str) -> None:
    """Raise ``InputError`` for a text that cannot be written down."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a lone surrogate (half a UTF-16 pair) at character {error.start}; replace it"
        ) from None


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as the catalog stores it."""
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
