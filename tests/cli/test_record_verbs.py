"""What an index holds, on the command line: get, list, count, delete, and many queries at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.invoke import Ran, run

from diffembed.index import Index

pytestmark = pytest.mark.usefixtures("fake_model")


def lines(ran: Ran) -> list[Any]:
    assert ran.code == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_get(tickets: Path) -> None:
    [login] = lines(run("index", "get", tickets, "2", "--json"))
    assert login == {
        "id": "2",
        "chunks": ["Login fails.", "Error E1142 in the log.", "Cleared the cache."],
        "kind": "prose",
        "metadata": {"team": "web", "year": 2025},
    }
    [first, second] = lines(run("index", "get", tickets, "3", "1", "--json", "--vectors"))
    assert (first["id"], second["id"]) == ("3", "1")
    assert [len(row) for row in first["vectors"]] == [64]
    assert run("index", "get", tickets, "2").stdout.splitlines() == [
        '2\t3 chunks\t{"team": "web", "year": 2025}',
        "   Login fails.",
        "   Error E1142 in the log.",
        "   Cleared the cache.",
    ]
    missing = run("index", "get", tickets, "9", "1", "8")
    assert missing.code == 2
    assert missing.stdout.startswith("1\t1 chunk\t")
    assert missing.stderr.startswith(f"diffembed: error: {tickets} has no 9, 8; `diffembed index list ")


def test_get_a_file_by_its_path_from_here(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = tmp_path / "notes.index"
    run("index", notes, "--into", into)
    monkeypatch.chdir(notes)
    for name in ("cats.md", "./cats.md", "sub/../cats.md", notes / "cats.md"):
        [found] = lines(run("index", "get", into, name, "--json"))
        assert found["id"] == str(notes / "cats.md")
        assert "The cat sleeps" in found["chunks"][0]
    with Index.open(into) as index:
        [document] = index.get([notes / "cats.md"])
        assert document.path == notes / "cats.md"
        assert index.delete([Path("cats.md")]) == 1


def test_list_and_count(tickets: Path) -> None:
    listed = run("index", "list", tickets).stdout.splitlines()
    assert [line.split("\t")[:2] for line in listed] == [["1", "1 chunk"], ["2", "3 chunks"], ["3", "1 chunk"]]
    hardware = ("--where", "team = hardware")
    assert [row["id"] for row in lines(run("index", "list", tickets, *hardware, "--json"))] == ["1", "3"]
    assert [row["id"] for row in lines(run("index", "list", tickets, "--limit", "1", "--json"))] == ["1"]
    assert [row["id"] for row in lines(run("index", "list", tickets, "--after", "1", "--json"))] == ["2", "3"]
    assert run("index", "count", tickets).stdout == "3\n"
    assert run("index", "count", tickets, *hardware, "--json").json == {"index": str(tickets), "count": 2}
    run("index", "count", tickets, "--where", "team =").fails(2, "the filter 'team =' is wrong at its end")
    run("index", "list", tickets, "--limit", "0").fails(2, "--limit")


def test_a_list_makes_the_same_index_again(tickets: Path, tmp_path: Path) -> None:
    """Through a pipe: what `list --json --vectors` prints is what `add -` reads."""
    written = run("index", "list", tickets, "--json", "--vectors").stdout
    copy = tmp_path / "copy.index"
    assert run("index", "add", copy, "-", "--json", stdin=written).json["added"] == 3
    assert run("index", "list", copy, "--json", "--vectors").stdout == written
    for query in ("printer", "log in"):
        here, there = (run("search", query, where, "--json").json["hits"] for where in (tickets, copy))
        assert [(h["key"], h["score"]) for h in here] == [(h["key"], h["score"]) for h in there]
    run("index", "add", copy, "-", stdin="{").fails(2, "stdin, line 1 is not JSON")


def test_delete_by_filter(tickets: Path) -> None:
    run("index", "delete", tickets).fails(2, "neither ids nor a filter")
    run("index", "delete", tickets, "1", "--where", "year = 2025").fails(2, "both ids and a filter")
    assert run("index", "delete", tickets, "--where", "year = 2025").stderr == "deleted 2\n"
    assert run("index", "delete", tickets, "--where", "year = 2025", "--json").json["deleted"] == 0
    assert run("index", "list", tickets).stdout.splitlines() == ['1\t1 chunk\t{"team": "hardware", "year": 2024}']
    assert run("index", "verify", tickets).code == 0


def test_pages_and_least_scores(tickets: Path) -> None:
    whole = run("search", "printer", tickets, "--top", "5", "--json").json["hits"]
    paged = run("search", "printer", tickets, "--top", "2", "--offset", "2", "--json").json["hits"]
    assert [h["chunk_id"] for h in paged] == [h["chunk_id"] for h in whole][2:4]
    assert run("search", "printer", tickets, "--top", "2", "--offset", "2").stdout.startswith("3. ")
    least = str(whole[1]["score"])
    above = run("search", "printer", tickets, "--min-score", least, "--json").json["hits"]
    assert [h["chunk_id"] for h in above] == [h["chunk_id"] for h in whole[:2]]
    assert "try without --min-score and --offset" in run("search", "printer", tickets, "--min-score", "2").stderr


def test_many_queries(tickets: Path, notes: Path) -> None:
    asked = ["printer", "log in", "paper"]
    answers = lines(run("search", "-", tickets, "--top", "2", "--json", stdin="printer\n\nlog in\r\npaper"))
    assert [answer["query"] for answer in answers] == asked
    for answer in answers:
        assert answer["hits"] == run("search", answer["query"], tickets, "--top", "2", "--json").json["hits"]
        assert answer["search_seconds"] > 0
    shown = run("search", "-", notes, "--top", "1", stdin="cat\nHund\n")
    assert [line for line in shown.stdout.splitlines() if line.startswith(("#", "1."))][::2] == ["# cat", "# Hund"]
    assert shown.stderr == "files: 3 added, 0 changed, 0 removed, 0 unchanged\n"
    run("search", "-", tickets, stdin="\n \n").fails(2, "stdin holds no query")
    run("search", "-", notes, "--watch", stdin="cat").fails(2, "--watch asks one query")


def test_more_queries_than_go_together(tickets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.folder.QUERIES_AT_ONCE", 2)
    asked = [f"printer {n}" for n in range(5)]
    answers = lines(run("search", "-", tickets, "--json", stdin="\n".join(asked)))
    assert [answer["query"] for answer in answers] == asked


def test_a_page_of_vectors_only_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bare.index"
    with Index.create(folder, dims=8, vectors_only=True) as index:
        index.add_vectors([[1.0] * 8], [5])
    assert run("index", "count", folder).stdout == "1\n"
    run("index", "list", folder).fails(2, "holds vectors only")
    run("index", "get", folder, "5").fails(2, "holds vectors only")
    assert run("index", "delete", folder, "5").stderr == "deleted 1 of 1\n"
