"""A chunk as a point of a Qdrant collection: its id, its payload, and filters by what the payload holds.

A point's id is made from the document's key and the chunk's number in it, so that whoever writes a document again
writes the same points. The payload can be read by any client of Qdrant: ``key`` (of the document), ``chunk`` (number in
it, from 0) of ``chunks``, ``text``, its place (``start``, ``end``, ``line_start``, ``line_end``), ``kind``, ``source``
(``file`` or ``record``), ``hash`` (of the content), ``model`` (the first 12 digits of the model's fingerprint) and
``metadata``. ``facts`` holds the metadata once more, flat and by type, for filters: so a filter lets the same documents
through as in an index on disk, whatever the nesting and however the names are spelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from diffembed.errors import InputError
from diffembed.index.filters import (
    BUILT_IN,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    Negation,
    OneOf,
    Prefix,
    Scalar,
    absolute_paths,
)
from diffembed.index.qdrant_calls import load_client
from diffembed.index.qdrant_forms import row_hash
from diffembed.index.schema import NewDocument, StoredChunk, StoredDocument, facts_of, metadata_text, typed
from diffembed.index.segments import Int8Rows
from diffembed.text.chunking import Chunk

NAMESPACE = uuid5(NAMESPACE_URL, "diffembed/index/chunk")
_LARGEST_EXACT = 2**53  # the engine compares numbers as 64-bit floats
_ORDERS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def point_id(key: str, chunk: int) -> str:
    """The id of a chunk's point.

    >>> point_id("faq", 0)
    '78d722ca-d337-5c45-baeb-8e1f8eab6f74'
    """
    return str(uuid5(NAMESPACE, f"{chunk}:{key}"))


def number_of(id_: Any) -> int:
    """The number of a point among those of a search: an integer id itself, of a UUID its first 63 bits."""
    return id_ if isinstance(id_, int) else UUID(str(id_)).int >> 65


def payload_of(document: NewDocument, number: int, fingerprint: str) -> dict[str, Any]:
    """The payload of one chunk of a document; ``fingerprint`` is the model's, empty if unknown."""
    chunk = document.chunks[number]
    return {
        "key": document.key,
        "chunk": number,
        "chunks": len(document.chunks),
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "line_start": chunk.line_start,
        "line_end": chunk.line_end,
        "kind": document.kind,
        "source": "file" if document.is_file else "record",
        "hash": document.content_hash,
        **document_payload(document.metadata),
        **_model(fingerprint),
    }


def vector_payload(row_D: Int8Rows, fingerprint: str) -> dict[str, Any]:
    """The payload of a vector without a document."""
    return {"hash": row_hash(row_D), **_model(fingerprint)}


def _model(fingerprint: str) -> dict[str, Any]:
    return {"model": fingerprint[:12]} if fingerprint else {}


def document_payload(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a payload that follows from the metadata alone.

    >>> document_payload({"lang": "en", "by": {"year": 2020}, "draft": False, "end": None})["facts"]
    {'s': {'lang': ['en']}, 'n': {'by.year': [2020]}, 'b': {'draft': [0]}, 'z': ['end']}
    """
    facts: dict[str, Any] = {}
    for name, type_, value in dict.fromkeys(facts_of(metadata)):
        if type_ == "z":
            facts.setdefault("z", []).append(name)
        else:
            facts.setdefault(type_, {}).setdefault(_escaped(name), []).append(value)
    return {"metadata": dict(metadata), "facts": facts}


DOCUMENT_KEYS = ["key", "source", "hash", "kind", "metadata", "chunks"]
"""Of a payload what says everything about the document."""


def document_of(payload: Mapping[str, Any]) -> StoredDocument:
    """A document as it was written, from the payload of any of its chunks."""
    return StoredDocument(
        id=number_of(point_id(payload["key"], 0)),
        key=payload["key"],
        is_file=payload["source"] == "file",
        size=-1,
        mtime_ns=-1,
        content_hash=payload["hash"],
        kind=payload["kind"],
        metadata=metadata_text(payload["metadata"]),
        first_chunk=0,
        chunks=payload["chunks"],
    )


def chunk_of(id_: Any, payload: Mapping[str, Any]) -> StoredChunk:
    """A chunk as it was written; its number stands for the id that an index on disk would give."""
    places = (payload["start"], payload["end"], payload["line_start"], payload["line_end"])
    return StoredChunk(number_of(id_), document_of(payload), Chunk(payload["text"], *places))


def fact_path(type_: str, name: str) -> str:
    """Where a fact stands in a payload.

    >>> fact_path("s", "author.name")
    'facts.s."author.name"'
    """
    return f'facts.{type_}."{_escaped(name)}"'


def _escaped(name: str) -> str:
    """A name without the two characters that a quoted path of Qdrant cannot hold."""
    return name.replace("%", "%25").replace('"', "%22").replace("\\", "%5C")


def qdrant_filter(tree: Filter) -> Any:
    """A parsed filter as Qdrant's.

    Raises:
        InputError: an order of strings, which Qdrant does not have.
    """
    models = load_client().models
    found = _condition(tree, models)
    return found if isinstance(found, models.Filter) else models.Filter(must=[found])


def _condition(tree: Filter, models: Any) -> Any:
    if isinstance(tree, AllOf):
        return models.Filter(must=[_condition(part, models) for part in tree.parts])
    if isinstance(tree, AnyOf):
        # Without any part nothing is let through; an empty filter of Qdrant lets everything through.
        return _any([_condition(part, models) for part in tree.parts], models)
    if isinstance(tree, Negation):
        return models.Filter(must_not=[_condition(tree.part, models)])
    if tree.field in BUILT_IN:
        return _built_in(tree, models)
    name = tree.field.removeprefix("metadata.")
    if isinstance(tree, Prefix):
        return _prefix(fact_path("s", name), tree.prefix, models)
    if isinstance(tree, Compare) and tree.op != "=":
        return _ordered(tree, name, models)
    values = tree.values if isinstance(tree, OneOf) else (tree.value,)
    return _any(_equals(name, values, models), models)


def _any(conditions: list[Any], models: Any) -> Any:
    if not conditions:
        return models.Filter(must=[models.HasIdCondition(has_id=[])])
    return conditions[0] if len(conditions) == 1 else models.Filter(should=conditions)


def _equals(name: str, values: tuple[Scalar, ...], models: Any) -> list[Any]:
    """For each type among the values a condition."""
    strings = [value for value in values if isinstance(value, str)]
    found = []
    if strings:
        found.append(models.FieldCondition(key=fact_path("s", name), match=models.MatchAny(any=strings)))
    for value in dict.fromkeys((*typed(v),) for v in values if not isinstance(v, str)):
        found.append(_equal(name, *value, models))
    return found


def _equal(name: str, type_: str, value: Any, models: Any) -> Any:
    if type_ == "z":
        return models.FieldCondition(key="facts.z", match=models.MatchValue(value=name))
    path = fact_path(type_, name)
    if isinstance(value, int) and (type_ == "b" or abs(value) > _LARGEST_EXACT):
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))  # 2020 and 2020.0 alike


def _ordered(tree: Compare, name: str, models: Any) -> Any:
    if isinstance(tree.value, str):
        raise InputError(
            f"a Qdrant collection cannot put strings in order ({tree.field} {tree.op} {tree.value!r}); store what "
            "has an order as a number (a date as 20240131, or in seconds), or use prefix"
        )
    return models.FieldCondition(key=fact_path("n", name), range=models.Range(**{_ORDERS[tree.op]: tree.value}))


def _prefix(path: str, prefix: str, models: Any) -> Any:
    return models.FieldCondition(key=path, match=models.MatchPrefix(prefix=prefix))


def _built_in(tree: Compare | OneOf | Prefix, models: Any) -> Any:
    """``key``, ``path`` (of files) and ``kind``: strings."""
    path = "kind" if tree.field == "kind" else "key"
    if tree.field == "path":
        tree = absolute_paths(tree)
    if isinstance(tree, Prefix):
        found = _prefix(path, tree.prefix, models)
    else:
        values = tree.values if isinstance(tree, OneOf) else (tree.value,)
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{tree.field} is a string; compare it with strings")
        if isinstance(tree, Compare) and tree.op != "=":
            return _ordered(tree, tree.field, models)
        found = models.FieldCondition(key=path, match=models.MatchAny(any=list(values)))
    if tree.field != "path":
        return found
    return models.Filter(must=[found, models.FieldCondition(key="source", match=models.MatchValue(value="file"))])


def payload_size(payload: Mapping[str, Any]) -> int:
    """Bytes of a payload as it is sent."""
    return len(json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass"))
