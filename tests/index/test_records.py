"""Records and rows of vectors: what is taken, what is refused, what a second writing does."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import Index, records
from diffembed.index.catalog import Catalog
from diffembed.index.connection import explained
from diffembed.index.incoming import vector_rows
from diffembed.index.storage import writer_lock


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.fixture
def index(tmp_path: Path, encoder: Any) -> Index:
    return Index.create(tmp_path / "index", model=encoder, chunk_tokens=12)


def texts(index: Index) -> dict[str, list[str]]:
    rows = index._rows_where({})
    assert rows is not None
    found: dict[str, list[str]] = {}
    for chunk in index.chunks(rows.tolist()):
        found.setdefault(chunk.document.key, []).append(chunk.chunk.text)
    return found


def test_add_search_upsert_delete(index: Index, encoder: Any) -> None:
    report = index.add(
        [
            {"id": 7, "text": "Owls hunt at night. " * 6, "metadata": {"lang": "en"}},
            {"id": "b", "chunks": ["Flour and water.", "Bake the loaf."], "kind": "markdown"},
        ]
    )
    assert (report.added, report.replaced, report.chunks, report.truncated) == (2, 0, len(index), ())
    hit = index.search("bake the loaf", top=1, neighbours=3, encoder=encoder)[0]
    assert (hit.key, hit.path, hit.text, hit.before, hit.after) == (
        "b",
        None,
        "Bake the loaf.",
        ("Flour and water.",),
        (),
    )
    assert (hit.line_start, hit.line_end) == (2, 2)
    assert hit.to_dict()["before"] == ["Flour and water."] and "after" not in hit.to_dict()
    assert index.search("owls", top=1, encoder=encoder)[0].metadata == {"lang": "en"}
    with pytest.raises(InputError, match="id 'b' is in the index already; use upsert"):
        index.add([{"id": "c", "text": "new"}, {"id": "b", "text": "other"}])
    assert set(texts(index)) == {"7", "b"}  # one commit: what stood before the bad record is not there either
    report = index.upsert([{"id": "b", "text": "Only this."}, {"id": "c", "text": "And that."}])
    assert (report.added, report.replaced) == (1, 1)
    assert texts(index)["b"] == ["Only this."]
    assert index.delete(["b", 7, "nobody"]) == 2
    assert texts(index) == {"c": ["And that."]}
    assert len(index) == 1
    assert index.verify().problems == ()


def test_what_is_as_it_was_is_not_encoded(index: Index, encoder: Any) -> None:
    record = {"id": "a", "text": "Owls hunt.", "metadata": {"n": 1}}
    index.add([record])
    encoder.encoded.clear()
    report = index.upsert([record, {**record, "metadata": {"n": 2}}, {"id": "b", "text": "new"}])
    assert (report.added, report.replaced, report.described, report.unchanged) == (1, 0, 1, 1)
    assert encoder.encoded == ["new"]
    assert index.search("owls", top=1, where={"n": 2}, encoder=encoder)[0].key == "a"
    assert index.search("owls", where={"n": 1}, encoder=encoder) == []


def test_the_last_of_two_with_one_id_stays(index: Index) -> None:
    index.upsert([{"id": "a", "text": "one"}, {"id": "b", "text": "x"}, {"id": "a", "text": "two"}])
    assert texts(index) == {"b": ["x"], "a": ["two"]}
    with pytest.raises(InputError, match="id 'c' is there twice; give every id once, or use upsert"):
        index.add([{"id": "c", "text": "one"}, {"id": "c", "text": "two"}])


def test_batches_are_commits(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH_CHUNKS", 4)
    seen: list[tuple[int, int]] = []
    many = [{"id": n, "text": f"text {n}"} for n in range(10)]
    with pytest.raises(
        InputError, match=r"record 'x' needs either text or chunks \(of the records before it 8 are stored\)"
    ):
        index.add([*many, {"id": "x"}], progress=lambda done, total: seen.append((done, total)))
    assert len(texts(index)) == 8
    assert seen == [(4, 0), (8, 0)]


def test_files_and_records_live_together(library: Path, tmp_path: Path, encoder: Any) -> None:
    index = Index.build([library], tmp_path / "index", encoder=encoder)
    index.add([{"id": "note", "text": "Wombats dig burrows."}])
    report = index.refresh([library])
    assert (report.unchanged, report.removed) == (5, ())
    hits = index.search("wombats dig", top=20, encoder=encoder)
    assert hits[0].key == "note"
    assert {hit.path for hit in hits if hit.path} == set(index.documents)
    owls = library / "owls.txt"
    assert index.delete([str(owls)]) == 1
    assert [path.name for path in index.refresh([library]).added] == ["owls.txt"]
    assert [h.key for h in index.search("wombats", where="not path prefix /", encoder=encoder)] == ["note"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("text", "a record is str, not an object"),
        ({}, "a record has the id None; give a string that is not empty, or an integer"),
        ({"id": "", "text": "x"}, "the id ''"),
        ({"id": True, "text": "x"}, "the id True"),
        ({"id": 1.5, "text": "x"}, "the id 1.5"),
        ({"id": "a"}, "record 'a' needs either text or chunks"),
        ({"id": "a", "text": "x", "chunks": ["x"]}, "needs either text or chunks"),
        ({"id": "a", "text": "x", "title": "y"}, "has the key 'title'; put it into metadata"),
        ({"id": "a", "text": " \n"}, "a text that is empty"),
        ({"id": "a", "text": 3}, "a text that is int"),
        ({"id": "a", "text": "half \ud800"}, "lone surrogate .* at character 5"),
        ({"id": "a", "chunks": []}, "no list of strings, or an empty one"),
        ({"id": "a", "chunks": "x"}, "no list of strings"),
        ({"id": "a", "chunks": ["x", ""]}, "a text that is empty"),
        ({"id": "a", "text": "x", "kind": "poem"}, "of kind 'poem'; choose one of prose, markdown"),
        ({"id": "a", "text": "x", "metadata": [1]}, "metadata that is list"),
        ({"id": "a", "text": "x", "metadata": {"n": float("inf")}}, "not JSON"),
        ({"id": "a", "text": "x", "metadata": {"n": {1, 2}}}, "not JSON"),
        ({"id": "a", "text": "x", "metadata": {"n": 2**64}}, "beyond 64 bits"),
        ({"id": "a", "text": "x", "metadata": {"n": "\udc00"}}, "not JSON"),
        ({"id": "a", "text": "x", "metadata": {"n": nested(101)}}, "nested more than 100 deep"),
        ({"id": "a", "text": "x", "metadata": {"n": "x" * 70_000}}, "70,008 bytes of metadata, at most 65,536"),
        (
            {"id": "a", "text": "x", "vector": [1] * 63},
            r"the vectors of record 'a' have the shape \[1, 63\]; .* 64 dims",
        ),
        ({"id": "a", "text": "x", "vector": [[1] * 64]}, "a vector of 2 dimensions"),
        ({"id": "a", "text": "x", "vectors": [[1] * 64] * 2}, "2 vectors for 1 chunks"),
        ({"id": "a", "text": "x", "vectors": [[1], [1, 2]]}, "vectors of different widths"),
        ({"id": "a", "text": "x", "vector": [300] * 64}, "are int64; give int8 or floating point"),
        ({"id": "a", "text": "x", "vector": [float("nan")] * 64}, "not finite in row 0"),
        ({"id": "a", "text": "x", "vector": [1] * 64, "vectors": [[1] * 64]}, "both vector and vectors"),
    ],
)
def test_what_is_no_record(index: Index, record: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        index.upsert([{"id": "good", "text": "x"}, record])
    assert "\n" not in str(error.value)
    assert texts(index) == {}


def test_vectors_made_elsewhere(index: Index, encoder: Any) -> None:
    rows = encoder.encode_documents(["owls hunt", "bread and water"], dtype="int8").values
    encoder.encoded.clear()
    long = "A text that stays one chunk, for it has its vector already, however long it may be. " * 3
    index.add(
        [
            {"id": "a", "text": long, "vector": rows[0]},
            {"id": "b", "chunks": ["x", "y"], "vectors": (rows / np.float32(127)).tolist()},
            {"id": "c", "text": "made here"},
        ]
    )
    assert encoder.encoded == ["made here"]
    ids, scores = index.search_vectors(rows[:1], 2)
    assert [c.document.key for c in index.chunks(ids[0].tolist())] == ["a", "b"]
    assert scores[0] == pytest.approx([1.0, 1.0])
    assert index.search_vectors(rows[:1].astype(np.float32), 1)[1][0, 0] == pytest.approx(1.0, abs=1e-3)


def test_a_model_that_is_not_at_hand(tmp_path: Path, make_encoder: Callable[..., Any]) -> None:
    index = Index.create(tmp_path / "index", dims=4)
    index.add([{"id": "a", "text": "x", "vector": [1, 2, 3, 4], "metadata": {"n": 1}}])
    assert index.search_vectors([[1.0, 2.0, 3.0, 4.0]], 1, where="n = 1")[0].tolist() == [[1]]
    with pytest.raises(InputError, match="names no model"):
        index.search("x")
    with pytest.raises(InputError, match="names no model"):
        index.add([{"id": "b", "text": "without a vector"}])
    with pytest.raises(IndexStoreError, match="nobody knows which model made the vectors"):
        index.search("x", encoder=make_encoder(dims=4))


def test_settings_that_do_not_go_together(tmp_path: Path, encoder: Any) -> None:
    with pytest.raises(InputError, match="makes vectors 64 wide, not 32; leave dims out"):
        Index.create(tmp_path / "a", model=encoder, dims=32)
    with pytest.raises(InputError, match="dims is 0"):
        Index.create(tmp_path / "a", dims=0)
    assert not (tmp_path / "a").exists()
    Index.create(tmp_path / "a", dims=3).close()
    with pytest.raises(InputError, match="is an index already; open it"):
        Index.create(tmp_path / "a", dims=3)


# Vectors only


@pytest.fixture
def plain(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "plain", dims=8, vectors_only=True)


def test_rows_under_ids_of_ones_own(plain: Index) -> None:
    rows = np.random.default_rng(0).integers(-127, 128, (50, 8)).astype(np.int8)
    ids = np.arange(50)[::-1] * 10**16
    assert plain.add_vectors(rows, ids) == 50
    found, scores = plain.search_vectors(rows[:3], 1)
    assert found[:, 0].tolist() == ids[:3].tolist()
    assert scores[:, 0] == pytest.approx(1.0)
    assert plain.add_vectors(rows[10:12], ids[:2]) == 2  # in the place of the first two
    assert len(plain) == 50
    assert set(plain.search_vectors(rows[10:11], 2)[0][0].tolist()) == {ids[10], ids[0]}
    assert plain.delete([int(ids[0]), str(ids[10]), 5]) == 2
    assert len(plain) == 48
    assert plain.add_vectors(rows[:1], ids[:1]) == 1  # an id that was deleted may come again
    assert plain.search_vectors(rows[:1], 1)[0].tolist() == [[ids[0]]]
    assert plain.verify().problems == ()
    assert plain.add_vectors(np.empty((0, 8), np.int8), []) == 0


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        (np.zeros((2, 8), np.int8), [1], r"2 vectors and ids of the shape \[1\]"),
        (np.zeros((2, 8), np.int8), [1, 1], "id 1 is there twice"),
        (np.zeros((2, 8), np.int8), [1, -1], "id -1 is out of range"),
        (np.zeros((1, 8), np.int8), np.array([2**63], np.uint64), "id 9223372036854775808 is out of range"),
        (np.zeros((1, 8), np.int8), ["a"], "an index of vectors only takes integers"),
        (np.zeros((1, 7), np.int8), [1], r"the shape \[1, 7\]; give \[rows, 8 dims\]"),
        (np.zeros(8, np.int8), [1], r"the shape \[8\]"),
        (np.zeros((1, 8), np.int32), [1], "are int32; give int8 or floating point"),
        (np.full((1, 8), np.inf), [1], "not finite in row 0"),
    ],
)
def test_rows_that_are_refused(plain: Index, rows: Any, ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.add_vectors(rows, ids)
    assert len(plain) == 0


def test_what_vectors_only_cannot_do(plain: Index, index: Index, encoder: Any, library: Path) -> None:
    with pytest.raises(InputError, match="holds vectors only, no texts; use add_vectors"):
        plain.add([{"id": "a", "text": "x"}])
    with pytest.raises(InputError, match="holds vectors only, no texts; search it with search_vectors"):
        plain.search("x", encoder=encoder)
    with pytest.raises(InputError, match="there is no metadata for a filter"):
        plain.search_vectors(np.zeros((1, 8), np.int8), 1, where="a = 1")
    with pytest.raises(InputError, match="'x' is no id of an index of vectors only"):
        plain.delete(["x"])
    with pytest.raises(InputError, match="holds documents; give records"):
        index.add_vectors(np.zeros((1, 64), np.int8), [1])
    other = Index.create(plain.path.parent / "other", model=encoder, vectors_only=True)
    with pytest.raises(InputError, match="holds vectors only, no texts; index into a new folder"):
        other.refresh([library])


def test_deleting_takes_ids(index: Index) -> None:
    assert index.delete([]) == 0
    with pytest.raises(InputError, match="ids is 'abc'; give a list"):
        index.delete("abc")
    with pytest.raises(InputError, match="None is no id"):
        index.delete([None])  # type: ignore[list-item]


def test_an_interrupt_that_comes_with_the_commit(index: Index, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is told when SQLite returns, and by then the batch may be part of the index."""

    class Interrupted:
        def __init__(self, db: Any) -> None:
            self.db = db

        def execute(self, sql: str, *values: Any) -> Any:
            done = self.db.execute(sql, *values)
            if sql == "COMMIT":
                raise KeyboardInterrupt
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(self.db, name)

    with monkeypatch.context() as patched:
        before = Catalog.open
        patched.setattr(Catalog, "open", lambda folder: Catalog(folder, Interrupted(before(folder)._db)))  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            index.add([{"id": "late", "text": "owls and snow"}])
    with Index.open(index.path) as after:
        assert after.verify().problems == ()
        assert [hit.key for hit in after.search("owls", encoder=encoder)] == ["late"]


def test_a_batch_that_fails_leaves_nothing(index: Index, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add([{"id": 1, "text": "owls"}])
    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "_add_facts", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            index.add([{"id": 2, "text": "snow"}])
    with Index.open(index.path) as after:
        assert len(after) == 1 and after.verify().problems == () and after.verify().notes == ()
        assert len(list((index.path / "segments").iterdir())) == 1


def test_a_disk_that_fails_is_no_damage(index: Index) -> None:
    said = explained(index.path, sqlite3.OperationalError("disk I/O error"))  # what a used-up quota is to SQLite
    assert "quota" in str(said) and "delete" not in str(said)


def test_other_metadata_alone_is_written_in_batches(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.records.BATCH_CHUNKS", 3)
    index.add([{"id": n, "text": f"owl {n}"} for n in range(7)])
    stored: list[int] = []
    report = index.upsert(
        ({"id": n, "text": f"owl {n}", "metadata": {"n": n}} for n in range(7)),
        progress=lambda done, _: stored.append(done),
    )
    assert report.described == 7 and stored == [3, 6, 7]


def test_records_that_end_in_an_error_say_how_many_are_stored(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.records.BATCH_CHUNKS", 2)

    def lines() -> Any:
        yield from ({"id": n, "text": "owl"} for n in range(5))
        raise InputError("line 6 is no JSON")

    with pytest.raises(InputError, match=r"line 6 is no JSON \(of the records before it 4 are stored\)"):
        index.add(lines())
    assert len(index) == 4


def test_chunks_that_are_gone(index: Index) -> None:
    index.add([{"id": 1, "text": "owl"}])
    with Index.open(index.path) as reader:
        index.upsert([{"id": 1, "text": "snow"}])
        assert [stored.chunk.text for stored in reader.chunks([2])] == ["snow"]
        with pytest.raises(InputError, match="has no chunk 1; search again"):
            reader.chunks([2, 1])


def test_a_row_becomes_the_same_whatever_comes_with_it() -> None:
    whole, other = np.array([[3, -5, 90]]) / 127, np.array([[0.3, 0.1, -0.2]])
    both = vector_rows(np.concatenate([whole, other]), 3, "rows")
    assert both.tolist() == [[3, -5, 90], vector_rows(other, 3, "rows")[0].tolist()]


def test_two_writers(index: Index) -> None:
    with writer_lock(index.path):
        for write in (
            lambda: index.add([{"id": "a", "text": "x"}]),
            lambda: index.delete(["a"]),
            index.compact,
        ):
            with pytest.raises(IndexStoreError, match="is being written by process"):
                write()


@pytest.mark.parametrize("scale", [1.0, 0.03, 100.0])
def test_floats_keep_their_cosines(scale: float) -> None:
    floats = np.random.default_rng(1).standard_normal((20, 64)) * scale
    rows = vector_rows(floats, 64, "rows").astype(np.float64)
    cosines = (rows * floats).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(floats, axis=1)
    assert cosines.min() > 0.9998
    assert vector_rows(np.arange(-127, 128, 2)[None, :] / np.float32(127), None, "rows").tolist() == [
        list(range(-127, 128, 2))
    ]
