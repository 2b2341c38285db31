"""The endless stream of texts: every text once an epoch, the same from wherever one starts, in bounded memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import SUFFIXES, write_rows, write_texts

from diffembed.data import census
from diffembed.data.census import count_files, held_out, left_out
from diffembed.data.jsonl import parse_object, raw_lines
from diffembed.data.texts import TextSource
from diffembed.errors import InputError

WORDS = "owl fox river stone light window garden number letter bridge winter morning".split()


def texts_of(number: int, size: int) -> list[str]:
    """Texts of one file that are told apart and of many lengths; none is held out."""
    found = (f"{number}-{i} {' '.join(WORDS[: (i * 7 + number) % 11])} ünï" for i in range(size * 2))
    return [text for text in found if not held_out(text)][:size]


def small_stretches(monkeypatch: pytest.MonkeyPatch, size: int = 60) -> None:
    monkeypatch.setattr(census, "STRETCH_BYTES", size)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_fits_in_memory_is_permuted_as_a_whole(tmp_path: Path, suffix: str) -> None:
    texts = [texts_of(number, 9) for number in range(3)]
    counts = count_files([write_texts(tmp_path / f"{n}{suffix}", t) for n, t in enumerate(texts)])
    source = TextSource("s", counts, 5)
    everything = [text for file in texts for text in file]
    orders = [np.random.default_rng((5, epoch)).permutation(27) for epoch in range(3)]
    expected = [everything[i] for order in orders for i in order]
    assert len(source) == 27 and source.size == sum(len(t.encode()) for t in everything)
    assert source.rows(0, 81) == expected and source.rows(20, 40) == expected[20:60]
    drawn = list(source.draws(0, 81))
    for text in drawn:
        file, line = text.text.split()[0].split("-")
        assert text.path.name == f"{file}{suffix}"
        assert text.origin.endswith(f"{'row' if suffix == '.parquet' else 'line'} {text.number}")
        assert texts[int(file)][text.number - 1] == text.text and line
    assert [t.begin + t.size for t in drawn[:-1]] == [t.begin for t in drawn[1:]] and drawn[0].begin == 0


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 25), min_size=1, max_size=5).filter(any),
    suffixes=st.lists(st.sampled_from(SUFFIXES), min_size=5, max_size=5),
    shuffle_bytes=st.integers(1, 900),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 150),
    count=st.integers(0, 60),
)
def test_a_stream_in_blocks(
    sizes: list[int], suffixes: list[str], shuffle_bytes: int, seed: int, start: int, count: int
) -> None:
    """Every text once an epoch; from any draw and from any byte on, a fresh source goes on as the first one would."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small_stretches(patch)
        files = [texts_of(number, size) for number, size in enumerate(sizes)]
        paths = [write_texts(Path(folder, f"{n}{suffixes[n]}"), texts) for n, texts in enumerate(files)]
        counts = count_files(paths)

        def fresh() -> TextSource:
            return TextSource("s", counts, seed, shuffle_bytes=shuffle_bytes)

        everything = [text for texts in files for text in texts]
        source = fresh()
        epochs = -(-(start + count) // len(everything)) + 1
        through = list(source.draws(0, epochs * len(everything)))
        for epoch in range(epochs):
            one = through[epoch * len(everything) : (epoch + 1) * len(everything)]
            assert sorted(t.text for t in one) == sorted(everything)
        assert list(fresh().draws(start, count)) == through[start : start + count]
        begin, end = through[start].begin, through[start].begin + count * 7
        reached = [t for t in through if t.begin < end and t.begin + t.size > begin]
        if end <= epochs * source.size:
            assert list(fresh().documents(begin, end)) == reached
        assert all(t.begin == sum(x.size for x in through[:i]) for i, t in enumerate(through[:20]))
        assert fresh().at(range(0, len(everything), 3)) == everything[::3]
        backward = fresh()
        assert [backward.at([i]) for i in reversed(range(len(everything)))] == [[text] for text in everything[::-1]]
        assert set(fresh().sample(5)) <= set(everything)


def test_epochs_reorder_files_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_stretches(monkeypatch)
    paths = [write_texts(tmp_path / f"{n}.jsonl", texts_of(n, 30)) for n in range(6)]
    source = TextSource("s", count_files(paths), 0, shuffle_bytes=200)
    drawn = list(source.draws(0, 180 * 3))
    epochs = [drawn[i : i + 180] for i in (0, 180, 360)]
    orders = [list(dict.fromkeys(t.path.name for t in epoch)) for epoch in epochs]
    assert all(sorted(order) == sorted(orders[0]) for order in orders) and len({tuple(o) for o in orders}) == 3
    assert [t.number for t in epochs[0]] != sorted(t.number for t in epochs[0])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_jump_parses_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    small_stretches(monkeypatch)
    counts = count_files([write_texts(tmp_path / f"a{suffix}", texts_of(0, 400))])
    source = TextSource("s", counts, 0, shuffle_bytes=300)
    parsed: list[str] = []

    def parse(where: str, line: str) -> dict[str, Any]:
        parsed.append(where)
        return parse_object(where, line)

    monkeypatch.setattr("diffembed.data.rows.parse_object", parse)
    assert source.rows(390, 1) and 1 <= len(parsed) <= 20, "a block is a few lines long"


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_an_epoch_decompresses_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    small_stretches(monkeypatch)
    counts = count_files([write_texts(tmp_path / f"a{suffix}", texts_of(0, 400))])
    opened: list[Path] = []

    def lines(path: Path, offset: int = 0, number: int = 0) -> Iterator[tuple[int, int, bytes]]:
        opened.append(path)
        return raw_lines(path, offset, number)

    monkeypatch.setattr("diffembed.data.rows.raw_lines", lines)
    source = TextSource("s", counts, 0, shuffle_bytes=300)
    assert sum(1 for _ in source.documents(0, 2 * source.size)) == 800 and len(opened) == 2


def test_languages_are_streams_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_stretches(monkeypatch)
    texts = texts_of(0, 60)
    languages = ["de", "en", "en", "fr", "", "en"] * 10
    records = [{"text": t, "lang": language} for t, language in zip(texts, languages, strict=True)]
    for suffix in SUFFIXES:
        counts = count_files([write_rows(tmp_path / f"a{suffix}", records)])
        for wanted in ({"de"}, {"en", "fr"}, {""}):
            source = TextSource("s", counts, 3, languages=frozenset(wanted), shuffle_bytes=150)
            expected = [t for t, language in zip(texts, languages, strict=True) if language in wanted]
            assert sorted(source.rows(0, len(source))) == sorted(expected)
        with pytest.raises(InputError, match="source 's' has no text in ja .the corpus has: de, en, fr, none. in .*a"):
            TextSource("s", counts, 3, languages=frozenset(["ja"]))


def test_held_out_texts_and_the_others_are_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_stretches(monkeypatch, 500)
    texts = [f"text {i}" for i in range(700)]
    counts = count_files([write_texts(tmp_path / "a.jsonl.gz", texts)])
    parts = [TextSource("s", counts, 0, part=part, shuffle_bytes=700) for part in ("train", "held-out", "all")]
    train, held, both = (Counter(part.rows(0, len(part))) for part in parts)
    assert train + held == both == Counter(texts)
    assert held == Counter(t for t in texts if held_out(t)) and held
    assert parts[1].at(range(len(parts[1]))) == [t for t in texts if held_out(t)]


def test_blank_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    counts = count_files([write_texts(tmp_path / "a.jsonl", ["a", " \n", "", "b"])])
    source = TextSource("s", counts, 0)
    assert sorted(source.rows(0, 4)) == ["a", "a", "b", "b"]
    assert left_out(counts) == "of 4 rows 2 are blank: left out"


@pytest.mark.parametrize("texts", [[], [" "], ["text 2"]], ids=["no row", "blank", "held out"])
def test_an_empty_source_is_named(tmp_path: Path, texts: list[str]) -> None:
    counts = count_files([write_texts(tmp_path / "a.jsonl", texts)])
    with pytest.raises(InputError, match=r"source 'news' has no text in .*a\.jsonl; correct the recipe"):
        TextSource("news", counts, 0)


@pytest.mark.parametrize("after", ["shorter", "longer", "other"])
def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, after: str) -> None:
    path = write_texts(tmp_path / "a.jsonl", ["one", "three"])
    source = TextSource("s", count_files([path]), 0)
    write_texts(path, {"shorter": ["one"], "longer": ["one", "three", "four"], "other": ["one", "seven!"]}[after])
    with pytest.raises(InputError, match=r"a\.jsonl has changed while it was in use"):
        source.rows(0, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Peak of all that Python and numpy allocate, while counting and reading an epoch, at 3 MB and at 18 MB of text."""
    small_stretches(monkeypatch, 200_000)
    peaks = []
    for megabytes in (3, 18):
        text = " ".join(WORDS * 260)  # twenty kilobytes
        path = write_texts(tmp_path / f"{megabytes}{suffix}", [f"{i} {text}" for i in range(megabytes * 50)])
        tracemalloc.start()
        source = TextSource("s", count_files([path]), 0, shuffle_bytes=2_000_000)
        drawn = sum(1 for _ in source.documents(0, source.size))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert drawn == len(source) and source.size > megabytes * 900_000
    # One block of 2 MB, not two while the next is read, and the buffers of the decompressor.
    assert max(peaks) < (7_900_000 if suffix == ".jsonl.gz" else 3_900_000) and peaks[1] - peaks[0] < 500_000


def test_a_row_group_of_parquet_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    small_stretches(monkeypatch, 200_000)
    random = np.random.default_rng(0)
    texts = [random.bytes(1000).hex() for _ in range(12_000)]  # 24 MB in one row group
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False)
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 1
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    source = TextSource("s", count_files([tmp_path / "a.parquet"]), 0, shuffle_bytes=500_000)
    for _ in source.documents(0, 6_000_000):
        most = max(most, pool.bytes_allocated())
    assert most - before < 8_000_000
