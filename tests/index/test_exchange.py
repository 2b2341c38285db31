"""Export and import: what comes back is what went out, and what does not fit is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import Index
from diffembed.index.exchange import jsonl_records


@pytest.fixture
def index(library: Path, tmp_path: Path, encoder: Any) -> Index:
    index = Index.build([library], tmp_path / "index", encoder=encoder, chunk_tokens=12)
    index.add(
        [
            {"id": "r1", "chunks": ["Owls hear.", "Mice run."], "metadata": {"n": 1, "tags": ["a"]}},
            {"id": "r2", "text": "gone soon"},
        ]
    )
    index.delete(["r2"])
    return index


def state(index: Index, encoder: Any) -> list[tuple[Any, ...]]:
    hits = index.search("owls and bread in the night", top=1000, encoder=encoder)
    assert len(hits) == len(index)
    return sorted((h.key, h.text, json.dumps(h.metadata), round(h.cosine, 5)) for h in hits)


def test_parquet_goes_out_and_comes_back(index: Index, tmp_path: Path, encoder: Any) -> None:
    report = index.export(tmp_path / "out.parquet")
    assert (report.rows, report.dims, report.ids) == (len(index), 64, None)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == len(index)
    assert table["vector"].type == pa.list_(pa.int8(), 64)
    row = next(r for r in table.to_pylist() if r["text"] == "Mice run.")
    expected = encoder.encode_documents(["Mice run."], dtype="int8").values[0]
    assert (row["id"], row["chunk"], row["vector"]) == ("r1", 1, expected.tolist())
    with Index.create(tmp_path / "copy", model=encoder) as copy:
        encoder.encoded.clear()
        done = copy.import_parquet([tmp_path / "out.parquet"])
        assert (done.added, done.chunks, encoder.encoded) == (6, len(index), [])
        assert state(copy, encoder) == state(index, encoder)
        assert copy.search("owls hear", where="n = 1", top=1, encoder=encoder)[0].key == "r1"
        assert copy.import_parquet([tmp_path / "out.parquet"]).unchanged == 6
        assert copy.verify().problems == ()


def test_npy_with_ids(index: Index, tmp_path: Path) -> None:
    report = index.export(tmp_path / "out.npy")
    rows = np.load(tmp_path / "out.npy")
    ids = [json.loads(line) for line in (tmp_path / "out.ids.jsonl").read_text().splitlines()]
    assert rows.shape == (len(index), 64) and rows.dtype == np.int8
    assert report.ids == tmp_path / "out.ids.jsonl"
    for row, place in list(zip(rows, ids, strict=True))[::3]:
        [[found]], [[score]] = index.search_vectors(row[None], 1)
        chunk = index.chunks([int(found)])[0]
        assert score == pytest.approx(1.0)
        assert (chunk.document.key, chunk.id - chunk.document.first_chunk) == (place["id"], place["chunk"])


def test_vectors_only(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).integers(-127, 128, (30, 8)).astype(np.int8)
    with Index.create(tmp_path / "a", dims=8, vectors_only=True) as index:
        index.add_vectors(rows, np.arange(30) * 3)
        index.delete([0, 3])
        index.export(tmp_path / "a.npy")
        index.export(tmp_path / "a.parquet")
    assert np.load(tmp_path / "a.npy").tolist() == rows[2:].tolist()
    assert np.load(tmp_path / "a.ids.npy").tolist() == list(range(6, 90, 3))
    with Index.create(tmp_path / "b", dims=8, vectors_only=True) as copy:
        seen: list[tuple[int, int]] = []
        done = copy.import_parquet([tmp_path / "a.parquet"], progress=lambda *at: seen.append(at))
        assert (done.added, done.replaced, seen) == (28, 0, [(28, 28)])
        assert copy.search_vectors(rows[5:6], 1)[0].tolist() == [[15]]
        assert copy.import_parquet([tmp_path / "a.parquet"]).replaced == 28
        assert len(copy) == 28


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_files_made_elsewhere(tmp_path: Path, encoder: Any) -> None:
    texts = ["owls hunt", "bake bread", "owls sleep"]
    floats = encoder.encode_documents(texts, dtype="int8").values / np.float32(127)
    file = write(
        tmp_path / "a.parquet",
        doc=[10, 11, 12],
        body=texts,
        emb=pa.array(floats.tolist(), pa.list_(pa.float32())),
        lang=["en", "en", None],
        metadata=pa.array([{"n": 1}, {"n": 2}, None]),
    )
    names = {"id_column": "doc", "vector_column": "emb", "text_column": "body"}
    with Index.create(tmp_path / "index", model=encoder) as index:
        with pytest.raises(InputError, match="does not say which model made its vectors; give its fingerprint"):
            index.import_parquet([file], **names)
        with pytest.raises(IndexStoreError, match="has vectors of the model abc"):
            index.import_parquet([file], fingerprint="abc", **names)
        assert len(index) == 0
        assert index.import_parquet([file], fingerprint="unknown", **names).added == 3
        hits = index.search("owls hunt", encoder=encoder)
        assert [(h.key, h.metadata) for h in hits if h.text.startswith("owls")] == [
            ("10", {"lang": "en", "n": 1}),
            ("12", {}),
        ]
        assert hits[0].cosine == pytest.approx(1.0)
        assert index.import_parquet([file], fingerprint=index.settings.fingerprint, **names).unchanged == 3


INT8 = pa.list_(pa.int8(), 4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1]}, "has no column 'vector'; it has id"),
        ({"vector": pa.array([[1, 2, 3, 4]], INT8)}, "has no column 'id'"),
        (
            {"id": ["a"], "vector": pa.array([[1, 2, 3, 4]], INT8)},
            "ids are string; an index of vectors only takes integers",
        ),
        ({"id": [1], "vector": pa.array([[1, 2, 3]], pa.list_(pa.int8(), 3))}, "vectors are 3 wide, the index 4"),
        ({"id": [1, 2], "vector": pa.array([[1, 2, 3], [1, 2, 3, 4]], pa.list_(pa.int8()))}, "vectors are 3, 4 wide"),
        ({"id": [1], "vector": pa.array([[1, 2, 3, 4]], pa.list_(pa.int32()))}, "give lists of int8 or floating point"),
        ({"id": [1], "vector": [3]}, "give lists of int8"),
        ({"id": [1], "vector": pa.array([None], INT8)}, "rows without a vector"),
        ({"id": [1], "vector": pa.array([[1, None, 3, 4]], INT8)}, "vectors with a null"),
        ({"id": [1], "vector": pa.array([[1.0, float("nan"), 3, 4]], pa.list_(pa.float32()))}, "not finite in row 0"),
        ({"id": [1, 1], "vector": pa.array([[1, 2, 3, 4]] * 2, INT8)}, "id 1 is there twice"),
        ({"id": pa.array([None], pa.int64()), "vector": pa.array([[1, 2, 3, 4]], INT8)}, "row without an id"),
        ({"id": [-4], "vector": pa.array([[1, 2, 3, 4]], INT8)}, "id -4 is out of range"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, columns: Any, message: str) -> None:
    file = write(tmp_path / "a.parquet", **columns)
    with Index.create(tmp_path / "index", dims=4, vectors_only=True) as index:
        with pytest.raises(InputError, match=message):
            index.import_parquet([file], fingerprint="unknown")
        assert len(index) == 0


def test_records_that_do_not_fit(tmp_path: Path, make_encoder: Callable[..., Any]) -> None:
    vectors = pa.array([[1, 2, 3, 4]] * 3, INT8)
    with Index.create(tmp_path / "index", model=make_encoder(dims=4)) as index:
        for columns, message in (
            ({"id": ["a", "b", "a"], "text": ["x", "y", "z"]}, "id 'a' is there twice"),
            (
                {"id": ["a", "a", "b"], "text": ["x", "y", "z"], "chunk": [0, 2, 0]},
                "has chunk 2 where chunk 0 was expected",
            ),
            ({"id": ["a", "b", "c"], "text": ["x", None, "z"]}, "record 'b' has a text that is NoneType"),
            (
                {"id": ["a", "b", "c"], "text": ["x", "y", "z"], "metadata": ["{}", "[]", "{}"]},
                "metadata of id 'b' is no object",
            ),
            (
                {"id": ["a", "b", "c"], "text": ["x", "y", "z"], "metadata": ["{}", "{", "{}"]},
                "metadata of id 'b' is no object",
            ),
        ):
            file = write(tmp_path / "a.parquet", vector=vectors, **columns)
            with pytest.raises(InputError, match=message):
                index.import_parquet([file], fingerprint="unknown")
        assert len(index) == 0


def test_files_that_cannot_be_read_or_written(index: Index, tmp_path: Path) -> None:
    (tmp_path / "not.parquet").write_text("no")
    for call, message in (
        (lambda: index.import_parquet([tmp_path / "not.parquet"]), "cannot be read as Parquet"),
        (lambda: index.import_parquet([tmp_path / "missing.parquet"]), "cannot be read as Parquet"),
        (lambda: index.import_parquet([]), "no Parquet file given"),
        (lambda: index.export(tmp_path / "a.csv"), "must end in .parquet or .npy"),
        (lambda: index.export(tmp_path / "missing" / "a.npy"), "does not exist; make it first"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"_id": "a", "text": "x", "lang": "en"}\n\n{"id": 2, "chunks": ["y"], "metadata": {"n": 1}, "m": 2}\n'
    )
    assert list(jsonl_records([file])) == [
        {"id": "a", "text": "x", "metadata": {"lang": "en"}},
        {"id": 2, "chunks": ["y"], "metadata": {"m": 2, "n": 1}},
    ]
    file.write_text('{"id": "a"}\n[1]\n')
    with pytest.raises(InputError, match=r"a.jsonl, line 2 is not a JSON object"):
        list(jsonl_records([file]))
