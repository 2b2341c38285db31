"""Rows of corpus files: the same in every format, from any mark on; what is damaged is named by file and line."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import SUFFIXES, write_bytes, write_rows, write_texts

from diffembed.data.beir import load_beir
from diffembed.data.rows import Mark, Row, read_rows
from diffembed.errors import InputError

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def test_rows_by_hand(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "a"}\r\n',  # 3 bytes of mark, 13 of JSON, 2 of line end
        b"\n",
        b'{"text": "b\\u2028c", "title": "T", "lang": "de"}\n',
        b'{"text": " \\t", "title": ""}\n',
        '{"text": "é\u2028", "title": null}'.encode(),
    ]
    path = write_bytes(tmp_path / "a.jsonl", b"".join(lines))
    ends = list(itertools.accumulate(len(line) for line in lines))
    assert ends[:2] == [18, 19]
    assert list(read_rows(path)) == [
        Row(Mark(1, 18), b"a", ""),
        Row(Mark(3, ends[2]), "T\nb\u2028c".encode(), "de"),
        Row(Mark(4, ends[3]), b"", ""),
        Row(Mark(5, ends[4]), "é\u2028".encode(), ""),
    ]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(words, words, st.sampled_from(["", "de", "zh-TW"])), max_size=9), st.integers(0, 9))
def test_every_format_gives_the_same_rows_from_any_mark(rows: list[tuple[str, str, str]], start: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffembed.data.jsonl._CHUNK", 16)  # a jump in a compressed file takes several reads
        for suffix in SUFFIXES:
            records = [{"text": text, "title": title, "lang": lang} for text, title, lang in rows]
            path = write_rows(Path(folder, f"a{suffix}"), records)
            expected = []
            for text, title, lang in rows:
                joined = f"{title}\n{text}" if title else text
                expected.append((joined.encode() if joined.strip() else b"", lang))
            found = list(read_rows(path))
            assert [(row.data, row.language) for row in found] == expected
            assert [row.end.number for row in found] == list(range(1, len(rows) + 1))
            marks = [Mark(), *(row.end for row in found)]
            assert list(read_rows(path, marks[min(start, len(rows))])) == found[start:]
            german = list(read_rows(path, languages=frozenset(["de"])))
            assert german == [row for row in found if row.language == "de"]


def test_a_language_is_found_however_it_is_spelled(tmp_path: Path) -> None:
    lines = ['{"text": "a", "lang": "\\u0064e"}', '{"lang": "d\\/e", "text": "b"}', '{"text": "de", "lang": "fr"}']
    path = write_bytes(tmp_path / "a.jsonl", "\n".join(lines).encode())
    assert [row.data for row in read_rows(path, languages=frozenset(["de"]))] == [b"a"]
    assert [row.data for row in read_rows(path, languages=frozenset(["d/e", "fr"]))] == [b"b", b"de"]


def test_concatenated_compressed_files_are_read_whole(tmp_path: Path) -> None:
    for suffix in (".jsonl.gz", ".jsonl.zst"):
        a, b = (write_texts(tmp_path / f"{name}{suffix}", [name]) for name in "ab")
        both = tmp_path / f"both{suffix}"
        both.write_bytes(a.read_bytes() + b.read_bytes())
        assert [row.data for row in read_rows(both)] == [b"a", b"b"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows(tmp_path: Path, suffix: str) -> None:
    assert list(read_rows(write_texts(tmp_path / f"a{suffix}", []))) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "is not JSON"),
        (b'{"text": "cut', "is not JSON"),
        (b"[1]", "is not a JSON object but list"),
        (b'{"txt": "a"}', r"'text' was expected .* found keys \['txt'\]"),
        (b'{"text": null}', "'text' was expected"),
        (b'{"text": 3}', "'text' was expected"),
        (b'{"text": "a", "title": 3}', "'title' must be a string, not int"),
        (b'{"text": "a", "lang": ["de"]}', "'lang' must be a string, not list"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "\\ud83d"}', "half a surrogate pair"),
        (b'{"text": ' + b"[" * 100_000, "nested too deep|is not JSON"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "cannot be read as a record"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, suffix: str, line: bytes, message: str) -> None:
    path = write_bytes(tmp_path / f"bad{suffix}", b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}, line 3") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("damage", ["truncated", "another format", "nothing"])
def test_files_that_are_not_whole_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = write_texts(tmp_path / f"a{suffix}", [f"text {i * i} {'x' * (i % 50)}" for i in range(4000)])
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) * 2 // 3], "another format": b"text\n" * 50, "nothing": b""}[damage]
    )
    if damage == "nothing" and suffix != ".parquet":  # an empty stream is a stream of no lines
        assert list(read_rows(path)) == []
        return
    with pytest.raises(InputError, match="cannot be read after .* is the file whole") as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_page_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [f"text {i}" for i in range(500)]}), path, compression="zstd", use_dictionary=False
    )
    data = bytearray(path.read_bytes())
    data[60:400] = bytes(340)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read after row"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"]}, r"no column 'text' but \['body'\]"),
        ({"text": ["a", None]}, "row 2: 'text' was expected"),
        ({"text": [1, 2]}, "row 1: 'text' was expected"),
        ({"text": ["a"], "lang": [7]}, "row 1: 'lang' must be a string"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=message):
        list(read_rows(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.jsonl: no such file; check the path"):
        list(read_rows(tmp_path / "gone.jsonl"))


def test_beir_folders_may_be_zstandard_compressed(tmp_path: Path) -> None:
    write_rows(tmp_path / "corpus.jsonl.zst", [{"_id": "d", "title": "T", "text": "a"}])
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "b"}), encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text("q\td\t1\n", encoding="utf-8")
    assert load_beir(tmp_path).texts == ("T\na",)
    write_rows(tmp_path / "corpus.jsonl.gz", [])
    with pytest.raises(InputError, match="both corpus.jsonl.gz and corpus.jsonl.zst"):
        load_beir(tmp_path)
