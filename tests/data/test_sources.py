"""Sources of texts: the same draws from wherever one starts, training texts apart from held-out ones, shares kept."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import SUFFIXES, write_rows, write_texts

from diffembed.data.census import held_out
from diffembed.data.sources import draw, held_out_texts, read_texts, schedule, turns
from diffembed.errors import InputError


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 30), st.integers(0, 99))
def test_draws_do_not_depend_on_where_one_starts(size: int, start: int, count: int, seed: int) -> None:
    stream = draw(size, 0, start + count, seed)
    assert (draw(size, start, count, seed) == stream[start:]).all()
    whole_epochs = stream[: len(stream) // size * size].reshape(-1, size)
    assert (np.sort(whole_epochs, axis=1) == np.arange(size)).all()


def test_texts_leave_the_held_out_part_alone(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(400)]
    write_texts(tmp_path / "a.jsonl", texts)
    source = read_texts("s", tmp_path, ["a.jsonl"], seed=0)
    kept_apart = held_out_texts(tmp_path, ["a.jsonl"], 400)
    assert kept_apart == [t for t in texts if held_out(t)] and kept_apart
    assert sorted([*kept_apart, *source.rows(0, len(source))]) == sorted(texts)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60))
def test_held_out_texts_are_spread_evenly(count: int) -> None:
    texts = [f"text {i}" for i in range(900)]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            write_texts(Path(folder, f"{number}.jsonl"), texts[number * 300 : number * 300 + 300])
        held = [t for t in texts if held_out(t)]
        found = held_out_texts(Path(folder), ["*.jsonl"], count)
    assert found == held[:: max(1, len(held) // count)] and len(found) >= min(count, len(held))


def test_a_small_corpus_may_have_no_held_out_texts(tmp_path: Path) -> None:
    write_texts(tmp_path / "a.jsonl", ["text 1"])
    assert held_out_texts(tmp_path, ["a.jsonl"], 5) == []


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1e-4, 10), min_size=1), st.integers(20, 300))
def test_turns_follow_shares(weights: dict[str, float], cycle: int) -> None:
    shares = np.array(list(weights.values())) / sum(weights.values())
    taken = turns(list(weights.values()), cycle)
    counts = np.bincount(taken, minlength=len(weights))
    assert counts.sum() == cycle and counts.min() >= 1
    if (shares * cycle >= 1).all():
        assert np.abs(counts - shares * cycle).max() <= 1
        half = np.bincount(taken[: cycle // 2], minlength=len(weights))
        assert np.abs(half - counts / 2).max() <= 1 + len(weights) / 2, "spread evenly"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1500), st.integers(0, 50))
def test_languages_are_drawn_by_weight_from_wherever_one_starts(start: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"text": f"text {i}", "lang": ["de", "en", "fr"][i % 3]} for i in range(100) if not held_out(f"text {i}")
        ]
        write_rows(Path(folder, "a.jsonl"), rows)
        mix = read_texts("s", Path(folder), ["a.jsonl"], 0, languages={"en": 3.0, "de": 1.0})
        through = mix.rows(0, start + count)
        assert mix.rows(start, count) == through[start:]
        language = {row["text"]: row["lang"] for row in rows}
        drawn = Counter(language[t] for t in through)
        assert drawn["fr"] == 0 and abs(drawn["en"] - 0.75 * len(through)) <= 2
        german = [t for t in through if int(t.split()[1]) % 3 == 0][: len(mix) // 2]
        assert len(mix) == sum(row["lang"] != "fr" for row in rows)
        assert max(Counter(german[: sum(row["lang"] == "de" for row in rows)]).values(), default=1) == 1, "an epoch"


def test_a_language_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "text 1", "lang": "en"}])
    with pytest.raises(InputError, match="source 's' has no text in de .the corpus has: en."):
        read_texts("s", tmp_path, ["a.jsonl"], 0, languages={"en": 3.0, "de": 1.0})


def test_rows_that_are_left_out_are_told(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "lang": n} for i, n in enumerate(["en", "en", "de", "fr", "fr", ""])]
    write_rows(tmp_path / "a.jsonl", [*rows, {"text": "  "}])
    write_rows(tmp_path / "b.jsonl", [{"text": "text 7", "lang": "de"}, {"text": ""}])
    told: list[str] = []
    for languages in ({}, {"fr": 1.0, "en": 2.0}):
        read_texts("s", tmp_path, ["*.jsonl"], 0, languages=languages, report=told.append)
    assert told == [
        "source 's': of 9 rows 2 are blank: left out",
        "source 's': of 9 rows 2 are blank and 3 are of languages other than en, fr: left out",
    ]
    write_texts(tmp_path / "whole.jsonl", ["one", "two"])
    read_texts("s", tmp_path, ["whole.jsonl"], 0, report=told.append)
    assert len(told) == 2, "nothing was left out"


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
        read_texts("s", tmp_path, ["bad.jsonl"], seed=0)


def test_a_pattern_without_a_match_is_an_error(tmp_path: Path) -> None:
    write_texts(tmp_path / "a.jsonl", ["text 1"])
    with pytest.raises(InputError, match=r"nothing matches '\*\.parquet'"):
        read_texts("s", tmp_path, ["a.jsonl", "*.parquet"], seed=0)


def test_patterns_may_overlap_and_be_absolute(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_texts(tmp_path / "deep" / f"a{suffix}", [f"text {suffix}"])
    patterns = ["**/*.jsonl", "deep/*", str(tmp_path / "deep" / "a.parquet")]
    source = read_texts("s", tmp_path, patterns, seed=0)
    assert sorted(source.rows(0, len(source))) == sorted(f"text {suffix}" for suffix in SUFFIXES)
