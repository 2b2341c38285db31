"""Records that are written to a collection: what is sent, what is written again, and what a failure names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'diffembed[qdrant]'")

from qdrant_client.models import Filter, HasIdCondition
from tests.index.records import RECORDS

from diffembed.errors import ClusterError
from diffembed.index import Index
from diffembed.index.qdrant import QdrantIndex

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer


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
