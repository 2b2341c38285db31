"""Searches of a collection, filters among them: what an index on disk finds, found by Qdrant's own engine.

``qdrant_server.py`` says what of a cluster these tests, and those of the files beside this one, cover and what not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.index.records import RECORDS, told

from diffembed.errors import InputError
from diffembed.index import Index
from diffembed.index.qdrant import QdrantIndex
from diffembed.index.qdrant_forms import CollectionSettings
from diffembed.index.qdrant_points import number_of
from diffembed.index.qdrant_search import Searcher
from diffembed.index.searching import Request

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer


@pytest.fixture(scope="module")
def kept(
    server: tuple[str, QdrantServer], make_encoder: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Index, QdrantIndex]]:
    """As ``both``, with all indexes there are; for tests that only read."""
    encoder = make_encoder()
    here = Index.create(tmp_path_factory.mktemp("kept") / "index", model=encoder)
    form = CollectionSettings(hybrid=True, filters=("lang", "n"))
    with QdrantIndex.create(server[0], "kept", model=encoder, form=form) as there:
        for index in (here, there):
            index.add(RECORDS)
        yield here, there


@pytest.mark.parametrize("query", ["owls hear mice in the snow", "bake a loaf", "an owner of a value", "Mehl mischen"])
def test_hits_are_those_of_an_index_on_disk(kept: tuple[Index, QdrantIndex], query: str) -> None:
    here, there = kept
    assert told(there, query) == told(here, query)
    pairs = zip(there.search(query), here.search(query), strict=True)
    assert all(abs(one.cosine - other.cosine) < 5e-4 for one, other in pairs)
    for options in ({"group": True, "top": 3}, {"neighbours": 1, "top": 2}, {"exact": True}, {"where": "lang = en"}):
        assert told(there, query, **options) == told(here, query, **options), options


def test_many_queries_go_together(kept: tuple[Index, QdrantIndex], engine: QdrantServer) -> None:
    here, there = kept
    queries = [record["metadata"].get("lang", "x") for record in RECORDS] * 10
    asked = len(engine.asked("query/batch"))
    found = there.search_all(queries, top=2)
    assert [[h.key for h in hits] for hits in found] == [
        [h.key for h in hits] for hits in here.search_all(queries, top=2)
    ]
    assert len(engine.asked("query/batch")) - asked == 2  # forty queries, 32 in a request
    there.search_all(queries, top=1000, sentences=False)
    assert len(engine.asked("query/batch")) - asked == 2 + 4  # ten thousand hits in a request


def test_words_count_in_hybrid_search(kept: tuple[Index, QdrantIndex]) -> None:
    here, there = kept
    for fusion in ("rrf", "weighted"):
        theirs, ours = (index.search("flour snow", hybrid=fusion, top=6) for index in (there, here))
        assert {h.key for h in theirs[:2]} == {h.key for h in ours[:2]} == {"owls", "bread"}
        assert [h.bm25 > 0 for h in theirs if h.bm25 is not None] == [True, True, False, False, False, False]
        assert theirs[0].score == pytest.approx(ours[0].score, abs=0.2 if fusion == "weighted" else 1e-6)


def test_hybrid_without_an_index_of_words_is_refused(make_collection: Callable[..., QdrantIndex], encoder: Any) -> None:
    with pytest.raises(InputError, match="no index of words.*hybrid=True"):
        make_collection(model=encoder).search("owls", hybrid=True)


def test_a_hit_that_is_deleted_between_two_requests_is_left_out(kept: tuple[Index, QdrantIndex]) -> None:
    points = {number_of(p.id): p for p in kept[1].collection.scroll()}
    near, gone = list(points)[:2]
    for fusion in ("rrf", "weighted"):
        searcher = Searcher(kept[1].collection, Request(3, fusion=fusion))
        found = searcher._fused(points, {near: (points[near], 0.5)}, [gone, near], {}, {near: 1.0}, 3)
        assert [answer.stored.id for answer in found] == [near]


def test_random_filters_over_random_metadata(
    make_collection: Callable[..., QdrantIndex], encoder: Any, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    names = ["a", "b.c", "b", 'q"uo%te\\', "metadata", "facts", "é", "[]", " "]
    values: list[Any] = ["x", "xy", "", 'a"b', 0, 1, 1.0, -2.5, 2**53 + 1, True, False, None]

    def metadata(depth: int = 0) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in draw.sample(names, draw.randint(0, 4)):
            kind = draw.random()
            if kind < 0.2 and depth < 2:
                made[name] = metadata(depth + 1)
            elif kind < 0.3 and depth < 2:
                made[name] = [metadata(depth + 1), [draw.choice(values)]]
            elif kind < 0.5:
                made[name] = draw.sample(values, draw.randint(0, 3))
            else:
                made[name] = draw.choice(values)
        return made

    def condition(depth: int = 0) -> dict[str, Any]:
        if depth < 3 and draw.random() < 0.4:
            word = draw.choice(["and", "or", "not"])
            return {
                word: condition(depth + 1)
                if word == "not"
                else [condition(depth + 1) for _ in range(draw.randint(0, 3))]
            }
        name = draw.choice([*names, "b.b", "b.c.a", "metadata.a"])
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 2**53]
        how = draw.choice(["eq", "ne", "in", "prefix", "lt", "lte", "gt", "gte"])
        value: Any = draw.choice(values)
        if how == "in":
            value = draw.sample(values, draw.randint(0, 4))
        elif how == "prefix":
            value = draw.choice(["", "x", "a"])
        elif how in ("lt", "lte", "gt", "gte"):
            value = draw.choice(numbers)
        return {name: {how: value}}

    records = [{"id": n, "text": f"word {n}", "metadata": metadata()} for n in range(60)]
    here, there = Index.create(tmp_path / "index", model=encoder), make_collection(model=encoder)
    here.add(records)
    there.add(records)
    vector = np.ones((1, encoder.dims[-1]), np.int8)
    let_through = 0
    for _ in range(100):
        where = condition()
        ids, _ = here.search_vectors(vector, 60, where=where)
        ours = {here.chunks([i])[0].document.key for i in ids[0].tolist() if i >= 0}
        assert {h.key for h in there.search("word", where=where, top=60, sentences=False)} == ours, where
        let_through += len(ours)
    assert 100 < let_through < 100 * 59  # filters that decide something


def test_an_order_of_strings_is_refused(kept: tuple[Index, QdrantIndex]) -> None:
    with pytest.raises(InputError, match="cannot put strings in order.*prefix"):
        kept[1].search("x", where={"lang": {"lt": "f"}})
