"""Documents of a Qdrant collection: read by id, listed, counted and deleted by filter (see ``documents.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffembed.errors import InputError
from diffembed.index.documents import Document
from diffembed.index.qdrant_collection import Collection
from diffembed.index.qdrant_forms import restored
from diffembed.index.qdrant_points import chunk_of, document_of, point_id
from diffembed.index.qdrant_writing import count_documents, first_chunks
from diffembed.index.segments import FloatArray, IdArray, Int8Rows


def read_documents(collection: Collection, keys: Sequence[str], *, vectors: bool) -> list[Document]:
    """Those of these documents that are there, in the order asked for.

    A document of which a write was cut off comes with the chunks that are there.
    """
    first = collection.retrieve([point_id(key, 0) for key in keys], True, vectors=vectors)
    others = [
        point_id(point.payload["key"], number)
        for point in first.values()
        for number in range(1, point.payload["chunks"])
    ]
    found = first | collection.retrieve(others, True, vectors=vectors)
    documents = []
    for key in keys:
        if (whole := first.get(point_id(key, 0))) is None:
            continue
        ids = [point_id(key, number) for number in range(whole.payload["chunks"])]
        points = [found[id_] for id_ in ids if id_ in found]
        rows = _rows(collection, points) if vectors else None
        chunks = [chunk_of(point.id, point.payload) for point in points]
        documents.append(Document.of(document_of(whole.payload), chunks, rows))
    return documents


def page_of_keys(collection: Collection, where: Any, last: str, many: int) -> list[str]:
    """The keys of the next so many documents, in the order of the ids of their first chunks.

    Args:
        collection: to list.
        where: a filter of Qdrant; ``None`` for all.
        last: the key after which to go on; empty for the beginning.
        many: how many.
    """
    start = point_id(last, 0) if last else None
    points = collection.scroll(first_chunks(_parts(where)), payload=["key"], start=start, limit=many + 1)
    return [point.payload["key"] for point in points if point.payload["key"] != last][:many]


def count_where(collection: Collection, where: Any) -> int:
    """How many documents a filter of Qdrant lets through."""
    return count_documents(collection, _parts(where))


def delete_where(collection: Collection, where: Any) -> int:
    """Take the documents away that a filter of Qdrant lets through; returns how many there were."""
    there = count_where(collection, where)
    collection.delete(where)
    return there


def read_vectors(collection: Collection, ids_N: IdArray) -> Int8Rows:
    """``[N, D]`` the vectors of a collection of vectors only.

    Raises:
        InputError: an id that is not there, or a collection of documents.
    """
    if not collection.settings.vectors_only:
        raise InputError(f"{collection.place} holds documents; ask for get(ids, vectors=True)")
    found = collection.retrieve(np.unique(ids_N).tolist(), False, vectors=True)
    missing = [id_ for id_ in ids_N.tolist() if id_ not in found]
    if missing:
        raise InputError(f"{collection.place} has no vector {missing[0]}; it may have been deleted")
    return _rows(collection, [found[id_] for id_ in ids_N.tolist()])


def _rows(collection: Collection, points: Sequence[Any]) -> Int8Rows:
    values: FloatArray = np.array([point.vector for point in points], np.float32)
    return restored(values.reshape(len(points), collection.settings.dims), collection.form.vectors)


def _parts(where: Any) -> list[Any]:
    return [] if where is None else [where]
