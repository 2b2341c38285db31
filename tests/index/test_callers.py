"""What callers get wrong, or do in ways that other engines allow: said plainly, never taken for a damaged index."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import Index
from diffembed.index.exchange import jsonl_records
from diffembed.index.folder import search_paths
from diffembed.index.fusion import check_fusion


@pytest.fixture
def index(library: Path, tmp_path: Path, encoder: Any) -> Index:
    index = Index.build(str(library), tmp_path / "index", encoder=encoder, chunk_tokens=12)  # a single path will do
    index.add([{"id": 7, "text": "Owls hear.", "metadata": {"draft": True}}])
    return index


def test_threads_share_an_index(index: Index, encoder: Any) -> None:
    expected = index.search("owls hunt", top=3, encoder=encoder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: index.search("owls hunt", top=3, encoder=encoder), range(64)))
    assert found == [expected] * 64


def test_threads_search_while_another_writes(index: Index, encoder: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        writing = pool.submit(lambda: [index.upsert([{"id": "x", "text": f"Owls {n}."}]) for n in range(20)])
        found = [pool.submit(index.search, "owls", top=20, encoder=encoder) for _ in range(40)]
        assert len(writing.result()) == 20
        assert all(any(hit.key == "7" for hit in each.result()) for each in found)
    assert index.search("owls", where="key = x", encoder=encoder)[0].text == "Owls 19."


@pytest.mark.parametrize("use", [len, lambda i: i.documents, lambda i: i.stats(), lambda i: i.chunks([1])])
def test_a_closed_index_says_so(index: Index, use: Any) -> None:
    index.close()
    with pytest.raises(IndexStoreError, match="was closed; open it again"):
        use(index)


def test_a_closed_index_is_not_searched(index: Index, encoder: Any) -> None:
    index.close()
    with pytest.raises(IndexStoreError, match="was closed; open it again"):
        index.search("owls", encoder=encoder)


def test_more_results_than_numbers_can_say(index: Index, encoder: Any) -> None:
    every = index.search("owls", top=100, hybrid=True, encoder=encoder)
    assert len(every) == len(index)
    assert index.search("owls", top=2**63 - 1, hybrid=True, encoder=encoder) == every


def test_small_values_keep_their_direction(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "vectors", dims=4, vectors_only=True)
    rows = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [1e-6, 2e-6, 3e-6, 4e-6], [0, 0, 0, 0]])
    index.add_vectors(rows, [5, 6, 70, 9])
    ids, cosines = index.search_vectors(rows[2:3], 4)
    assert ids.tolist() == [[5, 70, 6, 9]]
    # stretched until the largest is 127 they are 32 64 95 127, and the other way round
    assert cosines[0].tolist() == pytest.approx([1, 1, 2 * (32 * 127 + 64 * 95) / (32**2 + 64**2 + 95**2 + 127**2), 0])


@pytest.mark.parametrize("hybrid", [0, 1, np.False_, np.True_, None, "words"])
def test_hybrid_is_a_word_or_a_boolean(hybrid: Any) -> None:
    with pytest.raises(InputError, match="hybrid is .*; choose one of"):
        check_fusion(hybrid, 0.5)


def test_an_index_beside_a_folder_is_refused(index: Index, library: Path, encoder: Any) -> None:
    with pytest.raises(InputError, match="is an index; search it alone"):
        search_paths("owls", [index.path, library], model=encoder)


def test_records_of_a_file_are_found_again(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "part.jsonl"
    file.write_text('{"id": "a", "text": "Owls."}\n{"text": "no id"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"part\.jsonl.*2.*: a record has the id None"):
        index.upsert(jsonl_records([file]))
    file.write_text('{"id": " ", "text": "Owls."}\n', encoding="utf-8")
    with pytest.raises(InputError, match="a record has the id ' '"):
        index.upsert(jsonl_records([file]))
    file.write_text('{"id": "b", "_id": "c", "text": "Owls."}\n', encoding="utf-8")
    index.upsert(jsonl_records([file]))
    assert index.stats().fields["_id"] == 1


def test_integers_stand_for_keys(index: Index, encoder: Any) -> None:
    wanted = [hit.key for hit in index.search("owls", where={"key": "7"}, encoder=encoder)]
    assert wanted == ["7"]
    for where in ({"key": 7}, {"key": {"in": [7, 8]}}, "key = 7"):
        assert [hit.key for hit in index.search("owls", where=where, encoder=encoder)] == wanted
    assert "7" not in {hit.key for hit in index.search("owls", where="not key = 7", encoder=encoder)}
    with pytest.raises(InputError, match="key is a string; compare it with strings"):
        index.search("owls", where="key > 7", encoder=encoder)


def test_constants_in_any_case(index: Index, encoder: Any) -> None:
    for constant in ("true", "True", "TRUE"):
        assert [hit.key for hit in index.search("owls", where=f"draft = {constant}", encoder=encoder)] == ["7"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"query": None}, "a query is NoneType"),
        ({"query": ["a"]}, "a query is list"),
        ({"top": 2.5}, "top is 2.5; give a whole number"),
        ({"top": "3"}, "top is '3'; give a whole number"),
        ({"top": True}, "top is True; give a whole number"),
        ({"neighbours": 1.5}, "neighbours is 1.5; give a whole number"),
    ],
)
def test_arguments_of_a_search(index: Index, encoder: Any, asked: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        index.search(**{"query": "owls", "encoder": encoder, **asked})


def test_one_string_for_many_queries(index: Index, encoder: Any) -> None:
    with pytest.raises(InputError, match="queries is the string 'owls'; give a list"):
        index.search_all("owls", encoder=encoder)


@pytest.mark.parametrize("dims", [2.5, "4", True, 0])
def test_dims_of_a_new_index(tmp_path: Path, dims: Any) -> None:
    with pytest.raises(InputError, match="dims is .*; give the width of the vectors"):
        Index.create(tmp_path / "new", dims=dims, vectors_only=True)
    with pytest.raises(InputError, match="leave them out"):
        Index.create(tmp_path / "new", dims=8, chunk_tokens=99)


def test_vectors_and_ids_that_are_none(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "vectors", dims=2, vectors_only=True)
    with pytest.raises(InputError, match="of different widths"):
        index.add_vectors([[1.0, 2.0], [1.0]], [1, 2])
    with pytest.raises(InputError, match=f"id {2**63 + 1} is out of range"):
        index.add_vectors(np.ones((2, 2), np.float32), np.array([3, 2**63 + 1], np.uint64))
    index.add_vectors(np.ones((1, 2), np.float32), [6])
    with pytest.raises(InputError, match="'6 ' is no id"):
        index.delete(["6 "])
    assert len(index) == 1


def test_columns_that_only_an_export_owns(index: Index, tmp_path: Path, encoder: Any) -> None:
    table = {
        "id": ["a", "b"],
        "text": ["Owls.", "Bread."],
        "vector": encoder.encode_documents(["Owls.", "Bread."], dtype="int8").values.tolist(),
        "start": [1, 2],
        "at": [datetime.datetime(2026, 1, 2, 3, 4), None],
    }
    vectors = pa.array(table["vector"], pa.list_(pa.int8()))
    pq.write_table(pa.table({**table, "vector": vectors}), tmp_path / "made.parquet")
    index.import_parquet([tmp_path / "made.parquet"], fingerprint="unknown")
    (hit,) = index.search("owls", where="start = 1", encoder=encoder)
    assert hit.metadata == {"start": 1, "at": "2026-01-02T03:04:00"}
    index.delete(["b"])
    index.export(tmp_path / "out.parquet")
    copy = Index.create(tmp_path / "copy", model=encoder)
    copy.import_parquet([tmp_path / "out.parquet"])
    assert copy.stats().fields == index.stats().fields
    # beside a file that is not of an export the places of one that is stay out
    mixed = Index.create(tmp_path / "mixed", model=encoder)
    pq.write_table(pa.table({**table, "vector": vectors, "id": ["c", "d"]}), tmp_path / "other.parquet")
    mixed.import_parquet([tmp_path / "other.parquet", tmp_path / "out.parquet"], fingerprint="unknown")
    assert mixed.stats().fields == {"at": 2, "draft": 1, "start": 3}
