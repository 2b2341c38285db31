"""Sources: the same batch for the same step, train apart from dev and held-out, every item once an epoch."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.sources import PairSource, TextSource, draw, held_out, read_texts, schedule
from diffembed.errors import InputError


def write_beir(folder: Path, size: int = 60) -> None:
    folder.mkdir(parents=True)
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as corpus:
        for i in range(size):
            row = {"_id": f"d{i}", "title": f"title {i}", "text": f"document number {i} tells about topic {i % 7}"}
            corpus.write(json.dumps(row) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        for i in range(size):
            queries.write(json.dumps({"_id": f"q{i}", "text": f"what about number {i}"}) + "\n")
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(size))]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 30), st.integers(0, 99))
def test_draws_do_not_depend_on_where_one_starts(size: int, start: int, count: int, seed: int) -> None:
    stream = draw(size, 0, start + count, seed)
    assert (draw(size, start, count, seed) == stream[start:]).all()
    whole_epochs = stream[: len(stream) // size * size].reshape(-1, size)
    assert (np.sort(whole_epochs, axis=1) == np.arange(size)).all()


def test_pairs_are_of_the_train_side_only(tmp_path: Path) -> None:
    write_beir(tmp_path / "set")
    source = PairSource.read("s", tmp_path, ["set"], seed=0)
    dev = {f"what about number {i}" for i in range(60) if zlib.crc32(f"q{i}".encode()) % 10 == 0}
    assert dev and dev.isdisjoint(source.queries)
    assert len(source) == 60 - len(dev)
    query, document, _ = source.rows(0, 1)[0]
    assert document.startswith(f"title {query.split()[-1]}\n")


def test_document_numbers_tell_folders_apart(tmp_path: Path) -> None:
    write_beir(tmp_path / "a")
    write_beir(tmp_path / "b")
    both = PairSource.read("s", tmp_path, ["*"], seed=0)
    assert len(set(both.document_ids)) == len(both)


def test_texts_leave_the_held_out_part_alone(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}"}) for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = TextSource.read("s", tmp_path, ["a.jsonl"], seed=0)
    kept_apart = [t for t in read_texts(tmp_path, ["a.jsonl"]) if held_out(t)]
    assert kept_apart and set(kept_apart).isdisjoint(source.texts)
    assert len(source) + len(kept_apart) == 400


def test_schedule_follows_weights() -> None:
    shares = np.bincount(schedule([1, 3, 6], 20_000, seed=5)) / 20_000
    assert np.abs(shares - [0.1, 0.3, 0.6]).max() < 0.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": 3}\n', "line 2"),
        ('{"text": "a"}\nnot json\n', "line 2"),
        ("[1]\n", "line 1"),
        ("\n", "has no text"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        TextSource.read("s", tmp_path, ["bad.jsonl"], seed=0)


def test_a_pattern_without_a_match_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing matches 'missing'"):
        TextSource.read("s", tmp_path, ["missing*".rstrip("*")], seed=0)
