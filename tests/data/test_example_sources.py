"""Files of contrastive rows: draws are functions of their number, and nothing is left out without a word."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import SUFFIXES, any_example, write_beir, write_bytes, write_examples, write_folder, write_rows
from tests.data.test_examples import BAD

from diffembed.data import census
from diffembed.data.example_sources import Drawn, ExampleSource, FileSource, read_examples
from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet, example_line
from diffembed.errors import InputError


def rows_of(root: Path, *patterns: str, seed: int = 0, **options: Any) -> ExampleSource:
    return read_examples("s", root, patterns, seed, kind="rows", **options)


def epoch(source: ExampleSource) -> list[Example]:
    return [drawn.example for drawn in source.draws(0, len(source))]


def pairs(number: int, size: int) -> list[Example]:
    """Rows of one file that are told apart and of many lengths."""
    return [Pair(f"query {number}-{i}", "word " * (i * 7 % 11) + f"text {number}-{i} ünï") for i in range(size)]


@settings(max_examples=20, deadline=None)
@given(
    files=st.lists(st.lists(any_example, max_size=7), min_size=1, max_size=4).filter(lambda f: sum(map(len, f)) > 1),
    suffixes=st.lists(st.sampled_from(SUFFIXES), min_size=4, max_size=4),
    shuffle_bytes=st.integers(1, 900),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 40),
    count=st.integers(0, 15),
)
def test_a_stream_in_blocks(
    files: list[list[Example]], suffixes: list[str], shuffle_bytes: int, seed: int, start: int, count: int
) -> None:
    """Every row once an epoch, at its line; from any draw on, a fresh source goes on as the first one would."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(census, "STRETCH_BYTES", 100)
        for n, examples in enumerate(files):
            if examples:  # a Parquet file without rows has no columns here
                write_examples(Path(folder, f"{n}{suffixes[n]}"), examples)
        everything = [example for examples in files for example in examples]

        def fresh() -> ExampleSource:
            return rows_of(Path(folder), "*", seed=seed, shuffle_bytes=shuffle_bytes)

        source = fresh()
        epochs = -(-(start + count) // len(everything)) + 1
        through = source.draws(0, epochs * len(everything))
        for n in range(epochs):
            one = through[n * len(everything) : (n + 1) * len(everything)]
            assert Counter(example_line(drawn.example) for drawn in one) == Counter(map(example_line, everything))
        for drawn in through:
            path, _, number = drawn.origin.rpartition(", ")
            kind, _, line = number.partition(" ")
            assert kind == ("row" if path.endswith(".parquet") else "line")
            assert drawn.example == files[int(Path(path).name[0])][int(line) - 1]
        jumping = fresh()
        assert jumping.draws(start, count) == through[start : start + count] == source.draws(start, count)
        assert jumping.draws(0, 2) == through[:2] and jumping.contents() == source.contents()


def test_a_file_that_fits_is_permuted_as_a_whole(tmp_path: Path) -> None:
    write_examples(tmp_path / "a.jsonl", pairs(0, 300))
    source = rows_of(tmp_path, "a.jsonl", seed=5)
    orders = [np.random.default_rng((5, number)).permutation(300) for number in range(2)]
    assert [d.example for d in source.draws(0, 600)] == [pairs(0, 300)[i] for order in orders for i in order]


def test_every_format_gives_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "STRETCH_BYTES", 300)
    chunks = Grouped(("a", "b"), (Question("q", 1, (0.0, 1.0), "7"), Question("p")), document_id="d", language="en")
    examples = [*pairs(0, 40), chunks, Triplet("q", "d", ("n", "m"), id="1", instruction="i"), Triplet("q", "e", ())]
    found = []
    for suffix in SUFFIXES:
        write_examples(tmp_path / f"a{suffix}", examples)
        source = rows_of(tmp_path, f"a{suffix}", shuffle_bytes=700)
        found.append(([d.example for d in source.draws(30, 60)], source.contents()[0][1:]))
    assert all(f == found[0] for f in found)
    other = [{"anchor": e.query, "positive": e.document, "kind": 1} for e in examples if isinstance(e, Pair)]
    write_rows(tmp_path / "b.parquet", [{name: str(value) for name, value in row.items()} for row in other])
    assert sorted(map(example_line, epoch(rows_of(tmp_path, "b.parquet")))) == sorted(map(example_line, pairs(0, 40)))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
def test_languages_are_drawn_by_weight(tmp_path: Path, suffix: str) -> None:
    examples = [Pair(f"q{i}", f"d{i}", language=("de", "en", "fr", "")[i % 4]) for i in range(80)]
    write_examples(tmp_path / f"a{suffix}", examples)
    told: list[str] = []
    mix = rows_of(tmp_path, f"a{suffix}", languages={"en": 3.0, "de": 1.0}, report=told.append)
    drawn = [d.example for d in mix.draws(0, 400)]
    assert len(mix) == 40 and mix.draws(117, 30) == mix.draws(0, 400)[117:147]
    assert Counter(example.language for example in drawn) == {"en": 300, "de": 100}
    assert told == ["source 's': of 80 rows 40 are of languages other than de, en: left out"]
    with pytest.raises(InputError, match="source 's' has no row in ja .the corpus has: de, en, fr, none. in .*a.jsonl"):
        rows_of(tmp_path, f"a{suffix}", languages={"ja": 1.0})


BAD_LINES = {name: (json.dumps(record).encode(), message) for name, (record, message) in BAD.items()} | {
    "not JSON": (b'{"query": "q", "document', r" is not JSON \("),
    "a list": (b'["q", "d"]', " is not a JSON object but list"),
    "not UTF-8": (b'{"query": "\xff", "document": "d"}', " is not UTF-8"),
    "half a character": (b'{"query": "\\ud83d", "document": "d"}', " holds half a surrogate pair"),
    "nested": (b'{"query": ' + b"[" * 100_000, "nested too deep|is not JSON"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_row_stops_or_is_skipped_with_a_word(tmp_path: Path, line: bytes, message: str) -> None:
    good = [example_line(example).encode() for example in pairs(0, 3)]
    path = write_bytes(tmp_path / "a.jsonl", b"".join([good[0], b"\n", line + b"\n", *good[1:]]))
    with pytest.raises(InputError, match=message) as caught:
        rows_of(tmp_path, "a.jsonl")
    said = str(caught.value)
    assert said.startswith(f"source 's': of 4 rows 1 are bad: {path}, line 3") and "\n" not in said
    assert said.endswith('. Mend or remove them, or set bad_rows = "skip" to leave them out')
    told: list[str] = []
    source = rows_of(tmp_path, "a.jsonl", bad_rows="skip", report=told.append)
    assert sorted(map(example_line, epoch(source))) == sorted(map(example_line, pairs(0, 3)))
    (said,) = told
    assert said.startswith(f"source 's': of 4 rows 1 are bad: left out ({path}, line 3") and len(said) < 600


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_rows_are_counted_and_the_first_are_named(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        rows: list[dict[str, Any]] = [{"query": f"{name}{i}", "document": "d" if i % 5 else None} for i in range(40)]
        write_rows(tmp_path / f"{name}{suffix}", rows)
    kept = {f"{name}{i}" for name in "ab" for i in range(40) if i % 5}
    where = "row" if suffix == ".parquet" else "line"
    for _ in range(2):  # the second time from the cache
        with pytest.raises(InputError, match="of 80 rows 16 are bad: .*") as caught:
            rows_of(tmp_path, f"*{suffix}", cache=tmp_path / "cache")
        assert [f"a{suffix}, {where} {n} has no positive" in str(caught.value) for n in (1, 6, 11, 16)] == [1, 1, 1, 0]
        assert "; ..." in str(caught.value)
        told: list[str] = []
        source = rows_of(tmp_path, f"*{suffix}", bad_rows="skip", cache=tmp_path / "cache", report=told.append)
        assert {e.query for e in epoch(source) if isinstance(e, Pair)} == kept and len(source) == len(kept)
        assert len(told) == 1 and "of 80 rows 16 are bad: left out (" in told[0]
        census._counts.clear()
    write_rows(tmp_path / "c.jsonl", [{"query": "q"}])
    with pytest.raises(InputError, match="source 's' has no row in .*c.jsonl"):
        rows_of(tmp_path, "c.jsonl", bad_rows="skip")


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", [{"text": "t", "lang": "en"}])
    for bad_rows in ("stop", "skip"):
        with pytest.raises(InputError, match=r"a.parquet has no column 'query' or 'chunks' but \['lang', 'text'\]"):
            rows_of(tmp_path, "a.parquet", bad_rows=bad_rows)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_is_not_whole_is_an_error_whatever_is_skipped(tmp_path: Path, suffix: str) -> None:
    path = write_examples(tmp_path / f"a{suffix}", [Pair(f"q {i * i}", "x" * (i % 50) + str(i)) for i in range(4000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot be read after .* is the file whole"):
        rows_of(tmp_path, f"a{suffix}", bad_rows="skip")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_changes_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = write_examples(tmp_path / f"a{suffix}", pairs(0, 5))
    source = rows_of(tmp_path, f"a{suffix}", cache=tmp_path / "cache")
    write_examples(path, pairs(0, 7))
    with pytest.raises(InputError, match="has changed while it was in use"):
        source.draws(0, 1)
    again = rows_of(tmp_path, f"a{suffix}", cache=tmp_path / "cache")
    assert len(again) == 7 and again.contents() != source.contents()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Peak of all that Python and numpy allocate, while counting and reading an epoch, at 2 MB and at 8 MB of rows."""
    monkeypatch.setattr(census, "STRETCH_BYTES", 200_000)
    text = "owl fox river stone light window " * 600  # twenty kilobytes
    peaks = []
    for megabytes in (2, 8):
        examples: list[Example] = [Triplet(f"query {i}", f"{i} {text}", ("owl",)) for i in range(megabytes * 50)]
        write_examples(tmp_path / f"{megabytes}{suffix}", examples)
        del examples
        tracemalloc.start()
        source = rows_of(tmp_path, f"{megabytes}{suffix}", shuffle_bytes=500_000)
        drawn = {source.draws(i, 1)[0].origin for i in range(len(source))}
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(drawn) == len(source) == megabytes * 50
    assert max(peaks) < (7_000_000 if suffix == ".jsonl.gz" else 3_000_000) and peaks[1] - peaks[0] < 500_000


def test_repeated_rows_are_told(tmp_path: Path) -> None:
    rows: list[Example] = [*pairs(0, 6), Pair("query 0-2", pairs(0, 6)[2].document), Pair("query 0-2", "another")]  # type: ignore[union-attr]
    grouped = Grouped(("a", "b"), (Question("q", 0),), id="1")
    path = write_examples(tmp_path / "a.jsonl", [*rows, grouped, Grouped(("a", "b"), (Question("q", 1),), id="2")])
    write_bytes(tmp_path / "copy.jsonl.gz", path.read_bytes())
    write_examples(tmp_path / "b.jsonl", pairs(1, 5))
    told: list[str] = []
    rows_of(tmp_path, "*.jsonl*", report=told.append)
    assert told[0].startswith(
        f"source 's': of 25 rows 4 repeat the query and document of another ({path}, line 7 as {path}, line 3; "
        f"{path}, line 10 as {path}, line 9; {tmp_path}/copy.jsonl.gz, line 7"
    )
    assert told[1:] == [f"source 's': {tmp_path}/copy.jsonl.gz holds the same 10 rows as {path}; one of them is enough"]
    told.clear()
    rows_of(tmp_path, "b.jsonl", report=told.append)
    assert told == []


ONE_ROW: list[tuple[Example, bool]] = [
    (Pair("q", "d"), False),
    (Triplet("q", "d", ()), False),
    (Triplet("q", "d", ("n",)), True),
    (Grouped(("a",), (Question("q", 0),)), False),
    (Grouped(("a", "b"), (Question("q", 0),)), True),
]


@pytest.mark.parametrize(("example", "enough"), ONE_ROW)
def test_a_single_row_needs_something_to_be_contrasted_with(tmp_path: Path, example: Example, enough: bool) -> None:
    path = write_examples(tmp_path / "a.jsonl", [example])
    if enough:
        assert rows_of(tmp_path, "a.jsonl").draws(3, 2) == [Drawn(example, f"{path}, line 1")] * 2
        return
    with pytest.raises(InputError, match=r"source 's' has a single row \(.*a.jsonl, line 1\), and contrast needs at"):
        rows_of(tmp_path, "a.jsonl")


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", [{"_id": i, "text": i} for i in "abc"], {"q7": "q"}, [("q7", "a")])
    write_examples(tmp_path / "a.jsonl", pairs(0, 3))
    with pytest.raises(
        InputError, match=r'set is a folder, and kind = "rows" reads JSONL .* \(set/\*.jsonl\), or take'
    ):
        rows_of(tmp_path, "*")
    for kind in ("pairs", "groups"):

        def read(pattern: str, kind: Any = kind, **options: Any) -> ExampleSource:
            return read_examples("s", tmp_path, [pattern], 0, kind=kind, **options)

        with pytest.raises(InputError, match=f'a.jsonl is not a folder, and kind = "{kind}" reads folders .* "rows"'):
            read("a.jsonl")
        with pytest.raises(InputError, match=f"source 's' is of kind '{kind}'; languages is for rows"):
            read("set", languages={"en": 1.0})
        with pytest.raises(InputError, match=f"source 's' is of kind '{kind}'; bad_rows is for rows"):
            read("set", bad_rows="skip")
        with pytest.raises(InputError, match="source 's' has a single row .*set: .*document a"):
            read(folder.name)
        with pytest.raises(InputError, match="nothing matches"):
            read("nowhere")
    with pytest.raises(InputError, match="source 's' is of kind 'rows'; split_by is for pairs and groups"):
        rows_of(tmp_path, "a.jsonl", split_by="doc_id")


def test_sources_are_examples_of_the_protocol(tmp_path: Path) -> None:
    write_beir(tmp_path / "set")
    write_examples(tmp_path / "a.jsonl", pairs(0, 3))
    sources: list[ExampleSource] = [
        rows_of(tmp_path, "a.jsonl"),
        read_examples("s", tmp_path, ["set"], 0, kind="pairs"),
    ]
    assert isinstance(sources[0], FileSource)
    for source in sources:
        assert source.name == "s" and json.loads(json.dumps(source.contents())) == source.contents()
