from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import Hit, Index, folder, index_paths, search_paths
from diffembed.index.catalog import CATALOG_NAME
from diffembed.index.storage import writer_lock


@pytest.fixture
def index(library: Path, tmp_path: Path, encoder: Any) -> Index:
    return Index.build([library], tmp_path / "index", encoder=encoder, chunk_tokens=12)


def test_a_search_finds_the_chunk_and_marks_the_sentence(index: Index, library: Path) -> None:
    hit = index.search("hear a mouse under the snow", top=3)[0]
    assert hit.path == library / "owls.txt"
    assert (hit.line_start, hit.line_end) == (1, 1)
    assert hit.best_sentence == "They hear a mouse under the snow."
    start, end = hit.best_sentence_span
    assert hit.text[start:end] == hit.best_sentence
    assert 0.3 < hit.score <= 1
    assert hit.to_dict()["path"] == str(hit.path)


def test_cjk_and_code(index: Index, library: Path) -> None:
    assert index.search("雪の下の鼠の音を聞く。", top=1)[0].best_sentence == "雪の下の鼠の音を聞く。"
    hit = index.search("def insertion_sort(items):", top=1)[0]
    assert (hit.path, hit.line_start, hit.best_sentence) == (library / "code/sort.py", 1, "def insertion_sort(items):")


def test_hits_come_in_order_and_lines_are_those_of_the_file(index: Index) -> None:
    hits = index.search("bake the loaf in water", top=50)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(hits) == len(index)
    for hit in hits:
        lines = hit.path.read_text(encoding="utf-8").split("\n")
        assert hit.text in "\n".join(lines[hit.line_start - 1 : hit.line_end])


def test_vectors_made_elsewhere(index: Index, encoder: Any) -> None:
    vectors = encoder.encode_queries(["owls hunt", "flour and water"], dtype="int8").values
    ids, scores = index.search_vectors(vectors, 2)
    assert ids.shape == scores.shape == (2, 2)
    assert [Path(stored.path).name for stored in index.chunks(ids[:, 0].tolist())] == ["owls.txt", "bread.md"]
    assert (np.diff(scores, axis=1) <= 0).all()


def test_contextual_sentences_are_read_together(
    library: Path, tmp_path: Path, make_encoder: Callable[..., Any]
) -> None:
    contextual = make_encoder(contextual=True)
    index = Index.build([library], tmp_path / "index", encoder=contextual)
    assert index.search("the barn owl lives in barns", top=1)[0].best_sentence == "The barn owl lives in barns."


def test_a_reader_sees_new_commits_and_keeps_what_it_holds(index: Index, library: Path, encoder: Any) -> None:
    with Index.open(index.path) as reader:
        before = reader.search("owls hunt at night", top=1, encoder=encoder)[0]
        (library / "owls.txt").write_text("Wombats dig burrows.")
        index.refresh([library])
        after = reader.search("wombats dig", top=1, encoder=encoder)[0]
        assert (before.path, after.text) == (after.path, "Wombats dig burrows.")
        assert all("Owls hunt" not in hit.text for hit in reader.search("owls hunt at night", top=50, encoder=encoder))


def test_reading_needs_no_lock(index: Index, encoder: Any) -> None:
    with writer_lock(index.path), Index.open(index.path) as reader:
        assert reader.search("owls", top=1, encoder=encoder)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query(index: Index, library: Path, query: str) -> None:
    with pytest.raises(InputError, match="the query is empty; say what to look for"):
        index.search(query)
    with pytest.raises(InputError, match="the query is empty"):
        search_paths(query, [library])
    with pytest.raises(InputError, match="top is 0"):
        index.search("x", top=0)
    with pytest.raises(InputError, match="top is 0"):
        search_paths("x", [library], top=0)


def test_another_model_is_refused(index: Index, make_encoder: Callable[..., Any]) -> None:
    with pytest.raises(IndexStoreError, match="was made by model fake"):
        index.search("owls", encoder=make_encoder(name="other"))
    with pytest.raises(IndexStoreError, match=r"64 dims.*128 dims"):
        index.search("owls", encoder=make_encoder(dims=128))


# Damage


def test_a_damaged_segment_is_noticed(index: Index, encoder: Any) -> None:
    index.close()
    [segment] = (index.path / "segments").iterdir()
    whole = bytearray(segment.read_bytes())
    whole[len(whole) // 2] ^= 4
    segment.write_bytes(whole)
    with (
        pytest.raises(IndexStoreError, match=r"fails its checksum at byte \d+; delete that folder"),
        Index.open(index.path) as opened,
    ):
        opened.search("owls", encoder=encoder)
    segment.unlink()
    with pytest.raises(IndexStoreError, match="cannot be read"):
        Index.open(index.path)


def test_a_damaged_catalog_is_noticed(index: Index, library: Path, encoder: Any) -> None:
    index.close()
    catalog = index.path / CATALOG_NAME
    whole = catalog.read_bytes()
    for content in (b"not a database at all", whole[: len(whole) // 2], whole[:100] + bytes(len(whole) - 100), b""):
        catalog.write_bytes(content)
        with (
            pytest.raises(IndexStoreError, match="delete that folder and index the files again") as error,
            Index.open(index.path) as opened,
        ):
            opened.search("owls", top=50, encoder=encoder)
        assert "\n" not in str(error.value)


def test_another_version_and_other_databases(index: Index) -> None:
    index.close()
    with sqlite3.connect(index.path / CATALOG_NAME) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(IndexStoreError, match="index format 99, this diffembed reads 2"):
        Index.open(index.path)
    with sqlite3.connect(index.path / CATALOG_NAME) as db:
        db.execute("PRAGMA application_id=1")
    db.close()
    with pytest.raises(IndexStoreError, match="damaged"):
        Index.open(index.path)


def test_vectors_and_catalog_of_different_times(index: Index) -> None:
    index.close()
    db = sqlite3.connect(index.path / CATALOG_NAME)
    db.execute("DELETE FROM segments")
    db.commit()
    db.close()
    with pytest.raises(IndexStoreError, match="holds 0 vectors for 11 chunks"):
        Index.open(index.path)


def test_orphans_are_removed_at_open_unless_a_writer_is_at_work(index: Index) -> None:
    orphan = index.path / "segments" / "000000000099-deadbeef.seg"
    orphan.write_bytes(b"left by a crash")
    with writer_lock(index.path):
        Index.open(index.path).close()
        assert orphan.exists()
    Index.open(index.path).close()
    assert not orphan.exists()


def test_a_read_only_index_can_be_searched(index: Index, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = index.search("owls hunt", top=3)
    index.close()
    monkeypatch.setattr("diffembed.index.connection.os.access", lambda *_: False)
    before = {path: path.stat().st_mtime_ns for path in index.path.rglob("*")}
    with Index.open(index.path) as reader:
        assert reader.search("owls hunt", top=3, encoder=encoder) == expected
    assert {path: path.stat().st_mtime_ns for path in index.path.rglob("*")} == before
    (index.path / (CATALOG_NAME + "-wal")).write_bytes(b"left by a killed writer")
    with pytest.raises(IndexStoreError, match="open it once where it can be written"):
        Index.open(index.path)


def test_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an index; name one that was made with: diffembed index PATH --into"):
        Index.open(tmp_path)


# Folders


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "load_encoder", lambda model: encoder)
    return tmp_path / "cache"


def test_search_paths_indexes_once_and_refreshes(library: Path, cache: Path, encoder: Any) -> None:
    first = search_paths("owls hunt at night", [library], top=2)
    assert len(first.refresh.added) == 5
    assert first.index.parent == cache / "diffembed" / "indexes"
    assert isinstance(first.hits[0], Hit)
    encoder.encoded.clear()
    second = search_paths("owls hunt at night", [library / ".", library / "notes"], top=2)
    assert (second.hits, second.index, second.refresh.unchanged) == (first.hits, first.index, 5)
    assert all(text in first.hits[0].text + first.hits[1].text for text in encoder.encoded)
    (library / "bats.txt").write_text("Bats hunt at night too.")
    third = search_paths("bats hunt", [library], top=1)
    assert (third.hits[0].text, len(third.refresh.added)) == ("Bats hunt at night too.", 1)
    assert set(third.to_dict()) == {"hits", "index", "refresh", "search_seconds"}


def test_paths_have_indexes_of_their_own(library: Path, cache: Path) -> None:
    reports = [search_paths("owls", [path]) for path in (library, library / "notes", library / "owls.txt")]
    assert len({report.index for report in reports}) == 3
    assert {hit.path.name for hit in reports[2].hits} == {"owls.txt"}


def test_an_index_folder_can_be_searched_as_it_is(library: Path, cache: Path, tmp_path: Path) -> None:
    index_paths([library], tmp_path / "my.index")
    report = search_paths("owls hunt", [tmp_path / "my.index"], top=1)
    assert (report.hits[0].path.name, report.index) == ("owls.txt", tmp_path / "my.index")
    assert not (cache / "diffembed").exists()


def test_a_missing_path_does_not_wait_for_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folder, "load_encoder", lambda model: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match="no such file or folder"):
        search_paths("x", [tmp_path / "missing"])
    with pytest.raises(InputError, match="no such file or folder"):
        index_paths([tmp_path / "missing"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_small_search_does_not_import_faiss_or_pyarrow(library: Path, tmp_path: Path) -> None:
    import subprocess

    source = Path(__file__).parents[2] / "src"
    code = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(source)!r}]\n"
        "from fake_encoder import FakeEncoder; from diffembed.index import Index\n"
        f"index = Index.build([{str(library)!r}], {str(tmp_path / 'i')!r}, encoder=FakeEncoder())\n"
        "assert index.search('owls')\n"
        "print(sorted({'faiss', 'pyarrow', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
