"""Filters: which documents a search may find, said in Python as a dict or on the command line as a sentence.

A filter is a small tree of conditions on the fields of a document. Fields are the keys of its metadata (of nested
objects with a dot: ``author.name``) and three built-in ones: ``key`` (the id of a record, the path of a file), ``path``
(of files only) and ``kind`` (``prose``, ``markdown``, ``rst``, ``code``, ``records``); ``metadata.kind`` is the key of
that name in the metadata. A field that holds a list meets a condition when one of its elements does; one that is not
there meets none. Numbers are compared with numbers and strings with strings, by code points.

It becomes SQL with marks for all values and names, so nothing in it can be taken for SQL. ``filter_text.py`` reads the
sentences.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffembed.errors import InputError
from diffembed.index.catalog import Catalog, IdArray
from diffembed.index.connection import explained
from diffembed.index.schema import require_unicode, typed

Scalar = str | int | float | bool | None
Comparison = Literal["=", "<", "<=", ">", ">="]
Where = Mapping[str, Any] | str
"""A filter as given: a dict, or a sentence (see ``filter_text.py``)."""

BUILT_IN = ("key", "path", "kind")
MAX_CONDITIONS = 200
MAX_DEPTH = 16
"""How deep a filter may be nested; at 26 the parser of SQLite gives up."""
MAX_VALUES = 10_000
_COMPARISONS: dict[str, Comparison] = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = (*_COMPARISONS, "ne", "in", "prefix")
_EXPECTED = (
    'write {"field": value}, {"field": {"gte": 1, "lt": 9}} with ' + ", ".join(_OPERATORS) + ', or {"and": [...]}, '
    '{"or": [...]}, {"not": {...}}'
)


@dataclass(frozen=True, slots=True)
class Compare:
    """A field against a value."""

    field: str
    op: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field has one of some values."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """A field is a string that begins so."""

    field: str
    prefix: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of these hold; of none, always."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of these holds; of none, never."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """This does not hold."""

    part: Filter


Filter = Compare | OneOf | Prefix | AllOf | AnyOf | Negation


def parse_filter(where: Where) -> Filter:
    """A filter as a tree, checked.

    Raises:
        InputError: not a filter; the message says what was expected where.

    >>> parse_filter({"lang": "en", "year": {"gte": 2020}})
    AllOf(parts=(Compare(field='lang', op='=', value='en'), Compare(field='year', op='>=', value=2020)))
    >>> parse_filter("not kind = code")
    Negation(part=Compare(field='kind', op='=', value='code'))
    """
    if isinstance(where, str):
        from diffembed.index.filter_text import parse_text

        tree = parse_text(where)
    else:
        tree = _from_dict(where, "the filter")
    nodes = list(_nodes(tree))
    if len(nodes) > MAX_CONDITIONS:
        raise InputError(
            f"the filter has {len(nodes)} conditions, at most {MAX_CONDITIONS} are allowed; use 'in' for lists"
        )
    values = sum(len(node.values) for node in nodes if isinstance(node, OneOf))
    if values > MAX_VALUES:
        raise InputError(f"the lists of the filter have {values} values, at most {MAX_VALUES} are allowed in all")
    check_depth(_depth(tree))
    return tree


def check_depth(depth: int) -> None:
    """Raise ``InputError`` for a filter that is nested too deep."""
    if depth > MAX_DEPTH:
        raise InputError(f"the filter is nested more than {MAX_DEPTH} deep; write it flatter")


def _depth(tree: Filter) -> int:
    if isinstance(tree, AllOf | AnyOf):
        return 1 + max(map(_depth, tree.parts), default=0)
    return 1 + _depth(tree.part) if isinstance(tree, Negation) else 0


def fields_of(where: Where) -> set[str]:
    """Names of the fields of the metadata that a filter asks for.

    >>> sorted(fields_of("key = a and not metadata.kind = x or year > 2020"))
    ['kind', 'year']
    """
    nodes = [node for node in _nodes(parse_filter(where)) if isinstance(node, Compare | OneOf | Prefix)]
    return {node.field.removeprefix("metadata.") for node in nodes if node.field not in BUILT_IN}


def _nodes(tree: Filter) -> Iterator[Filter]:
    yield tree
    for part in tree.parts if isinstance(tree, AllOf | AnyOf) else [tree.part] if isinstance(tree, Negation) else []:
        yield from _nodes(part)


def _from_dict(where: object, what: str, depth: int = 0) -> Filter:
    if not isinstance(where, Mapping):
        raise InputError(f"{what} is {_shown(where)}, not a dict; {_EXPECTED}")
    check_depth(depth)  # before it is walked through, by functions that call themselves
    parts: list[Filter] = []
    for name, value in where.items():
        if name in ("and", "or"):
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise InputError(f"{name!r} of the filter has {_shown(value)}, not a list of filters; {_EXPECTED}")
            inner = tuple(_from_dict(part, f"a part of {name!r}", depth + 1) for part in value)
            parts.append(AllOf(inner) if name == "and" else AnyOf(inner))
        elif name == "not":
            parts.append(Negation(_from_dict(value, "what stands in 'not'", depth + 1)))
        elif not isinstance(name, str) or not name:
            raise InputError(f"a field of the filter is called {_shown(name)}; {_EXPECTED}")
        elif isinstance(value, Mapping):
            parts += [condition(name, str(op), operand) for op, operand in value.items()]
            if not value:
                raise InputError(f"field {name!r} of the filter has an empty condition; {_EXPECTED}")
        else:
            parts.append(condition(name, "eq", value))
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def condition(field: str, op: str, value: object) -> Filter:
    """One condition, checked.

    Args:
        field: its name.
        op: ``eq``, ``ne``, ``lt``, ``lte``, ``gt``, ``gte``, ``in`` or ``prefix``.
        value: a scalar; for ``in`` a list of them.
    """
    require_unicode("a field of the filter", field)
    if op not in _OPERATORS:
        raise InputError(f"field {field!r} of the filter has the operator {op!r}; use one of {', '.join(_OPERATORS)}")
    if op == "in":
        if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str | bytes):
            raise InputError(f"'in' of field {field!r} has {_shown(value)}; give a list of values")
        if len(value) > MAX_VALUES:
            raise InputError(f"'in' of field {field!r} has {len(value)} values, at most {MAX_VALUES} are allowed")
        return OneOf(field, tuple(_equal(field, item) for item in value))
    if op == "prefix":
        if not isinstance(value, str):
            raise InputError(f"'prefix' of field {field!r} has {_shown(value)}; give a string")
        require_unicode(f"'prefix' of field {field!r}", value)
        return Prefix(field, value)
    scalar = _equal(field, value) if op in ("eq", "ne") else _scalar(field, value)
    if op == "ne":
        return Negation(Compare(field, "=", scalar))
    if op != "eq" and (scalar is None or isinstance(scalar, bool)):
        raise InputError(f"{op!r} of field {field!r} has {_shown(value)}; an order needs a number or a string")
    return Compare(field, _COMPARISONS[op], scalar)


def _equal(field: str, value: object) -> Scalar:
    """What a field has to be. An integer names the key of its digits, as where records are written and deleted."""
    scalar = _scalar(field, value)
    whole = isinstance(scalar, int) and not isinstance(scalar, bool)
    return str(scalar) if field == "key" and whole else scalar


def _scalar(field: str, value: object) -> Scalar:
    if isinstance(value, list | tuple | set | frozenset):
        raise InputError(f'field {field!r} of the filter has a list; write {{"{field}": {{"in": [...]}}}}')
    if value is not None and not isinstance(value, str | int | float | bool):
        raise InputError(f"field {field!r} of the filter has {_shown(value)}; give a string, number, boolean or null")
    if isinstance(value, str):
        require_unicode(f"field {field!r} of the filter", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"field {field!r} of the filter has {value}; give a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"field {field!r} of the filter has {value}, beyond 64 bits; give it as a string")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def allowed_rows(catalog: Catalog, text: str, values: Sequence[Any]) -> IdArray:
    """Ids of the chunks of all documents that a filter lets through, ascending; ``text, values`` as of ``sql``."""
    spans = catalog.query(f"SELECT d.first_chunk, d.chunks FROM documents d WHERE {text}", values)
    state = catalog.state()
    try:
        first_N, count_N = np.array(spans, np.int64).reshape(-1, 2).T
        order = np.argsort(first_N)
        first_N, count_N = first_N[order], count_N[order]
        edges = np.stack([first_N, first_N + count_N], axis=1).reshape(-1)
        sound = (np.diff(edges) >= 0).all() and 0 <= count_N.sum() <= state.rows
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound or (len(edges) and not 1 <= edges[0] <= edges[-1] <= state.next_row):
        raise explained(catalog.folder, sqlite3.DatabaseError("documents have impossible chunks"))
    ends = np.cumsum(count_N)
    return np.repeat(first_N - ends + count_N, count_N) + np.arange(ends[-1] if len(ends) else 0, dtype=np.int64)


def sql(tree: Filter) -> tuple[str, list[Any]]:
    """A filter as an SQL condition on a row ``d`` of ``documents``, with the values for its marks.

    >>> sql(Prefix("lang", "e"))[0]
    'd.id IN (SELECT document FROM facts WHERE field = ? AND type = ? AND value >= ? AND value < ?)'
    """
    if isinstance(tree, AllOf | AnyOf):
        inner = [sql(part) for part in tree.parts]
        word, empty = (" AND ", "1") if isinstance(tree, AllOf) else (" OR ", "0")
        return f"({word.join(text for text, _ in inner) or empty})", [value for _, values in inner for value in values]
    if isinstance(tree, Negation):
        text, values = sql(tree.part)
        return f"NOT {text}", values
    if isinstance(tree, OneOf) and not tree.values:
        return "0", []
    if tree.field in BUILT_IN:
        return _built_in_sql(tree)
    return _facts_sql(tree, tree.field.removeprefix("metadata."))


def _facts_sql(tree: Compare | OneOf | Prefix, field: str) -> tuple[str, list[Any]]:
    texts, values = [], []
    for type_, text, own in _by_type(tree, "value"):
        texts.append(f"d.id IN (SELECT document FROM facts WHERE field = ? AND type = ? AND {text})")
        values += [field, type_, *own]
    return (texts[0] if len(texts) == 1 else f"({' OR '.join(texts) or '0'})"), values


def _built_in_sql(tree: Compare | OneOf | Prefix) -> tuple[str, list[Any]]:
    """``path`` and ``kind`` and ``key`` are strings; a path that is not absolute counts from the current folder."""
    if tree.field == "path":
        tree = absolute_paths(tree)
    found = _by_type(tree, "d.kind" if tree.field == "kind" else "d.key")
    if not found or found[0][0] != "s" or len(found) > 1:
        raise InputError(f"{tree.field} is a string; compare it with strings")
    _, text, values = found[0]
    return f"({text}{' AND d.is_file' if tree.field == 'path' else ''})", values


def _by_type(tree: Compare | OneOf | Prefix, column: str) -> list[tuple[str, str, list[Any]]]:
    """For each type of value: its letter, a condition on the column, and its values."""
    if isinstance(tree, Compare):
        type_, value = typed(tree.value)
        return [(type_, f"{column} {tree.op} ?", [value])]
    if isinstance(tree, OneOf):
        groups: dict[str, list[Any]] = {}
        for item in tree.values:
            type_, value = typed(item)
            groups.setdefault(type_, []).append(value)
        return [(type_, f"{column} IN ({','.join('?' * len(group))})", group) for type_, group in groups.items()]
    after = _after(tree.prefix)
    if after is None:
        return [("s", f"{column} >= ?", [tree.prefix])]
    return [("s", f"{column} >= ? AND {column} < ?", [tree.prefix, after])]


def _after(prefix: str) -> str | None:
    """The least string above all that begin so; ``None`` if there is none.

    >>> _after("ab"), _after("a\U0010ffff"), _after("")
    ('ac', 'b', None)
    """
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= following < 0xE000 else following)  # no surrogates in UTF-8


def absolute_paths(tree: Compare | OneOf | Prefix) -> Compare | OneOf | Prefix:
    """A condition on ``path`` in which paths that are not absolute count from the current folder."""

    def path(given: Scalar) -> Scalar:
        if not isinstance(given, str) or os.path.isabs(given):
            return given
        ending = os.sep if given.endswith(os.sep) else ""
        return os.path.abspath(given) + ending if given else ""

    if isinstance(tree, Prefix):
        return Prefix(tree.field, str(path(tree.prefix)))
    if isinstance(tree, OneOf):
        return OneOf(tree.field, tuple(map(path, tree.values)))
    return Compare(tree.field, tree.op, path(tree.value))
