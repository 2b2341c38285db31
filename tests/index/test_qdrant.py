"""``QdrantIndex`` against Qdrant's own engine, through qdrant-client and HTTP, beside an index on disk as the oracle.

Needs qdrant-client and qdrant-edge-py (``pip install 'diffembed[test]'``); ``qdrant_server.py`` says what of a cluster
this covers and what not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'diffembed[qdrant]'")
pytest.importorskip("qdrant_edge", reason="qdrant-edge-py, the engine to test against, is not installed")

from qdrant_client.models import Filter, HasIdCondition
from tests.index.qdrant_server import QdrantServer

from diffembed.cli import app
from diffembed.errors import ClusterError, IndexStoreError, InputError
from diffembed.index import Index
from diffembed.index.qdrant import QdrantIndex
from diffembed.index.qdrant_forms import CollectionSettings
from diffembed.index.qdrant_points import number_of, point_id
from diffembed.index.qdrant_search import Searcher
from diffembed.index.qdrant_transfer import _blocks
from diffembed.index.searching import Request

REPO = Path(__file__).parents[2]
RECORDS: list[dict[str, Any]] = [
    {"id": "owls", "text": "Owls hunt at night. They hear a mouse under the snow.", "metadata": {"lang": "en", "n": 1}},
    {"id": "bread", "chunks": ["Mix flour and water.", "Bake the loaf.", "Eat it warm."], "metadata": {"n": 2.5}},
    {"id": 7, "text": "Every value has an owner.", "metadata": {"lang": "en", "tags": ["rust", "code"], "draft": True}},
    {"id": "brot", "text": "Mehl und Wasser mischen.", "metadata": {"lang": "de", "n": 2**60 + 1, "end": None}},
]


@pytest.fixture
def both(make_collection: Callable[..., QdrantIndex], encoder: Any, tmp_path: Path) -> tuple[Index, QdrantIndex]:
    """The same records on disk and in a collection."""
    here, there = Index.create(tmp_path / "index", model=encoder), make_collection(model=encoder)
    for index in (here, there):
        index.add(RECORDS)
    return here, there


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


def told(index: Index | QdrantIndex, query: str, **options: Any) -> list[tuple[Any, ...]]:
    hits = index.search(query, **options)
    return [(h.key, h.text, h.metadata, h.best_sentence, h.line_start, h.before, h.after, h.path) for h in hits]


# Searching: as on disk


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


# Filters: the documents that the index on disk lets through


def test_an_old_server_is_refused(
    make_collection: Any, encoder: Any, engine: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "version", "1.19.2")
    with pytest.raises(ClusterError, match=r"runs Qdrant 1\.19\.2; it has to be 1\.20 or newer"):
        make_collection(model=encoder)


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


# Writing


def test_a_document_that_is_there_in_part_is_written_again(both: tuple[Index, QdrantIndex]) -> None:
    there = both[1]
    torn = there.collection.scroll()
    victim = next(p for p in torn if p.payload["key"] == "bread" and p.payload["chunk"] == 2)
    there.collection.delete([victim.id])
    assert len(there) == 5
    report = there.upsert(RECORDS)
    assert (report.replaced, report.unchanged) == (1, 3)
    assert len(there) == 6


def test_what_a_longer_version_left_goes_in_the_end(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder)
    index.add(RECORDS)
    shorter = [{"id": "bread", "chunks": ["Buy bread."]}]
    engine.fail("/points/delete", times=3, status=503)
    with pytest.raises(ClusterError, match=r"1 of 1 documents were not written as a whole \('bread'\)"):
        index.upsert(shorter)
    assert index.upsert(shorter).replaced == 1
    assert [h.text for h in index.search("bread", where={"key": "bread"})] == ["Buy bread."]


def test_metadata_that_not_all_chunks_have_is_written_again(make_collection: Any, encoder: Any) -> None:
    index = make_collection(model=encoder)
    index.add(RECORDS)
    first = next(p for p in index.collection.scroll() if p.payload["key"] == "bread" and p.payload["chunk"] == 0)
    index.collection.set_payloads([({"metadata": {"n": 3}}, Filter(must=[HasIdCondition(has_id=[first.id])]))])
    assert index.upsert([{**RECORDS[1], "metadata": {"n": 3}}]).replaced == 1
    assert len(index.search("bread", where="n = 3")) == 3


def test_what_is_stored_is_asked_for_in_blocks(
    make_collection: Any, engine: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffembed.index.records.BATCH_CHUNKS", 100)  # commits within a block
    index = make_collection(dims=8)
    records = [{"id": n, "text": f"number {n}", "vector": [n % 100] * 8} for n in range(600)]
    index.upsert(records)
    asked = [body for body in engine.asked("/points$") if "ids" in body]
    assert [len(body["ids"]) for body in asked] == [256, 256, 88]
    engine.requests.clear()
    assert index.upsert({**record, "metadata": {"n": 1}} for record in records).described == 600
    assert len(engine.asked("/points/batch")) < 10


@pytest.mark.parametrize("path", ["/points/delete", "/points$"])
def test_a_server_that_went_away_is_not_asked_on_and_on(make_collection: Any, engine: QdrantServer, path: str) -> None:
    index = make_collection(dims=8)
    engine.fail(path, times=99, status=429, only_if=lambda body: "ids" not in body)
    with pytest.raises(ClusterError, match="600 of 600 documents were not written") as caught:
        index.upsert({"id": n, "text": f"number {n}", "vector": [n % 100] * 8} for n in range(600))
    assert caught.value.failed == tuple(map(str, range(600)))
    assert len([body for body in engine.asked(path) if "ids" not in body]) == 3  # attempts


def test_metadata_that_was_not_written_is_named(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder)
    index.add(RECORDS)
    changed = [{**record, "metadata": {"n": 3}} for record in RECORDS]
    queued = '{"result": [{"operation_id": 1, "status": "wait_timeout"}], "status": "ok", "time": 0.0}'
    for how in ({"status": 400}, {"status": 200, "body": queued}):
        engine.fail("/points/batch", times=3, **how)
        with pytest.raises(ClusterError, match="4 of 4 documents were not written as a whole") as caught:
            index.upsert(changed)
        assert caught.value.failed == ("owls", "bread", "7", "brot")
        engine.failures.clear()
    assert index.upsert(changed).described == 4
    assert len(index.search("x", where="n = 3")) == 6


def test_points_are_the_same_whoever_writes_them(
    both: tuple[Index, QdrantIndex], make_collection: Any, encoder: Any
) -> None:
    there = both[1]
    again = make_collection("-again", model=encoder)
    again.add(reversed(RECORDS))
    ids = {point.id for point in there.collection.scroll(payload=False)}
    assert ids == {point.id for point in again.collection.scroll(payload=False)}
    hit = again.search("owls")[0]
    assert hit.chunk_id == there.search("owls")[0].chunk_id
    vector = encoder.encode_queries(["owls"], dtype="int8").values
    assert again.search_vectors(vector, 1)[0].tolist() == [[hit.chunk_id]]


# The model


def test_another_models_vectors_are_refused(
    both: tuple[Index, QdrantIndex], make_collection: Any, make_encoder: Any
) -> None:
    reopened = make_collection(open_=True)
    assert reopened.settings == both[1].settings
    assert reopened.form == both[1].form
    with pytest.raises(IndexStoreError, match="was made by model fake .*not by other"):
        reopened.search("owls", encoder=make_encoder(name="other"))
    with pytest.raises(IndexStoreError, match="was made by model fake"):
        make_collection("-other", settings=both[1].settings).search("owls", encoder=make_encoder(dims=32))


def test_a_collection_of_somebody_else_is_refused(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder)
    body = engine.collections[index.collection.name].body
    mark, body["metadata"] = body["metadata"], {"owner": "somebody"}
    with pytest.raises(IndexStoreError, match="was not made by diffembed"):
        make_collection(open_=True)
    body["metadata"] = mark
    body["vectors"] = {**body["vectors"], "size": 3}
    with pytest.raises(IndexStoreError, match="holds float16 vectors of 3 dims, its metadata says float16 of 64"):
        make_collection(open_=True)
    with pytest.raises(IndexStoreError, match="no collection 'nobody'"):
        QdrantIndex.open(index.collection.call.url, "nobody")
    with pytest.raises(InputError, match="already"):
        make_collection(model=encoder)


def test_named_shards_keep_tenants_apart(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    form = CollectionSettings(named_shards=True)
    one = make_collection(model=encoder, form=form, shard_key="one")
    two = make_collection(open_=True, shard_key="two", encoder=encoder)
    two.add_shard()
    one.add(RECORDS[:2])
    two.add(RECORDS[2:])
    everything = make_collection(open_=True, encoder=encoder)
    assert (len(one), len(two), len(everything)) == (4, 2, 6)
    assert {h.key for h in two.search("bread")} == {"7", "brot"}
    assert {h.key for h in everything.search("bread")} == {"owls", "bread", "7", "brot"}
    assert two.delete(["bread"]) == 0
    for write in (everything.upsert, everything.delete):
        with pytest.raises(InputError, match="has named shards; say which one"):
            write(RECORDS)
    with pytest.raises(InputError, match="no named shards"):
        make_collection("-plain", model=encoder, shard_key="one")
    assert not any(name.endswith("-plain") for name in engine.collections)


# Trouble


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_what_passes_is_tried_again(make_collection: Any, encoder: Any, engine: QdrantServer, status: int) -> None:
    pauses: list[float] = []
    index = make_collection(model=encoder, sleep=pauses.append)
    headers = {"Retry-After": "7"} if status == 429 else {}
    engine.fail("/points$", times=2, status=status, headers=headers)
    index.add(RECORDS)
    assert len(index) == 6
    assert len(pauses) == 2
    assert pauses == [7, 7] if status == 429 else 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1


@pytest.mark.parametrize(("after", "pause"), [("-3", 0), ("900", 30), ("Wed, 21 Oct 2026 07:28:00 GMT", None)])
def test_other_answers_of_a_busy_server(
    make_collection: Any, encoder: Any, engine: QdrantServer, after: str, pause: float | None
) -> None:
    pauses: list[float] = []
    index = make_collection(model=encoder, sleep=pauses.append)
    engine.fail("/points/count", status=429, headers={"Retry-After": after})
    assert len(index) == 0
    assert pauses == [pause] if pause is not None else 0.25 <= pauses[0] <= 0.5


def test_an_answer_that_got_lost_does_no_harm(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    engine.fail(r"/collections/[^/]+$", times=1, status=0, applied=True, only_if=lambda body: "vectors" in body)
    index = make_collection(model=encoder)
    engine.fail("/points$", times=1, status=0, applied=True, only_if=lambda body: "points" in body)
    engine.fail("/points/delete", times=1, status=502, applied=True)
    index.add(RECORDS)
    assert len(index) == 6


def test_a_write_that_is_only_queued_is_not_done(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder)
    queued = '{"result": {"operation_id": 1, "status": "wait_timeout"}, "status": "ok", "time": 0.0}'
    engine.fail("/points$", times=9, status=200, body=queued, only_if=lambda body: "points" in body)
    with pytest.raises(ClusterError, match="not carried out in time") as caught:
        index.add(RECORDS)
    assert set(caught.value.failed) == {"owls", "bread", "7", "brot"}


def test_no_answer_in_time(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    index = make_collection(model=encoder, timeout=1, attempts=1)
    engine.fail("/points/count", status=-1)
    with pytest.raises(ClusterError, match="could not count points: no answer in time; raise the timeout"):
        len(index)


def test_a_server_that_is_away(make_collection: Any, encoder: Any) -> None:
    with pytest.raises(ClusterError, match=r"http://127\.0\.0\.1:9: could not look .* after 2 attempts: no connection"):
        QdrantIndex.create("http://127.0.0.1:9", "x", model=encoder, attempts=2, sleep=lambda _: None)
    with pytest.raises(InputError, match="no address of a Qdrant server"):
        QdrantIndex.open("localhost:6333", "x")
    with pytest.raises(InputError, match="no address of a Qdrant server"):
        QdrantIndex.open("http://", "x")


def test_a_key_that_is_wrong(make_collection: Any, encoder: Any, engine: QdrantServer) -> None:
    engine.fail("/exists", status=403, body='{"status": {"error": "Forbidden"}}')
    with pytest.raises(ClusterError, match=r"Forbidden; give the key of the server .*QDRANT_API_KEY.* \(HTTP 403\)"):
        make_collection(model=encoder)


def test_the_key_goes_to_the_server_and_nowhere_else(
    make_collection: Any, encoder: Any, engine: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_collection(model=encoder).collection.call.url
    name = make_collection("-2", model=encoder).collection.name
    assert set(engine.keys) == {None}
    for options in ({"api_key": "s3cret"}, {}):
        monkeypatch.setenv("QDRANT_API_KEY", "from-outside")
        engine.keys.clear()
        engine.fail(f"/{name}$", status=401, body='{"status": {"error": "Unauthorized"}}')
        with pytest.warns(UserWarning, match="insecure"), pytest.raises(ClusterError) as caught:
            QdrantIndex.open(url, name, **options)
        key = options.get("api_key", "from-outside")
        assert engine.keys == [key]
        assert key not in str(caught.value)
    monkeypatch.delenv("QDRANT_API_KEY")
    for wrong in ("http://user:s3cret@localhost:6333", "https://localhost:6333/?api-key=s3cret"):
        with pytest.raises(InputError, match="a user or a query") as refused:
            QdrantIndex.open(wrong, "x")
        assert "s3cret" not in str(refused.value)
    for wrong in ("", ".", ".."):
        with pytest.raises(InputError, match="no name of a collection"):
            QdrantIndex.open(url, wrong)


def test_a_collection_that_was_made_in_part_is_completed(
    make_collection: Any, encoder: Any, engine: QdrantServer, server: tuple[str, QdrantServer], tmp_path: Path
) -> None:
    here = Index.create(tmp_path / "index", model=encoder)
    form = {"filters": ("lang", "kind", "metadata.n"), "hybrid": True}
    engine.fail("/index$", status=400, only_if=lambda body: "lang" in body["field_name"])
    with pytest.raises(ClusterError, match="could not index"):
        QdrantIndex.open_for(here.settings, server[0], "in-part", form=form)
    assert len(engine.collections["in-part"].indexes) < 9
    with QdrantIndex.open_for(here.settings, server[0], "in-part", form=form) as there:
        names = {f'facts.{type_}."{name}"' for type_ in "snb" for name in ("lang", "n")}
        assert set(engine.collections["in-part"].indexes) == {"key", "chunk", "kind", "text", *names}
        here.add(RECORDS)
        assert here.copy_to(there).documents == 4


def test_failures_are_named_and_put_right_by_writing_again(
    make_collection: Any, encoder: Any, engine: QdrantServer
) -> None:
    index = make_collection(model=encoder)
    long = {"id": "long", "chunks": [f"chunk {n} of many" for n in range(700)]}  # more than one request
    records = [*RECORDS, long, {"id": "last", "text": "The last one."}]

    def holds(key: str) -> Callable[[dict[str, Any]], bool]:
        return lambda body: any(p["payload"]["key"] == key for p in body.get("points", []) if isinstance(p, dict))

    # The server refuses what holds this document: the rest is written all the same.
    engine.fail("/points$", times=1, status=400, body='{"status": {"error": "too long"}}', only_if=holds("last"))
    with pytest.raises(
        ClusterError, match=r"too long .*2 of 6 documents were not written as a whole \('long', 'last'\)"
    ):
        index.upsert(records)
    assert {h.key for h in index.search("anything", top=9, group=True)} >= {"owls", "bread", "7", "brot"}
    report = index.upsert(records)
    assert (report.unchanged, report.replaced + report.added) == (4, 2)
    assert len(index) == 6 + 700 + 1


# Between disk and cluster


def test_an_index_goes_there(make_collection: Any, encoder: Any, library: Path, tmp_path: Path) -> None:
    here = Index.build([library], tmp_path / "index", encoder=encoder)
    here.add(RECORDS)
    there = make_collection(settings=here.settings, encoder=encoder)
    encoder.encoded.clear()
    first = here.copy_to(there)
    assert (first.documents, first.chunks, first.skipped) == (9, len(here), 0)
    here.upsert([{"id": "owls", "text": "Owls sleep by day."}, {**RECORDS[1], "metadata": {"n": 3}}])
    second = here.copy_to(there)
    assert (second.documents, second.skipped) == (2, 7)
    assert encoder.encoded == ["Owls sleep by day."]
    for query in ("owls hunt", "the owner of a value", "梟"):
        theirs, ours = (told(index, query, encoder=encoder, top=20) for index in (there, here))
        assert theirs == ours
    paths = {"path": {"prefix": str(library / "notes")}}
    assert {h.path for h in there.search("bread", encoder=encoder, where=paths)} == {
        library / "notes" / "rust.md",
        library / "notes" / "bread.md",
    }


def test_long_documents_are_copied_in_small_blocks() -> None:
    def lengths(chunks: int, documents: int) -> list[int]:
        return [len(block) for block in _blocks([([None] * chunks, np.zeros(0))] * documents)]  # type: ignore[list-item]

    assert lengths(1500, 5) == [2, 2, 1]
    assert lengths(1, 600) == [256, 256, 88]


def test_a_copy_that_was_cut_off_goes_on(
    make_collection: Any, encoder: Any, engine: QdrantServer, tmp_path: Path
) -> None:
    here = Index.create(tmp_path / "index", model=encoder)
    here.add({"id": n, "text": f"record number {n}"} for n in range(600))
    there = make_collection(settings=here.settings)
    assert here.copy_to(there, part=(0, 2)).documents == 300
    engine.fail("/points$", times=9, status=503, only_if=lambda body: "points" in body)
    with pytest.raises(ClusterError, match="made to fail.*256 of 256 documents were not written as a whole"):
        here.copy_to(there, part=(1, 2))
    engine.failures.clear()
    report = here.copy_to(there)
    assert (report.documents, report.skipped) == (300, 300)
    assert len(there) == 600


def test_another_collection_is_refused(make_collection: Any, encoder: Any, make_encoder: Any, tmp_path: Path) -> None:
    here = Index.create(tmp_path / "index", model=encoder)
    with pytest.raises(IndexStoreError, match="fingerprint is .* there, .* here"):
        here.copy_to(make_collection(model=make_encoder(name="other")))
    with pytest.raises(IndexStoreError, match="chunk_tokens is 64 there, 256 here"):
        here.copy_to(make_collection("-2", model=encoder, chunk_tokens=64))


def test_vectors_only(make_collection: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(-90, 91, (900, 32)).astype(np.int8)
    ids = rng.permutation(10_000)[:900].astype(np.int64)
    here = Index.create(tmp_path / "index", dims=32, vectors_only=True)
    here.add_vectors(rows, ids)
    there = make_collection(settings=here.settings)
    assert here.copy_to(there).chunks == 900
    here.add_vectors(rows[:1][:, ::-1], ids[:1])  # same length, another vector
    report = here.copy_to(there)
    assert (report.chunks, report.skipped) == (1, 899)
    ours, theirs = (index.search_vectors(rows[:50], 10, exact=True) for index in (here, there))
    assert (ours[0] == theirs[0]).mean() > 0.99
    assert np.abs(ours[1] - theirs[1]).max() < 5e-4
    assert there.delete([int(ids[1]), 10_001]) == 1


# The command line


def run(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_push_search_stats(
    server: tuple[str, QdrantServer], encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffembed.index.asking.load_encoder", lambda model: encoder)
    with Index.create(tmp_path / "index", model=encoder) as index:
        index.add(RECORDS)
    push = ["cluster", "push", str(tmp_path / "index"), server[0], "--collection", "cli", "--quantization", "turbo4"]
    parts = [run(*push, "--filter", "lang", "--part", part)["documents"] for part in ("1/2", "2/2")]
    assert sum(parts) == 4
    assert run(*push)["skipped"] == 4
    hits = run("cluster", "search", "owls", server[0], "-c", "cli", "--where", "lang = en", "--top", "1")["hits"]
    assert [hit["key"] for hit in hits] == ["owls"]
    stats = run("cluster", "stats", server[0], "-c", "cli")
    assert (stats["documents"], stats["rows"], stats["quantization"], stats["status"]) == (4, 6, "turbo4", "green")
    shown = CliRunner().invoke(app, ["cluster", "stats", server[0], "-c", "cli"])
    assert "turbo4" in shown.stdout
    for wrong, said in ((["--vectors", "uint8"], "made with vectors='float16'"), (["--part", "3/2"], "I/N")):
        result = CliRunner().invoke(app, [*push, *wrong])
        assert result.exit_code == 2
        assert said in result.stderr


def test_sizes_cost_what_memory_and_disk_cost() -> None:
    told = run("cluster", "size", "--rows", "1000000", "--dims", "256", "--memory-price", "2", "--disk-price", "1")
    assert len(told["forms"]) == 8
    assert all(form["cost"] == pytest.approx(2 * form["memory_gb"] + form["disk_gb"], abs=1) for form in told["forms"])


# Real embeddings


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """The embedded model's vectors of the lines of our own documents."""
    from diffembed import Encoder
    from diffembed.doctor import BUNDLED

    if not (BUNDLED / "diffembed.json").exists():
        pytest.skip("the embedded model has not been trained yet")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((REPO / "docs").glob("*.md")))
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if 40 < len(line.strip()) < 120))[:320]
    assert len(lines) == 320
    return Encoder.load("default").encode_documents(lines, dtype="int8", dims=256).values


@pytest.mark.parametrize(
    ("form", "least", "most"),
    [
        (CollectionSettings("float16", "none"), 0.99, 1.0),
        (CollectionSettings("float16", "scalar"), 0.99, 1.0),
        (CollectionSettings("float16", "turbo4"), 0.99, 1.0),
        (CollectionSettings("float16", "binary"), 0.98, 1.0),
        (CollectionSettings("uint8", "none"), 0.97, 1.0),
        (CollectionSettings("uint8", "binary"), 0.95, 1.0),
        # The codes alone choose the ten: that this finds less shows that they are in use above.
        (CollectionSettings("float16", "binary", oversampling=1.0), 0.5, 0.97),
    ],
    ids=lambda value: (
        f"{value.vectors}-{value.quantization}-{value.factor}" if isinstance(value, CollectionSettings) else ""
    ),
)
def test_the_engine_finds_what_exact_search_finds(
    make_collection: Any, engine: QdrantServer, real: np.ndarray, form: CollectionSettings, least: float, most: float
) -> None:
    """Real vectors, with the engine's graph and codes, all of them and those that a filter lets through."""
    rows = real.astype(float)
    index = make_collection(dims=rows.shape[1], form=replace(form, filters=("rest", "odd")))
    index.add(
        {"id": n, "text": f"line {n}", "vector": vector, "metadata": {"rest": n % 3, "odd": bool(n % 2)}}
        for n, vector in enumerate(real)
    )
    engine.optimize(index.collection.name)
    info = index.collection.client.get_collection(index.collection.name)
    assert info.indexed_vectors_count == len(rows)  # a graph was built, nothing is scanned
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    true = unit[:50] @ unit.T
    row_of = {number_of(point_id(str(n), 0)): n for n in range(len(rows))}
    for where, allowed in ((None, range(len(rows))), ("rest = 1 and not odd = true", range(4, len(rows), 6))):
        kept = np.array(allowed)
        best = kept[np.argsort(-true[:, kept], axis=1, kind="stable")[:, :10]]
        numbers, cosines = index.search_vectors(real[:50], 10, where=where)
        found = np.vectorize(row_of.__getitem__)(numbers)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), best.tolist(), strict=True)])
        print(f"{form.vectors} {form.quantization} {form.factor:g} {where}: recall@10 {recall:.4f}")
        assert recall >= least
        assert where or recall <= most
        error = np.abs(np.take_along_axis(true, found, 1) - cosines).max()
        assert error < (2e-2 if form.vectors == "uint8" else 5e-4)


def test_a_search_without_qdrant_client_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['qdrant_client'] = None\n"
        "from diffembed.errors import MissingExtraError\n"
        "from diffembed.index.qdrant import QdrantIndex\n"
        "try: QdrantIndex.open('http://localhost:1', 'x')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
    )
    assert "pip install 'diffembed[qdrant]'" in ran.stdout, ran.stderr
