"""``Pair``, ``Triplet`` and ``Grouped``: the rows that contrastive training reads, and their JSON form at once.

    pair      {"query": "...", "document": "..."}
    triplet   {"query": "...", "document": "...", "negatives": ["...", ...]}
    grouped   {"chunks": ["...", ...], "queries": [{"query": "...", "chunk": 2}, ...]}

A ``grouped`` row is a document as its consecutive chunks, with questions and the number of the chunk that answers each
(from 0); ``"chunk": null`` where only the document is known, and ``"scores"``, one number a chunk, where a teacher has
judged them. Every row may have ``"id"``, ``"document_id"``, ``"lang"``, ``"instruction"`` (put before its queries) and
``"source"``; a value of null is as none, other keys are not read. The names other trainers use are understood:
``anchor`` / ``positive`` / ``negative`` (or ``negative_1``, ``negative_2`` ...) of sentence-transformers, ``query`` /
``pos`` / ``neg`` / ``prompt`` of FlagEmbedding.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffembed.errors import InputError


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document that answers it.

    Attributes:
        document_id: rows with the same one (or, without, the same text) have the same document.
        instruction: what the query asks for, put before it.
        source: where the row is from.
    """

    query: str
    document: str
    id: str = ""
    document_id: str = ""
    language: str = ""
    instruction: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Triplet:
    """A pair with documents that do not answer the query, the hardest first."""

    query: str
    document: str
    negatives: tuple[str, ...]
    id: str = ""
    document_id: str = ""
    language: str = ""
    instruction: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A query about a document.

    Attributes:
        chunk: which chunk answers it; ``None``: not known.
        scores: a teacher's relevance of every chunk, any scale; empty: no teacher.
        id: questions with the same one are one query (with several chunks that answer it).
    """

    query: str
    chunk: int | None = None
    scores: tuple[float, ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True)
class Grouped:
    """A document as its consecutive chunks, and questions about it."""

    chunks: tuple[str, ...]
    questions: tuple[Question, ...]
    id: str = ""
    document_id: str = ""
    language: str = ""
    instruction: str = ""
    source: str = ""


Example = Pair | Triplet | Grouped

_COMMON = ("id", "document_id", "lang", "instruction", "source")
_NAMES = ("query", "document", "negatives", "chunks", "queries", *_COMMON)
_ALIASES = {"anchor": "query", "positive": "document", "negative": "negatives"}  # sentence-transformers
_ALIASES |= {"pos": "document", "neg": "negatives", "prompt": "instruction"}  # FlagEmbedding
_NUMBERED = re.compile(r"negative_(\d+)")  # one negative a column, as sentence-transformers mines them


def parse_example(record: Mapping[str, Any], where: str) -> Example:
    """A row from its JSON object.

    Args:
        where: file and line, for messages.

    Raises:
        InputError: a row without query or positive, of the wrong types, with an empty text, a chunk that the document
            does not have, scores that are not one finite number a chunk.

    >>> parse_example({"query": "what is BPE", "document": "Byte-pair encoding ..."}, "rows.jsonl, line 1").document
    'Byte-pair encoding ...'
    >>> parse_example({"chunks": ["a", "b"], "queries": [{"query": "q", "chunk": 2}]}, "rows.jsonl, line 2")
    Traceback (most recent call last):
    diffembed.errors.InputError: rows.jsonl, line 2: query 0 has chunk 2, the row has 2 chunks (0 to 1); correct it
    """
    row = _renamed(record, where)
    common = {name: _text(row, name, where, optional=True) for name in _COMMON}
    common["language"] = common.pop("lang")
    if "chunks" in row or "queries" in row:
        if both := [name for name in _NAMES[:3] if name in row]:
            raise InputError(f"{where} has '{both[0]}' next to chunks and queries; make two rows of it")
        chunks = _texts(row.get("chunks"), "chunks", where)
        return Grouped(chunks, _questions(row.get("queries"), len(chunks), where), **common)
    query, document = _text(row, "query", where), _text(row, "document", where)
    if "negatives" not in row:
        return Pair(query, document, **common)
    negatives = [row["negatives"]] if isinstance(row["negatives"], str) else row["negatives"]
    return Triplet(query, document, () if negatives == [] else _texts(negatives, "negatives", where), **common)


def example_record(example: Example) -> dict[str, Any]:
    """The JSON object of a row; empty values are left out.

    >>> example_record(Pair("q", "d", language="en"))
    {'query': 'q', 'document': 'd', 'lang': 'en'}
    """
    if isinstance(example, Grouped):
        queries = []
        for question in example.questions:
            row: dict[str, Any] = {"query": question.query, "chunk": question.chunk}
            row |= {"scores": list(question.scores)} if question.scores else {}
            queries.append(row | ({"id": question.id} if question.id else {}))
        body: dict[str, Any] = {"chunks": list(example.chunks), "queries": queries}
    else:
        body = {"query": example.query, "document": example.document}
        body |= {"negatives": list(example.negatives)} if isinstance(example, Triplet) else {}
    values = (example.id, example.document_id, example.language, example.instruction, example.source)
    return body | {name: value for name, value in zip(_COMMON, values, strict=True) if value}


def example_line(example: Example) -> str:
    """The row as a line of JSON, its newline included."""
    return json.dumps(example_record(example), ensure_ascii=False) + "\n"


def example_columns(names: Iterable[str]) -> list[str]:
    """Those of a table's columns that rows are made of; without any for a query or chunks, it is no such table.

    >>> example_columns(["anchor", "positive", "negative_1", "split"]), example_columns(["text", "lang"])
    (['anchor', 'positive', 'negative_1'], [])
    """
    known = [name for name in names if name in _NAMES or name in _ALIASES or _NUMBERED.fullmatch(name)]
    return known if {"query", "anchor", "chunks"} & set(known) else []


def content_key(example: Example) -> int:
    """The same for rows with the same query and document (chunks and queries), within this process.

    >>> content_key(Pair("q", "d", id="1")) == content_key(Triplet("q", "d", ("n",)))
    True
    """
    if isinstance(example, Grouped):
        return hash((example.chunks, tuple(question.query for question in example.questions)))
    return hash((example.query, example.document))


def _renamed(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    numbered: list[tuple[int, Any]] = []
    for name, value in record.items():
        own = _ALIASES.get(name, name)
        if value is None:
            continue
        if found := _NUMBERED.fullmatch(name):
            numbered.append((int(found[1]), value))
            continue
        if own in row:
            raise InputError(f"{where} has '{own}' under two names; keep one of them")
        if name == "pos":
            if not isinstance(value, list) or len(value) != 1:
                raise InputError(f"{where}: 'pos' must be a list of one document; give a row of its own to every other")
            value = value[0]
        row[own] = value
    if numbered:
        if "negatives" in row:
            raise InputError(f"{where} has 'negatives' under two names; keep one of them")
        row["negatives"] = [value for _, value in sorted(numbered, key=lambda item: item[0])]
    return row


def _text(row: Mapping[str, Any], name: str, where: str, *, optional: bool = False) -> str:
    value = row.get(name)
    if value is None:
        if optional:
            return ""
        what = "positive: 'document' is" if name == "document" else f"'{name}': it is"
        raise InputError(f"{where} has no {what} needed in every row; found keys {_brief(sorted(row))}")
    if name in ("id", "document_id") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{where}: '{name}' must be a string, not {type(value).__name__}")
    if not optional and not value.strip():
        raise InputError(f"{where}: '{name}' is empty; give it a text or remove the row")
    return value


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"{where}: '{name}' must be a list of at least one text")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise InputError(f"{where}: '{name}' {i} must be a string, not {type(text).__name__}")
        if not text.strip():
            raise InputError(f"{where}: '{name}' {i} is empty; give it a text or remove it")
    return tuple(value)


def _questions(value: Any, chunks: int, where: str) -> tuple[Question, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: 'queries' must be a list of at least one object with 'query' and 'chunk'")
    found = []
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise InputError(f"{where}: query {i} must be an object with 'query' and 'chunk', not {_brief(item)}")
        chunk = item.get("chunk")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int)):
            raise InputError(f"{where}: query {i} has chunk {_brief(chunk)}; a whole number from 0, or null, is needed")
        if chunk is not None and not 0 <= chunk < chunks:
            raise InputError(
                f"{where}: query {i} has chunk {_brief(chunk)}, the row has {chunks} chunks (0 to {chunks - 1}); "
                "correct it"
            )
        scores = _scores(item.get("scores"), chunks)
        if scores is None:
            raise InputError(f"{where}: query {i} must have as many finite 'scores' as the row has chunks ({chunks})")
        text = _text(item, "query", f"{where}, query {i}")
        found.append(Question(text, chunk, scores, _text(item, "id", f"{where}, query {i}", optional=True)))
    return tuple(found)


def _scores(value: Any, chunks: int) -> tuple[float, ...] | None:
    """A teacher's scores, empty without any; ``None`` if they cannot be used."""
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or len(value) != chunks:
        return None
    if not all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in value):
        return None
    try:
        scores = tuple(map(float, value))
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return scores if all(map(math.isfinite, scores)) else None


def _brief(value: Any) -> str:
    """A value in a message; a broken row may hold megabytes."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]} ..."
