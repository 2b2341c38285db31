"""Corpus files written on the spot, in every format that training reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from diffembed.data.examples import Example, Grouped, Pair, Question, Triplet, example_record

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_QUESTION = {"query": pa.string(), "chunk": pa.int64(), "scores": pa.list_(pa.float64()), "id": pa.string()}
_COLUMNS = {
    "negatives": pa.list_(pa.string()),
    "chunks": pa.list_(pa.string()),
    "queries": pa.list_(pa.struct(list(_QUESTION.items()))),
}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines, compressed as the name says, or as Parquet in row groups of 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        names = {name: None for row in rows for name in row} or {"text": None}
        table = pa.table(
            {name: pa.array([row.get(name) for row in rows], _COLUMNS.get(name, pa.string())) for name in names}
        )
        pq.write_table(table, path, row_group_size=3)
    else:
        write_bytes(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    return write_rows(path, [{"text": text} for text in texts])


def write_examples(path: Path, examples: Sequence[Example]) -> Path:
    return write_rows(path, [example_record(example) for example in examples])


def write_bytes(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path


def write_folder(
    folder: Path, corpus: Sequence[Mapping[str, Any]], queries: Mapping[str, str], judged: Sequence[tuple[str, str]]
) -> Path:
    """A folder in BEIR layout; ``judged`` are pairs of a query id and a corpus id."""
    write_rows(folder / "corpus.jsonl.gz", corpus)
    write_rows(folder / "queries.jsonl", [{"_id": key, "text": text, "lang": "en"} for key, text in queries.items()])
    lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in judged)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_beir(folder: Path, size: int = 60, blank: tuple[int, ...] = ()) -> Path:
    """The same, where query i asks for document i."""
    corpus = [
        {"_id": f"d{i}", "title": f"title {i}", "text": f"document number {i} tells about topic {i % 7}"}
        if i not in blank
        else {"_id": f"d{i}", "text": " "}
        for i in range(size)
    ]
    queries = {f"q{i}": f"what about number {i}" for i in range(size)}
    return write_folder(folder, corpus, queries, [(f"q{i}", f"d{i}") for i in range(size)])


_words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
_common = {
    name: st.just("") | _words for name in ("id", "document_id", "language", "instruction", "source")
}  # any of them may be left out


@st.composite
def _grouped(draw: st.DrawFn) -> Grouped:
    chunks = tuple(draw(st.lists(_words, min_size=1, max_size=4)))
    size = len(chunks)
    scores = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=size, max_size=size).map(tuple)
    question = st.builds(
        Question, _words, st.none() | st.integers(0, size - 1), st.just(()) | scores, st.just("") | _words
    )
    questions = tuple(draw(st.lists(question, min_size=1, max_size=3)))
    return Grouped(chunks, questions, **{name: draw(values) for name, values in _common.items()})


any_example = st.one_of(
    st.builds(Pair, _words, _words, **_common),
    st.builds(Triplet, _words, _words, st.lists(_words, max_size=3).map(tuple), **_common),
    _grouped(),
)
"""Every kind of row, every field."""
