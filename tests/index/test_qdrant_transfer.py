"""Copies of an index in a collection, from Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.index.records import RECORDS, told
from typer.testing import CliRunner

from diffembed.cli import app
from diffembed.errors import ClusterError, IndexStoreError
from diffembed.index import Index
from diffembed.index.qdrant_transfer import _blocks

if TYPE_CHECKING:  # it needs the engine
    from tests.index.qdrant_server import QdrantServer


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
