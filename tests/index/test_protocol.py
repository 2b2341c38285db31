"""Both indexes have what ``SearchIndex`` asks for, with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from diffembed.index.index import Index
from diffembed.index.protocol import SearchIndex
from diffembed.index.qdrant import QdrantIndex

METHODS = sorted(
    name
    for name, value in vars(SearchIndex).items()
    if inspect.isfunction(value) and (name == "__len__" or not name.startswith("_"))
)


def arguments(cls: type, name: str) -> list[tuple[str, object, bool]]:
    parameters = inspect.signature(getattr(cls, name)).parameters.values()
    return [(p.name, p.kind, p.default is p.empty) for p in parameters]


def test_there_is_something_to_compare() -> None:
    assert {"add", "upsert", "delete", "search", "search_all", "search_vectors", "__len__"} <= set(METHODS)


@pytest.mark.parametrize("cls", [Index, QdrantIndex])
@pytest.mark.parametrize("name", METHODS)
def test_methods_take_the_same_arguments(cls: type, name: str) -> None:
    assert arguments(cls, name) == arguments(SearchIndex, name)


def test_defaults_agree() -> None:
    for name in METHODS:
        here, there = (inspect.signature(getattr(cls, name)).parameters for cls in (Index, QdrantIndex))
        assert {n: p.default for n, p in here.items()} == {n: p.default for n, p in there.items()}, name
