"""encode_folder: every row has its vectors or its reason, whatever happens in between; nothing else gets in."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.bulk.folders import LONG, contents, rows, vectors, write_jsonl

from diffembed.bulk import blocks, encode_folder, verify_folder
from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError

COUNT = 90
OPTIONS: dict[str, Any] = {"dtype": "int8", "dims": 32, "shard_rows": 25}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(blocks, "_SLICE_ROWS", 3)


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> Encoder:
    return Encoder.load(tiny_model_dir, threads=1)


@pytest.fixture
def made(corpus: list[str]) -> list[Any]:
    return rows(corpus, COUNT)


@pytest.fixture
def source(made: list[Any], tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", made)


@pytest.fixture
def whole(source: Path, encoder: Encoder, tmp_path: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    encode_folder(source, tmp_path / "whole", model=encoder, **OPTIONS)
    return tmp_path / "whole"


@pytest.mark.parametrize("format", ["npy", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_every_row_has_its_vectors_or_a_reason(
    encoder: Encoder, made: list[Any], source: Path, tmp_path: Path, format: Any, dtype: Any
) -> None:
    folder = tmp_path / "out"
    report = encode_folder(source, folder, model=encoder, dtype=dtype, shard_rows=25, format=format)
    bad = {i for i in range(COUNT) if i % 7 == 6}
    expected = []
    for i, row in enumerate(made):
        if i in bad:
            continue
        alone = encoder.encode_chunks([row["chunks"]]) if "chunks" in row else encoder.encode_documents([row["text"]])
        assert alone.dtype == "float32"
        expected += [(i + 1, chunk, row["id"], "whole", vector) for chunk, vector in enumerate(alone.values)]
    found = vectors(folder)
    assert [place[:4] for place in found] == [place[:4] for place in expected]
    floats = np.stack([place[4] for place in expected])
    stored = np.stack([place[4] for place in found])
    if dtype == "float32":
        assert np.abs(stored - floats).max() < 1e-2  # int8 weights: a neighbour's padding may move a rounding
    elif dtype == "int8":
        assert np.abs(stored.astype(int) - np.rint(127 * floats)).max() <= 2
    else:
        bits = np.unpackbits(stored, axis=1, bitorder="little").astype(bool)
        sure = np.abs(floats) > 1e-2
        assert (bits[sure] == (floats >= 0)[sure]).all()
    listed = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in listed] == sorted(i + 1 for i in bad)
    kinds = ["not_json", "not_utf8", "empty", "wrong_type", "empty", "no_text", "not_json", "too_long"]
    assert [entry["kind"] for entry in listed] == (kinds * 2)[: len(bad)]
    for entry in listed:
        assert entry["reason"].startswith(f"{source}, line {entry['line']}")
        assert len(entry["begins"]) <= 800
    assert (report.rows, report.vectors, report.shards, report.kept) == (COUNT, len(expected), 4, 0)
    assert (report.quarantined, sum(report.kinds.values())) == (len(bad), len(bad))


def test_the_bytes_do_not_depend_on_threads_or_on_kind_of_call(
    whole: Path, source: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    for threads in (1, 3):
        folder = tmp_path / f"threads-{threads}"
        encode_folder(source, folder, model=tiny_model_dir, threads=threads, **OPTIONS)
        found, expected = contents(folder), contents(whole)
        assert found == expected


def test_the_torch_runtime_gives_the_same_bytes_too(source: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    folders = []
    for name, options in (("one", {"threads": 1}), ("two", {"threads": 2}), ("onnx", {})):
        runtime: Any = {"runtime": "onnx" if name == "onnx" else "torch", "precision": "fp32"}
        encode_folder(source, tmp_path / name, model=tiny_model_dir, shard_rows=25, **runtime, **options)
        folders.append(tmp_path / name)
    assert contents(folders[0]) == contents(folders[1])
    torch, onnx = (np.stack([row[4] for row in vectors(folder)]) for folder in folders[1:])
    assert np.abs(torch - onnx).max() < 1e-4
    with pytest.raises(InputError, match="begun with runtime onnx, this run has torch"):
        encode_folder(source, folders[2], model=tiny_model_dir, shard_rows=25, runtime="torch", precision="fp32")
    assert verify_folder(folders[0]).problems == ()


@pytest.mark.parametrize("format", ["npy", "parquet"])
@pytest.mark.parametrize("moment", [0, 8, 47, 90])
def test_interrupted_anywhere_it_ends_the_same(
    encoder: Encoder, source: Path, tmp_path: Path, moment: int, format: Any
) -> None:
    encode_folder(source, tmp_path / "whole", model=encoder, format=format, **OPTIONS)
    folder = tmp_path / "out"

    def stop(done: int, _: int) -> None:
        if done >= moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_folder(source, folder, model=encoder, format=format, progress=stop, **OPTIONS)
    held = len(json.loads((folder / "manifest.json").read_text())["shards"])
    assert held <= moment // 25
    report = encode_folder(source, folder, model=encoder, format=format, **OPTIONS)
    assert report.kept == held
    assert contents(folder) == contents(tmp_path / "whole")


def test_what_a_killed_run_left_is_cleared_away(encoder: Encoder, source: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    dropped = manifest["shards"][2:]
    manifest |= {"shards": manifest["shards"][:2], "rows": [], "complete": False}
    listed = (folder / "quarantine.jsonl").read_bytes().splitlines(keepends=True)
    early = [line for line in listed if json.loads(line)["line"] <= 50]
    kinds = [json.loads(line)["kind"] for line in early]
    tally = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    manifest["quarantine"] = {"bytes": len(b"".join(early)), "rows": len(early), "kinds": tally}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / ".vectors-00003.npy.partial-99999").write_bytes(b"half")
    (folder / ".manifest.json.partial-99999").write_bytes(b"half")
    assert dropped  # their files are still there, as after a kill between rename and manifest
    assert encode_folder(source, folder, model=encoder, **OPTIONS).kept == 2
    assert contents(folder) == contents(whole)


def test_a_complete_folder_is_left_alone(encoder: Encoder, source: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    report = encode_folder(source, whole, model=encoder, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before
    assert (report.kept, report.shards) == (4, 4)
    assert "was complete already" in str(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "binary"}, "begun with dtype int8, this run has binary"),
        ({"dims": 64}, "begun with dims 32, this run has 64"),
        ({"shard_rows": 20}, "begun with shard rows 25, this run has 20"),
        ({"format": "parquet"}, "begun with format npy, this run has parquet"),
        ({"windows": True}, "begun with windows False, this run has True"),
        ({"truncate": True}, "begun with truncate False, this run has True"),
        ({"text_column": "text"}, "begun with text column , this run has text"),
    ],
)
def test_other_settings_are_refused(
    encoder: Encoder, source: Path, whole: Path, changes: dict[str, Any], message: str
) -> None:
    before = contents(whole)
    with pytest.raises(InputError, match=message):
        encode_folder(source, whole, model=encoder, **OPTIONS | changes)
    assert contents(whole) == before


def test_another_model_is_refused(whole: Path, source: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begun with precision int8, this run has fp32"):
        encode_folder(source, whole, model=tiny_model_dir, precision="fp32", **OPTIONS)
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    config = json.loads((other / "diffembed.json").read_text())
    (other / "diffembed.json").write_text(json.dumps(config | {"document_prompt": "text: "}))
    with pytest.raises(InputError, match=r"fingerprint \w+ \(.*tiny\), this run has \w+ \(.*other\)"):
        encode_folder(source, whole, model=other, **OPTIONS)
    (other / "diffembed.json").write_bytes((tiny_model_dir / "diffembed.json").read_bytes())
    assert encode_folder(source, whole, model=other, **OPTIONS).kept == 4  # the same model elsewhere
    graph = other / "onnx" / "model_int8.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data.replace(b"tiny", b"TINY"))  # exported anew: its rounded weights may differ
    assert graph.read_bytes() != data
    with pytest.raises(InputError, match="begun with graph"):
        encode_folder(source, whole, model=other, **OPTIONS)


def test_another_input_is_refused(encoder: Encoder, made: list[Any], whole: Path, tmp_path: Path) -> None:
    for place in (0, 24, 30, 88):
        changed = list(made)
        changed[place] = {"text": "something else"}
        write_jsonl(tmp_path / "changed.jsonl", changed)
        first = place // 25 * 25 + 1
        with pytest.raises(InputError, match=rf"rows {first} to {min(first + 24, 90)} of the input are not.*in\.jsonl"):
            encode_folder(tmp_path / "changed.jsonl", whole, model=encoder, **OPTIONS)
    write_jsonl(tmp_path / "longer.jsonl", [*made, {"text": "more"}])
    with pytest.raises(InputError, match="goes on at .*longer.jsonl, line 91, where it ended"):
        encode_folder(tmp_path / "longer.jsonl", whole, model=encoder, **OPTIONS)
    write_jsonl(tmp_path / "shorter.jsonl", made[:60])
    with pytest.raises(InputError, match="rows 51 to 75 of the input are not"):
        encode_folder(tmp_path / "shorter.jsonl", whole, model=encoder, **OPTIONS)


def test_an_input_that_ends_with_a_shard(encoder: Encoder, made: list[Any], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", made[:50])
    assert encode_folder(tmp_path / "in.jsonl", tmp_path / "out", model=encoder, **OPTIONS).shards == 2
    assert encode_folder(tmp_path / "in.jsonl", tmp_path / "out", model=encoder, **OPTIONS).kept == 2
    write_jsonl(tmp_path / "in.jsonl", made[:51])
    with pytest.raises(InputError, match="line 51, but .*out is complete with 50 rows"):
        encode_folder(tmp_path / "in.jsonl", tmp_path / "out", model=encoder, **OPTIONS)


def test_stdin_goes_on_by_reading_past_what_is_done(
    encoder: Encoder, source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stdin(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    def stop(done: int, _: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    options = OPTIONS | {"stdin_format": "jsonl", "model": encoder}
    stdin(source.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        encode_folder("-", tmp_path / "out", progress=stop, **options)
    stdin(source.read_bytes().replace(b"cat", b"dog"))
    with pytest.raises(InputError, match="rows 1 to 25 of the input are not those .* begun with \\(stdin\\)"):
        encode_folder("-", tmp_path / "out", **options)
    stdin(source.read_bytes())
    assert encode_folder("-", tmp_path / "out", **options).kept == 2
    found, expected = contents(tmp_path / "out"), contents(whole)
    assert [name for name in expected if found[name] != expected[name]] == ["manifest.json", "quarantine.jsonl"]
    assert found["quarantine.jsonl"] == expected["quarantine.jsonl"].replace(str(source).encode(), b"stdin")
    stdin(b"")
    with pytest.raises(InputError, match="stdin is empty"):
        encode_folder("-", tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_lost_a_shard_is_not_called_complete(encoder: Encoder, source: Path, whole: Path) -> None:
    (whole / "rows-00001.jsonl").unlink()
    before = contents(whole)
    with pytest.raises(InputError, match=r"whole has lost rows-00001.jsonl, which its manifest names"):
        encode_folder(source, whole, model=encoder, **OPTIONS)
    assert contents(whole) == before


def test_a_name_with_a_backslash_is_only_a_name(encoder: Encoder, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / r"a\d\1.jsonl", [{"text": "short"}, {"text": LONG}])
    assert encode_folder(source, tmp_path / "out", model=encoder).kinds == {"too_long": 1}
    (listed,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert listed["reason"].startswith(f"{source}, line 2 has ")


def test_a_folder_of_something_else_is_refused(encoder: Encoder, source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "vectors-00000.npy").write_text("mine")
    with pytest.raises(InputError, match=r"holds vectors-00000.npy and no manifest.json"):
        encode_folder(source, tmp_path / "notes", model=encoder)
    assert (tmp_path / "notes" / "vectors-00000.npy").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        encode_folder(source, source, model=encoder)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="is empty; give it a line"):
        encode_folder(tmp_path / "empty.txt", tmp_path / "new", model=encoder)
    assert not (tmp_path / "new").exists()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text('{"format": 7}')
    with pytest.raises(InputError, match="has format 7, this version reads format 1"):
        encode_folder(source, tmp_path / "index", model=encoder)
    with pytest.raises(InputError, match="shard_rows 0 is not possible"):
        encode_folder(source, tmp_path / "new", model=encoder, shard_rows=0)


def test_two_processes_do_not_write_into_one_folder(encoder: Encoder, source: Path, whole: Path) -> None:
    handle = os.open(whole, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another process"):
            encode_folder(source, whole, model=encoder, **OPTIONS)
    finally:
        os.close(handle)


def test_long_rows_are_cut_or_read_through_windows_on_request(encoder: Encoder, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"text": "short"}, {"text": LONG}, {"chunks": ["a", LONG]}])
    for how in ("truncate", "windows"):
        folder = tmp_path / how
        report = encode_folder(tmp_path / "in.jsonl", folder, model=encoder, **{how: True})
        seen = "truncated" if how == "truncate" else "windowed"
        assert [row[3] for row in vectors(folder)] == ["whole", seen, seen, seen]
        assert (report.quarantined, report.truncated, report.windowed) == (
            0,
            *((2, 0) if how == "truncate" else (0, 2)),
        )
        expected = encoder.encode_documents(["short", LONG], **{how: True})
        assert np.abs(vectors(folder)[1][4] - expected.values[1]).max() < 1e-2
    report = encode_folder(tmp_path / "in.jsonl", tmp_path / "neither", model=encoder)
    assert report.kinds == {"too_long": 2}


def test_parquet_rows_that_are_not_text(encoder: Encoder, tmp_path: Path) -> None:
    data = pa.array([b"a cat", b"\xff\xfe", None, b" "], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 4, data.buffers())  # pyarrow does not look whether it is UTF-8
    table = pa.table({"text": texts, "id": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "in.parquet", store_schema=False)
    report = encode_folder(tmp_path / "in.parquet", tmp_path / "out", model=encoder)
    assert [(line, own) for line, _, own, _, _ in vectors(tmp_path / "out")] == [(1, "1")]
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(e["line"], e["kind"]) for e in listed] == [(2, "not_utf8"), (3, "wrong_type"), (4, "empty")]
    assert listed[0]["reason"].startswith(f"{tmp_path / 'in.parquet'}, row 2 is not UTF-8")
    assert report.rows == 4


def test_a_model_that_fails_stops_the_run_and_not_the_row(source: Path, encoder: Encoder, tmp_path: Path) -> None:
    class Broken:
        name, precision = "onnx", "int8"

        def span_means(self, batch: Any) -> Any:
            return np.full((len(batch.spans), 64), np.nan, np.float32)

    broken = Encoder(encoder.model_id, encoder.path, encoder.config, Broken())
    with pytest.raises(ModelError, match="not finite"):
        encode_folder(source, tmp_path / "out", model=broken, **OPTIONS)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"] == []
    assert encode_folder(source, tmp_path / "out", model=encoder, **OPTIONS).shards == 4
