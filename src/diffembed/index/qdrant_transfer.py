"""An index on disk into a Qdrant collection and back, with its vectors as they are: nothing is encoded again.

Both ways go on where they were cut off: what is there already, whole and with the same content, is skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import Progress
from diffembed.index.exchange import blocks
from diffembed.index.qdrant_calls import load_client
from diffembed.index.qdrant_collection import Collection
from diffembed.index.qdrant_forms import checksum, restored
from diffembed.index.qdrant_points import DOCUMENT_KEYS, chunk_of, document_of, point_id
from diffembed.index.qdrant_writing import DOCUMENTS_AT_ONCE, stored_documents, write_documents, write_vectors
from diffembed.index.scan import Snapshot
from diffembed.index.schema import NewDocument, Settings, StoredChunk, StoredDocument
from diffembed.index.segments import IdArray, Int8Rows
from diffembed.index.store import Store, create_store, open_existing

Part = tuple[int, int]
"""Which part of how many, from 0: so that several processes or machines share the work."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What was carried over.

    Attributes:
        documents: how many were written; 0 where there are only vectors.
        chunks: how many vectors were written.
        skipped: how many documents (or vectors) were there already.
        retried: how many requests had to be repeated.
        seconds: how long it took.
    """

    documents: int
    chunks: int
    skipped: int
    retried: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check_same(collection: Collection, settings: Settings, name: str) -> None:
    """Refuse a collection whose vectors come from elsewhere than those of an index.

    Raises:
        IndexStoreError: another model, another width, or other chunks; the message says what differs.
    """
    ours, theirs = asdict(replace(settings, model="")), asdict(replace(collection.settings, model=""))
    differ = [f"{key} is {theirs[key]!r} there, {ours[key]!r} here" for key in ours if ours[key] != theirs[key]]
    if differ:
        raise IndexStoreError(
            f"{collection.place} was not made for the vectors of {name}: {'; '.join(differ)}; use another collection"
        )


def send(
    catalog: Catalog,
    snapshot: Snapshot,
    collection: Collection,
    *,
    part: Part = (0, 1),
    progress: Progress | None = None,
) -> TransferReport:
    """Write one state of an index on disk into a collection (see ``Index.copy_to``); in a transaction of the catalog.

    Raises:
        ClusterError: the server is away or refuses; ``failed`` names what was not written.
    """
    settings = catalog.settings()
    check_same(collection, settings, str(catalog.folder))
    collection.check_shard()
    if not 0 <= part[0] < part[1]:
        raise InputError(f"part is {part[0] + 1} of {part[1]}; give one from 1 of so many")
    began = time.perf_counter()
    counts = {"documents": 0, "chunks": 0, "skipped": 0}
    if settings.vectors_only:
        for number, (ids, rows_ND) in enumerate(blocks(snapshot, progress)):
            if number % part[1] == part[0]:
                _send_vectors(collection, ids, rows_ND, counts)
    else:
        documents = _whole_documents(catalog, blocks(snapshot, progress))
        own = ((document, rows_ND) for document, rows_ND in documents if document[0].document.id % part[1] == part[0])
        while block := list(islice(own, DOCUMENTS_AT_ONCE)):
            _send_documents(collection, block, counts)
    return TransferReport(**counts, retried=collection.call.retried, seconds=time.perf_counter() - began)


def _send_vectors(collection: Collection, ids: IdArray, rows_ND: Int8Rows, counts: dict[str, int]) -> None:
    there = collection.retrieve(ids.tolist(), ["crc"])
    new = np.array(
        [
            id_ not in there or there[id_].payload["crc"] != checksum(row)
            for id_, row in zip(ids.tolist(), rows_ND, strict=True)
        ],
        np.bool_,
    )
    write_vectors(collection, rows_ND[new], ids[new])
    counts["chunks"] += int(new.sum())
    counts["skipped"] += len(ids) - int(new.sum())


def _whole_documents(
    catalog: Catalog, found: Iterator[tuple[IdArray, Int8Rows]]
) -> Iterator[tuple[list[StoredChunk], Int8Rows]]:
    """The chunks of each document with their vectors; a document may stand in several blocks."""
    chunks: list[StoredChunk] = []
    rows: list[Int8Rows] = []
    for ids, rows_ND in found:
        for chunk, row in zip(catalog.chunks(ids.tolist()), rows_ND, strict=True):
            chunks.append(chunk)
            rows.append(row)
            if len(chunks) == chunk.document.chunks:
                yield chunks, np.stack(rows)
                chunks, rows = [], []


def _send_documents(
    collection: Collection, block: Sequence[tuple[list[StoredChunk], Int8Rows]], counts: dict[str, int]
) -> None:
    there = stored_documents(collection, [chunks[0].document.key for chunks, _ in block])
    new = [(chunks, rows) for chunks, rows in block if not _same(chunks[0].document, there[chunks[0].document.key])]
    documents = [
        NewDocument(
            *(d.key, -1, -1, d.content_hash, d.kind),
            [chunk.chunk for chunk in chunks],
            json.loads(d.metadata),
            is_file=d.is_file,
        )
        for chunks, _ in new
        for d in [chunks[0].document]
    ]
    if new:
        write_documents(collection, documents, np.concatenate([rows for _, rows in new]))
    counts["documents"] += len(new)
    counts["chunks"] += sum(len(chunks) for chunks, _ in new)
    counts["skipped"] += len(block) - len(new)


def _same(here: StoredDocument, there: StoredDocument | None) -> bool:
    if there is None:
        return False
    return all(
        getattr(here, name) == getattr(there, name) for name in ("content_hash", "kind", "chunks", "is_file")
    ) and (json.loads(here.metadata) == json.loads(there.metadata))


def fetch(collection: Collection, into: Path, progress: Progress | None = None) -> TransferReport:
    """Write a collection into an index on disk, new or begun by an earlier run (see ``QdrantIndex.copy_to``).

    Raises:
        InputError: vectors that uint8 has rounded, which cannot be had back; what was written until then stays.
        IndexStoreError: the index there is of another model.
        ClusterError: the server is away or refuses.
    """
    began = time.perf_counter()
    counts = {"documents": 0, "chunks": 0, "skipped": 0}
    if not Catalog.exists(into):
        create_store(into.resolve(), collection.settings)
    total = collection.count()
    with open_existing(into) as store:
        check_same(collection, store.settings, str(into))
        step = _fetch_vectors if store.settings.vectors_only else _fetch_documents
        for done in step(collection, store, counts):
            if progress is not None:
                progress(done, total)
        store.merge_small()
    return TransferReport(**counts, retried=collection.call.retried, seconds=time.perf_counter() - began)


def _fetch_vectors(collection: Collection, store: Store, counts: dict[str, int]) -> Iterator[int]:
    records = collection.scroll(vectors=True)
    while block := list(islice(records, 8192)):
        rows_ND = np.stack([_row(collection, record) for record in block])
        store.add_rows(np.array([record.id for record in block], np.int64), rows_ND)
        counts["chunks"] += len(block)
        yield counts["chunks"]


def _fetch_documents(collection: Collection, store: Store, counts: dict[str, int]) -> Iterator[int]:
    models = load_client().models
    first = models.Filter(must=[models.FieldCondition(key="chunk", match=models.MatchValue(value=0))])
    records = collection.scroll(first, payload=DOCUMENT_KEYS)
    seen = 0
    while block := list(islice(records, DOCUMENTS_AT_ONCE)):
        wanted = [document_of(record.payload) for record in block]
        seen += sum(document.chunks for document in wanted)
        new = [document for document in wanted if not _same(document, store.document(document.key))]
        ids = [point_id(document.key, number) for document in new for number in range(document.chunks)]
        found = collection.retrieve(ids, True, vectors=True)
        documents, rows = [], []
        for document in new:
            points = [found.get(point_id(document.key, number)) for number in range(document.chunks)]
            if any(p is None or p.payload["hash"] != document.content_hash for p in points):
                raise IndexStoreError(
                    f"{collection.place} holds {document.key!r} only in part; write that document again, then go on"
                )
            rows += [_row(collection, point) for point in points]
            documents.append(_new_document(document, [chunk_of(p.id, p.payload) for p in points if p is not None]))
        if documents:
            store.add(documents, np.stack(rows))
        counts["documents"] += len(new)
        counts["chunks"] += len(rows)
        counts["skipped"] += len(wanted) - len(new)
        yield seen


def _new_document(document: StoredDocument, chunks: Sequence[StoredChunk]) -> NewDocument:
    # A file is compared by its content when the folder is indexed again; a record has no size or time.
    stamp = -1 if document.is_file else 0
    return NewDocument(
        *(document.key, stamp, stamp, document.content_hash, document.kind),
        [chunk.chunk for chunk in chunks],
        json.loads(document.metadata),
        is_file=document.is_file,
    )


def _row(collection: Collection, record: Any) -> Int8Rows:
    form = collection.form.vectors
    row = restored(record.vector, record.payload["squared"], record.payload["crc"], form)
    if row is None:
        why = "uint8 has rounded it" if form == "uint8" else "it was changed"
        raise InputError(
            f"{collection.place}: the vector of point {record.id} cannot be had back exactly ({why}); index the texts "
            "again instead"
        )
    return row
