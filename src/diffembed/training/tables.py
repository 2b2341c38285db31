"""TOML tables into frozen dataclasses: a key that is unknown or missing, or a value of the wrong type, is an error."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

from diffembed.errors import RecipeError


def build(cls: Any, data: Any, path: str, where: str = "") -> Any:
    """``cls`` from a table.

    Args:
        cls: a dataclass; its fields are the keys, and may be dataclasses, tuples, dicts, literals and plain types.
        path: of the file, for messages.
        where: the table's name in it; empty at the top.

    Raises:
        RecipeError: names path, table and key.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: [{where}] must be a table")
    hints = typing.get_type_hints(cls)
    names = {f.name: f for f in fields(cls)}
    place = f"[{where}]" if where else "the recipe"
    if unknown := sorted(set(data) - set(names)):
        raise RecipeError(f"{path}: unknown key '{unknown[0]}' in {place}; known: {', '.join(sorted(names))}")
    absent = [n for n, f in names.items() if n not in data and f.default is MISSING and f.default_factory is MISSING]
    if absent:
        raise RecipeError(f"{path}: {place} lacks '{absent[0]}'")
    return cls(**{n: _value(hints[n], v, path, f"{where}.{n}" if where else n) for n, v in data.items()})


def _value(hint: Any, value: Any, path: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        hint = _one_of(arguments, value)
    if is_dataclass(hint):
        return build(hint, value, path, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{path}: '{where}' must be a list")
        return tuple(_value(arguments[0], v, path, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise RecipeError(f"{path}: '{where}' must be a table")
        return {n: _value(arguments[1], v, path, f"{where}.{n}") for n, v in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{path}: '{where}' is {value!r}; expected one of {', '.join(map(repr, arguments))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{path}: '{where}' is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any) -> Any:
    """Which of several types a value is meant for: the table whose keys fit best, else the first plain type it has."""
    tables = [h for h in hints if is_dataclass(h)]
    if tables and isinstance(value, dict):
        return max(tables, key=lambda h: len({f.name for f in fields(h)} & set(value)))
    if value is None or tables:
        return tables[0] if tables else hints[0]
    return next((h for h in hints if isinstance(value, h) and not isinstance(value, bool)), hints[0])
