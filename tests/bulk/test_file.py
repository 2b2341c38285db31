"""encode_file: every input, both outputs, stdin, and the first bad line named by its number."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffembed.bulk import blocks, encode_file
from diffembed.encoder import Encoder
from diffembed.errors import DiffembedError, InputError


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder.load(tiny_model_dir, threads=1)


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_texts_to_npy(encoder: Encoder, corpus: list[str], tmp_path: Path, dtype: Any) -> None:
    (tmp_path / "in.txt").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    report = encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder, dtype=dtype, dims=32)
    expected = encoder.encode_documents(corpus, dtype=dtype, dims=32)
    assert np.array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), expected.values)
    np.save(tmp_path / "numpy.npy", expected.values)
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
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
    with pytest.raises(InputError, match=r"in\.txt, line 2 has \d+ tokens"):
        encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder)
    report = encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder, truncate=True)
    assert report.truncated == (2,)
    assert "1 cut" in str(report)
    report = encode_file(tmp_path / "in.txt", tmp_path / "out.parquet", model=encoder, windows=True)
    assert report.windowed == (2,)
    assert pq.read_table(tmp_path / "out.parquet")["seen"].to_pylist() == ["whole", "windowed"]
    expected = encoder.encode_documents([corpus[0], " ".join(corpus)], windows=True)
    values = np.array(pq.read_table(tmp_path / "out.parquet")["vector"].to_pylist(), np.float32)
    assert np.array_equal(values, expected.values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"", "is empty"),
        ("in.txt", b"a\n\nb\n", "line 2 is empty"),
        ("in.txt", b"a\n\xff\xfe\n", "line 2 is not UTF-8"),
        ("in.jsonl", b'{"text": "a"}\n{"text": "b"\n', "line 2 is not JSON"),
        ("in.jsonl", b'{"text": "a"}\n[1]\n', "line 2 is not a JSON object"),
        ("in.jsonl", b'{"title": "a"}\n', "line 1 must be an object with either text or chunks"),
        ("in.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: text must be a string"),
        ("in.jsonl", b'{"chunks": []}\n', "line 1: chunks must be a list"),
        ("in.jsonl", b'{"chunks": ["a", ""]}\n', "line 1: chunk 1 must be"),
        ("in.jsonl", b'{"text": "a"}\n{"chunks": ["b"]}\n', "line 2 changes"),
        ("in.jsonl", b'{"text": "a", "id": 1}\n{"text": "b"}\n', "line 2 has no id, but the first has one"),
        ("in.jsonl", b'{"text": "a"}\n{"text": "b", "_id": 1}\n', "line 2 has an id, but the first has none"),
        ("in.jsonl", b'{"text": "a", "id": [1]}\n', "line 1: id must be a string or a number, not list"),
        ("in.jsonl", b'{"text": "a \\ud83d"}\n', "line 1 holds half a surrogate pair"),
        ("in.jsonl", b'{"text": "a"}\n\n', "line 2 is empty"),
        ("in.jsonl", b"[" * 9999 + b"\n", "line 1 is nested too deep"),
        ("in.txt.gz", b"not gzip", "cannot be read after line 0"),
        ("in.parquet", b"PAR1 not parquet", "cannot be read after row 0"),
        ("in.pdf", b"%PDF", "must end in .txt or .jsonl"),
        ("in.parquet.gz", b"", "must end in .txt or .jsonl"),
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
        ("in.txt", "folder.npy", {}, "is a folder; give the name"),
        ("in.txt", "no/out.npy", {}, "does not exist; make it"),
        ("nowhere.txt", "out.npy", {}, "does not exist; check"),
        (".", "out.npy", {}, "must end in"),
        ("in.txt", "out.npy", {"dims": 50}, "was not trained"),
        ("in.txt", "out.npy", {"truncate": True, "windows": True}, "truncate and windows"),
        ("in.txt", "out.npy", {"model": "nowhere"}, "does not exist"),
        ("in.txt", "out.npy", {"threads": 2}, "threads was given for an encoder that is loaded"),
        ("in.txt", "out.npy", {"text_column": "body"}, "have no columns"),
    ],
)
def test_bad_arguments_write_nothing(
    encoder: Encoder, tmp_path: Path, source: str, output: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "in.txt").write_text("a")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DiffembedError, match=message):
        encode_file(tmp_path / source, tmp_path / output, **({"model": encoder} | options))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.npy", "in.txt"]


def test_compressed_and_several_inputs_are_read_as_one(encoder: Encoder, corpus: list[str], tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "name": f"n{i}"}) + "\n" for i, text in enumerate(corpus)]
    (tmp_path / "one.jsonl.gz").write_bytes(gzip.compress("".join(lines[:4]).encode()))
    with pa.CompressedOutputStream(str(tmp_path / "two.jsonl.zst"), "zstd") as stream:
        stream.write("".join(lines[4:]).encode())
    inputs = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.zst"]
    encode_file(inputs, tmp_path / "out.parquet", model=encoder, id_column="name")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == [f"n{i}" for i in range(len(corpus))]
    assert table["line"].to_pylist() == list(range(1, len(corpus) + 1))
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), encoder.encode_documents(corpus).values)
    (tmp_path / "two.jsonl.zst").unlink()
    with pytest.raises(InputError, match="two.jsonl.zst does not exist"):
        encode_file(inputs, tmp_path / "out.parquet", model=encoder)
    for again in (inputs[0], tmp_path / "sub" / ".." / "one.jsonl.gz"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="given twice"):
            encode_file([inputs[0], again], tmp_path / "out.parquet", model=encoder)


@pytest.mark.parametrize("kind", ["strings", "large", "dictionary", "lists"])
def test_parquet_inputs(encoder: Encoder, corpus: list[str], tmp_path: Path, kind: str) -> None:
    texts: Any = pa.array(corpus)
    if kind == "large":
        texts = texts.cast(pa.large_string())
    elif kind == "dictionary":
        texts = texts.dictionary_encode()
    elif kind == "lists":
        texts = pa.array([corpus[i : i + 3] for i in range(0, 9, 3)])
    table = pa.table({"other": [[0]] * len(texts), "body": texts, "_id": range(len(texts))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    encode_file(tmp_path / "in.parquet", tmp_path / "out.parquet", model=encoder, text_column="body")
    out = pq.read_table(tmp_path / "out.parquet")
    chunked = kind == "lists"
    expected = encoder.encode_chunks(texts.to_pylist()) if chunked else encoder.encode_documents(corpus)
    assert np.array_equal(np.array(out["vector"].to_pylist(), np.float32), expected.values)
    assert out["id"].to_pylist() == [str(i // 3 if chunked else i) for i in range(9)]
    with pytest.raises(InputError, match="no column 'text' or 'chunks' but"):
        encode_file(tmp_path / "in.parquet", tmp_path / "no.npy", model=encoder)
    with pytest.raises(InputError, match="column 'other' is of type list"):
        encode_file(tmp_path / "in.parquet", tmp_path / "no.npy", model=encoder, text_column="other")
    with pytest.raises(InputError, match="no column 'name'"):
        encode_file(tmp_path / "in.parquet", tmp_path / "no.npy", model=encoder, text_column="body", id_column="name")


def test_both_text_and_chunks_columns_need_a_choice(encoder: Encoder, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "chunks": [["a"]]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="has both; name the column"):
        encode_file(tmp_path / "in.parquet", tmp_path / "no.npy", model=encoder)


def test_jsonl_on_stdin(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"chunks": ["a", "b"]}\n')))
    encode_file("-", tmp_path / "out.npy", model=encoder, stdin_format="jsonl")
    assert np.array_equal(np.load(tmp_path / "out.npy"), encoder.encode_chunks([["a", "b"]]).values)


def test_the_first_bad_line_is_told_whatever_is_wrong_with_it(
    encoder: Encoder, corpus: list[str], tmp_path: Path
) -> None:
    lines = [corpus[0], " ".join(corpus), "", "fine"]  # the second is too long, which only the encoder sees
    (tmp_path / "in.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2 has \d+ tokens"):
        encode_file(tmp_path / "in.txt", tmp_path / "out.npy", model=encoder)


def test_many_blocks_give_what_one_gives(
    encoder: Encoder, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{text} {i}" for i in range(9) for text in corpus]
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 10)
    monkeypatch.setattr(blocks, "_SLICE_ROWS", 3)
    told: list[tuple[int, int]] = []
    report = encode_file(
        tmp_path / "in.txt", tmp_path / "out.parquet", model=encoder, progress=lambda *at: told.append(at)
    )
    assert (report.documents, told[-1]) == (81, (81, 81))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["row"].to_pylist() == list(range(81))
    values = np.array(table["vector"].to_pylist(), np.float32)
    assert np.abs(values - encoder.encode_documents(texts).values).max() < 1e-4
