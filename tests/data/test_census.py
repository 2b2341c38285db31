"""Counting a corpus file: by hand, from the cache, and anew when the file has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.data.corpora import write_rows, write_texts

from diffembed.data import census
from diffembed.data.census import FileCount, count_files, held_out
from diffembed.data.rows import Mark
from diffembed.errors import InputError


def test_a_count_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "STRETCH_BYTES", 8)
    texts = ["text 1", "text 2", " ", "text 3", "text 246"]  # texts 2 and 246 are held out: their CRC-32 ends a fifty
    path = write_rows(tmp_path / "a.jsonl", [{"text": t, "lang": "de" if t[-1] in "12" else "en"} for t in texts])
    lines = [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    (count,) = count_files([path])
    assert count.marks == (Mark(0, 0), Mark(2, sum(lines[:2])))
    assert count.languages == ("de", "en")
    assert sorted(map(tuple, count.cells.tolist())) == [
        # stretch, language, held out, rows, bytes
        (0, 0, 0, 1, 6),
        (0, 0, 1, 1, 6),
        (1, 1, 0, 1, 6),
        (1, 1, 1, 1, 8),
    ]
    assert count.blank == 1


def test_held_out_is_a_rule_of_bytes() -> None:
    assert held_out("text 2") and held_out(b"text 2") and not held_out("text 1")
    assert 150 < sum(held_out(f"number {n}") for n in range(10_000)) < 250


def test_counts_are_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, told = tmp_path / "cache", list[str]()
    counted: list[Path] = []
    real = census._counted

    def counting(path: Path) -> FileCount:
        counted.append(path)
        return real(path)

    monkeypatch.setattr(census, "_counted", counting)
    monkeypatch.setattr(census, "_SLOW_BYTES", 10)
    path = write_texts(tmp_path / "a.jsonl", ["one", "two"])

    def count() -> list[int]:
        monkeypatch.setattr(census, "_counts", {})  # as in another process
        return [int(n) for n in count_files([path], cache, told.append)[0].cells[:, 3]]

    assert count() == count() == [2] and len(counted) == 1
    assert len(told) == 1 and "checking and counting" in told[0]
    write_texts(path, ["one", "two", "three"])
    assert count() == [3] and len(counted) == 2
    os.utime(path, ns=(1, 1))
    assert count() == [3] and len(counted) == 3
    (kept,) = cache.iterdir()
    for damaged in ("", "[]", "{}", json.dumps(json.loads(kept.read_text()) | {"cells": "x"})):
        kept.write_text(damaged)
        assert count() == [3]
    assert len(counted) == 7
    assert count() == [3] and len(counted) == 7


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.jsonl cannot be read: No such file"):
        count_files([tmp_path / "gone.jsonl"])
