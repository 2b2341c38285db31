"""Servers that are slow, busy or away, and answers that get lost on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.index.records import RECORDS

from diffembed.errors import ClusterError, InputError
from diffembed.index.qdrant import QdrantIndex

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer


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
    make_collection(model=encoder)
    index = make_collection(open_=True, timeout=1, attempts=1)
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
