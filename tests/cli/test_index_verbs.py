"""Looking after an index on the command line: every verb, its JSON, its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.invoke import run

from diffembed.index import Index

pytestmark = pytest.mark.usefixtures("fake_model")


def keys(*args: str | Path) -> list[str]:
    return [hit["key"] for hit in run("search", *args, "--json").json["hits"]]


def test_search_with_every_option(tickets: Path) -> None:
    assert keys("printer", tickets, "--where", "team = hardware and year >= 2025") == ["3"]
    assert sorted(keys("printer", tickets, "--group")) == ["1", "2", "3"]
    assert keys("E1142", tickets, "--hybrid", "--top", "1") == ["2"]
    by_rank = run("search", "E1142", tickets, "--hybrid", "--fusion", "rrf", "--top", "1", "--json").json["hits"][0]
    assert by_rank["key"] == "2"
    assert by_rank["score"] <= 2 / 61 and by_rank["bm25"] > 0
    assert keys("E1142", tickets, "--hybrid", "--weight", "0.2", "--top", "1", "--exact") == ["2"]
    shown = run("search", "error in the log", tickets, "--top", "1", "--neighbours", "1").stdout
    assert [line.strip() for line in shown.splitlines()[:4]] == [
        shown.splitlines()[0],
        "Login fails.",
        "»Error E1142 in the log.«",
        "Cleared the cache.",
    ]
    assert shown.startswith("1. 2  0.")
    nothing = run("search", "printer", tickets, "--where", "team = nobody")
    assert (nothing.stdout, nothing.stderr) == ("", "no hits: nothing passes the filter\n")
    misspelt = run("search", "printer", tickets, "--where", "tema = hardware and kind = prose")
    assert "no document has the field 'tema' (fields there are: team, year)" in misspelt.stderr


def test_a_filter_on_files(notes: Path) -> None:
    assert [Path(key).name for key in keys("cat", notes, "--where", "kind = code")] == ["code.py"]
    assert {Path(key).name for key in keys("cat", notes, "--where", f"path prefix {notes}/sub")} == {"german.txt"}


def test_wrong_use(tickets: Path, notes: Path, tmp_path: Path) -> None:
    run("search", "x", tickets, "--where", "team =").fails(2, "the filter 'team =' is wrong at its end")
    run("search", "x", tickets, "--weight", "0.5").fails(2, "--weight and --fusion are of --hybrid")
    both = ("--hybrid", "--fusion", "rrf", "--weight", "0.5")
    run("search", "x", tickets, *both).fails(2, "--weight is of --fusion weighted")
    run("search", "x", notes, "--watch", "--every", "0").fails(2, "give a number above 0")
    run("index", "add", tickets, tmp_path / "no.jsonl").fails(2, "no such file")
    run("index", "import", tickets, tmp_path / "no.parquet").fails(2, "no such file")
    run("index", "stats", notes).fails(2, "is not an index")
    run("index", "verify", notes).fails(2, "is not an index")
    run("index", "compact").fails(2, "DIR", "--help")
    run("index", "verfy", tickets).fails(2, "there is no verb and no file called 'verfy'; did you mean 'verify'?")
    run("index", "compact", tickets, "--questions", "nothere.txt").fails(2, "nothere.txt: no such file; check the path")
    run("index", "compact", tickets, "--recall", "95").fails(2, "recall is 95", "up to 1")
    run("index", notes).fails(2, "--into", "index PATH --help")
    run("index").fails(2, "PATH")
    run("index", "export", tickets, "--output", tmp_path / "x.csv").fails(2, "must end in .parquet or .npy")


def test_add_again(tickets: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": 3, "text": "Printer out of paper.", "team": "office"}\n{"id": 4, "text": "New."}\n')
    run("index", "add", tickets, file, "--new").fails(2, "id '3' is in the index already")
    shown = run("index", "add", tickets, file)
    assert shown.stderr == "records: 1 added, 0 replaced, 1 with other metadata, 0 unchanged\n"
    assert keys("printer", tickets, "--where", "team = office") == ["3"]


def test_an_index_keeps_to_its_model(tickets: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"id": 3, "text": "Printer out of paper."}\n')
    run("index", "add", tickets, file, "--model", "default").fails(2, "keeps to its model; leave --model out")


def test_delete_compact_stats_verify(tickets: Path) -> None:
    assert run("index", "delete", tickets, "3", "9", "--json").json["deleted"] == 1
    assert run("index", "stats", tickets, "--json").json["deleted"] == 1
    compacted = run("index", "compact", tickets, "--json").json
    assert (compacted["before"]["deleted"], compacted["after"]["deleted"]) == (1, 0)
    shown = run("index", "stats", tickets).stdout
    assert "documents" in shown and "team" in shown and ".seg" in shown
    assert run("index", "verify", tickets, "--json").json["problems"] == []
    assert run("index", "verify", tickets).stderr == "2 documents, 4 rows in 1 segments: sound\n"
    assert run("index", "delete", tickets, "1").stderr == "deleted 1 of 1\n"
    assert "segments: 1 before, 1 now" in run("index", "compact", tickets).stderr
    asked = tickets.parent / "asked.txt"
    asked.write_text("where is the invoice\n\n" * 60)
    assert run("index", "compact", tickets, "--questions", asked).code == 0
    asked.write_text("where is the invoice\n" * 49)
    run("index", "compact", tickets, "--questions", asked).fails(2, "49 questions", "give 50 or more")
    np.save(tickets.parent / "asked.npy", np.ones((60, 7), np.float32))
    run("index", "compact", tickets, "--questions", tickets.parent / "asked.npy").fails(2, "[60, 7]")
    (tickets.parent / "broken.npy").write_bytes(b"no vectors")
    run("index", "compact", tickets, "--questions", tickets.parent / "broken.npy").fails(2, "cannot be read as vectors")
    [segment] = (tickets / "segments").iterdir()
    segment.write_bytes(segment.read_bytes()[:-1] + b"\x55")
    damaged = run("index", "verify", tickets)
    assert damaged.code == 4
    assert damaged.stdout.startswith("damaged: ")
    assert damaged.stderr.splitlines()[-1].startswith(f"diffembed: error: {tickets} is damaged: ")


def test_delete_files_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("a.md", "b.md", "c.md", "d.md"):
        (tmp_path / "notes" / name).write_text(f"A note called {name}.")
    into = tmp_path / "notes.index"
    monkeypatch.chdir(tmp_path)
    run("index", "notes", "--into", into)
    (tmp_path / "notes" / "d.md").unlink()
    (tmp_path / "same").symlink_to("notes")
    monkeypatch.chdir(tmp_path / "notes")
    assert run("index", "delete", into, "a.md", "./a.md", tmp_path / "same" / "b.md", "../b.md", "--json").json == {
        "index": str(into),
        "asked": 4,
        "deleted": 2,
    }
    assert run("index", "delete", into, "d.md", "notes/c.md").stderr == "deleted 1 of 2\n"
    record = tmp_path / "records.jsonl"
    record.write_text('{"id": "c.md", "text": "A record of that name."}\n')
    run("index", "add", into, record)
    for left in ([str(tmp_path / "notes" / "c.md")], []):  # the record first: that is its id
        assert run("index", "delete", into, "c.md", "--json").json["deleted"] == 1
        with Index.open(into) as index:
            assert [str(path) for path in index.documents] == left
            assert len(index) == len(left)


def test_export_and_import(tickets: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    assert run("index", "export", tickets, "--output", file, "--json").json["rows"] == 5
    assert "5 x 64 vectors written" in run("index", "export", tickets, "-o", tmp_path / "out.npy").stderr
    copy = tmp_path / "copy.index"
    run("index", "import", copy, file).fails(2, "is no index yet; say what to make")
    assert run("index", "import", copy, file, "--model", "default", "--json").json["added"] == 3
    assert keys("login", copy) == keys("login", tickets)
    run("index", "import", copy, file, "--dims", "64").fails(2, "is an index already; leave --dims")
    plain = tmp_path / "plain.index"
    failed = run("index", "import", plain, file, "--dims", "64", "--vectors-only", "--fingerprint", "unknown")
    failed.fails(2, "an index of vectors only takes integers")
    assert not plain.exists()


def test_a_folder_called_like_a_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats" / "a.txt").write_text("Owls hunt.")
    assert len(run("index", "stats", "--into", "new.index", "--json").json["added"]) == 1
    assert run("index", "--into", "new.index", "stats", "--json").json["unchanged"] == 1
    assert run("index", "stats", "new.index", "--json").json["files"] == 1


def test_watch(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(seconds: float) -> None:
        assert seconds == 0.25
        if (notes / "new.txt").exists():
            raise KeyboardInterrupt
        (notes / "new.txt").write_text("A new note.")

    monkeypatch.setattr("time.sleep", edit)
    into = tmp_path / "notes.index"
    shown = run("index", notes, "--into", into, "--watch", "--every", "0.25")
    assert shown.code == 130
    assert shown.stderr.splitlines() == [
        "files: 3 added, 0 changed, 0 removed, 0 unchanged",
        "files: 1 added, 0 changed, 0 removed, 3 unchanged",
        "diffembed: error: interrupted",
    ]
    with Index.open(into) as index:
        assert len(index.documents) == 4
    (notes / "new.txt").unlink()
    shown = run("search", "a new note", notes, "--watch", "--every", "0.25", "--top", "1")
    assert shown.code == 130
    assert "»A new note.«" in shown.stdout


def test_help_shows_both_forms() -> None:
    shown = run("index", "--help").stdout
    assert "PATH... --into DIR" in shown
    for word in ("--into", "--watch", "--json", "compact", "verify", "stats", "export", "import", "delete", "add"):
        assert word in shown
    assert "--into" in run("index", "PATH", "--help").stdout


def test_an_import_keeps_the_model_that_the_files_name(tickets: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    assert run("index", "export", tickets, "--output", file, "--json").json["rows"] == 5
    known = run("index", "stats", tickets, "--json").json["fingerprint"]
    assert known
    given: dict[str, tuple[str, ...]] = {
        "": (),
        known: ("--fingerprint", known),
        "unknown": ("--fingerprint", "unknown"),
    }
    for name, option in given.items():
        into = tmp_path / f"{name or 'stated'}.index"
        assert run("index", "import", into, file, "--dims", "64", *option, "--json").json["added"] == 3
        kept = run("index", "stats", into, "--json").json["fingerprint"]
        assert kept == ("" if name == "unknown" else known)
    assert keys("login", tmp_path / "stated.index") == keys("login", tickets)
