from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.errors import IndexStoreError, InputError
from diffembed.index import Index, compaction
from diffembed.index import refresh as refresh_module
from diffembed.index.refresh import RefreshReport, refresh_index
from diffembed.index.storage import writer_lock


def write(path: Path, text: str | bytes, *, seconds_ago: float = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    then = path.stat().st_mtime_ns - int(seconds_ago * 1e9)
    os.utime(path, ns=(then, then))


def names(paths: tuple[Path, ...]) -> list[str]:
    return sorted(path.name for path in paths)


def run(into: Path, paths: list[Path], encoder: Any, **options: Any) -> RefreshReport:
    encoder.encoded.clear()
    return refresh_index(into, paths, encoder=encoder, **options)


def contents(into: Path) -> dict[str, list[str]]:
    """Texts of the chunks by file name, and a check that each has its vector."""
    with Index.open(into) as index:
        rows = index._catalog._db.execute("SELECT c.id FROM chunks c ORDER BY c.id").fetchall()
        chunks = index.chunks([row[0] for row in rows])
        assert index._snapshot is not None
        live = [
            i
            for part in index._snapshot.parts
            for i in part.segment.ids[slice(None) if part.live is None else part.live].tolist()
        ]
        assert sorted(live) == [row[0] for row in rows]
    found: dict[str, list[str]] = {}
    for stored in chunks:
        found.setdefault(Path(stored.path).name, []).append(stored.chunk.text)
    return found


def test_only_what_changed_is_encoded(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    first = run(into, [library], encoder)
    assert names(first.added) == ["bread.md", "owls.txt", "rust.md", "sort.py", "日本.txt"]
    assert first.chunks == len(encoder.encoded) == 5

    again = run(into, [library], encoder)
    assert (again.added, again.changed, again.removed, again.unchanged, again.chunks) == ((), (), (), 5, 0)
    assert encoder.encoded == []

    write(library / "owls.txt", "Owls sleep by day.")
    write(library / "new.txt", "A new file.")
    (library / "notes/rust.md").unlink()
    third = run(into, [library], encoder)
    assert (names(third.added), names(third.changed), names(third.removed)) == (["new.txt"], ["owls.txt"], ["rust.md"])
    assert third.unchanged == 3
    assert sorted(encoder.encoded) == ["A new file.", "Owls sleep by day."]
    assert contents(into)["owls.txt"] == ["Owls sleep by day."]
    assert "rust.md" not in contents(into)


def test_a_touched_file_is_hashed_but_not_encoded(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder)
    os.utime(library / "owls.txt", ns=(1, 10**18))
    report = run(into, [library], encoder)
    assert (report.unchanged, report.chunks) == (5, 0)
    # ... and the new stamp is known: the next run does not open the file
    os.chmod(library / "owls.txt", 0)
    try:
        assert run(into, [library], encoder).unchanged == 5
    finally:
        os.chmod(library / "owls.txt", 0o644)


def test_a_moved_file_keeps_its_vectors(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder)
    (library / "owls.txt").rename(library / "birds.txt")
    report = run(into, [library], encoder)
    assert (names(report.added), names(report.removed), report.chunks) == (["birds.txt"], ["owls.txt"], 0)
    assert encoder.encoded == []
    assert contents(into)["birds.txt"][0].startswith("Owls hunt")
    assert run(into, [library], encoder).unchanged == 5


def test_a_file_of_this_second_is_hashed_again(library: Path, tmp_path: Path, encoder: Any) -> None:
    """Same size, same time stamp, other content: a file system with coarse stamps shows no change."""
    into = tmp_path / "index"
    write(library / "fresh.txt", "one", seconds_ago=0)
    stamp = (library / "fresh.txt").stat().st_mtime_ns
    run(into, [library], encoder)
    (library / "fresh.txt").write_text("two")
    os.utime(library / "fresh.txt", ns=(stamp, stamp))
    assert names(run(into, [library], encoder).changed) == ["fresh.txt"]
    assert contents(into)["fresh.txt"] == ["two"]


def test_what_cannot_be_read_is_reported_every_time_and_read_once(
    library: Path, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = tmp_path / "index"
    write(library / "image.png", b"\x89PNG\0\0")
    write(library / "latin.txt", b"caf\xe9")
    write(library / "empty.txt", "")
    write(library / "rows.jsonl", '{"text": "fine"}\n{broken\n')
    expected = {
        "image.png": "binary file",
        "latin.txt": "not UTF-8 (byte 0xe9 in line 1); convert it",
        "empty.txt": "no text in it",
        "rows.jsonl": "line 2 is not JSON (expecting property name enclosed in double quotes); mend or remove it",
    }
    report = run(into, [library], encoder)
    assert {path.name: reason for path, reason in report.skipped} == expected

    opened: list[Path] = []
    load = refresh_module._load
    monkeypatch.setattr(refresh_module, "_load", lambda entry: (opened.append(entry.path), load(entry))[1])
    report = run(into, [library], encoder)
    assert {path.name: reason for path, reason in report.skipped} == expected
    assert opened == []

    write(library / "latin.txt", "café")
    (library / "image.png").unlink()
    report = run(into, [library], encoder)
    assert names(report.added) == ["latin.txt"]
    assert {path.name for path, _ in report.skipped} == {"empty.txt", "rows.jsonl"}


def test_a_document_that_becomes_unreadable_goes(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder)
    write(library / "owls.txt", b"\0\0")
    report = run(into, [library], encoder)
    assert (names(report.removed), report.skipped[0].reason) == (["owls.txt"], "binary file")
    assert "owls.txt" not in contents(into)
    assert run(into, [library], encoder).unchanged == 4


def test_a_file_that_may_not_be_opened_is_tried_again(library: Path, tmp_path: Path, encoder: Any) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may open anything")
    into = tmp_path / "index"
    os.chmod(library / "owls.txt", 0)
    assert run(into, [library], encoder).skipped[0].reason == "cannot be read (permission denied)"
    os.chmod(library / "owls.txt", 0o644)
    assert names(run(into, [library], encoder).added) == ["owls.txt"]


def test_a_reader_installed_later_is_used(library: Path, tmp_path: Path, encoder: Any, monkeypatch: Any) -> None:
    import sys

    into = tmp_path / "index"
    write(library / "a.docx", b"PK")
    monkeypatch.setitem(sys.modules, "docx", None)
    assert "pip install" in run(into, [library], encoder).skipped[0].reason
    monkeypatch.setattr(refresh_module, "read_source", lambda path, content: refresh_module_text("now it can be read"))
    assert names(run(into, [library], encoder).added) == ["a.docx"]


def refresh_module_text(text: str) -> Any:
    from diffembed.text.readers import SourceText

    return SourceText.plain(text, "prose")


def test_batches_are_commits_of_their_own(tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_module, "BATCH_CHUNKS", 4)
    library, into = tmp_path / "many", tmp_path / "index"
    for number in range(10):
        write(library / f"{number}.txt", f"text number {number}")
    encode, calls = encoder.encode_documents, []

    def failing(texts: Any, **options: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(texts, **options)

    monkeypatch.setattr(encoder, "encode_documents", failing)
    with pytest.raises(KeyboardInterrupt):
        refresh_index(into, [library], encoder=encoder)
    assert sorted(contents(into)) == [f"{n}.txt" for n in range(8)]
    report = refresh_index(into, [library], encoder=encoder)
    assert (calls, names(report.added), report.unchanged) == ([4, 4, 2, 2], ["8.txt", "9.txt"], 8)


def test_progress_counts_files(library: Path, tmp_path: Path, encoder: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(tmp_path / "index", [library], encoder, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (5, 5)
    assert {total for _, total in seen} == {5}


def test_small_segments_are_merged_and_dead_rows_dropped(
    tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MERGE_ABOVE_SEGMENTS", 3)
    library, into = tmp_path / "many", tmp_path / "index"
    for number in range(30):
        write(library / f"{number % 5}.txt", f"text number {number} of many", seconds_ago=100 - number)
        run(into, [library], encoder)
        assert len(list((into / "segments").iterdir())) <= 4
    assert contents(into) == {f"{n}.txt": [f"text number {25 + n} of many"] for n in range(5)}
    with Index.open(into) as index:
        assert index.search("text number 27", top=1, encoder=encoder)[0].text == "text number 27 of many"


def test_merged_segments_keep_their_size(tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGE_ABOVE_SEGMENTS", 2)
    monkeypatch.setattr(compaction, "MERGED_ROWS", 6)
    monkeypatch.setattr(refresh_module, "BATCH_CHUNKS", 2)
    library, into = tmp_path / "many", tmp_path / "index"
    for number in range(16):
        write(library / f"{number}.txt", f"text number {number}")
    run(into, [library], encoder)
    with Index.open(into) as index:
        assert [s.rows for s in index._catalog.segments()] == [6, 6, 4]
    assert len(contents(into)) == 16


def test_documents_from_elsewhere_stay(library: Path, tmp_path: Path, encoder: Any) -> None:
    into, other = tmp_path / "index", tmp_path / "other"
    write(other / "a.txt", "elsewhere")
    write(tmp_path / "library-of-another-name/b.txt", "its name begins alike")
    run(into, [other, tmp_path / "library-of-another-name"], encoder)
    assert run(into, [library], encoder).removed == ()
    assert len(contents(into)) == 7


def test_contextual_models_read_whole_documents(
    library: Path, tmp_path: Path, make_encoder: Callable[..., Any]
) -> None:
    contextual = make_encoder(contextual=True)
    calls: list[list[int]] = []
    encode = contextual.encode_chunks
    contextual.encode_chunks = lambda documents, **o: (
        calls.append([len(d) for d in documents]),
        encode(documents, **o),
    )[1]
    refresh_index(tmp_path / "index", [library], encoder=contextual, chunk_tokens=16)
    assert [sum(call) for call in calls] == [9]
    assert max(calls[0]) > 1


# What it refuses


def test_another_model_is_refused(library: Path, tmp_path: Path, make_encoder: Callable[..., Any]) -> None:
    into = tmp_path / "index"
    refresh_index(into, [library], encoder=make_encoder())
    with pytest.raises(
        IndexStoreError, match=r"was made by model fake .*, not by other .*index again into a new folder"
    ):
        refresh_index(into, [library], encoder=make_encoder(name="other"))


def test_another_chunk_length_is_refused(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder, chunk_tokens=64)
    run(into, [library], encoder)
    with pytest.raises(InputError, match="made with chunks of 64 tokens, not 32"):
        run(into, [library], encoder, chunk_tokens=32)
    with pytest.raises(InputError, match="chunks of 513 tokens: fake reads 1 to 512"):
        run(tmp_path / "new", [library], encoder, chunk_tokens=513)


def test_two_writers(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder)
    write(library / "new.txt", "new")
    with (
        writer_lock(into),
        pytest.raises(IndexStoreError, match=rf"is being written by process {os.getpid()}; wait until"),
    ):
        run(into, [library], encoder)
    # nothing to write needs no lock
    (library / "new.txt").unlink()
    with writer_lock(into):
        assert run(into, [library], encoder).unchanged == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "nothing to read there; name a folder or file with text"),
        (
            lambda folder: [write(folder / f"{n}.png", b"\0") for n in range(3)],
            "no text to read; left out: 3 x binary file; name a folder",
        ),
        (lambda folder: write(folder / ".hidden", "x"), "left out: 1 x hidden file"),
    ],
    ids=["missing", "empty", "only-binary", "only-hidden"],
)
def test_nothing_to_read_is_one_line_and_leaves_nothing(
    make: Callable[[Path], Any], message: str, tmp_path: Path, encoder: Any
) -> None:
    make(tmp_path / "texts")
    with pytest.raises(InputError, match=message) as error:
        Index.build([tmp_path / "texts"], tmp_path / "deep/index", encoder=encoder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "deep/index").exists()


def test_folders_that_cannot_be_an_index(library: Path, tmp_path: Path, encoder: Any) -> None:
    write(tmp_path / "a-file", "x")
    write(tmp_path / "full/a.txt", "x")
    for into, message in (
        (tmp_path / "a-file", "is a file; name a folder"),
        (tmp_path / "full", r"not an index and not empty \(it holds a\.txt\)"),
        (library, "both read and the index"),
        (tmp_path / "a-file/below", "cannot be made"),
    ):
        with pytest.raises(InputError, match=message):
            run(into, [library], encoder)


def test_an_index_inside_what_is_read_is_left_out(library: Path, encoder: Any) -> None:
    run(library / "my.index", [library], encoder)
    report = run(library / "my.index", [library], encoder)
    assert (report.unchanged, report.chunks, report.added) == (5, 0, ())
    assert [(path.name, reason) for path, reason in report.excluded] == [("my.index", "an index made by diffembed")]


def test_an_emptied_folder_empties_the_index(library: Path, tmp_path: Path, encoder: Any) -> None:
    into = tmp_path / "index"
    run(into, [library], encoder)
    for path in library.rglob("*.*"):
        path.unlink()
    report = run(into, [library], encoder)
    assert len(report.removed) == 5
    with Index.open(into) as index:
        assert len(index) == 0
        assert index.search("owls", encoder=encoder) == []
