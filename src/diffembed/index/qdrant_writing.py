"""Writing documents to a Qdrant collection: in batches, over what was there, failures by name.

A cluster has no transaction over many points. What it has is ids that are made from keys: a write that was cut off is
put right by writing the same documents again. Until then a document may hold chunks of two versions, which is why
everything that fails is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from diffembed.errors import ClusterError
from diffembed.index.qdrant_calls import load_client
from diffembed.index.qdrant_collection import Collection, point_of
from diffembed.index.qdrant_forms import stored
from diffembed.index.qdrant_points import (
    DOCUMENT_KEYS,
    document_of,
    document_payload,
    payload_of,
    payload_size,
    point_id,
    vector_payload,
)
from diffembed.index.schema import NewDocument, Settings, StoredDocument
from diffembed.index.segments import IdArray, Int8Rows

DOCUMENTS_AT_ONCE = 256
_NAMED = 5


class CollectionSink:
    """A collection as records are written to (see ``records.RecordSink``)."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._known: dict[str, StoredDocument | None] = {}  # of the records that come next

    @property
    def settings(self) -> Settings:
        """What its vectors are made with."""
        return self.collection.settings

    def ahead(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The same records; what is stored under their ids is asked for in blocks, not one by one."""
        given = iter(records)
        while block := list(islice(given, DOCUMENTS_AT_ONCE)):
            keys = [str(record["id"]) for record in block if isinstance(record, Mapping) and "id" in record]
            self._known = stored_documents(self.collection, keys)
            yield from block

    def document(self, key: str) -> StoredDocument | None:
        """What is stored under a key; its hash is empty if it is not there as a whole."""
        if key not in self._known:
            self._known |= stored_documents(self.collection, [key])
        return self._known[key]

    def add(
        self,
        documents: Sequence[NewDocument],
        rows_ND: Int8Rows,
        *,
        described: Iterable[tuple[StoredDocument, Mapping[str, Any]]] = (),
    ) -> None:
        """Store documents with the vectors of their chunks; ``described`` get other metadata only."""
        changes = {document.key: metadata for document, metadata in described}
        for key in [document.key for document in documents] + list(changes):
            self._known.pop(key, None)
        write_documents(self.collection, documents, rows_ND)
        write_metadata(self.collection, changes)


def stored_documents(collection: Collection, keys: Sequence[str]) -> dict[str, StoredDocument | None]:
    """What is stored under some keys; the hash of a document is empty if not all of its chunks say the same."""
    first = {point_id(key, 0): key for key in keys}
    found = collection.retrieve(list(first), DOCUMENT_KEYS)
    documents = {first[id_]: document_of(record.payload) for id_, record in found.items()}
    others = {point_id(d.key, n): d for d in documents.values() for n in range(1, d.chunks)}
    parts = collection.retrieve(list(others), DOCUMENT_KEYS)
    torn = {d.key for id_, d in others.items() if id_ not in parts or document_of(parts[id_].payload) != d}
    return {key: _torn(documents[key]) if key in torn else documents.get(key) for key in keys}


def _torn(document: StoredDocument) -> StoredDocument:
    values = {name: getattr(document, name) for name in StoredDocument.__slots__}
    return StoredDocument(**{**values, "content_hash": ""})


def write_documents(collection: Collection, documents: Sequence[NewDocument], rows_ND: Int8Rows) -> None:
    """Write documents and the vectors of their chunks, in order.

    Raises:
        ClusterError: some were not written; ``failed`` has their keys, and the others are written.
    """
    failed: dict[str, None] = {}
    cause: ClusterError | None = None
    # What a longer version has left goes first: once all chunks of the new one are there, nothing else is.
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        part = documents[start : start + DOCUMENTS_AT_ONCE]
        try:
            collection.delete(_beyond(part))
        except ClusterError as error:
            cause = cause or error
            rest = documents[start:] if _away(error) else part
            failed |= dict.fromkeys(document.key for document in rest)
            if _away(error):
                break
    for batch in collection.batches(_points(collection, documents, rows_ND, failed)):
        try:
            collection.upsert(batch)
        except ClusterError as error:
            cause = cause or error
            failed |= dict.fromkeys(point.payload["key"] for point in batch)
            if _away(error):
                failed |= dict.fromkeys(_from(documents, batch[-1].payload["key"]))
                break
    if cause is not None:
        raise partial_failure(list(failed), len(documents), cause)


def write_metadata(collection: Collection, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give documents other metadata.

    Raises:
        ClusterError: some did not get it; ``failed`` has their keys.
    """
    payloads = ((key, document_payload(metadata)) for key, metadata in changes.items())
    done = 0
    for batch in collection.batches(((key, payload), payload_size(payload)) for key, payload in payloads):
        try:
            collection.set_payloads((payload, _with_keys([key])) for key, payload in batch)
        except ClusterError as error:
            raise partial_failure(list(changes)[done:], len(changes), error) from None
        done += len(batch)


def partial_failure(failed: Sequence[str], of: int, cause: ClusterError) -> ClusterError:
    """The error that names what was not written."""
    named = ", ".join(map(repr, failed[:_NAMED])) + (", ..." if len(failed) > _NAMED else "")
    return ClusterError(
        f"{cause}; {len(failed):,} of {of:,} documents were not written as a whole ({named}): write these again",
        status=cause.status,
        failed=tuple(failed),
    )


def _points(
    collection: Collection, documents: Sequence[NewDocument], rows_ND: Int8Rows, failed: Mapping[str, None]
) -> Iterator[tuple[Any, int]]:
    at = 0
    for document in documents:
        for number in range(len(document.chunks)):
            if document.key in failed:
                break
            payload = payload_of(document, number, collection.settings.fingerprint)
            vector = stored(rows_ND[at + number : at + number + 1], collection.form.vectors)[0]
            yield point_of(point_id(document.key, number), vector, payload)
        at += len(document.chunks)


def _away(error: ClusterError) -> bool:
    """Whether what follows would fail too: the server was given up, and did not refuse what it was sent."""
    return error.status is None or error.status >= 500 or error.status in (408, 429)


def _from(documents: Sequence[NewDocument], key: str) -> list[str]:
    keys = [document.key for document in documents]
    return keys[keys.index(key) :]


def _with_keys(keys: Sequence[str]) -> Any:
    """A filter for whole documents."""
    models = load_client().models
    return models.Filter(must=[models.FieldCondition(key="key", match=models.MatchAny(any=list(keys)))])


def _beyond(documents: Sequence[NewDocument]) -> Any:
    """A filter for the chunks that these documents do not have any more."""
    models = load_client().models
    return models.Filter(
        should=[
            models.Filter(
                must=[
                    models.FieldCondition(key="key", match=models.MatchValue(value=document.key)),
                    models.FieldCondition(key="chunk", range=models.Range(gte=len(document.chunks))),
                ]
            )
            for document in documents
        ]
    )


def count_documents(collection: Collection, within: Sequence[Any] = ()) -> int:
    """How many documents there are that some filters of Qdrant let through."""
    return collection.count(first_chunks(within))


def first_chunks(within: Sequence[Any] = ()) -> Any:
    """A filter for the first chunks of documents, of each one, that some filters of Qdrant let through."""
    models = load_client().models
    first = models.FieldCondition(key="chunk", match=models.MatchValue(value=0))
    return models.Filter(must=[first, *within])


def delete_documents(collection: Collection, keys: Iterable[str]) -> int:
    """Take documents away; returns how many of them there were."""
    removed, given = 0, iter(dict.fromkeys(keys))
    while part := list(islice(given, DOCUMENTS_AT_ONCE)):
        where = _with_keys(part)
        removed += count_documents(collection, [where])
        collection.delete(where)
    return removed


def write_vectors(collection: Collection, rows_ND: Int8Rows, ids_N: IdArray) -> None:
    """Write vectors under the caller's ids.

    Raises:
        ClusterError: some were not written; ``failed`` has their ids.
    """
    form, fingerprint = collection.form.vectors, collection.settings.fingerprint
    points = (
        point_of(int(id_), stored(row[None, :], form)[0], vector_payload(row, fingerprint))
        for id_, row in zip(ids_N, rows_ND, strict=True)
    )
    written = 0
    for batch in collection.batches(points):
        try:
            collection.upsert(batch)
        except ClusterError as error:
            rest = tuple(map(str, ids_N[written:].tolist()))
            raise ClusterError(
                f"{error}; {written:,} of {len(ids_N):,} vectors are written, those from id {rest[0]} on are not",
                status=error.status,
                failed=rest,
            ) from None
        written += len(batch)


def delete_vectors(collection: Collection, ids: Sequence[int]) -> int:
    """Take vectors away by their ids; returns how many of them there were."""
    wanted = list(dict.fromkeys(ids))
    there = list(collection.retrieve(wanted, False))
    if there:
        collection.delete(there)
    return len(there)
