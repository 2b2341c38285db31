"""An index on disk into a Qdrant collection, with its vectors as they are: nothing is encoded again.

A copy goes on where it was cut off: what is there already, whole and with the same content, is skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from diffembed.errors import IndexStoreError, InputError
from diffembed.index.catalog import Catalog
from diffembed.index.encoding import Progress
from diffembed.index.exchange import blocks
from diffembed.index.qdrant_collection import Collection
from diffembed.index.qdrant_forms import row_hash
from diffembed.index.qdrant_writing import DOCUMENTS_AT_ONCE, stored_documents, write_documents, write_vectors
from diffembed.index.refresh import BATCH_CHUNKS
from diffembed.index.scan import Snapshot
from diffembed.index.schema import NewDocument, Settings, StoredChunk, StoredDocument
from diffembed.index.segments import IdArray, Int8Rows

Part = tuple[int, int]
"""Which part of how many, from 0: so that several processes or machines share the work."""


Whole = tuple[list[StoredChunk], Int8Rows]
"""The chunks of a document and their vectors."""


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
        for block in _blocks(own):
            _send_documents(collection, block, counts)
    return TransferReport(**counts, retried=collection.call.retried, seconds=time.perf_counter() - began)


def _send_vectors(collection: Collection, ids: IdArray, rows_ND: Int8Rows, counts: dict[str, int]) -> None:
    there = collection.retrieve(ids.tolist(), ["hash"])
    new = np.array(
        [
            id_ not in there or there[id_].payload["hash"] != row_hash(row)
            for id_, row in zip(ids.tolist(), rows_ND, strict=True)
        ],
        np.bool_,
    )
    write_vectors(collection, rows_ND[new], ids[new])
    counts["chunks"] += int(new.sum())
    counts["skipped"] += len(ids) - int(new.sum())


def _whole_documents(catalog: Catalog, found: Iterator[tuple[IdArray, Int8Rows]]) -> Iterator[Whole]:
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


def _blocks(documents: Iterable[Whole]) -> Iterator[list[Whole]]:
    """Documents that are compared and written together."""
    block: list[Whole] = []
    for document in documents:
        block.append(document)
        if len(block) == DOCUMENTS_AT_ONCE or sum(len(chunks) for chunks, _ in block) >= BATCH_CHUNKS:
            yield block
            block = []
    if block:
        yield block


def _send_documents(collection: Collection, block: Sequence[Whole], counts: dict[str, int]) -> None:
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
