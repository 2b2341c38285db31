"""What an index should answer, worked out from plain dictionaries: exact cosines, filters in Python, BM25 by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np


def passes(where: Any, key: str, metadata: dict[str, Any]) -> bool:
    """Whether a filter (as a dict) lets a record through."""
    return all(_passes(name, value, key, metadata) for name, value in where.items())


def _passes(name: str, value: Any, key: str, metadata: dict[str, Any]) -> bool:
    if name == "and":
        return all(passes(part, key, metadata) for part in value)
    if name == "or":
        return any(passes(part, key, metadata) for part in value)
    if name == "not":
        return not passes(value, key, metadata)
    found = [key] if name == "key" else _values(metadata, name)
    conditions = value if isinstance(value, dict) else {"eq": value}
    return all(_holds(op, operand, found) for op, operand in conditions.items())


def _values(metadata: dict[str, Any], name: str) -> list[Any]:
    value: Any = metadata
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return []
        value = value[part]
    return value if isinstance(value, list) else [value]


def _alike(a: Any, b: Any) -> bool:
    number = (int, float)
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool)
    return (isinstance(a, number) and isinstance(b, number)) or type(a) is type(b)


def _holds(op: str, operand: Any, found: list[Any]) -> bool:
    if op == "in":
        return any(_holds("eq", item, found) for item in operand)
    if op == "ne":
        return not _holds("eq", operand, found)
    same = [item for item in found if _alike(item, operand)]
    if op == "prefix":
        return any(item.startswith(operand) for item in same)
    compare = {
        "eq": lambda a: a == operand,
        "lt": lambda a: a < operand,
        "lte": lambda a: a <= operand,
        "gt": lambda a: a > operand,
        "gte": lambda a: a >= operand,
    }[op]
    return any(compare(item) for item in same)


def cosines(query_D: Any, rows_ND: Any) -> Any:
    """Exact, in float64."""
    query, rows = query_D.astype(np.float64), rows_ND.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.divide(rows @ query, lengths, out=np.zeros(len(rows)), where=lengths > 0)


def bm25(query: list[str], documents: dict[int, list[str]]) -> dict[int, float]:
    """Scores above 0, by the formula of SQLite's documentation of ``bm25()`` (k1 = 1.2, b = 0.75).

    ``query``: the words asked for, each once.
    """
    count = len(documents)
    average = sum(map(len, documents.values())) / max(1, count)
    scores: dict[int, float] = {}
    often_in = {word: sum(word in words for words in documents.values()) for word in query}
    there = {word: holding for word, holding in often_in.items() if holding}
    rarer = {word: holding for word, holding in there.items() if 2 * holding <= count}
    for word, holding in (rarer or there).items():  # words in over half of all chunks weigh nothing
        idf = math.log((count - holding + 0.5) / (holding + 0.5))
        idf = idf if idf > 0 else 1e-6
        for id_, words in documents.items():
            often = Counter(words)[word]
            if often:
                part = idf * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(words) / average))
                scores[id_] = scores.get(id_, 0.0) + part
    return scores
