"""Counting a corpus file: by hand, from the cache, and anew when the file has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import write_rows, write_texts

from diffembed.data import census
from diffembed.data.census import FileCount, Noted, Repeats, count_files, held_out
from diffembed.data.rows import Content, Mark
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

    def counting(path: Path, content: Content) -> FileCount:
        counted.append(path)
        return real(path, content)

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
    of_another_format = {"format": 1, "cells": [[0, 0, 0, 9, 9]]}
    for damage in ({"cells": "x"}, {"bad": [1]}, {"repeated": None}, {"content": "examples"}, of_another_format):
        kept.write_text(json.dumps(json.loads(kept.read_text()) | damage))
        assert count() == [3]
    for damaged in ("", "[]", "{}"):
        kept.write_text(damaged)
        assert count() == [3]
    assert len(counted) == 11
    assert count() == [3] and len(counted) == 11


def test_a_file_is_counted_as_what_it_is_read_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "one", "query": "q", "document": "d"}, {"text": "two"}])
    for _ in range(2):
        monkeypatch.setattr(census, "_counts", {})
        for _ in range(2):
            (texts,) = count_files([path], tmp_path / "cache")
            (examples,) = count_files([path], tmp_path / "cache", content="examples")
            assert (texts.content, texts.rows, texts.bad.count, int(texts.cells[:, 3].sum())) == ("texts", 2, 0, 2)
            assert (examples.content, examples.rows, int(examples.cells[:, 3].sum())) == ("examples", 2, 1)
            assert examples.bad == Noted(1, (f"{path}, line 2 has no 'query': it is needed in every row; "
                                             "found keys ['text']",))  # fmt: skip
    assert len(list((tmp_path / "cache").iterdir())) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=60))
def test_repeated_rows_are_counted_exactly_while_they_are_few(keys: list[int]) -> None:
    repeats = Repeats(most=19)
    for number, key in enumerate(keys):
        repeats.add(key, number)
    found = repeats.noted(str)
    assert found.count == len(keys) - len(set(keys)) and not found.about
    assert len(found.first) == min(3, found.count)
    for said in found.first:
        again, _, first = said.partition(" as ")
        assert keys.index(keys[int(again)]) == int(first) < int(again)


def test_repeated_rows_are_estimated_in_bounded_memory_when_they_are_many() -> None:
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 60_000).tolist()
    repeats = Repeats(most=1000)
    most = 0
    for number in range(60_000):  # of three rows one is another copy of the one before
        repeats.add(keys[number - (number % 3 == 2)], number)
        most = max(most, len(repeats._first) + len(repeats._again))
    found = repeats.noted(str)
    assert most <= 2002 and found.about and found.number == f"about {found.count:,}"
    assert abs(found.count / 20_000 - 1) < 0.15


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.jsonl cannot be read: No such file"):
        count_files([tmp_path / "gone.jsonl"])
