"""encode_file: both inputs, both outputs, stdin, and every bad line named by its number."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffembed.encoder import Encoder, encode_file
from diffembed.errors import DiffembedError, InputError


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder.load(tiny_model_dir)


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_texts_to_npy(encoder: Encoder, corpus: list[str], tmp_path: Path, dtype: Any) -> None:
    (tmp_path / "in.txt").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    report = encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder, dtype=dtype, dims=32)
    expected = encoder.encode_documents(corpus, dtype=dtype, dims=32)
    assert np.array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), expected.values)
    assert (report.documents, report.rows, report.dims, report.tokens) == (
        len(corpus),
        len(corpus),
        32,
        expected.tokens,
    )
    assert f"{len(corpus)} {dtype} vectors of 32 dims" in str(report)


def test_chunks_to_parquet(encoder: Encoder, corpus: list[str], tmp_path: Path) -> None:
    documents = [corpus[:2], corpus[2:5]]
    lines = [json.dumps({"_id": f"d{i}", "chunks": chunks}) for i, chunks in enumerate(documents)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    report = encode_file(tmp_path / "in.jsonl", tmp_path / "out.parquet", model=encoder, dtype="int8")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["d0", "d0", "d1", "d1", "d1"]
    assert table["line"].to_pylist() == [1, 1, 2, 2, 2]
    assert table["chunk"].to_pylist() == [0, 1, 0, 1, 2]
    vectors = np.array(table["vector"].to_pylist(), np.int8)
    assert np.array_equal(vectors, encoder.encode_chunks(documents, dtype="int8").values)
    about = json.loads(table.schema.metadata[b"diffembed"])
    assert about == {"model": encoder.model_id, "fingerprint": encoder.fingerprint, "dtype": "int8", "dims": 64}
    assert (report.documents, report.rows) == (2, 5)


def test_stdin_windows_line_ends_and_separators(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a\u2028b", "c"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeffa\u2028b\r\nc\r\n".encode())))
    encode_file("-", tmp_path / "out.npy", model=encoder)
    assert np.array_equal(np.load(tmp_path / "out.npy"), encoder.encode_documents(texts).values)


def test_cut_lines_are_listed(encoder: Encoder, corpus: list[str], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text(corpus[0] + "\n" + " ".join(corpus), encoding="utf-8")
    with pytest.raises(InputError, match=r"in\.txt, line 2: text 1 has \d+ tokens"):
        encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder)
    report = encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder, truncate=True)
    assert report.truncated == (2,)
    assert "1 cut" in str(report)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "is empty"),
        ("in.txt", b"a\n\nb\n", "line 2 is empty"),
        ("in.txt", b"a\n\xff\xfe\n", "line 2 is not UTF-8"),
        ("in.jsonl", b'{"text": "a"}\n{"text": "b"\n', "line 2 is not JSON"),
        ("in.jsonl", b'{"text": "a"}\n[1]\n', "line 2 must be an object"),
        ("in.jsonl", b'{"title": "a"}\n', "line 1 must be an object with either text or chunks"),
        ("in.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: text must be a string"),
        ("in.jsonl", b'{"chunks": []}\n', "line 1: chunks must be a list"),
        ("in.jsonl", b'{"chunks": ["a", ""]}\n', "line 1: chunk 1 must be"),
        ("in.jsonl", b'{"text": "a"}\n{"chunks": ["b"]}\n', "line 2 changes"),
        ("in.jsonl", b'{"text": "a", "id": 1}\n{"text": "b"}\n', "1 of 2 lines have an id"),
        ("in.pdf", b"%PDF", "must end in .txt or .jsonl"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    encoder: Encoder, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        encode_file(tmp_path / name, tmp_path / "out.npy", model=encoder)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("in.txt", "out.csv", {}, "must end in .npy or .parquet"),
        ("in.txt", "no/out.npy", {}, "does not exist; make it"),
        ("nowhere.txt", "out.npy", {}, "does not exist; check"),
        ("in.txt", "out.npy", {"dims": 50}, "was not trained"),
        ("in.txt", "out.npy", {"model": "nowhere"}, "does not exist"),
    ],
)
def test_bad_arguments_write_nothing(
    encoder: Encoder, tmp_path: Path, source: str, output: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "in.txt").write_text("a")
    with pytest.raises(DiffembedError, match=message):
        encode_file(tmp_path / source, tmp_path / output, **({"model": encoder} | options))
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]
