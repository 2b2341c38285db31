"""``verify`` and ``stats``, and every byte of a small index flipped once: an error or the right answer.

``DIFFEMBED_FLIPS=all`` flips every byte of every file; otherwise some hundreds, drawn anew by each run (seed printed).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.errors import IndexStoreError
from diffembed.index import Index, seal
from diffembed.index.catalog import CATALOG_NAME

FLIPS = 250
DIMS = 16


@pytest.fixture
def small(tmp_path: Path, make_encoder: Callable[..., Any]) -> Path:
    with Index.create(tmp_path / "small", model=make_encoder(dims=DIMS)) as index:
        index.add(
            [
                {"id": f"r{n}", "chunks": [f"owl {n} snow", f"stone {n}"], "metadata": {"n": n, "t": "ab"}}
                for n in range(12)
            ]
        )
        index.delete(["r3"])
        index.upsert([{"id": "r5", "text": "owl river"}])
    return tmp_path / "small"


def answers(folder: Path, encoder: Any) -> list[Any]:
    """Everything that a search can tell."""
    found: list[Any] = []
    with Index.open(folder) as index:
        for options in (
            {},
            {"where": {"n": {"gte": 4}, "t": "ab"}},
            {"hybrid": True},
            {"group": True, "neighbours": 1},
        ):
            found.append([hit.to_dict() for hit in index.search("owl 7 river", top=5, encoder=encoder, **options)])
        ids, scores = index.search_vectors(encoder.encode_queries(["stone 4"], dtype="int8").values, 30)
        found.append((ids.tolist(), scores.tolist(), len(index)))
    return found


@pytest.fixture
def places(small: Path, record_property: Callable[[str, object], None]) -> list[tuple[Path, int]]:
    """The bytes that are flipped."""
    files = sorted(path for path in small.rglob("*") if path.is_file() and path.name != "writer.lock")
    chosen = [(path, at) for path in files for at in range(path.stat().st_size)]
    if os.environ.get("DIFFEMBED_FLIPS") != "all":
        seed = int(os.environ.get("DIFFEMBED_FLIP_SEED", "0")) or random.SystemRandom().randrange(10**6)
        print(f"DIFFEMBED_FLIP_SEED={seed}")
        chosen = random.Random(seed).sample(chosen, FLIPS)
    record_property("flips", len(chosen))
    return chosen


def flipped(path: Path, at: int) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
    return whole


def test_every_byte_flipped(
    small: Path,
    places: list[tuple[Path, int]],
    make_encoder: Callable[..., Any],
    record_property: Callable[[str, object], None],
) -> None:
    encoder = make_encoder(dims=DIMS)
    right = answers(small, encoder)
    assert [len(found) for found in right[:4]] == [5, 5, 5, 5]
    noticed = 0
    for path, at in places:
        whole = flipped(path, at)
        try:
            assert answers(small, encoder) == right, f"{path.name}, byte {at}"
        except IndexStoreError:
            noticed += 1
        restore(small, path, whole)
    record_property("noticed", noticed)
    assert noticed > FLIPS // 4
    assert answers(small, encoder) == right


def test_without_a_seal_no_hit_is_wrong(
    small: Path,
    places: list[tuple[Path, int]],
    make_encoder: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a large catalog that is not compared as a whole: filters and words may find less, but nothing false."""
    encoder = make_encoder(dims=DIMS)
    right = answers(small, encoder)
    with Index.open(small) as index:
        rows = index._rows_where({})
        assert rows is not None
        whole_texts = {chunk.id: (chunk.document.key, chunk.chunk.text) for chunk in index.chunks(rows.tolist())}
    for user in ("reading", "store", "checking"):
        monkeypatch.setattr(f"diffembed.index.{user}.check_seal", lambda *_: None)
    for path, at in places:
        whole = flipped(path, at)
        try:
            found = answers(small, encoder)
            assert found[0] == right[0] and found[4] == right[4], f"{path.name}, byte {at}"
            for hits in found[1:4]:
                assert all((hit["key"], hit["text"]) == whole_texts[hit["chunk_id"]] for hit in hits)
        except IndexStoreError:
            assert verified(small), f"{path.name}, byte {at}"
        else:
            assert found == right or verified(small), f"{path.name}, byte {at}"
        restore(small, path, whole)


def verified(folder: Path) -> bool:
    """Whether a check names a problem, or cannot even begin."""
    try:
        return bool(Index.check(folder).problems)
    except IndexStoreError:
        return True


def test_a_chunk_of_an_owner_that_is_no_number(small: Path, make_encoder: Callable[..., Any]) -> None:
    """A flipped byte can turn an integer into text or nothing, which SQLite gives out all the same."""
    db = sqlite3.connect(small / CATALOG_NAME)
    db.execute("UPDATE chunks SET document = 'x' WHERE id % 2")
    db.commit()
    db.close()
    (small / (CATALOG_NAME + "-seal")).unlink()
    with pytest.raises(IndexStoreError, match="a row fails its checksum"):
        answers(small, make_encoder(dims=DIMS))
    assert verified(small)


def restore(folder: Path, path: Path, whole: bytes) -> None:
    for journal in ("-wal", "-shm"):
        (folder / (CATALOG_NAME + journal)).unlink(missing_ok=True)
    path.write_bytes(whole)


def test_a_lost_commit_is_noticed(small: Path, make_encoder: Callable[..., Any], tmp_path: Path) -> None:
    """An old catalog under new segments would take them for orphans."""
    shutil.copytree(small, tmp_path / "old")
    with Index.open(small) as index:
        index._encoder = make_encoder(dims=DIMS)
        index.add([{"id": "new", "text": "new"}])
    shutil.copy(tmp_path / "old" / CATALOG_NAME, small / CATALOG_NAME)
    with pytest.raises(IndexStoreError, match=r"commit \d is lost"):
        Index.open(small)
    assert "is lost" in Index.check(small).problems[0]
    assert len(list((small / "segments").iterdir())) == 3


def test_a_seal_of_another_generation_says_nothing(small: Path, make_encoder: Callable[..., Any]) -> None:
    before = (small / (CATALOG_NAME + "-seal")).read_bytes()
    with Index.open(small) as index:
        index._encoder = make_encoder(dims=DIMS)
        index.add([{"id": "new", "text": "new"}])
    (small / (CATALOG_NAME + "-seal")).write_bytes(before)
    with Index.open(small) as index:
        assert len(index) == 22
    (small / (CATALOG_NAME + "-seal")).unlink()
    with Index.open(small) as index:
        assert len(index) == 22
        assert index.delete(["nobody"]) == 0
    assert (small / (CATALOG_NAME + "-seal")).exists()


def test_large_catalogs_have_no_seal(
    small: Path, make_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "SEALED_BYTES", 4096)
    with Index.open(small) as index:
        index.delete(["r1"])
        assert not (small / (CATALOG_NAME + "-seal")).exists()
        assert index.verify().problems == ()


# verify


def test_a_sound_index(small: Path) -> None:
    report = Index.check(small)
    assert (report.problems, report.notes, report.documents, report.rows) == ((), (), 11, 21)
    assert report.to_dict()["problems"] == []
    (small / "segments" / "left.seg").write_bytes(b"x")
    assert Index.check(small).notes == ("left.seg belongs to no commit; the next writer removes it",)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE chunks SET text = 'other' WHERE id = 4", "chunk 4: a row fails its checksum"),
        ("DELETE FROM chunks WHERE id = 4", "the vector of chunk 4 has no text"),
        ("UPDATE documents SET metadata = '{}' WHERE key = 'r1'", "document r1: a row fails its checksum"),
        ("DELETE FROM facts WHERE document = 2 AND field = 'n'", "filters do not know n of r1"),
        ("INSERT INTO facts VALUES ('n', 'n', 9, 999)", "filters know 21 values, the metadata has 20"),
        ("UPDATE state SET rows = 99", "a row fails its checksum"),
        ("DELETE FROM deleted", "the catalog counts 21 live rows, the segments hold 25"),
        ("UPDATE segments SET rows = 7", "a row fails its checksum"),
        ("INSERT INTO lexical (lexical, rowid, form) VALUES ('delete', 1, 'owl 0 snow')", "the full-text index: "),
        ("UPDATE deleted SET segment = 77", "rows are deleted of segment 77"),
        ("DROP INDEX documents_span", "the catalog: index documents_span is not as it was made"),
        (
            "DROP VIEW lexical_content; CREATE VIEW lexical_content AS SELECT id, text AS form FROM chunks",
            "view lexical",
        ),
        ("UPDATE deleted SET segment = CASE WHEN id % 2 THEN 'x' ELSE 77 END", "rows are deleted of segment x"),
    ],
)
def test_damage_to_the_catalog_is_named(small: Path, sql: str, said: str) -> None:
    db = sqlite3.connect(small / CATALOG_NAME)
    db.create_function("lexical_form", 1, lambda text: text)
    db.executescript(sql)
    db.close()
    (small / (CATALOG_NAME + "-seal")).unlink()
    try:
        problems = Index.check(small).problems
    except IndexStoreError as error:  # what cannot be opened at all
        problems = (str(error),)
    assert any(re.search(said, problem) for problem in problems), problems


def test_damage_to_a_segment_is_named(small: Path) -> None:
    segment = sorted((small / "segments").iterdir())[0]
    flipped(segment, segment.stat().st_size - 70)
    assert any(segment.name in problem for problem in Index.check(small).problems)
    segment.unlink()
    problems = Index.check(small).problems
    assert any(segment.name in problem and "cannot be read" in problem for problem in problems)
    assert any("live rows, the segments hold" in problem for problem in problems)


def test_many_problems_of_one_kind_are_counted(small: Path) -> None:
    db = sqlite3.connect(small / CATALOG_NAME)
    db.execute("UPDATE chunks SET crc = crc + 1")
    db.commit()
    db.close()
    problems = Index.check(small).problems
    assert sum("fails its checksum" in problem for problem in problems) == 6  # five rows and the catalog as a whole
    assert "... and 16 more like it" in problems


# stats


def test_stats(small: Path) -> None:
    with Index.open(small) as index:
        found = index.stats()
    assert (found.documents, found.files, found.rows, found.deleted, found.dims) == (11, 0, 21, 4, DIMS)
    assert found.fields == {"n": 10, "t": 10}
    assert [(s.rows, s.live) for s in found.segments] == [(24, 20), (1, 1)]
    assert found.vector_bytes == sum(p.stat().st_size for p in (small / "segments").iterdir())
    assert found.to_dict()["segments"][0]["live"] == 20


def test_compaction_frees_what_was_deleted(small: Path, make_encoder: Callable[..., Any]) -> None:
    encoder = make_encoder(dims=DIMS)
    right = answers(small, encoder)
    with Index.open(small) as index:
        index.compact()
        found = index.stats()
        assert (found.rows, found.deleted, len(found.segments)) == (21, 0, 1)
        assert index.verify().problems == ()
    assert answers(small, encoder) == right
    assert np.isfinite(right[4][1][0][:21]).all()
