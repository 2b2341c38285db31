"""Documents as an index holds them: read by id, listed and counted by filter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import InputError
from diffembed.index.catalog import Catalog
from diffembed.index.filters import AllOf, Filter, Where, parse_filter, sql
from diffembed.index.incoming import record_keys
from diffembed.index.scan import Snapshot
from diffembed.index.schema import StoredChunk, StoredDocument
from diffembed.index.segments import Int8Rows
from diffembed.text.chunking import Chunk
from diffembed.text.readers import TextKind

DOCUMENTS_AT_ONCE = 256
_FIRST_PAGE, _LARGEST_PAGE = 256, 16_384  # keys: a filter is worked out once for each page


@dataclass(frozen=True, slots=True)
class Document:
    """A record or a file, with everything that the index holds of it.

    Attributes:
        key: the id of the record, or the path as a string.
        path: the file, absolute; ``None`` of a record.
        kind: of the text.
        metadata: as it was stored.
        chunks: in reading order, with their places in the text.
        chunk_ids: their numbers in the index (``Hit.chunk_id``).
        vectors: ``[chunks, dims]`` int8; ``None`` unless asked for.
    """

    key: str
    path: Path | None
    kind: TextKind
    metadata: Mapping[str, Any]
    chunks: tuple[Chunk, ...]
    chunk_ids: tuple[int, ...]
    vectors: Int8Rows | None = None

    def to_record(self) -> dict[str, Any]:
        """As ``Index.upsert`` takes it: ``id``, ``chunks``, ``kind``, ``metadata``, and ``vectors`` where there are."""
        record = {
            "id": self.key,
            "chunks": [chunk.text for chunk in self.chunks],
            "kind": self.kind,
            "metadata": dict(self.metadata),
        }
        return record if self.vectors is None else {**record, "vectors": self.vectors}

    @classmethod
    def of(cls, stored: StoredDocument, chunks: Sequence[StoredChunk], vectors: Int8Rows | None) -> Document:
        """From what an index stores."""
        return cls(
            key=stored.key,
            path=Path(stored.key) if stored.is_file else None,
            kind=stored.kind,
            metadata=json.loads(stored.metadata),
            chunks=tuple(chunk.chunk for chunk in chunks),
            chunk_ids=tuple(chunk.id for chunk in chunks),
            vectors=vectors,
        )


def document_keys(ids: Iterable[str | int | Path]) -> list[str]:
    """The keys of ids as callers give them, each once."""
    return list(dict.fromkeys(map(str, record_keys(ids))))


def read_documents(catalog: Catalog, snapshot: Snapshot, keys: Iterable[str], *, vectors: bool) -> list[Document]:
    """Those of these documents that are there, in the order asked for; in one transaction of the catalog."""
    found = [stored for key in keys if (stored := catalog.document(key)) is not None]
    documents = []
    for start in range(0, len(found), DOCUMENTS_AT_ONCE):
        part = found[start : start + DOCUMENTS_AT_ONCE]
        ids = [id_ for d in part for id_ in range(d.first_chunk, d.first_chunk + d.chunks)]
        chunks = catalog.chunks(ids)
        rows_ND = snapshot.rows_of(np.array(ids, np.int64)) if vectors else None
        at = 0
        for stored in part:
            own = slice(at, at + stored.chunks)
            documents.append(Document.of(stored, chunks[own], None if rows_ND is None else rows_ND[own]))
            at += stored.chunks
    return documents


def list_documents(
    page: Callable[[str, int], list[str]],
    read: Callable[[list[str]], list[Document]],
    after: str | None,
    limit: int | None,
) -> Iterator[Document]:
    """Documents by key, read some at a time, so that neither memory nor a transaction has to hold them all.

    Args:
        page: the next so many keys above one.
        read: the documents of some keys; those that are gone since are left out.
        after: the key after which the list begins; ``None`` for the first.
        limit: how many at most; ``None`` for all.
    """
    last, size, left = "" if after is None else after, _FIRST_PAGE, limit
    while left is None or left > 0:
        keys = page(last, size if left is None else min(size, left))
        if not keys:
            return
        for start in range(0, len(keys), DOCUMENTS_AT_ONCE):
            documents = read(keys[start : start + DOCUMENTS_AT_ONCE])
            left = None if left is None else left - len(documents)
            yield from documents
        last, size = keys[-1], min(2 * size, _LARGEST_PAGE)


def keys_where(catalog: Catalog, where: Where | None, after: str = "", limit: int | None = None) -> list[str]:
    """Keys above ``after`` of documents that a filter lets through, ascending."""
    text, values = ("1", []) if where is None else sql(parse_filter(where))
    many = -1 if limit is None else limit
    found = catalog.query(
        f"SELECT d.key FROM documents d WHERE d.key > ? AND {text} ORDER BY d.key LIMIT ?", [after, *values, many]
    )
    return [row[0] for row in found]


def count_where(catalog: Catalog, where: Where | None) -> int:
    """How many documents a filter lets through."""
    if where is None:
        return catalog.counts()[0]
    text, values = sql(parse_filter(where))
    return int(catalog.query(f"SELECT count(*) FROM documents d WHERE {text}", values)[0][0])


def deletable(where: Where) -> Filter:
    """A filter that may be used to delete.

    Raises:
        InputError: it is none, or lets everything through.
    """
    tree = parse_filter(where)
    if tree == AllOf(()):
        raise InputError("the filter is empty, so every document would be deleted; say which ones")
    return tree


def one_of(ids: object, where: object) -> None:
    """Raise ``InputError`` unless either ids or a filter is given."""
    if (ids is None) == (where is None):
        raise InputError(f"delete got {'both ids and' if ids is not None else 'neither ids nor'} a filter; give one")


def check_limit(limit: int | None) -> None:
    """Raise ``InputError`` for a limit that makes no sense."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1):
        raise InputError(f"limit is {limit!r}; give a whole number from 1, or None for all")
